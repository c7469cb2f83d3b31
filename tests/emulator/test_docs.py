"""docs/how-to/emulator.md: its blocks run, and it names every command, route and field."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.emulator.app import ControlCommands
from airflow_provider_segmind.emulator.faults import ROUTES, Fault
from airflow_provider_segmind.emulator.scripts import Script

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "emulator.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_of_the_page_runs(number, monkeypatch, capsys):
    namespace: dict[str, object] = {}
    exec(compile(BLOCKS[number], f"docs/how-to/emulator.md[{number}]", "exec"), namespace)

    for name in [name for name in namespace if name.startswith("test_")]:
        with SegmindEmulator() as emulator:
            monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", emulator.connection_json)
            namespace[name](emulator)


def test_the_page_names_every_route_command_and_field():
    with SegmindEmulator() as emulator:
        commands = set(ControlCommands(emulator._state)._commands)
    internal = {"id", "used", "seen", "added", "route"}
    fields = {item.name for item in (*dataclasses.fields(Script), *dataclasses.fields(Fault))} - internal
    words = set(re.findall(r"[a-z_0-9]+", PAGE))

    assert (commands | fields | set(ROUTES)) - words == set()


def test_every_listed_behaviour_has_a_test():
    """The docstrings of tests name E1 to E60 of the wire facts, except legacy polls, webhooks and workflows."""
    folder = Path(__file__).parent
    named = {
        int(number)
        for path in folder.glob("test_*.py")
        for line in path.read_text().splitlines()
        if line.strip().startswith('"""E')
        for number in re.findall(r"E(\d+)", line)
    }

    assert set(range(1, 61)) - {36, 57, 58} - named == set()
