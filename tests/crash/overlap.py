"""
Two or three runs over one ledger at the same time, some of which are killed or frozen for a while.

What is checked at the end: each row was billed once, no matter by which run, and every run has all results.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeAlias

from airflow_provider_segmind.emulator.server import SegmindEmulator
from tests.support.enrichment_process import run_process
from tests.support.killed_runs import BETWEEN_ATTEMPTS, CONTEXT, process_settings

ROWS, DISTINCT = 320, 300
LATENCY = {"lognormal": {"median": 1.6, "sigma": 0.7, "seed": 1}}
"""Emulated seconds a request takes, so that a run of eight at once takes some five seconds."""
DEATH_AFTER = 2.0
HEAD_STARTS = (0.0, 1.0, 3.0)
"""Seconds between the starts of two runs."""
FROZEN = (0.3, 0.9 * DEATH_AFTER, 2.0 * DEATH_AFTER, 2.0 * DEATH_AFTER)
ATTEMPTS = 12
Disturbance: TypeAlias = tuple[str, float, float]


class OverlappingRun:
    """
    One run: its attempts one after the other, until one ends normally with all results.

    :param plan: the disturbance of each attempt: ``kill`` or ``freeze``, after and for so many seconds; then none.
    """

    def __init__(self, name: str, folder: Path, emulator: SegmindEmulator, plan: list[Disturbance]) -> None:
        self.name = name
        self.plan = plan
        self.folder = folder
        self.emulator = emulator
        self.happened: Counter[str] = Counter()

    def run(self) -> None:
        """Make attempts until one is complete."""
        for _ in range(ATTEMPTS):
            if self._attempt() == 0 and not self.left():
                return
        raise AssertionError(f"{self.name} has rows left after {ATTEMPTS} attempts: {self.manifest()}")

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of the latest attempt that wrote one."""
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((self.folder / self.name / "manifest.json").read_text())
            return found
        return {}

    def left(self) -> int:
        """Return how many rows have no outcome."""
        outcomes = self.manifest()["outcomes"]
        return int(outcomes["unknown"] + outcomes["skipped"])

    def _attempt(self) -> int | None:
        settings = process_settings(
            self.emulator, self.folder, rows=ROWS, distinct=DISTINCT, run=self.name, outputs=self.name,
            writer_timeout=DEATH_AFTER,
        )  # fmt: skip
        receiver, sender = CONTEXT.Pipe(duplex=False)
        with receiver:
            with sender:
                process = CONTEXT.Process(target=run_process, args=(settings, sender))
                process.start()
            try:
                receiver.recv()
                if self.plan:
                    self._disturb(process, *self.plan.pop(0))
                process.join(timeout=90)
                assert process.exitcode is not None, f"{self.name} does not end"
            finally:
                process.kill()
                process.join()
        self.happened["attempts"] += 1
        if process.exitcode == 0 and self.left():
            # Unknown rows are looked up again when the history has progressed.
            self.emulator.advance(BETWEEN_ATTEMPTS)
        return process.exitcode

    def _disturb(self, process: ForkServerProcess, what: str, after: float, seconds: float) -> None:
        process.join(timeout=after)
        if process.exitcode is not None or process.pid is None:
            return
        self.happened[what] += 1
        if what == "kill":
            process.kill()
            return
        # It may end at any moment.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(process.pid, signal.SIGCONT)


def run_overlapping(seed: int, folder: Path, emulator: SegmindEmulator) -> list[OverlappingRun]:
    """Let runs overlap as the seed determines; return them when all have ended."""
    rng = random.Random(seed)
    runs = [
        OverlappingRun(f"run-{number}", folder, emulator, [_disturbance(rng) for _ in range(rng.randint(0, 2))])
        for number in range(2 + seed % 2)
    ]
    # A retry may start while its predecessor is only frozen: both have the same name.
    if rng.random() < 0.3:
        runs[1].name = runs[0].name
    with ThreadPoolExecutor(len(runs)) as threads:
        running = []
        for each in runs:
            running.append(threads.submit(each.run))
            time.sleep(HEAD_STARTS[(seed // 2) % 3])
        for one in running:
            one.result()
    return runs


def _disturbance(rng: random.Random) -> Disturbance:
    return rng.choice(["kill", "freeze", "freeze"]), rng.uniform(0.2, 4.0), rng.choice(FROZEN)


def billed_twice(emulator: SegmindEmulator) -> list[str]:
    """Return the bodies that were billed more than once."""
    emulator.bill  # noqa: B018 - completes the requests that are due
    bodies = Counter(str(job.body) for job in emulator._state.jobs.values() if job.ended and job.error is None)
    return [body for body, times in bodies.items() if times > 1]
