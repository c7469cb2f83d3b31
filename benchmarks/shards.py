"""
Sixteen shards of a table on Celery workers, with the limit of one account for all of them in Redis.

Airflow, its database (PostgreSQL), Redis and two workers run on this machine; the account's limit is 3,000 submissions
a minute. The server notes when each one came, and refuses none, so that those over the limit are seen. No peer shares a
limit between tasks.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.measure import Measure
from benchmarks.processes import DEVELOPMENT
from benchmarks.server import Server, running
from benchmarks.table import ANSWER, Table

SHARE_GOAL, OVER_GOAL = 0.95, 0.0
MINUTE, WINDOW = 60.0, 61.0
"""Seconds: the account's minute, and the longer one in Redis, after which a burst of them repeats."""
REDIS = "redis://127.0.0.1:6379/{}"


@dataclass(frozen=True)
class Size:
    """
    How much is measured.

    :param limit: submissions a minute.
    :param minutes: windows that are measured, from the first submission on.
    """

    limit: int = 3000
    shards: int = 16
    minutes: int = 3
    workers: int = 2

    @property
    def rows(self) -> int:
        """More rows than can be asked for meanwhile."""
        return self.limit * (self.minutes + 2)


@contextlib.contextmanager
def empty_redis() -> Iterator[str]:
    """Yield the URL of an empty database of Redis, which is emptied at the end."""
    import redis

    for number in range(15, 7, -1):
        with redis.Redis.from_url(REDIS.format(number)) as connection:
            if connection.dbsize() == 0:
                try:
                    yield REDIS.format(number)
                finally:
                    connection.flushdb()
                return
    raise RuntimeError("No database of Redis on 127.0.0.1:6379 from 8 to 15 is empty.")


def share_and_over(times: Sequence[float], size: Size) -> tuple[float, int]:
    """Return which share of the limit was used, and how many submissions were too many in the worst minute."""
    times = sorted(times)
    end = times[0] + size.minutes * WINDOW
    share = sum(at < end for at in times) / (size.limit * size.minutes * WINDOW / MINUTE)
    first = over = 0
    for last, at in enumerate(times):
        while at - times[first] >= MINUTE:
            first += 1
        over = max(over, last - first + 1 - size.limit)
    return share, over


def run(size: Size) -> list[float]:
    """Start Airflow and the run, and return when each submission came, epoch seconds."""
    from demo.databases import PostgresDatabase
    from demo.stack import AirflowStack

    with contextlib.ExitStack() as scope:
        folder = scope.enter_context(tempfile.TemporaryDirectory(prefix="segmind-bench-"))
        redis_url = scope.enter_context(empty_redis())
        server = scope.enter_context(running(answer=ANSWER, times=True))
        Table(Path(folder), size.rows).write()
        extra = {"requests_per_minute": size.limit, "redis_url": redis_url}
        connection = {"conn_type": "segmind", "host": server.url, "password": "SG_bench", "extra": extra}
        settings = {
            "celery.broker_url": redis_url,
            "celery.result_backend": redis_url,
            "celery.worker_concurrency": str(size.shards // size.workers),
            "core.parallelism": str(2 * size.shards),
            "core.max_active_tasks_per_dag": str(2 * size.shards),
            # Sixteen tasks that start at once keep a small machine busy for a while.
            "scheduler.task_instance_heartbeat_timeout": "600",
            "workers.execution_api_timeout": "60",
        }
        stack = scope.enter_context(
            AirflowStack(
                home=Path(folder) / "airflow",
                dags=[Path(__file__).parent / "shard_dags"],
                connections={"segmind_default": json.dumps(connection)},
                settings=settings,
                environment={"SEGMIND_BENCH_FOLDER": folder, "SEGMIND_BENCH_SHARDS": str(size.shards)},
                database=PostgresDatabase(),
                executor="CeleryExecutor",
                workers=size.workers,
            )
        )
        stack.rest.wait_for_dag("shards")
        stack.rest.trigger("shards")
        return _calls(stack, server, size)


def _calls(stack: Any, server: Server, size: Size) -> list[float]:
    deadline = time.time() + 300
    while not (times := server.times()):
        stack.check_alive()
        if time.time() > deadline:
            raise RuntimeError("no shard has submitted anything")
        time.sleep(1.0)
    while time.time() < times[0] + size.minutes * WINDOW + 2:
        stack.check_alive()
        time.sleep(1.0)
    return server.times()


def measures(size: Size) -> list[Measure]:
    """Measure one run."""
    figures = processes.figures_of("shards", asdict(size), install=DEVELOPMENT)
    name = f"{size.shards} shards under Celery, {size.limit:,} submissions a minute"
    share = Measure(f"share of the limit used, {name}", "[redis]", figures["share"], "", SHARE_GOAL, at_least=True)
    return [
        share,
        Measure(f"submissions over the limit in a minute, {name}", "[redis]", figures["over"], "requests", OVER_GOAL),
    ]


if __name__ == "__main__":
    wanted = Size(**json.loads(sys.argv[1]))
    share, over = share_and_over(run(wanted), wanted)
    processes.report({"share": share, "over": max(0, over)})
