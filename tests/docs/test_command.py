"""The command lines of all pages are understood, and every command is on docs/reference/command.md."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from airflow_provider_segmind.monitoring import cli

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reference" / "command.md").read_text()
COMMAND = re.compile(r"^\$ (?:airflow segmind|python -m airflow_provider_segmind) (.+)$", flags=re.MULTILINE)
LINES = COMMAND.findall(PAGE)
ELSEWHERE = {line for page in DOCS.rglob("*.md") for line in COMMAND.findall(page.read_text())} - set(LINES)


@pytest.mark.parametrize("line", [*LINES, *sorted(ELSEWHERE)])
def test_a_command_line_of_the_pages_is_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(cli.Command, "run", lambda command, values: ran.append((command.name, values)))

    cli.main(shlex.split(line))

    assert ran[0][0] == line.split()[0]


def test_every_command_has_an_example() -> None:
    assert {line.split()[0] for line in LINES} == {each.name for each in cli.COMMANDS}


@pytest.mark.parametrize("page", sorted(DOCS.glob("how-to/*.md")), ids=lambda page: page.stem)
def test_a_page_says_what_to_write_where_airflow_has_no_such_command(page: Path) -> None:
    text = page.read_text()

    # Not where it is the text of a link to such a page.
    if re.search(r"(`|^\$ )airflow segmind [^`\n]+(\n|`(?!\]))", text, flags=re.MULTILINE):
        assert "python -m airflow_provider_segmind" in text


def test_the_page_names_only_options_that_there_are() -> None:
    known = {flag for each in cli.COMMANDS for argument in each.arguments for flag in argument.flags} | {"--help"}

    assert set(re.findall(r"--[a-z][a-z-]*", PAGE)) <= known
