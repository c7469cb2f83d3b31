"""Which rows are in progress, set aside or finished in this try, how many bytes they take, and when a run may defer."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from airflow_provider_segmind.defaults import RESULT_LIFETIME, Rerun
from airflow_provider_segmind.enrichment.ledger.events import Finished, Submitted
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.run_liveness import Membership
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.question import LostRow, Prepared
from airflow_provider_segmind.enrichment.run_limits import FREE, RunUsage


class InFlightBytes:
    """
    Limits the bytes in flight. A request that does not fit waits; while nothing else is in flight, any size fits.

    :param size: bytes.
    """

    def __init__(self, size: int) -> None:
        self.used = 0
        self._size = size
        self._released = asyncio.Event()

    async def acquire(self, size: int) -> None:
        """Wait until so many bytes fit, and take them."""
        while self.used and self.used + size > self._size:
            self._released.clear()
            await self._released.wait()
        self.used += size

    def release(self, size: int) -> None:
        """Give bytes back."""
        self.used -= size
        self._released.set()


MOST_FINISHED = 100_000
"""Distinct rows that may wait to be written while a run goes on, about 20 MB; others are written at its end."""


@dataclass(frozen=True, slots=True)
class FinishedMark:
    """
    A distinct row with its outcome.

    :param event: the number of ledger events that had been appended by then.
    :param at: monotonic seconds.
    """

    fingerprint: bytes
    event: int
    at: float


class FinishedRows:
    """
    Distinct rows that have their outcome and wait to be written while the run goes on, oldest first.

    The engine's thread adds them and another one takes them out.

    :param appended: returns the number of ledger events appended so far.
    :param durable: returns how many of them are durable.
    """

    def __init__(
        self, *, appended: Callable[[], int], durable: Callable[[], int], monotonic: Callable[[], float]
    ) -> None:
        self._appended = appended
        self._durable = durable
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._rows: OrderedDict[bytes, FinishedMark] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, fingerprint: bytes) -> None:
        """Add a row, or note that an equal one was read."""
        with self._lock:
            if (earlier := self._rows.get(fingerprint)) is not None:
                self._rows[fingerprint] = replace(earlier)
            elif len(self._rows) < MOST_FINISHED:
                self._rows[fingerprint] = FinishedMark(fingerprint, self._appended(), self._monotonic())

    def first(self, most: int) -> list[FinishedMark]:
        """Return those of the oldest rows whose outcome is durable in the ledger: no table may be ahead of it."""
        with self._lock:
            oldest = itertools.islice(self._rows.values(), most)
            return [mark for mark in oldest if mark.event <= self._durable()]

    def seconds_waited(self) -> float:
        """Return how long the oldest row has waited, 0 without one."""
        with self._lock:
            oldest = next(iter(self._rows.values()), None)
            return 0.0 if oldest is None else self._monotonic() - oldest.at

    def remove(self, marks: Iterable[FinishedMark]) -> None:
        """Remove rows that were taken care of, unless an equal one was read since."""
        with self._lock:
            for mark in marks:
                if self._rows.get(mark.fingerprint) is mark:
                    del self._rows[mark.fingerprint]


LATEST_AGE = 0.75 * RESULT_LIFETIME
"""
Age in seconds at which a request must be fetched, however many others are not done: its result is kept for an hour.
"""
OVERDUE = 0.25
"""A request that takes longer than usual is expected to take this fraction of its age in addition."""


@dataclass(frozen=True, slots=True)
class Deferral:
    """
    What a run waits for.

    :param requests: id, and epoch seconds of the submission, of each request under way.
    :param enough: how many of them must have ended for the run to continue.
    :param until: epoch seconds at which it continues in any case; infinity for the end of a pause.
    """

    requests: tuple[tuple[str, float], ...]
    enough: int
    until: float


def deferral_of(
    waiting: Collection[Submitted],
    *,
    more: bool,
    waiting_for_permit: bool,
    typical: float,
    until_submit: float,
    now: float,
    at_least: float,
) -> Deferral | None:
    """
    Return what to wait for, None where something can be done sooner than ``at_least`` seconds from now.

    :param waiting: the requests under way.
    :param more: whether rows are left to be sent; then it is enough that half of the requests have ended and freed
        their slots.
    :param waiting_for_permit: whether rows wait for a permit of the rate limiter or the limits.
    :param typical: seconds a request usually takes.
    :param until_submit: seconds until the rate limiter gives a permit.
    :param now: epoch seconds.
    """
    enough = math.ceil(len(waiting) / 2) if more else len(waiting)
    soonest, until = math.inf, math.inf
    if waiting:
        oldest = min(one.at for one in waiting)
        ages = [now - one.at for one in waiting]
        left = sorted(typical - age if age < typical else OVERDUE * age for age in ages)
        soonest, until = left[enough - 1], oldest + LATEST_AGE
    if waiting_for_permit:
        soonest, until = min(soonest, until_submit), min(until, now + until_submit)
    if soonest < at_least or until - now < at_least or math.isinf(until):
        return None
    return Deferral(tuple(sorted((one.request_id, one.at) for one in waiting)), enough, until)


@dataclass(slots=True)
class Contest:
    """
    A row that another run is processing.

    :param after: monotonic seconds before which it is not tried again.
    """

    prepared: Prepared
    after: float


LARGEST_PAUSE_FACTOR = 8
"""Longest pause of two runs that repeatedly claim a row at the same moment, as a multiple of the first pause."""


def is_sent_again(stored: Finished, rerun: frozenset[Rerun]) -> bool:
    """Return whether a further run sends a row with this outcome again."""
    unbilled = stored.outcome is Outcome.FAILED and stored.billed is False
    return stored.outcome in rerun or (unbilled and "unbilled" in rerun)


class RowTracker:
    """
    Decides which rows must be sent.

    It remembers the rows in flight and those that will get no answer; the ledger has what is needed of the others.

    :param rerun: which rows that have an outcome already are sent again; see
        :class:`~airflow_provider_segmind.enrichment.settings.Settings`.
    :param began: epoch seconds at which this try began, before any deferral.
    :param started: epoch seconds before which every earlier try ended.
    :param pause: about how many seconds pass before a row that another run claimed at the same moment is tried again.
    :param finished: called with the fingerprint of each row read that has its outcome, once or more often.
    """

    def __init__(
        self, ledger: Ledger, usage: RunUsage, member: Membership, *,
        rerun: frozenset[Rerun], began: float, started: float, pause: float,
        rng: random.Random, monotonic: Callable[[], float], finished: Callable[[bytes], None] | None = None,
    ) -> None:  # fmt: skip
        self.contested: dict[bytes, Contest] = {}
        self._collisions: dict[bytes, int] = {}
        self._member = member
        self._pause = pause
        self._rng = rng
        self._monotonic = monotonic
        self.skipped: dict[bytes, str] = {}
        self.lost: dict[bytes, LostRow] = {}
        self.postponed: list[Prepared] = []
        self._ledger = ledger
        self._usage = usage
        self._rerun = rerun
        self._began = began
        self._started = started
        self._busy: set[bytes] = set()
        self._refused: set[bytes] = set()
        self._finished = finished or (lambda _: None)

    @property
    def busy(self) -> int:
        """How many rows wait for a worker or are being processed by one."""
        return len(self._busy)

    def skip(self, prepared: Prepared, reason: str, *, lost: LostRow | None = None) -> None:
        """Skip a row without an outcome; ``lost`` if its request may have been sent."""
        self.skipped[prepared.fingerprint] = reason
        if lost is not None:
            self.lost[prepared.fingerprint] = lost

    def take_up(self, mark: bytes) -> Prepared:
        """Return a lost row whose outcome is known, so that it can continue."""
        del self.skipped[mark]
        return self.lost.pop(mark).prepared

    def postpone(self, prepared: Prepared, reason: str) -> None:
        """Set a row aside until :meth:`take_up_postponed`; ``reason`` is for when that never comes."""
        self.skip(prepared, reason)
        self.postponed.append(prepared)

    def postpone_as_evidence(self, prepared: Prepared) -> bool:
        """
        Postpone one new row while other runs are processing rows of this table; return whether this one is it.

        If such a run has died, its claims are released only when the history shows a request that was sent after its
        death. The postponed row is that request; without it, nothing might be left to send by then.
        """
        mark = prepared.fingerprint
        if not self.contested or self.postponed:
            return False
        state = self._ledger.row_state(mark)
        if state.open is not None or state.unsent_follow_up(self._ledger.run) is not None:
            # Something was paid for this row, and the reply expires.
            return False
        self._busy.discard(mark)
        self.postpone(prepared, "the run stopped before this row was sent")
        return True

    def take_up_postponed(self) -> list[Prepared]:
        """Return the postponed rows, so that they can continue."""
        rows, self.postponed = self.postponed, []
        for prepared in rows:
            del self.skipped[prepared.fingerprint]
        return rows

    def contend(self, prepared: Prepared, *, collided: bool) -> None:
        """
        Leave a row to another run for now.

        :param collided: whether both had claimed it at the same moment: the pause is random, and longer every time.
        """
        mark = prepared.fingerprint
        times = self._collisions[mark] = self._collisions.get(mark, 0) + collided
        pause = self._pause * min(LARGEST_PAUSE_FACTOR, 2.0**times) * (0.1 + 0.9 * self._rng.random())
        self.contested[mark] = Contest(prepared, self._monotonic() + pause)

    def due(self) -> list[Prepared]:
        """Return the contested rows that may be checked again; they are no longer contested then."""
        now = self._monotonic()
        due = [mark for mark, contest in self.contested.items() if contest.after <= now]
        return [self.contested.pop(mark).prepared for mark in due]

    def skip_contested(self) -> None:
        """Set aside what other runs are still processing when this one ends."""
        for contest in self.contested.values():
            self.skip(
                contest.prepared,
                "when the run stopped, another run was processing this row or spending was paused; a retry continues",
            )
        self.contested.clear()

    def is_claimed_elsewhere(self, mark: bytes) -> bool:
        """Return whether another active run has an open claim on a row."""
        row = self._ledger.row_state(mark).open
        return row is not None and any(self._member.is_active(writer) for writer in row.writers())

    def lost_at(self, mark: bytes) -> float:
        """Return the epoch seconds after which the request of an unresolved claim was certainly not sent any more."""
        row = self._ledger.row_state(mark).open
        left = [self._member.ended_at(writer) for writer in row.writers()] if row is not None else []
        return max((self._started, *(at for at in left if at is not None)))

    def must_ask(self, prepared: Prepared, *, stopping: bool, eager: bool = False) -> bool:
        """
        Return whether a row must go to a worker; if not, it has an outcome, shares that of another row, or is skipped.

        :param stopping: whether only rows that something was accepted for before are still brought to an end.
        :param eager: whether to also fetch requests of another active run, which will fetch them itself.
        """
        mark = prepared.fingerprint
        if mark in self._refused:
            self._finished(mark)
            return False
        if mark in self._busy or mark in self.skipped or mark in self.contested:
            return False
        if self._ledger.has_answer(mark):
            self._usage.finished(Outcome.SUCCESS)
            self._finished(mark)
            return False
        state = self._ledger.row_state(mark)
        if self.is_claimed_elsewhere(mark) and not (
            eager and state.open is not None and state.open.submitted is not None
        ):
            self.contend(prepared, collided=False)
            return False
        if state.open is not None and state.open.submitted is None:
            own = state.claim is not None and state.claim.run == self._ledger.run
            self._usage.lost_earlier(mark, state.open.bound if own else FREE)
            self.skip(
                prepared,
                "it is unknown whether an earlier try sent its request",
                lost=LostRow(prepared, self.lost_at(mark)),
            )
            return False
        if state.open is None and state.finished and not self._is_asked_again(mark):
            self._refused.add(mark)
            self._finished(mark)
            return False
        if stopping and state.open is None and state.unsent_follow_up(self._ledger.run) is None:
            return False
        self._busy.add(mark)
        return True

    def asked(self, prepared: Prepared) -> None:
        """Record that a worker is done with a row."""
        mark = prepared.fingerprint
        self._busy.discard(mark)
        if mark in self.contested:
            return
        self._collisions.pop(mark, None)
        if mark in self.skipped:
            return
        if not self._ledger.row_state(mark).success:
            self._refused.add(mark)
        self._finished(mark)

    def _is_asked_again(self, mark: bytes) -> bool:
        stored = self._ledger.finished(mark)
        if stored is None:
            return True
        # What this try sent before it was deferred is not paid for again.
        if (stored.run != self._ledger.run or stored.at <= self._began) and is_sent_again(stored, self._rerun):
            return True
        self._usage.finished(stored.outcome)
        return False
