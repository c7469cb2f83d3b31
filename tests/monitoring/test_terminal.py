"""What is printed fits the terminal and does not steer it."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.monitoring.terminal import print_facts, print_json, print_table, say
from tests.support.monitoring_commands import Command, account, command, manifest_file, stored, table, wait_for
from tests.support.table_tasks import Table

if TYPE_CHECKING:
    from tests.support.metadata import Metadata

__all__ = ["account", "command", "stored", "table"]
pytestmark = pytest.mark.airflow


def test_a_table_that_is_wider_than_the_terminal_is_printed_row_by_row(
    stored: Metadata, account: SegmindEmulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = wait_for(stored, account, "a_long_name_" * 9)
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True)

    _, printed = command("requests")

    lines = re.sub(r"\x1b\[\d*m", "", printed).splitlines()
    assert max(map(len, lines)) <= 72
    assert f"request     {request_id}" in [line.rstrip() for line in lines]
    assert "a_long_name_" * 9 in "".join(line.removeprefix("task").strip() for line in lines)


def test_characters_that_steer_a_terminal_are_not_printed_and_markup_is_text(table: Table, command: Command) -> None:
    _, printed = command("table", manifest_file(table), "--row", "1")

    assert "\x1b" not in printed
    assert "[bold]indeed[/bold]" in printed


def test_a_value_that_is_missing_is_a_dash_and_numbers_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["model", "cost"], [["flux", "$1.00"], ["veo\n\x1b[2J", None]], right=["cost"])

    rows = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.startswith(("flux", "veo"))]
    assert [row.split() for row in rows] == [["flux", "$1.00"], ["veo", "[2J", "-"]]
    assert len(rows[0]) == len(rows[1])


def test_facts_are_nested_by_indentation_and_what_is_unknown_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts({"row_key": {"id": 7, "gone": None, "lines": ["a", "b"]}, "answer": "one\ntwo", "tries": 2})

    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "row key  id: 7",
        "         lines:",
        "           a",
        "           b",
        "answer   one",
        "         two",
        "tries    2",
    ]


@pytest.mark.parametrize(("encoding", "text"), [("utf-8", '"Grün"'), ("ascii", '"Gr\\u00fcn"'), (None, '"Gr\\u00fcn"')])
def test_json_has_no_character_that_the_stream_cannot_write(
    monkeypatch: pytest.MonkeyPatch, encoding: str | None, text: str
) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(encoding=encoding, write=written.append))

    print_json("Grün")

    assert written == [f"{text}\n"]


class ClosedPipe(io.StringIO):
    def write(self, text: str) -> int:
        if text:
            raise BrokenPipeError
        return 0


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", "\\xfcber\\u2026"), ("latin-1", "über\\u2026"), ("cp1252", "über…"), ("utf-8", "über…")],
)
def test_what_the_encoding_of_the_terminal_does_not_have_is_escaped(
    encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding=encoding, write_through=True))

    say("über…")
    print_facts({"answer": "über…"})
    print_table(["DAG"], [["über…"]])
    print_json({"file": "\udcff"})

    printed = stream.getvalue().decode(encoding)
    assert printed.count(shown) == 3
    assert "\\udcff" in printed


def test_a_pipe_that_was_closed_is_an_error_and_does_not_end_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", ClosedPipe())

    for show in (lambda: say("a sentence"), lambda: print_facts({"a": 1}), lambda: print_table(["a"], [["1"]])):
        with pytest.raises(BrokenPipeError):
            show()
