"""
What waiting costs a real triggerer process: ourselves and the peers, side by side, against one cheap server.

A thousand task instances are deferred in a database on PostgreSQL, then ``airflow triggerer`` starts with nothing else
beside it. Every request ends 60 s later; each trigger looks every 5 s. CPU is that of the supervisor and the runner
from their start to the last event; memory is the runner's at its peak. Run it with ``make bench`` or
``.venvs/bench/bin/python benchmarks/triggerer.py``; ``--only`` takes the rows whose name holds a word.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from local.server import Server, running

from demo.databases import PostgresDatabase
from demo.stack import AirflowStack

HOME = Path(__file__).parent
INTERVAL = 5.0
UNTIL = 60.0
"""Seconds after the triggerer's start when every request is done."""
PATIENCE = 240.0
Kwargs = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """
    What waits.

    :param kwargs: of the trigger number so-and-so whose request is done at an epoch second.
    :param well: what stands in the event of a request that ended well.
    """

    classpath: str
    kwargs: Callable[[int, float], Kwargs]
    well: str = '"success"'


def ours(number: int, due: float) -> Kwargs:
    return {
        "request_id": f"r-{number}-0-{due:.3f}",
        "submitted_at": due - UNTIL,
        "end_time": due + 3600,
        "poll_interval": INTERVAL,
    }


SEGMIND = "airflow_provider_segmind.triggers.request.SegmindRequestTrigger"
ROWS = {
    "idle triggers": Row("local.idle.IdleTrigger", lambda _, due: {"due": due}),
    "SegmindRequestTrigger": Row(SEGMIND, ours),
    "HttpSensorTrigger": Row(
        "airflow.providers.http.triggers.http.HttpSensorTrigger",
        lambda number, due: {"endpoint": f"pending/p-{number}-0-{due:.3f}", "poke_interval": INTERVAL},
        well="true",
    ),
    "OpenAIBatchTrigger": Row(
        "airflow.providers.openai.triggers.openai.OpenAIBatchTrigger",
        lambda number, due: {
            "conn_id": "openai_default",
            "batch_id": f"b-{number}-0-{due:.3f}",
            "poll_interval": INTERVAL,
            "end_time": due + 3600,
        },
    ),
    "AnthropicBatchTrigger": Row(
        "airflow.providers.anthropic.triggers.batch.AnthropicBatchTrigger",
        lambda number, due: {
            "conn_id": "anthropic_default",
            "batch_id": f"b-{number}-0-{due:.3f}",
            "poll_interval": INTERVAL,
            "end_time": due + 3600,
        },
    ),
}


class Bare(AirflowStack):
    """A database, and no process but the one that is measured."""

    def _names(self) -> list[str]:
        return []

    def wait_healthy(self, *, timeout: float) -> None:
        """Nothing was started."""


def connections(server: Server) -> dict[str, str]:
    host, port = server.url.removeprefix("http://").split(":")
    found = {
        "segmind": {"host": server.url},
        "http": {"host": f"http://{host}", "port": int(port)},
        "openai": {"host": f"{server.url}/v1"},
        "anthropic": {"host": server.url},
    }
    return {
        f"{kind}_default": json.dumps({"conn_type": kind, "password": "SG_bench", **fields})
        for kind, fields in found.items()
    }


class Watched:
    """The CPU and the memory of a triggerer's two processes."""

    def __init__(self, pid: int) -> None:
        self.supervisor = psutil.Process(pid)
        self.runner: psutil.Process | None = None
        self.cpu = {"supervisor": 0.0, "runner": 0.0}
        self.rss = self.pss = 0.0

    def look(self, *, memory: bool) -> None:
        self.cpu["supervisor"] = sum(self.supervisor.cpu_times()[:2])
        if self.runner is None:
            # It is forked, not started, so it has the name of the supervisor; the forkserver's helpers have not.
            self.runner = next(iter(self.supervisor.children()), None)
        if self.runner is not None:
            self.cpu["runner"] = sum(self.runner.cpu_times()[:2])
            if memory:
                full = self.runner.memory_full_info()
                self.rss, self.pss = max(self.rss, full.rss / 1e6), max(self.pss, full.pss / 1e6)


def events(url: str) -> list[str]:
    """Return the events that came, as text."""
    import psycopg2

    with contextlib.closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("select next_kwargs::text from task_instance where state = 'scheduled'")
        return [text for (text,) in cursor.fetchall()]


def count_of_events(url: str) -> int:
    import psycopg2

    with contextlib.closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("select count(*) from task_instance where state = 'scheduled'")
        return int(cursor.fetchone()[0])  # type: ignore[index]


def measure(stack: Bare, name: str, server: Server, pending: int) -> dict[str, float]:
    row, url = ROWS[name], stack.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
    stack.environment["PYTHONPATH"] = str(HOME)
    due = time.time() + UNTIL + 10  # what inserting takes
    job = {"classpath": row.classpath, "kwargs": [row.kwargs(number, due) for number in range(pending)]}
    command = [sys.executable, "-m", "local.deferred"]
    subprocess.run(
        command,
        input=json.dumps(job),
        env=stack.environment,
        cwd=HOME,
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    before = server.count()
    time.sleep(max(0.0, due - UNTIL - time.time()))
    process = stack.start(f"triggerer:{name}")
    watched, deadline, looks = Watched(process.pid), time.time() + PATIENCE, 0
    try:
        while count_of_events(url) < pending:
            stack.check_alive()
            if time.time() > deadline:
                break
            watched.look(memory=looks % 4 == 0)
            looks += 1
            time.sleep(0.5)
        watched.look(memory=True)
        late, count, found = time.time() - due, server.count(), events(url)
    finally:
        stack.kill(process.name, scope="tree")
        stack.stop(process.name)
        del stack.processes[process.name]
    return {
        "rss": watched.rss,
        "pss": watched.pss,
        "supervisor": watched.cpu["supervisor"],
        "runner": watched.cpu["runner"],
        "late": late,
        "looks": count.calls - before.calls,
        "connections": count.connections - before.connections,
        "well": sum(row.well in text for text in found),
    }


def compare(names: list[str], pending: int, runs: int) -> None:
    print(f"\n{pending:,} pending in a real triggerer, {INTERVAL:.0f} s interval, medians of {runs}\n")
    print("| triggers | runner's memory (RSS, PSS) | CPU in all | runner | supervisor | looks | connections ", end="")
    print("| last event | ended well |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory(prefix="segmind-bench-") as place, running() as server:
        stack = Bare(
            home=Path(place) / "airflow",
            dags=[HOME / "local" / "waiting_dags"],
            connections=connections(server),
            settings={"logging.logging_level": "INFO", "triggerer.capacity": str(max(1000, pending))},
            database=PostgresDatabase(),
        )
        with stack:
            for name in names:
                found = [measure(stack, name, server, pending) for _ in range(runs)]
                median = {key: statistics.median(run[key] for run in found) for key in found[0]}
                print(
                    f"| {name} | {median['rss']:.0f} MB, {median['pss']:.0f} MB "
                    f"| {median['runner'] + median['supervisor']:.1f} s | {median['runner']:.1f} s "
                    f"| {median['supervisor']:.1f} s | {median['looks']:,.0f} | {median['connections']:,.0f} "
                    f"| {median['late']:.1f} s after the end | {median['well']:,.0f} of {pending:,} |",
                    flush=True,
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--pending", type=int)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    options = parser.parse_args()
    compare(
        [name for name in ROWS if options.only in name],
        options.pending or (200 if options.quick else 1000),
        options.runs,
    )
