"""
Ten thousand pending requests in one triggerer: what each keeps, what a poll costs beside a thousand, how late it is.

All triggers start at once, as after the restart of a triggerer, in one event loop of a process of its own. The lag of a
poll is from the moment at which it was due until the poller takes it up. A core sends hundreds of polls a second, so
ten thousand requests are polled every 30 s here, or as rarely as a machine needs that is half as busy as it was while a
thousand began to wait; without ``poll_interval``, polls become rarer with the age of a request.
"""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks import processes, waiting
from benchmarks.measure import Measure
from benchmarks.processes import AIOHTTP, DEFAULT, Figures
from benchmarks.server import Server, running

MEMORY_GOAL, POLL_GOAL, LAG_GOAL = 5.0, 1.25, 2.0
FEW, MANY = 1_000, 10_000
FEW_INTERVAL, MANY_INTERVAL, LONGEST_INTERVAL = 5.0, 30.0, 300.0


@dataclass(frozen=True)
class Size:
    """
    How much is measured.

    :param rounds: polls of each trigger that are measured.
    :param peer: whether HttpSensor's triggers are measured as well, in as many.
    """

    rounds: int = 1
    peer: bool = False


def watch_lag() -> list[float]:
    """Return a list to which every poll of the poller adds its lag in seconds."""
    from airflow_provider_segmind.triggers.poller import Poller

    lags: list[float] = []
    advance = Poller._advance

    async def watched(self: Poller, entry: Any) -> bool:
        if entry.due is not None:
            lags.append(asyncio.get_running_loop().time() - entry.due)
        return await advance(self, entry)

    Poller._advance = watched  # type: ignore[method-assign]
    return lags


def measured(trigger: str, pending: int, interval: float, size: Size, *, install: str) -> Figures:
    """Measure so many triggers in a process of their own."""
    with running() as server:
        job = {"trigger": trigger, "url": server.url, "pending": pending, "rounds": size.rounds, "interval": interval}
        return processes.figures_of("pending", job, install=install)


def measures(size: Size) -> list[Measure]:
    """Compare ten thousand with a thousand, in each install."""
    found: list[Measure] = []
    for install in (DEFAULT, AIOHTTP):
        few = measured(waiting.OURS, FEW, FEW_INTERVAL, size, install=install)
        interval = min(LONGEST_INTERVAL, max(MANY_INTERVAL, 2 * few["wall"] * MANY / 1000))
        many = measured(waiting.OURS, MANY, interval, size, install=install)
        name = f"10,000 requests polled every {interval:.0f} s"
        found.append(Measure(f"memory each, {name}", install, many["memory"], "KB", MEMORY_GOAL))
        ratio = many["polls"] / few["polls"]
        found.append(
            Measure(
                f"CPU per 1,000 polls, {name}, to 1,000", install, many["polls"], "s", POLL_GOAL, few["polls"], ratio
            )
        )
        found.append(Measure(f"lag of a poll at p99, {name}", install, many["lag"], "s", LAG_GOAL))
    if size.peer:
        peer = measured(waiting.SENSOR, MANY, interval, size, install=AIOHTTP)
        name = "CPU per 1,000 polls, 10,000 requests, to HttpSensor's"
        ratio = many["polls"] / peer["polls"]
        found.append(Measure(name, AIOHTTP, many["polls"], "s", waiting.POLL_GOAL[AIOHTTP], peer["polls"], ratio))
    return found


def child(job: dict[str, Any]) -> None:
    """Do one job."""
    pending = job["pending"]
    waiting.INTERVAL = job["interval"]
    run, lags = waiting.TRIGGERS[job["trigger"]](job["url"]), watch_lag()
    logging.disable(logging.ERROR)
    patience = 120.0 + 4 * job["interval"] * job["rounds"]
    server, rounds = Server(job["url"]), job["rounds"]
    figures = asyncio.run(waiting.costs(run, server, pending=pending, rounds=rounds, patience=patience))
    lag = statistics.quantiles(lags, n=100)[98] if len(lags) > 1 else 0.0
    processes.report({**figures, "lag": lag})


if __name__ == "__main__":
    child(json.loads(sys.argv[1]))
