"""Which rows are in progress, set aside or finished in this try, how many bytes they take, and when a run may defer."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

from airflow_provider_segmind.defaults import RESULT_LIFETIME, Rerun
from airflow_provider_segmind.enrichment.ledger.events import Submitted
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.live import Membership
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.run_limits import Budget
from airflow_provider_segmind.enrichment.settings import LostRow, Prepared


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


LATEST_AGE = 0.75 * RESULT_LIFETIME
"""Age in seconds at which a request must be fetched, however many others are not done: its result lives an hour."""
OVERDUE = 0.25
"""Part of its age that a request which takes longer than usual is expected to take in addition."""


@dataclass(frozen=True, slots=True)
class Deferral:
    """
    What a run waits for.

    :param requests: id, and epoch seconds of the submission, of each request under way.
    :param enough: how many of them must have ended for the run to continue.
    :param until: epoch seconds at which it continues in any case.
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
    :param more: whether rows are left to be asked; then half of the requests suffice, so that places come free.
    :param waiting_for_permit: whether rows wait for a permit of the rate limiter or the budget.
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
    A row that another run is asking about.

    :param after: monotonic seconds before which it is not tried again.
    """

    prepared: Prepared
    after: float


LARGEST_PAUSE_FACTOR = 8
"""Longest pause, in first pauses, of two runs that repeatedly claim a row at the same moment."""


class RowTracker:
    """
    Decides which rows must be asked about.

    It remembers the rows in flight and those that will get no answer; of the others the ledger knows enough.

    :param rerun: which rows that have an outcome already are asked again.
    :param started: epoch seconds before which every earlier try ended.
    :param pause: about how many seconds a row is not tried again that another run has claimed at the same moment.
    """

    def __init__(
        self, ledger: Ledger, budget: Budget, member: Membership, *, rerun: Rerun, started: float, pause: float,
        rng: random.Random, monotonic: Callable[[], float],
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
        self._budget = budget
        self._rerun = rerun
        self._started = started
        self._busy: set[bytes] = set()
        self._refused: set[bytes] = set()

    @property
    def busy(self) -> int:
        """How many rows wait for a worker or are with one."""
        return len(self._busy)

    def skip(self, prepared: Prepared, reason: str, *, lost: LostRow | None = None) -> None:
        """Skip a row without an outcome; ``lost`` if its request may have been sent."""
        self.skipped[prepared.fingerprint] = reason
        if lost is not None:
            self.lost[prepared.fingerprint] = lost

    def take_up(self, mark: bytes) -> Prepared:
        """Return a lost row whose fate is known, so that it can continue."""
        del self.skipped[mark]
        return self.lost.pop(mark).prepared

    def postpone(self, prepared: Prepared, reason: str) -> None:
        """Set a row aside until :meth:`take_up_postponed`; ``reason`` is for when that never comes."""
        self.skip(prepared, reason)
        self.postponed.append(prepared)

    def postpone_as_evidence(self, prepared: Prepared) -> bool:
        """
        Postpone one new row while other runs are asking about rows of this table; return whether this one is it.

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
        self.postpone(prepared, "the run stopped before it was asked")
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
        """Set aside what other runs are still asking about when this one ends."""
        for contest in self.contested.values():
            self.skip(
                contest.prepared, "another run was asking about it when this one stopped; a retry takes its answer"
            )
        self.contested.clear()

    def is_claimed_elsewhere(self, mark: bytes) -> bool:
        """Tell whether another run that is at work has a claim of a row that is not ended."""
        row = self._ledger.row_state(mark).open
        return row is not None and any(self._member.is_active(writer) for writer in row.writers())

    def lost_at(self, mark: bytes) -> float:
        """Return the epoch seconds after which the request of an unresolved claim was certainly not sent any more."""
        row = self._ledger.row_state(mark).open
        left = [self._member.ended_at(writer) for writer in row.writers()] if row is not None else []
        return max((self._started, *(at for at in left if at is not None)))

    def must_ask(self, prepared: Prepared, *, stopping: bool, eager: bool = False) -> bool:
        """
        Say whether a row must go to a worker; if not, it has its outcome, shares that of another row, or is skipped.

        :param stopping: whether only rows that something was accepted for before are still brought to an end.
        :param eager: whether to fetch also what was accepted from another run that is at work and will do so itself.
        """
        mark = prepared.fingerprint
        if mark in self._busy or mark in self.skipped or mark in self._refused or mark in self.contested:
            return False
        state = self._ledger.row_state(mark)
        if state.success:
            self._budget.finished(Outcome.SUCCESS)
            return False
        if self.is_claimed_elsewhere(mark) and not (
            eager and state.open is not None and state.open.submitted is not None
        ):
            self.contend(prepared, collided=False)
            return False
        if state.open is not None and state.open.submitted is None:
            self._budget.lost_earlier(mark, state.open.bound)
            self.skip(
                prepared,
                "an earlier try may have sent its request; whether it did is unknown",
                lost=LostRow(prepared, self.lost_at(mark)),
            )
            return False
        if state.open is None and state.finished and not self._is_asked_again(mark):
            self._refused.add(mark)
            return False
        if stopping and state.open is None and state.unsent_follow_up(self._ledger.run) is None:
            return False
        self._busy.add(mark)
        return True

    def asked(self, prepared: Prepared) -> None:
        """Note that a worker is done with a row."""
        mark = prepared.fingerprint
        self._busy.discard(mark)
        if mark in self.contested:
            return
        self._collisions.pop(mark, None)
        if mark not in self.skipped and not self._ledger.row_state(mark).success:
            self._refused.add(mark)

    def _is_asked_again(self, mark: bytes) -> bool:
        stored = self._ledger.finished(mark)
        if stored is None or self._rerun == "dead_letters":
            return True
        if self._rerun == "unbilled" and stored.outcome is Outcome.FAILED and stored.billed is False:
            return True
        self._budget.finished(stored.outcome)
        return False
