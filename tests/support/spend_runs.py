"""Chat tasks that are killed while Segmind's responses fail; some are never tried again, and reconciling adds those."""

from __future__ import annotations

import json
import random
import re
from typing import Any
from unittest import mock

import pytest

from airflow_provider_segmind.compat import AirflowFailException
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.exceptions import SegmindError
from airflow_provider_segmind.monitoring.page.spend import visible
from airflow_provider_segmind.monitoring.reader import Reader
from airflow_provider_segmind.spend.files import FileStore
from airflow_provider_segmind.spend.reconcile import reconcile
from airflow_provider_segmind.spend.store import SpendStore
from tests.support.airflow_fakes import Clock, Run, hook_by
from tests.support.chat_tasks import NUMBER, Chat

TRIES = 8
CALM_AFTER = 4
"""Tries after which neither Segmind nor the worker has faults, so that a run ends."""
ABANDONED = 0.3
"""How many of the killed runs are never tried again."""
KINDS = ("fine", "cut", "wrong", "blocked", "fails", "never", "fine")


class Killed(BaseException):
    """The worker died."""


def kind_of(inputs: Any) -> str:
    """Return what becomes of a prompt, from the number of its run."""
    text = json.dumps(inputs)
    kind = KINDS[int(re.findall(r"question (\d+)", text)[0]) % len(KINDS)]
    again = "The validator says" in text or "max_tokens" in text
    return "fine" if again and kind in ("cut", "wrong") else kind


def prepare(emulator: SegmindEmulator) -> None:
    """Make the emulator reply by :func:`kind_of`."""
    replies: dict[str, dict[str, Any]] = {
        "fine": {"json": {"x": 1}},
        "cut": {"text": '{"x": ', "finish_reason": "length"},
        "wrong": {"text": "no data"},
        "never": {"text": "no data"},
        "blocked": {"block": "SAFETY"},
        "fails": {"fail": "no capacity"},
    }
    for kind, reply in replies.items():
        emulator.script(predicate=lambda _, inputs, kind=kind: kind_of(inputs) == kind, **reply)


class SpendRuns:
    """Many runs over one account."""

    def __init__(self, emulator: SegmindEmulator, clock: Clock, record: SpendStore, *, seed: int) -> None:
        self.emulator, self.clock, self.record = emulator, clock, record
        self.rng = random.Random(seed)
        self.killed = self.abandoned = 0
        prepare(emulator)

    def run(self, number: int) -> None:
        """Try one task until it ends, or it is killed and forgotten."""
        chat = Chat(self.emulator, self.clock, Run(run_id=f"run {number}"))
        try:
            for attempt in range(TRIES):
                self._faults(attempt)
                try:
                    self._try(chat, number, kills=attempt < CALM_AFTER)
                except Killed:
                    self.killed += 1
                    if self.rng.random() < ABANDONED:
                        self.abandoned += 1
                        return
                except AirflowFailException:
                    return
                except SegmindError as error:
                    if not error.retryable:
                        raise
                else:
                    return
            raise AssertionError(f"run {number} does not end")
        finally:
            chat.close()

    def _faults(self, attempt: int) -> None:
        self.emulator.unfault()
        if attempt >= CALM_AFTER:
            return
        for fault in (
            {"route": "submit", "reset": True, "when": "after", "probability": 0.1},
            {"route": "submit", "status": 503, "probability": 0.1},
            {"route": "result|status", "status": 500, "probability": 0.1},
        ):
            self.emulator.fault(**fault, times=None, seed=self.rng.randrange(1 << 30))

    def _try(self, chat: Chat, number: int, *, kills: bool) -> None:
        left = self.rng.choice((1, 2, 3, 4, 5, 6, 8, 1000)) if kills else 1000
        write = FileStore.write

        def step() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed

        def recording(store: FileStore, entries: Any) -> None:
            step()
            write(store, entries)
            step()

        # The state is written before and after each POST.
        chat.run.store.on_write = lambda _: step()
        with mock.patch.object(FileStore, "write", recording):
            chat.ask(prompt=f"question {number}", output_type=NUMBER, max_repairs=1)

    def reconcile(self) -> None:
        """Complete the record from the history, two hours later."""
        self.emulator.unfault()
        self.clock.ahead += 7200
        reconcile(
            self.record, hook_by(self.clock), self.clock() - 86_400, connection="segmind_default", now=self.clock()
        )

    def check(self) -> None:
        """Check that record and bill are equal, request by request, and that command and page show their sum."""
        billed = {job.request_id: 0.0 for job in self.emulator.jobs}
        billed |= {entry.request_id: entry.cost for entry in self.emulator.bill}
        recorded = {entry.request_id: (entry.cost_micros or 0.0) / 1e6 for entry in self.record.read()}
        assert recorded == pytest.approx(billed, abs=1e-12)
        bill = sum(billed.values()) * 1e6
        assert bill > 0
        session: Any = None  # What the record contains is read without the metadata database.
        view = Reader(session).spend(by=("day", "dag", "model"))
        whole = Reader(session).spend(by=())
        page = visible(view, {dag_id for _, dag_id, _ in (group.key for group in view.groups)}, "dag")
        for shown in (view, whole, page):
            assert round(shown.total.cost_micros) == round(bill)
            assert shown.total.requests == len(billed)
