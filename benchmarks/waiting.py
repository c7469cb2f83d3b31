"""
What a waiting request costs a triggerer: our trigger and the peers' against one server on loopback.

Every trigger waits for a request that is not done and polls every 5 s. Each run has a process of its own; CPU is that
process's. One trigger polls once before anything is measured, so that imports and TLS contexts are in no figure.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks import processes
from benchmarks.measure import Measure, versus
from benchmarks.processes import AIOHTTP, DEFAULT, Figures, of_peer
from benchmarks.server import Counts, Server, running

INTERVAL = 5.0
NEVER = "9999999999.0"
OURS, SENSOR = "SegmindRequestTrigger", "HttpSensorTrigger"
START_GOAL = {DEFAULT: 0.7, AIOHTTP: 0.4}
POLL_GOAL = {DEFAULT: 0.75, AIOHTTP: 0.4}
MEMORY_GOAL = 5.0
Run = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class Size:
    """
    How much is measured.

    :param pending: triggers in one loop.
    :param rounds: polls of each trigger that are measured.
    :param turns: how often all are measured, one after the other.
    """

    pending: int = 1000
    rounds: int = 2
    turns: int = 2


def _connection(kind: str, url: str) -> None:
    value: dict[str, Any] = {"conn_type": kind, "host": url, "password": "SG_bench"}
    if kind == "http":
        host, port = url.removeprefix("http://").split(":")
        value |= {"host": f"http://{host}", "port": int(port)}
    os.environ[f"AIRFLOW_CONN_{kind.upper()}_DEFAULT"] = json.dumps(value)


def _first_event(make: Callable[[int], Any]) -> Run:
    async def run(number: int) -> None:
        async for event in make(number).run():
            raise AssertionError(f"the trigger fired: {event}")

    return run


def ours(url: str) -> Run:
    _connection("segmind", url)
    from airflow_provider_segmind.triggers.request import SegmindRequestTrigger

    now = time.time()
    return _first_event(
        lambda number: SegmindRequestTrigger(
            request_id=f"r-{number}-{NEVER}", submitted_at=now, end_time=now + 3600, poll_interval=INTERVAL
        )
    )


def http_sensor(url: str) -> Run:
    _connection("http", url)
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    return _first_event(
        lambda number: HttpSensorTrigger(
            endpoint=f"pending/{number}", http_conn_id="http_default", poke_interval=INTERVAL, method="GET"
        )
    )


def openai(url: str) -> Run:
    _connection("openai", f"{url}/v1")
    from airflow.providers.openai.triggers.openai import OpenAIBatchTrigger

    end = time.time() + 3600
    return _first_event(
        lambda number: OpenAIBatchTrigger(
            conn_id="openai_default", batch_id=f"b-{number}", poll_interval=INTERVAL, end_time=end
        )
    )


def anthropic(url: str) -> Run:
    _connection("anthropic", url)
    from airflow.providers.anthropic.triggers.batch import AnthropicBatchTrigger

    end = time.time() + 3600
    return _first_event(
        lambda number: AnthropicBatchTrigger(
            batch_id=f"b-{number}", conn_id="anthropic_default", poll_interval=INTERVAL, end_time=end
        )
    )


TRIGGERS: dict[str, Callable[[str], Run]] = {
    OURS: ours,
    SENSOR: http_sensor,
    "AnthropicBatchTrigger": anthropic,
    "OpenAIBatchTrigger": openai,
}


async def costs(run: Run, server: Server, *, pending: int, rounds: int, patience: float = 120.0) -> Figures:
    """
    Start so many triggers at once and let each poll some more times.

    :param patience: seconds after which what has been done by then is reported.
    :return: ``memory`` in KB and ``start`` in ms of CPU for each (its first poll included), ``wall`` in ms of time for
        the latter, ``polls`` in s of CPU for 1,000, and ``connections`` opened.
    """

    async def counted() -> Counts:
        return await asyncio.to_thread(server.count)

    async def until(calls: int, seconds: float) -> Counts:
        deadline = time.monotonic() + seconds
        while (count := await counted()).calls < calls and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        return count

    first = asyncio.create_task(run(0))
    await until(1, 60.0)
    await asyncio.sleep(1.0)  # until its response has been read
    gc.collect()
    memory, before = processes.memory("VmRSS"), await counted()
    cpu = time.process_time()
    tasks = [asyncio.create_task(run(number)) for number in range(1, pending + 1)]
    wall = time.perf_counter()
    started = await until(before.calls + pending, patience)
    wall = time.perf_counter() - wall
    start, cpu = time.process_time() - cpu, time.process_time()
    # Not for a time: on a busy machine few polls would be made in it.
    after = await until(started.calls + pending * rounds, patience)
    polls = time.process_time() - cpu
    grown = processes.memory("VmRSS") - memory
    for task in (*tasks, first):
        task.cancel()
    with contextlib.suppress(Exception):
        await asyncio.gather(*tasks, first, return_exceptions=True)
    return {
        "memory": grown / pending * 1000,
        "start": start / pending * 1000,
        "wall": wall / pending * 1000,
        "polls": polls / max(1, after.calls - started.calls) * 1000,
        "connections": after.connections - before.connections,
    }


def measured(trigger: str, size: Size, *, install: str = AIOHTTP) -> Figures:
    """Measure a trigger in a process of its own."""
    with running() as server:
        job = {"trigger": trigger, "url": server.url, "pending": size.pending, "rounds": size.rounds}
        return processes.figures_of("waiting", job, install=install)


def measures(size: Size) -> list[Measure]:
    """Compare our trigger in each install with HttpSensor's."""
    turns = [
        (
            {install: measured(OURS, size, install=install) for install in (DEFAULT, AIOHTTP)},
            of_peer(partial(measured, SENSOR, size)),
        )
        for _ in range(size.turns)
    ]
    found: list[Measure] = []
    for install in (DEFAULT, AIOHTTP):

        def pairs(figure: str, install: str = install) -> list[tuple[float, float | None]]:
            return [(ours[install][figure], peer and peer[figure]) for ours, peer in turns]

        start, polls, memory = pairs("start"), pairs("polls"), pairs("memory")
        name = "CPU to start a waiting request, to HttpSensor's"
        found.append(versus(name, install, start, unit="ms", goal=START_GOAL[install]))
        name = "CPU per 1,000 polls, to HttpSensor's"
        found.append(versus(name, install, polls, unit="s", goal=POLL_GOAL[install]))
        kilobytes = max(mine for mine, _ in memory)
        found.append(Measure("memory per waiting request", install, kilobytes, "KB", MEMORY_GOAL))
    return found


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    run = TRIGGERS[job["trigger"]](job["url"])
    logging.disable(logging.ERROR)
    processes.report(asyncio.run(costs(run, Server(job["url"]), pending=job["pending"], rounds=job["rounds"])))
