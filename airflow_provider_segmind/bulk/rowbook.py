"""What this try knows of distinct rows beside the ledger: who is being asked, who is set aside, and why."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from airflow_provider_segmind.bulk.budget import Budget
from airflow_provider_segmind.bulk.ledger import Ledger
from airflow_provider_segmind.bulk.live import Membership
from airflow_provider_segmind.bulk.plan import Prepared, Rerun
from airflow_provider_segmind.bulk.verdicts import Outcome


@dataclass(slots=True)
class Contest:
    """
    A row that another run is asking about.

    :param after: monotonic seconds before which it is left alone.
    """

    prepared: Prepared
    after: float


LONGEST_PAUSE = 8
"""How many times the first pause the longest is, of two runs that claim a row at the same moment again and again."""


class RowBook:
    """
    Decides which rows must be asked about.

    It remembers the rows in flight and those that will get no answer; of the others the ledger knows enough.

    :param rerun: which rows that have an outcome already are asked again.
    :param started: epoch seconds before which every earlier try ended.
    :param pause: about how many seconds a row is left alone that another run has claimed at the same moment.
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
        self.left: dict[bytes, str] = {}
        self.lost: dict[bytes, tuple[Prepared, float]] = {}
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

    def leave(self, prepared: Prepared, reason: str, *, lost_at: float | None = None) -> None:
        """
        Set a row aside without an outcome.

        :param lost_at: epoch seconds after which its request was certainly not sent, when nobody knows whether it was.
        """
        self.left[prepared.fingerprint] = reason
        if lost_at is not None:
            self.lost[prepared.fingerprint] = (prepared, lost_at)

    def take_up(self, mark: bytes) -> Prepared:
        """Return a lost row whose fate is known, so that it can go on."""
        del self.left[mark]
        return self.lost.pop(mark)[0]

    def postpone(self, prepared: Prepared, reason: str) -> None:
        """Set a row aside until :meth:`take_up_postponed`; ``reason`` is for when that never comes."""
        self.leave(prepared, reason)
        self.postponed.append(prepared)

    def take_up_postponed(self) -> list[Prepared]:
        """Return the rows that were set aside, so that they can go on."""
        rows, self.postponed = self.postponed, []
        for prepared in rows:
            del self.left[prepared.fingerprint]
        return rows

    def contend(self, prepared: Prepared, *, collided: bool) -> None:
        """
        Leave a row to another run for now.

        :param collided: whether both had claimed it at the same moment: the pause is random, and longer every time.
        """
        mark = prepared.fingerprint
        times = self._collisions[mark] = self._collisions.get(mark, 0) + collided
        pause = self._pause * min(LONGEST_PAUSE, 2.0**times) * (0.1 + 0.9 * self._rng.random())
        self.contested[mark] = Contest(prepared, self._monotonic() + pause)

    def due(self) -> list[Prepared]:
        """Return the contested rows that may be looked at again; they are contested no more, unless found so again."""
        now = self._monotonic()
        due = [mark for mark, contest in self.contested.items() if contest.after <= now]
        return [self.contested.pop(mark).prepared for mark in due]

    def leave_contested(self) -> None:
        """Set aside what other runs are still asking about when this one ends."""
        for contest in self.contested.values():
            self.leave(
                contest.prepared, "another run was asking about it when this one stopped; a retry takes its answer"
            )
        self.contested.clear()

    def is_held(self, mark: bytes) -> bool:
        """Tell whether another run that is at work has a claim of a row that is not ended."""
        row = self._ledger.standing(mark).open
        return row is not None and any(self._member.is_present(writer) for writer in row.holders())

    def lost_at(self, mark: bytes) -> float:
        """Return the epoch seconds after which the request of an unresolved claim was certainly not sent any more."""
        row = self._ledger.standing(mark).open
        left = [self._member.left_at(writer) for writer in row.holders()] if row is not None else []
        return max((self._started, *(at for at in left if at is not None)))

    def must_ask(self, prepared: Prepared, *, stopping: bool, eager: bool = False) -> bool:
        """
        Say whether a row must go to a worker; if not, it has its outcome, shares that of another row, or is left.

        :param stopping: whether only rows that something was accepted for before are still brought to an end.
        :param eager: whether to fetch also what was accepted from another run that is at work and will do so itself.
        """
        mark = prepared.fingerprint
        if mark in self._busy or mark in self.left or mark in self._refused or mark in self.contested:
            return False
        standing = self._ledger.standing(mark)
        if standing.success:
            self._budget.settled(Outcome.SUCCESS)
            return False
        if self.is_held(mark) and not (eager and standing.open is not None and standing.open.submitted is not None):
            self.contend(prepared, collided=False)
            return False
        if standing.open is not None and standing.open.submitted is None:
            self._budget.lost_before(mark, standing.open.bound)
            self.leave(prepared, "an earlier try may have asked it and nobody knows", lost_at=self.lost_at(mark))
            return False
        if standing.open is None and standing.place is not None and not self._is_asked_again(mark):
            self._refused.add(mark)
            return False
        if stopping and standing.open is None and standing.half_asked(self._ledger.run) is None:
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
        if mark not in self.left and not self._ledger.standing(mark).success:
            self._refused.add(mark)

    def _is_asked_again(self, mark: bytes) -> bool:
        stored = self._ledger.finished(mark)
        if stored is None or self._rerun is Rerun.DEAD_LETTERS:
            return True
        if self._rerun is Rerun.UNBILLED and stored.outcome is Outcome.FAILED and stored.billed is False:
            return True
        self._budget.settled(stored.outcome)
        return False
