"""
Enrichments that are killed again and again while Segmind's responses fail.

What is checked at the end: each row was billed once, the output equals that of an undisturbed run, the counts add up.
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
from airflow_provider_segmind.spend.files import FileStore
from tests.support.enrichment_process import CONCURRENCY, POINTS, SCALE, ProcessSettings, run_process, work

CONTEXT = multiprocessing.get_context("forkserver")
# A process forked from one that has imported everything starts at once.
CONTEXT.set_forkserver_preload(["tests.support.enrichment_process"])
SHAPES = ((60, 45), (90, 80), (120, 100), (150, 90), (200, 150))
"""Rows and distinct rows of each table."""
LATENCY = {"lognormal": {"median": 0.6, "sigma": 0.7, "seed": 1}}
LONGEST = 1.2
"""Seconds after its start within which a process is killed; about as long as it would take."""
OFTEN = {"claimed": 40, "accepted": 40, "completed": 40, "writing": 60}
"""How often a process gets to the points that it passes more than a few times."""
DELAYS = (0.0, 0.0, 10.0, 30.0)
"""Seconds until a request appears in the history, by seed."""
ATTEMPTS = 12
CALM_AFTER = 2
"""Attempts that are not killed after which Segmind has no more faults, so that a run ends."""
BETWEEN_ATTEMPTS = 30.0
"""Emulated seconds from the end of an attempt to the next."""


def reply_kind(inputs: dict[str, Any]) -> str:
    """Return the kind of reply to a prompt, from the number of the product in it."""
    number = int(re.findall(r"product (\d+)", json.dumps(inputs))[0])
    again = "validator" in json.dumps(inputs) or "max_tokens" in inputs
    kinds = {3: "fails", 5: "blocked", 6: "cut", 9: "wrong"}
    if not again:
        kinds |= {7: "cut", 8: "wrong"}
    return kinds.get(number % 12, "fine")


ODD_REPLIES: dict[str, dict[str, Any]] = {
    "fails": {"fail": "bad words"},
    "blocked": {"block": "SAFETY"},
    "cut": {"finish_reason": "length", "text": '{"said": "it is'},
    "wrong": {"text": "It is not JSON at all."},
}


def service_faults(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield faults of every kind, each hitting a few percent of the calls."""
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
    """Return the seconds until a request appears in the history."""
    return DELAYS[seed % len(DELAYS)]


def service(**settings: Any) -> SegmindEmulator:
    """Return an emulator that replies by :func:`reply_kind`."""
    emulator = SegmindEmulator(scale=SCALE, reset_clock="emulator", latency=LATENCY, **settings)
    for kind, answer in ODD_REPLIES.items():
        emulator.script(predicate=lambda _, inputs, kind=kind: reply_kind(inputs) == kind, **answer)
    return emulator


@dataclass(frozen=True)
class RunFiles:
    """The files of a run, without what may differ: ids, times, how often an unpaid request was repeated."""

    rows: list[dict[str, Any]]
    dead: list[dict[str, Any]]
    counts: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> RunFiles:
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
def undisturbed(rows: int, distinct: int) -> RunFiles:
    """Return the files of a run over such a table without kills and faults."""
    with service() as emulator, tempfile.TemporaryDirectory() as folder:
        asyncio.run(work(process_settings(emulator, Path(folder), rows=rows, distinct=distinct)))
        return RunFiles.read(Path(folder))


def process_settings(emulator: SegmindEmulator, folder: Path, **settings: Any) -> ProcessSettings:
    """Return the settings of a process that enriches a table."""
    place = {"url": emulator.url, "api_key": emulator.api_key, "folder": str(folder)}
    return ProcessSettings(anchor=time.time(), now=emulator.now(), **place, **settings)


