"""
A table from and to PostgreSQL, enriched by four shards on Celery workers, one of which is lost during the run.

All of them count the account's 600 calls per minute in Redis. The emulator's clock runs ten times as fast, and the
minute of the clients is a tenth as long. The emulator refuses no call, so that calls over the limit are visible.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.emulator.control import EmulatorControl
from demo.databases import PostgresDatabase
from demo.emulator import EmulatorProcess
from demo.stack import AirflowStack
from tests.crash.conftest import KEY
from tests.support.crash_runs import SETTINGS
from tests.support.databases import OneDatabase, opened

DAGS = Path(__file__).parent / "tables"
ROWS, DISTINCT = 2000, 1900
LIMIT = 600
SCALE = 10.0
LATENCY = 4.0
"""Emulated seconds a request takes."""
KILL_AT = 700
"""Accepted requests after which a worker is lost."""
REDIS = "redis://127.0.0.1:6379/{}"


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """A Redis database that is empty before and after."""
    import redis

    for number in range(15, 7, -1):
        with redis.Redis.from_url(REDIS.format(number)) as connection:
            # It stays empty until Airflow is up, and another test run may look for an empty one meanwhile.
            if connection.dbsize() == 0 and connection.set("taken by a test run", 1, nx=True):
                yield REDIS.format(number)
                connection.flushdb()
                return
    pytest.fail("No database of Redis from 8 to 15 is empty.")


@dataclass
class FinishedRun:
    """The state after the run."""

    warehouse: OneDatabase
    emulator: EmulatorControl
    state: str
    tries: dict[tuple[str, int], int]
    manifest: dict[str, Any]
    lost: list[int]


@pytest.fixture(scope="module")
def finished(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FinishedRun]:
    """Run the enrichment, and lose the second worker during it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = tmp_path_factory.mktemp("celery")
    with contextlib.ExitStack() as scope:
        warehouse = scope.enter_context(opened("postgres", folder))
        products = [(f"sku-{number:04}", f"product {number % DISTINCT}") for number in range(ROWS)]
        warehouse.fill("products", "sku text PRIMARY KEY, name text NOT NULL", products)
        options = ["--scale", str(SCALE), "--latency", str(LATENCY), "--ttl", "36000"]
        process = scope.enter_context(EmulatorProcess(log_path=folder / "emulator.log", api_key=KEY, options=options))
        segmind = json.loads(process.connection_json)
        segmind["extra"] |= {"requests_per_minute": LIMIT, "redis_url": redis_url}
        connections = {"segmind_default": json.dumps(segmind), "warehouse": json.dumps(warehouse.airflow)}
        settings = {
            **SETTINGS,
            "scheduler.task_instance_heartbeat_timeout": "10",
            "celery.broker_url": redis_url,
            "celery.result_backend": redis_url,
            "celery.worker_concurrency": "2",
            # A retry does not wait longer than this for the rows claimed by its lost worker.
            "segmind.writer_timeout": "8",
        }
        stack = scope.enter_context(
            AirflowStack(
                home=folder / "airflow",
                dags=[DAGS],
                connections=connections,
                settings=settings,
                database=PostgresDatabase(),
                executor="CeleryExecutor",
                workers=2,
            )
        )
        emulator = EmulatorControl(process.url)
        run_id = start(stack, folder / "ledger")
        lost = lose_second_worker(stack, run_id, emulator)
        state = stack.rest.wait_for_run("crash_table", run_id, timeout=150)
        tries = {
            (each["task_id"], each["map_index"]): each["try_number"]
            for each in stack.rest.task_instances("crash_table", run_id)
        }
        manifest = stack.rest.xcom("crash_table", run_id, "merge") if state == "success" else {}
        yield FinishedRun(warehouse, emulator, state, tries, manifest, lost)


def start(stack: AirflowStack, ledger: Path) -> str:
    stack.rest.wait_for_dag("crash_table")
    return stack.rest.trigger("crash_table", conf={"ledger": str(ledger)})


def lose_second_worker(stack: AirflowStack, run_id: str, emulator: EmulatorControl) -> list[int]:
    """Kill a worker and the tasks it runs, as when a machine is lost; return which shards those were."""
    deadline = time.monotonic() + 90
    while emulator.counts().get("submit", {}).get("200", 0) < KILL_AT:
        stack.check_alive()
        assert time.monotonic() < deadline, emulator.counts()
        time.sleep(0.1)
    on_it = {process.pid for process in stack.processes["worker:2"].descendants()}
    lost = [
        each["map_index"]
        for each in stack.rest.task_instances("crash_table", run_id)
        if each["task_id"] == "ask" and stack.running_task(each["id"], timeout=5).runner in on_it
    ]
    stack.kill("worker:2", signal.SIGKILL, scope="tree")
    return lost


pytestmark = [pytest.mark.postgres, pytest.mark.redis]


def test_every_row_is_written_after_a_lost_worker(finished: FinishedRun) -> None:
    assert finished.state == "success"
    assert len(finished.lost) == 2
    assert {index for (task, index), count in finished.tries.items() if task == "ask" and count > 1} == set(
        finished.lost
    )
    rows = finished.warehouse.dicts("described", "sku")
    assert [row["sku"] for row in rows] == [f"sku-{number:04}" for number in range(ROWS)]
    assert {row["_segmind_status"] for row in rows} == {"success"}
    wanted = [f"echo: Describe product {number % DISTINCT}." for number in range(ROWS)]
    assert [row["answer"] for row in rows] == wanted


def test_every_distinct_row_was_paid_for_once(finished: FinishedRun) -> None:
    assert len(finished.emulator.bill) == len(finished.emulator.jobs) == DISTINCT
    assert len({entry.body for entry in finished.emulator.posts()}) == DISTINCT
    manifest = finished.manifest
    assert (manifest["rows_read"], manifest["distinct_rows"], manifest["requests"]) == (ROWS, DISTINCT, DISTINCT)
    assert manifest["cost"] == pytest.approx(sum(entry.cost for entry in finished.emulator.bill), abs=1e-9)


def test_the_account_never_exceeded_its_limit(finished: FinishedRun) -> None:
    assert set(finished.emulator.counts()["submit"]) == {"200"}
    assert LIMIT / 2 < finished.emulator.most_accepted(60.0, "submit") <= LIMIT
