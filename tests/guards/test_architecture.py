"""The layout of the package matches docs/explanation/architecture.md."""

from __future__ import annotations

import re
import tomllib
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


def test_the_map_of_the_rooms_has_every_folder() -> None:
    drawn = re.search(r"```mermaid\n(.+?)```", PAGE, flags=re.DOTALL)
    assert drawn is not None
    rooms = {path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py")}
    assert rooms - set(re.findall(r"\w+", drawn[1])) == set()


def test_the_emulator_may_import_no_module_of_the_package() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (one for one in contracts if one["name"] == "The emulator shares no code with the rest")
    inside = {path.stem for path in (ROOT / PACKAGE).glob("*.py")} | {
        path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py")
    }
    assert set(contract["forbidden_modules"]) == {f"{PACKAGE}.{name}" for name in inside - {"__init__", "emulator"}}


def test_the_glossary_has_at_most_fifteen_terms() -> None:
    glossary = (ROOT / "docs" / "explanation" / "glossary.md").read_text()
    assert 10 <= len(re.findall(r"^\*\*", glossary, flags=re.MULTILINE)) <= 15
