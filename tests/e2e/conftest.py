"""One real Airflow and one emulator for the whole directory, started by the first test that needs them (30 s)."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_segmind.emulator.control import EmulatorControl
from demo.emulator import EmulatorProcess
from demo.processes import free_port
from demo.stack import AirflowStack
from tests.support.crash_runs import SETTINGS, CrashRunner
from tests.support.otlp import Collector, collecting

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
TRACED = "test_tables.py"
# Without the prefix that Airflow or this package might mask, so that a leak is visible.
CANARY_KEY = "q7Zr1xWc93-canary-key-Jm52"
BUDGETS = "redis://127.0.0.1:6379/7"
"""Only ``segmind_few`` has a limit that needs it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here: it starts real processes."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorControl]:
    """The Segmind behind ``segmind_default``."""
    log_path = tmp_path_factory.mktemp("emulator") / "emulator.log"
    with EmulatorProcess(log_path=log_path, api_key=CANARY_KEY) as process:
        yield EmulatorControl(process.url)


@pytest.fixture(scope="session")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorControl]:
    """The Segmind behind ``segmind_steady``, whose clock no test advances: a lost POST is searched for by its time."""
    log_path = tmp_path_factory.mktemp("steady") / "emulator.log"
    with EmulatorProcess(log_path=log_path, api_key=CANARY_KEY) as process:
        yield EmulatorControl(process.url)


@pytest.fixture(scope="session")
def later_port() -> int:
    """The port of ``segmind_later``, on which nothing listens until a test starts an emulator."""
    return free_port()


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Receives the spans of all processes of that Airflow."""
    with collecting() as server:
        yield server


@pytest.fixture(scope="session")
def airflow_stack(
    tmp_path_factory: pytest.TempPathFactory,
    emulator: EmulatorControl,
    steady: EmulatorControl,
    later_port: int,
    collector: Collector,
    request: pytest.FixtureRequest,
) -> Iterator[AirflowStack]:
    """Airflow on SQLite with the example DAGs, those of the crash tests, and those of this directory."""
    # SIGTERM stops everything the test run has started, like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    later = {"conn_type": "segmind", "host": f"http://127.0.0.1:{later_port}", "password": CANARY_KEY}
    few = emulator.connection
    with AirflowStack(
        home=tmp_path_factory.mktemp("airflow"),
        dags=[ROOT / "dags_examples", ROOT / "tests" / "crash" / "dags", ROOT / "tests" / "e2e" / "dags"],
        connections={
            "segmind_default": emulator.connection_json,
            "segmind_steady": steady.connection_json,
            "segmind_later": json.dumps(later),
            "segmind_few": json.dumps({**few, "extra": {**few["extra"], "max_paid_in_flight": 2}}),
        },
        settings={**SETTINGS, "segmind.budget_redis_url": BUDGETS},
        # Tracing is off by default; one file needs it.
        environment=collector.environment if TRACED in {item.path.name for item in request.session.items} else None,
    ) as stack:
        yield stack


@pytest.fixture(scope="session")
def crash_runner(
    airflow_stack: AirflowStack, steady: EmulatorControl, tmp_path_factory: pytest.TempPathFactory
) -> CrashRunner:
    """Runs DAGs on that stack and kills their workers."""
    return CrashRunner(airflow_stack, {"segmind_steady": steady}, tmp_path_factory.mktemp("crash_runner"))
