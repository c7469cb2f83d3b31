"""
Nights in which a run over a table is killed, again and again, while Segmind has troubles of its own.

What is held at the end: each question was billed once, the output is that of an undisturbed run, the counts add up.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import multiprocessing
import random
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.emulator.server import SegmindEmulator
from tests.support.killed_worker import CONCURRENCY, POINTS, SCALE, Order, live, work

CONTEXT = multiprocessing.get_context("forkserver")
# A process that is forked from one which has imported everything begins at once.
CONTEXT.set_forkserver_preload(["tests.support.killed_worker"])
SHAPES = ((60, 45), (90, 80), (120, 100), (150, 90), (200, 150))
"""Tables by rows and distinct rows."""
LATENCY = {"lognormal": {"median": 0.6, "sigma": 0.7, "seed": 1}}
LONGEST = 1.2
"""Seconds after its start within which a process is killed; it would take about as long."""
OFTEN = {"claimed": 40, "accepted": 40, "answered": 40, "landing": 60}
"""How often a process gets to a point, where it is more than a few times."""
DELAYS = (0.0, 0.0, 10.0, 30.0)
"""Seconds until a request stands in the history, by seed."""
TRIES = 12
CALM_AFTER = 2
"""Tries that are not killed after which Segmind has no more troubles, so that a night ends."""
BETWEEN_TRIES = 30.0
"""Seconds of Segmind's from the end of a try to the next."""


def kind_of(inputs: dict[str, Any]) -> str:
    """Tell what a model makes of a question, from the number of the product in it."""
    number = int(re.findall(r"product (\d+)", json.dumps(inputs))[0])
    again = "validator" in json.dumps(inputs) or "max_tokens" in inputs
    kinds = {3: "fails", 5: "blocked", 6: "cut", 9: "wrong"}
    if not again:
        kinds |= {7: "cut", 8: "wrong"}
    return kinds.get(number % 12, "fine")


ODD_ANSWERS: dict[str, dict[str, Any]] = {
    "fails": {"fail": "bad words"},
    "blocked": {"block": "SAFETY"},
    "cut": {"finish_reason": "length", "text": '{"said": "it is'},
    "wrong": {"text": "It is not JSON at all."},
}


