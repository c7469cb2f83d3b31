"""The documentation builds as a site without a warning, its links lead somewhere, and its reference is complete."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "airflow_provider_segmind"
API = ROOT / "docs" / "reference" / "api"
PUBLIC = [
    *("operators.request", "operators.chat", "operators.enrich", "sensors.request", "triggers.request"),
    "triggers.spending",
    *("hooks.segmind", "decorators.chat", "emulator", "exceptions"),
]
"""The import paths that users write."""
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", flags=re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#{1,6} (.+)$", flags=re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors a code host gives the headings of a page."""
    found: set[str] = set()
    for heading in HEADING.findall(re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found


def problem(page: Path, link: str) -> str | None:
    """Return what is wrong with a link of a page, None if it leads somewhere."""
    address, _, anchor = link.partition("#")
    target = (page.parent / address).resolve() if address else page
    if not target.exists():
        return f"{link}: no such file"
    if anchor and anchor not in anchors(target.read_text()):
        return f"{link}: no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_between_pages_leads_to_a_heading(page: Path) -> None:
    links = [link for link in LINK.findall(CODE.sub("", page.read_text())) if "://" not in link]

    assert [wrong for link in links if (wrong := problem(page, link))] == []


def test_a_link_to_nowhere_is_found() -> None:
    page = ROOT / "docs" / "how-to" / "chat.md"

    assert problem(page, "missing.md") == "missing.md: no such file"
    assert problem(page, "request.md#missing") == "request.md#missing: no such heading"
    assert problem(page, "request.md#results") is None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_quotes_the_extras_that_it_installs(page: Path) -> None:
    # Otherwise zsh, the shell of macOS, takes the brackets for a pattern and runs nothing.
    assert re.findall(r"pip install [^\n`\"']*\[.*", page.read_text()) == []


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    # Everything but the HTML itself, which `make docs` writes in the long suites.
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "dummy", "docs", str(tmp_path)]

    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert built.returncode == 0, built.stderr


def public_names(path: str) -> list[str]:
    """Return the public classes of an import path, and the decorator, from its source."""
    source = ROOT / PACKAGE / path.replace(".", "/")
    tree = ast.parse((source / "__init__.py" if source.is_dir() else source.with_suffix(".py")).read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")
        and not any("Protocol" in ast.unparse(base) for base in node.bases)
    ] + (["segmind_task"] if path == "decorators.chat" else [])


@pytest.mark.parametrize("path", PUBLIC)
def test_every_public_class_has_its_place_in_the_reference(path: str) -> None:
    page = (API / f"{path.replace('.', '-')}.md").read_text()
    described = re.findall(rf"^\.\. auto(?:class|function):: {PACKAGE}\.{re.escape(path)}\.(\w+)$", page, re.MULTILINE)

    assert sorted(described) == sorted(public_names(path))
    assert re.findall(r"^## (\w+)$", page, flags=re.MULTILINE) == described
