"""The command on every supported Airflow, with its Connection in the metadata database alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.dag_runs import run_dags

pytestmark = [pytest.mark.matrix, pytest.mark.airflow]

AIRFLOW = Version(version("apache-airflow")).release
OURS = [sys.executable, "-m", "airflow_provider_segmind"]
AIRFLOWS = [sys.executable, "-m", "airflow", "segmind"]
WAYS = [OURS, pytest.param(AIRFLOWS, marks=pytest.mark.skipif(AIRFLOW < (3, 2), reason="takes no commands"))]
DAGS = (
    ("dags_examples/example_segmind_captions.py", "example_segmind_captions"),
    ("tests/dags/readme.py", "triage"),
)


class Shell:
    """Runs commands over a metadata database with one Connection and the runs of a table and a chat."""

    def __init__(self, emulator: SegmindEmulator, environment: dict[str, str], store: Path) -> None:
        self.emulator = emulator
        self.store = store
        # Other tests use the same database.
        self.since = str(time.time())
        self._environment = environment

    def json(self, program: list[str], *arguments: str) -> Any:
        """Run a command that succeeds, and return its JSON."""
        done = self.run([*program, *arguments, "--output", "json"])
        assert done.returncode == 0, done.stderr
        # Older versions log a line or two on the standard output when they are imported.
        return json.loads(done.stdout[min(at for at in map(done.stdout.find, "[{") if at >= 0) :])

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **self._environment}, check=False, timeout=120
        )


@pytest.fixture(scope="module")
def shell(airflow_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    store = tmp_path_factory.mktemp("out")
    environment = {"AIRFLOW__CORE__UNIT_TEST_MODE": "False", "SEGMIND_EXAMPLE_OUTPUT": f"file://{store}"}
    with SegmindEmulator() as emulator:
        made = Shell(emulator, environment, store)
        ended = run_dags(*DAGS, connection=emulator.connection_json, hold=0.5, **environment)
        assert {one["state"] for one in ended.values()} == {"success"}
        added = [sys.executable, "-m", "airflow", "connections", "add", "segmind_default", "--conn-json"]
        done = made.run([*added, emulator.connection_json])
        assert done.returncode == 0, done.stderr
        yield made
        made.run([sys.executable, "-m", "airflow", "connections", "delete", "segmind_default"])


@pytest.mark.parametrize("program", WAYS)
def test_check_finds_the_connection_of_the_database(shell: Shell, program: list[str]) -> None:
    (account,) = shell.json(program, "check")["connections"]

    assert (account["connection"], account["works"]) == ("segmind_default", True)
    assert account["balance_micros"] == pytest.approx(shell.emulator.balance() * 1e6, abs=1e-3)


@pytest.mark.parametrize("program", WAYS)
def test_spend_is_what_segmind_billed(shell: Shell, program: list[str]) -> None:
    total = shell.json(program, "spend", "--by", "dag,day", "--since", shell.since)["total"]

    assert total["requests"] == len(shell.emulator.bill)
    assert total["cost_micros"] == pytest.approx(sum(one.cost for one in shell.emulator.bill) * 1e6, abs=1e-3)


def test_finished_tasks_wait_for_nothing_and_the_history_is_theirs(shell: Shell) -> None:
    history = shell.json(OURS, "requests", "--at-segmind")

    assert shell.json(OURS, "requests") == []
    assert {one["known"] for one in history} == {True}
    assert len(history) == len(shell.emulator.bill)


def test_a_table_and_its_rows_are_found(shell: Shell) -> None:
    (manifest,) = shell.store.rglob("*.manifest.json")

    assert shell.json(OURS, "table", str(manifest))["outcomes"] == {"success": 3}
    assert shell.json(OURS, "table", str(manifest), "--row", "sky.png")["cost_micros"] > 0