def troubles(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield faults of every sort, each on a few calls in a hundred."""
    polls = "result|status"
    for fault in (
        {"route": "submit", "status": 429, "reset_in": 2, "probability": 0.03},
        {"route": "submit", "status": 503, "probability": 0.02},
        {"route": "submit", "status": 502, "when": "after", "probability": 0.02},
        {"route": "submit", "reset": True, "probability": 0.02},
        {"route": "submit", "reset": True, "when": "after", "probability": 0.03},
        {"route": "submit", "truncate": "connection", "when": "after", "probability": 0.01},
        {"route": polls, "status": 500, "probability": 0.03},
        {"route": polls, "status": 429, "reset_in": 2, "probability": 0.01},
        {"route": polls, "reset": True, "probability": 0.02},
        {"route": polls, "truncate": "connection", "when": "after", "probability": 0.01},
        {"route": "result", "status": 200, "empty": True, "probability": 0.01},
        {"route": "history", "status": 503, "probability": 0.3},
    ):
        yield {"times": None, "seed": rng.randrange(1 << 30), **fault}


def history_delay(seed: int) -> float:
    """Return the seconds until a request stands in the history."""
    return DELAYS[seed % len(DELAYS)]


def service(**settings: Any) -> SegmindEmulator:
    """Return a Segmind that answers by :func:`kind_of`."""
    emulator = SegmindEmulator(scale=SCALE, reset_clock="emulator", latency=LATENCY, **settings)
    for kind, answer in ODD_ANSWERS.items():
        emulator.script(predicate=lambda _, inputs, kind=kind: kind_of(inputs) == kind, **answer)
    return emulator


@dataclass(frozen=True)
class Landed:
    """What a run leaves, without what may differ: ids, times, how often an unpaid request was made again."""

    rows: list[dict[str, Any]]
    dead: list[dict[str, Any]]
    counts: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Landed:
        manifest = json.loads((folder / "manifest.json").read_text())
        names = ("rows_read", "outcomes", "distinct_rows", "duplicates_saved", "cache_hits", "cost", "tokens")
        return cls(
            [_without(row, "_segmind_request_id") for row in _lines(folder / "out.jsonl")],
            [_without(row, "request_ids", "attempts") for row in _lines(folder / "dead_letters.jsonl")],
            {name: manifest[name] for name in (*names, "unpriced", "complete", "stopped")},
        )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


@functools.cache
def undisturbed(rows: int, distinct: int) -> Landed:
    """Return what a run over such a table leaves when nothing happens."""
    with service() as emulator, tempfile.TemporaryDirectory() as folder:
        asyncio.run(work(order_of(emulator, Path(folder), rows=rows, distinct=distinct)))
        return Landed.read(Path(folder))


def order_of(emulator: SegmindEmulator, folder: Path, **order: Any) -> Order:
    """Return an order to ask a service about a table."""
    place = {"url": emulator.url, "api_key": emulator.api_key, "folder": str(folder)}
    return Order(anchor=time.time(), now=emulator.now(), **place, **order)


class Night:
    """One run of several tries, most of which are killed."""

    def __init__(self, seed: int, folder: Path, emulator: SegmindEmulator, *, max_cost: float | None = None) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        self.emulator = emulator
        self.rows, self.distinct = SHAPES[seed % len(SHAPES)]
        self.max_cost = max_cost
        for fault in troubles(self.rng):
            emulator.fault(**fault)

    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text())
        return found

    @contextlib.contextmanager
    def a_try(self, **death: Any) -> Iterator[ForkServerProcess]:
        """Give a process that has begun its work; at the end of the block it is over."""
        order = order_of(
            self.emulator, self.folder, rows=self.rows, distinct=self.distinct, max_cost=self.max_cost, **death
        )
        told, begun = CONTEXT.Pipe(duplex=False)
        with told:
            with begun:
                process = CONTEXT.Process(target=live, args=(order, begun))
                process.start()
            try:
                assert told.recv() == "begun"
                yield process
            finally:
                process.kill()
                process.join()
                # Whoever looks long enough at its heartbeat knows that it is dead; tests of that are elsewhere.
                for registration in (self.folder / "ledger" / "live").glob("*.writer"):
                    registration.with_suffix(".ended").touch()

    def killed_try(self) -> None:
        """Let a process be killed by the clock or at a certain point; it may end before."""
        if self.rng.random() < 0.4:
            with self.a_try() as process:
                time.sleep(self.rng.uniform(0.0, LONGEST))
        else:
            point = self.rng.choice(POINTS)
            with self.a_try(point=point, nth=self.rng.randint(1, OFTEN.get(point, 5))) as process:
                process.join(timeout=60)
        assert process.exitcode in (0, -signal.SIGKILL)

    def whole_try(self) -> None:
        """Let a process live."""
        with self.a_try() as process:
            process.join(timeout=60)
            assert process.exitcode == 0
        manifest = self.manifest()
        assert sum(manifest["outcomes"].values()) == manifest["rows_read"] == self.rows

    def last_tries(self) -> None:
        """Run until no row is left without an outcome, or the budget is used up."""
        for number in range(TRIES):
            if number == CALM_AFTER:
                self.emulator.unfault()
            self.whole_try()
            manifest = self.manifest()
            left = manifest["outcomes"]["unknown"] + manifest["outcomes"]["skipped"]
            if not left or (manifest["stopped"] and not manifest["outcomes"]["unknown"]):
                return
            self.emulator.advance(BETWEEN_TRIES)
        raise AssertionError(f"rows are left after every fate must be known: {manifest['outcomes']}")

    def twice_billed(self) -> list[str]:
        """Return the questions that were billed more than once."""
        self.emulator.bill  # noqa: B018 - what is due ends
        bodies = [job.body for job in self.emulator._state.jobs.values() if job.ended and job.error is None]
        return [str(body) for body, count in Counter(bodies).items() if count > 1]

    @property
    def billed(self) -> float:
        """Return the bill in USD."""
        return sum(entry.cost for entry in self.emulator.bill)

    def go(self) -> None:
        """Be killed once to three times, and end."""
        for _ in range(self.rng.randint(1, 3)):
            self.killed_try()
        self.last_tries()

    def check(self) -> None:
        """Hold what must be so at the end of a night."""
        landed = Landed.read(self.folder)
        assert self.twice_billed() == []
        assert landed.counts["cost"] == pytest.approx(self.billed, abs=1e-9)
        assert sum(row["_segmind_cost"] or 0.0 for row in landed.rows) == pytest.approx(self.billed, abs=1e-9)
        assert self.manifest()["requests"] == len(self.emulator.jobs)
        if self.max_cost is None:
            assert landed == undisturbed(self.rows, self.distinct)
        else:
            dearest = max(entry.cost for entry in self.emulator.bill)
            assert self.billed <= self.max_cost + CONCURRENCY * dearest