class KilledRun:
    """One run of several attempts, most of which are killed."""

    def __init__(self, seed: int, folder: Path, emulator: SegmindEmulator, *, max_cost: float | None = None) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        self.emulator = emulator
        self.rows, self.distinct = SHAPES[seed % len(SHAPES)]
        self.max_cost = max_cost
        for fault in service_faults(self.rng):
            emulator.fault(**fault)

    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text())
        return found

    @contextlib.contextmanager
    def started_attempt(self, **kill_switch: Any) -> Iterator[ForkServerProcess]:
        """Start a process and wait until its work has started; kill it at the end of the block."""
        settings = process_settings(
            self.emulator, self.folder, rows=self.rows, distinct=self.distinct, max_cost=self.max_cost, **kill_switch
        )
        receiver, sender = CONTEXT.Pipe(duplex=False)
        with receiver:
            with sender:
                process = CONTEXT.Process(target=run_process, args=(settings, sender))
                process.start()
            try:
                assert receiver.recv() == "started"
                yield process
            finally:
                process.kill()
                process.join()
                # Another run would learn from the missing heartbeat that it is dead; that is tested elsewhere.
                for registration in (self.folder / "ledger" / "live").glob("*.writer"):
                    registration.with_suffix(".ended").touch()

    def killed_attempt(self) -> None:
        """Run a process that is killed after some time or at some point; it may end before that."""
        if self.rng.random() < 0.4:
            with self.started_attempt() as process:
                time.sleep(self.rng.uniform(0.0, LONGEST))
        else:
            point = self.rng.choice(POINTS)
            with self.started_attempt(point=point, nth=self.rng.randint(1, OFTEN.get(point, 5))) as process:
                process.join(timeout=60)
        assert process.exitcode in (0, -signal.SIGKILL)

    def full_attempt(self) -> None:
        """Run a process to its end."""
        with self.started_attempt() as process:
            process.join(timeout=60)
            assert process.exitcode == 0
        manifest = self.manifest()
        assert sum(manifest["outcomes"].values()) == manifest["rows_read"] == self.rows

    def finish_attempts(self) -> None:
        """Run until every row has an outcome, or the budget is used up."""
        for number in range(ATTEMPTS):
            if number == CALM_AFTER:
                self.emulator.unfault()
            self.full_attempt()
            manifest = self.manifest()
            left = manifest["outcomes"]["unknown"] + manifest["outcomes"]["skipped"]
            if not left or (manifest["stopped"] and not manifest["outcomes"]["unknown"]):
                return
            self.emulator.advance(BETWEEN_ATTEMPTS)
        raise AssertionError(f"rows without an outcome when all must be known: {manifest['outcomes']}")

    def twice_billed(self) -> list[str]:
        """Return the bodies that were billed more than once."""
        self.emulator.bill  # noqa: B018 - completes the requests that are due
        bodies = [job.body for job in self.emulator._state.jobs.values() if job.ended and job.error is None]
        return [str(body) for body, count in Counter(bodies).items() if count > 1]

    @property
    def billed(self) -> float:
        """Return the bill in USD."""
        return sum(entry.cost for entry in self.emulator.bill)

    @property
    def recorded(self) -> dict[str, float]:
        """Return what the spend record says that each request has cost, in USD."""
        entries = FileStore(self.folder / "spend").read()
        return {entry.request_id: (entry.cost_micros or 0.0) / 1e6 for entry in entries}

    def run_to_end(self) -> None:
        """Be killed one to three times, then run to the end."""
        for _ in range(self.rng.randint(1, 3)):
            self.killed_attempt()
        self.finish_attempts()

    def check(self) -> None:
        """Check bill, counts and files at the end of a run."""
        files = RunFiles.read(self.folder)
        assert self.twice_billed() == []
        assert files.counts["cost"] == pytest.approx(self.billed, abs=1e-9)
        assert sum(row["_segmind_cost"] or 0.0 for row in files.rows) == pytest.approx(self.billed, abs=1e-9)
        assert self.manifest()["requests"] == len(self.emulator.jobs)
        billed = {job.request_id: 0.0 for job in self.emulator.jobs}
        billed |= {entry.request_id: entry.cost for entry in self.emulator.bill}
        assert self.recorded == pytest.approx(billed, abs=1e-12)
        if self.max_cost is None:
            assert files == undisturbed(self.rows, self.distinct)
        else:
            dearest = max(entry.cost for entry in self.emulator.bill)
            assert self.billed <= self.max_cost + CONCURRENCY * dearest
