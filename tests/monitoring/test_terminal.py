"""What is printed fits the terminal and does not steer it."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
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
