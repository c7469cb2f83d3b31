"""What this try knows of distinct rows beside the ledger: who is being asked, who is set aside, and why."""

from __future__ import annotations

from airflow_provider_segmind.bulk.budget import Budget
from airflow_provider_segmind.bulk.ledger import Ledger
from airflow_provider_segmind.bulk.plan import Prepared, Rerun
from airflow_provider_segmind.bulk.verdicts import Outcome


class RowBook:
    """
    Decides which rows must be asked about.

    It remembers the rows in flight and those that will get no answer; of the others the ledger knows enough.

    :param rerun: which rows that have an outcome already are asked again.
    :param started: epoch seconds before which every earlier try ended.
    """

    def __init__(self, ledger: Ledger, budget: Budget, *, rerun: Rerun, started: float) -> None:
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

    def must_ask(self, prepared: Prepared, *, stopping: bool) -> bool:
        """
        Say whether a row must go to a worker; if not, it has its outcome, shares that of another row, or is left.

        :param stopping: whether only rows that something was accepted for before are still brought to an end.
        """
        mark = prepared.fingerprint
        if mark in self._busy or mark in self.left or mark in self._refused:
            return False
        standing = self._ledger.standing(mark)
        if standing.success:
            self._budget.settled(Outcome.SUCCESS)
            return False
        if standing.open is not None and standing.open.submitted is None:
            self._budget.lost_before(mark, standing.open.bound)
            self.leave(prepared, "an earlier try may have asked it and nobody knows", lost_at=self._started)
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
