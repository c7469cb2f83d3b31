"""The layout of the package matches docs/explanation/architecture.md."""

from __future__ import annotations

import re
from pathlib import Path

PACKAGE = "airflow_provider_segmind"
ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}
PAGE = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
LINES = dict(re.findall(r"^\| `([\w/]+\.py)` \| (.+) \|$", PAGE, flags=re.MULTILINE))
LONGEST, SHORTEST = 600, 80


def shown(path: Path) -> str:
    return path.relative_to(ROOT / PACKAGE).as_posix()


def test_the_architecture_page_has_one_line_for_every_module() -> None:
    assert sorted(LINES) == sorted(shown(path) for path in MODULES.values() if path.name != "__init__.py")


def test_a_very_long_or_very_short_module_gives_its_reason() -> None:
    for path in MODULES.values():
        count = len(path.read_text().splitlines())
        if path.name == "__init__.py":
            continue
        if count > LONGEST:
            assert "Long because" in LINES[shown(path)], f"{shown(path)} has {count} lines"
        if count < SHORTEST:
            assert "Short because" in LINES[shown(path)], f"{shown(path)} has {count} lines"
