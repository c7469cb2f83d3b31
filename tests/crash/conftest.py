"""One Airflow per metadata database, each with three emulators."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_segmind.emulator.control import EmulatorControl
from demo.databases import PostgresDatabase, SqliteDatabase
from demo.emulator import EmulatorProcess
from demo.stack import AirflowStack
from tests.support.crash_runs import SETTINGS, CrashRunner

if TYPE_CHECKING:
    from collections.abc import Iterator

DAGS = Path(__file__).parent / "dags"
KEY = "SG_" + "c0ffee" * 4
# The special settings of the Segmind behind each connection.
EMULATORS = {
    "segmind_default": {},
    "segmind_short_lived": {"ttl": 20.0},
    "segmind_late_history": {"history_delay": 7200.0},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here: it belongs to the long suite."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.crash)


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def crash_runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrashRunner]:
    """Airflow on one database, with its own emulators."""
    # SIGTERM stops everything the test run has started, like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = tmp_path_factory.mktemp(f"crash-{request.param}")
    with contextlib.ExitStack() as scope:
        emulators, connections = {}, {}
        for name, settings in EMULATORS.items():
            process = scope.enter_context(EmulatorProcess(log_path=folder / f"{name}.log", api_key=KEY))
            emulators[name] = EmulatorControl(process.url)
            emulators[name].settings(**settings)
            connections[name] = process.connection_json
        database = PostgresDatabase() if request.param == "postgres" else SqliteDatabase()
        stack = scope.enter_context(
            AirflowStack(
                home=folder / "airflow", dags=[DAGS], connections=connections, settings=SETTINGS, database=database
            )
        )
        yield CrashRunner(stack, emulators, folder)
