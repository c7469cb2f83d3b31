"""
What waiting costs a real triggerer process, ours next to the peers' triggers, against one server.

A thousand task instances are deferred in a database on PostgreSQL, then ``airflow triggerer`` starts with nothing else
next to it. Every request ends 60 s later; each trigger polls every 5 s. CPU is that of the supervisor and the runner
from their start to the last event; memory is the runner's at its peak.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.processes import ROOT
from benchmarks.server import Server, running
from demo.databases import PostgresDatabase
from demo.stack import AirflowStack

PENDING = 1000
INTERVAL = 5.0
DONE_AFTER = 60.0
"""Seconds after the triggerer's start when every request is done."""
INSERT_SECONDS = 10.0
PATIENCE = 240.0
Kwargs = dict[str, Any]


@dataclass(frozen=True)
class Trigger:
    """
    What waits.

    :param kwargs: of the trigger with a number, whose request is done at an epoch second.
    :param success: what the event of a request that succeeded contains.
    """

    classpath: str
    kwargs: Callable[[int, float], Kwargs]
    success: str = '"success"'


OURS = "SegmindRequestTrigger"
TRIGGERS = {
    "sleeping triggers": Trigger("benchmarks.full.idle_trigger.IdleTrigger", lambda _, due: {"due": due}),
    OURS: Trigger(
        "airflow_provider_segmind.triggers.request.SegmindRequestTrigger",
        lambda number, due: {
            "request_id": f"r-{number}-0-{due:.3f}",
            "submitted_at": due - DONE_AFTER,
            "end_time": due + 3600,
            "poll_interval": INTERVAL,
        },
    ),
    "HttpSensorTrigger": Trigger(
        "airflow.providers.http.triggers.http.HttpSensorTrigger",
        lambda number, due: {"endpoint": f"pending/p-{number}-0-{due:.3f}", "poke_interval": INTERVAL},
        success="true",
    ),
    "OpenAIBatchTrigger": Trigger(
        "airflow.providers.openai.triggers.openai.OpenAIBatchTrigger",
        lambda number, due: {
            "conn_id": "openai_default",
            "batch_id": f"b-{number}-0-{due:.3f}",
            "poll_interval": INTERVAL,
            "end_time": due + 3600,
        },
    ),
    "AnthropicBatchTrigger": Trigger(
        "airflow.providers.anthropic.triggers.batch.AnthropicBatchTrigger",
        lambda number, due: {
            "conn_id": "anthropic_default",
            "batch_id": f"b-{number}-0-{due:.3f}",
            "poll_interval": INTERVAL,
            "end_time": due + 3600,
        },
    ),
}


class DatabaseOnly(AirflowStack):
    """A database, and no process but the one that is measured."""

    def _names(self) -> list[str]:
        return []

    def wait_healthy(self, *, timeout: float) -> None:
        """No-op: nothing was started."""


class Usage:
    """The CPU and the memory of a triggerer's two processes, in seconds and MB."""

    def __init__(self, pid: int) -> None:
        self.supervisor = psutil.Process(pid)
        self.runner: psutil.Process | None = None
        self.cpu = {"supervisor": 0.0, "runner": 0.0}
        self.memory = 0.0

    def sample(self) -> None:
        self.cpu["supervisor"] = sum(self.supervisor.cpu_times()[:2])
        if self.runner is None:
            # It is forked, not started, so it has the name of the supervisor; the forkserver's helpers do not.
            self.runner = next(iter(self.supervisor.children()), None)
        if self.runner is not None:
            self.cpu["runner"] = sum(self.runner.cpu_times()[:2])
            self.memory = max(self.memory, self.runner.memory_info().rss / 1e6)


def events(url: str) -> list[str]:
    """Return the events that have arrived, as strings."""
    import psycopg2

    with contextlib.closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("select next_kwargs::text from task_instance where state = 'scheduled'")
        return [text for (text,) in cursor.fetchall()]


def measure(stack: AirflowStack, trigger: Trigger, server: Server) -> dict[str, float]:
    """Let one triggerer run all triggers."""
    url = stack.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
    stack.environment["PYTHONPATH"] = str(ROOT)
    due = time.time() + DONE_AFTER + INSERT_SECONDS
    job = {"classpath": trigger.classpath, "kwargs": [trigger.kwargs(number, due) for number in range(PENDING)]}
    subprocess.run(
        [sys.executable, "-m", "benchmarks.full.deferred"],
        input=json.dumps(job),
        env=stack.environment,
        cwd=ROOT,
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    before = server.count()
    time.sleep(max(0.0, due - DONE_AFTER - time.time()))
    process = stack.start("triggerer:measured")
    usage, deadline = Usage(process.pid), time.time() + PATIENCE
    try:
        while len(events(url)) < PENDING and time.time() < deadline:
            stack.check_alive()
            usage.sample()
            time.sleep(1.0)
        usage.sample()
        after, found = server.count(), events(url)
    finally:
        stack.kill(process.name, scope="tree")
        stack.stop(process.name)
        del stack.processes[process.name]
    return {
        "memory": usage.memory,
        "cpu": sum(usage.cpu.values()),
        "runner": usage.cpu["runner"],
        "polls": after.calls - before.calls,
        "connections": after.connections - before.connections,
        "succeeded": sum(trigger.success in text for text in found),
    }


def connections(server: Server) -> dict[str, str]:
    """Return a connection of each provider to the server."""
    host, port = server.url.removeprefix("http://").split(":")
    found: dict[str, Kwargs] = {
        "segmind": {"host": server.url},
        "http": {"host": f"http://{host}", "port": int(port)},
        "openai": {"host": f"{server.url}/v1"},
        "anthropic": {"host": server.url},
    }
    return {
        f"{kind}_default": json.dumps({"conn_type": kind, "password": "SG_bench", **fields})
        for kind, fields in found.items()
    }


def main() -> None:
    """Print each trigger's cost in multiples of ours."""
    with tempfile.TemporaryDirectory(prefix="segmind-bench-") as folder, running() as server:
        stack = DatabaseOnly(
            home=Path(folder) / "airflow",
            dags=[Path(__file__).parent / "waiting_dags"],
            connections=connections(server),
            settings={"logging.logging_level": "INFO", "triggerer.capacity": str(PENDING)},
            database=PostgresDatabase(),
        )
        with stack:
            found = {name: measure(stack, trigger, server) for name, trigger in TRIGGERS.items()}
    base = found[OURS]
    print("\n| triggers | memory | CPU in all | CPU of the runner | polls | connections | succeeded |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, row in found.items():
        memory, cpu, runner = (row[key] / base[key] for key in ("memory", "cpu", "runner"))
        print(
            f"| {name} | {memory:.1f} ({row['memory']:.0f} MB) | {cpu:.1f} ({row['cpu']:.1f} s) "
            f"| {runner:.1f} ({row['runner']:.1f} s) | {row['polls']:,.0f} | {row['connections']:,.0f} "
            f"| {row['succeeded']:,.0f} of {PENDING:,} |",
            flush=True,
        )
