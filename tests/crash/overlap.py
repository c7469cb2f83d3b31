"""
Two or three runs over one ledger at the same time, some of which are killed or stand still for a while.

What is held at the end: each question was billed once, whoever asked it, and every run has every answer.
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
from tests.support.killed_runs import BETWEEN_TRIES, CONTEXT, order_of
from tests.support.killed_worker import live

ROWS, DISTINCT = 320, 300
LATENCY = {"lognormal": {"median": 1.6, "sigma": 0.7, "seed": 1}}
"""Emulated seconds a request takes, so that a run of eight at once takes some five seconds."""
DEATH_AFTER = 2.0
HEAD_STARTS = (0.0, 1.0, 3.0)
"""Seconds between the starts of two runs."""
FROZEN = (0.3, 0.9 * DEATH_AFTER, 2.0 * DEATH_AFTER, 2.0 * DEATH_AFTER)
TRIES = 12
Disturbance: TypeAlias = tuple[str, float, float]


class Runner:
    """
    One run: its tries one after the other, until one ends by itself with every answer.

    :param plan: what happens to each try: ``kill`` or ``freeze``, after so many seconds, for so many; then nothing.
    """

    def __init__(self, name: str, folder: Path, emulator: SegmindEmulator, plan: list[Disturbance]) -> None:
        self.name = name
        self.plan = plan
        self.folder = folder
        self.emulator = emulator
        self.happened: Counter[str] = Counter()

    def run(self) -> None:
        """Make tries."""
        for _ in range(TRIES):
            if self._one_try() == 0 and not self.left():
                return
        raise AssertionError(f"{self.name} has rows left after {TRIES} tries: {self.manifest()}")

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of the latest try that wrote one."""
        with contextlib.suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads((self.folder / self.name / "manifest.json").read_text())
            return found
        return {}

    def left(self) -> int:
        """Return how many rows have no outcome."""
        outcomes = self.manifest()["outcomes"]
        return int(outcomes["unknown"] + outcomes["skipped"])

    def _one_try(self) -> int | None:
        order = order_of(
            self.emulator, self.folder, rows=ROWS, distinct=DISTINCT, run=self.name, outputs=self.name,
            death_after=DEATH_AFTER,
        )  # fmt: skip
        told, begun = CONTEXT.Pipe(duplex=False)
        with told:
            with begun:
                process = CONTEXT.Process(target=live, args=(order, begun))
                process.start()
            try:
                told.recv()
                if self.plan:
                    self._disturb(process, *self.plan.pop(0))
                process.join(timeout=90)
                assert process.exitcode is not None, f"{self.name} does not end"
            finally:
                process.kill()
                process.join()
        self.happened["tries"] += 1
        if process.exitcode == 0 and self.left():
            # What nobody knows is looked for again when the history has come further.
            self.emulator.advance(BETWEEN_TRIES)
        return process.exitcode

    def _disturb(self, process: ForkServerProcess, what: str, after: float, seconds: float) -> None:
        process.join(timeout=after)
        if process.exitcode is not None or process.pid is None:
            return
        self.happened[what] += 1
        if what == "kill":
            process.kill()
            return
        # It may end by itself at any moment.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(process.pid, signal.SIGCONT)


def play(seed: int, folder: Path, emulator: SegmindEmulator) -> list[Runner]:
    """Let runs overlap as a seed says, and return them when all have ended."""
    rng = random.Random(seed)
    runners = [
        Runner(f"run-{number}", folder, emulator, [_disturbance(rng) for _ in range(rng.randint(0, 2))])
        for number in range(2 + seed % 2)
    ]
    # A retry begins while its former self may only be frozen: it has the same name.
    if rng.random() < 0.3:
        runners[1].name = runners[0].name
    with ThreadPoolExecutor(len(runners)) as threads:
        running = []
        for runner in runners:
            running.append(threads.submit(runner.run))
            time.sleep(HEAD_STARTS[(seed // 2) % 3])
        for one in running:
            one.result()
    return runners


def _disturbance(rng: random.Random) -> Disturbance:
    return rng.choice(["kill", "freeze", "freeze"]), rng.uniform(0.2, 4.0), rng.choice(FROZEN)


def billed_twice(emulator: SegmindEmulator) -> list[str]:
    """Return the questions that were billed more than once."""
    emulator.bill  # noqa: B018 - what is due ends
    bodies = Counter(str(job.body) for job in emulator._state.jobs.values() if job.ended and job.error is None)
    return [body for body, times in bodies.items() if times > 1]
