"""
Four tables and four chats on two Celery workers share a budget of one dollar a day, while tasks and workers are killed.

``make crash-budget SEEDS=200`` runs many seeds, ``FIRST=100`` those from there on. Even ones keep their budget in
PostgreSQL, odd ones in Redis.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator

import pytest

from airflow_provider_segmind.emulator.control import EmulatorControl
from demo.databases import PostgresDatabase
from demo.emulator import EmulatorProcess
from demo.stack import AirflowStack
from tests.crash.conftest import KEY
from tests.crash.test_celery import redis_url
from tests.support.budget_runs import LIMIT, PRICE, BudgetCase, BudgetRunner, timezone_of_a_young_day
from tests.support.crash_runs import SETTINGS
from tests.support.databases import opened

__all__ = ["redis_url"]
FIRST = int(os.environ.get("SEGMIND_BUDGET_CRASH_FIRST", "0"))
SEEDS = range(FIRST, FIRST + int(os.environ.get("SEGMIND_BUDGET_CRASH_SEEDS", "5")))
# The first test waits for all seeds.
pytestmark = [pytest.mark.postgres, pytest.mark.redis, pytest.mark.timeout(900 + 120 * len(SEEDS))]


@pytest.fixture(scope="module")
def runner(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BudgetRunner]:
    """Airflow with two Celery workers, an emulator, and both stores."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = tmp_path_factory.mktemp("budget")
    with contextlib.ExitStack() as scope:
        database = scope.enter_context(opened("postgres", folder))
        process = scope.enter_context(EmulatorProcess(log_path=folder / "emulator.log", api_key=KEY))
        emulator = EmulatorControl(process.url)
        emulator.settings(price_input=PRICE["input"], price_output=PRICE["output"], balance=1e6)
        timezone = timezone_of_a_young_day()
        names = [f"budget-{seed}" for seed in SEEDS]
        segmind = json.loads(process.connection_json)
        segmind["extra"]["prices"] = dict.fromkeys(names, PRICE)
        settings = {
            **SETTINGS,
            "core.parallelism": "32",
            "core.max_active_tasks_per_dag": "64",
            "celery.broker_url": redis_url,
            "celery.result_backend": redis_url,
            "celery.worker_concurrency": "12",
            "segmind.budgets": json.dumps({name: {"daily": LIMIT, "timezone": timezone} for name in names}),
            # What a lost worker had taken and not begun is sent to the other one.
            "scheduler.task_queued_timeout": "45",
            "scheduler.task_queued_timeout_check_interval": "5",
            "scheduler.num_stuck_in_queued_retries": "20",
            # A retry does not wait longer than this for the rows claimed by its lost worker.
            "segmind.writer_timeout": "8",
        }
        stack = scope.enter_context(
            AirflowStack(
                home=folder / "airflow",
                dags=[folder.__class__(__file__).parent / "budgets"],
                connections={"segmind_default": json.dumps(segmind), "budgets": json.dumps(database.airflow)},
                settings=settings,
                environment={
                    "BUDGET_FOLDER": str(folder / "out"),
                    "BUDGET_REDIS": redis_url,
                },
                database=PostgresDatabase(),
                executor="CeleryExecutor",
                workers=2,
            )
        )
        yield BudgetRunner(
            stack,
            emulator,
            folder / "out",
            address={"dsn": database.url},
            redis_url=redis_url,
            timezone=timezone,
        )


@pytest.fixture(scope="module")
def cases(runner: BudgetRunner) -> dict[int, BudgetCase]:
    found = runner.run(SEEDS, timeout=900)
    # Which seeds had tasks on it differs from run to run.
    assert sum(case.lost for case in found) > 0
    return {case.seed: case for case in found}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_budget_holds_over_tables_and_chats_that_are_killed(cases: dict[int, BudgetCase], seed: int) -> None:
    case = cases[seed]
    assert case.kills > 0
    assert case.rows_left > 0
    assert case.billed <= LIMIT
    assert case.spent == pytest.approx(case.billed, abs=1e-6)
    # A claim of a killed worker of which no later request of the table tells whether it was sent stays charged at its
    # bound, and the tables that wait for it need not have ended.
    assert set(case.states.values()) <= {"success", "failed"} or case.undecided
    assert len(case.open) <= case.undecided
    assert case.reserved <= case.undecided * case.bound
    assert LIMIT - case.billed - case.reserved <= case.bound
