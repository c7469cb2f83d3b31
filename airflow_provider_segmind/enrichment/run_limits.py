"""
The limits of a run in cost, rows and failures; checked before each paid call.

The highest cost of a request is reserved before it is sent and released when it is billed, so that the sum of all bills
stays within ``max_cost``, whatever the rows contain. Where no upper bound is known, the mean of what was billed so far
is reserved instead, or what reading the request costs when that is more. A price may be wrong or unknown, so few
requests are in flight before the first bill. A retry has no fresh budget: what earlier tries of the run used up, and
what their open requests may still cost, is taken from the ledger.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from airflow_provider_segmind.chat.cost_estimate import UNBOUNDED, CostBound
from airflow_provider_segmind.defaults import RESULT_LIFETIME
from airflow_provider_segmind.enrichment.ledger.row_state import RunTotals
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.money import format_usd

FAILURES = frozenset({Outcome.FAILED, Outcome.BLOCKED, Outcome.TRUNCATED, Outcome.INVALID})
"""The outcomes that ``max_failed_rows`` counts."""
SMALLEST_SAMPLE = 50
"""Rows that must have an outcome before a share of failures stops a run."""
SHARE_BEFORE_BILL = 0.1
"""Part of what is left of ``max_cost`` reserved before the first bill: the price may be ten times the known one."""
MOST_BEFORE_BILL = 2
"""Requests in flight before the first bill where that share has no room, or the price is unknown; one may be stuck."""
LONGEST_FLIGHT = RESULT_LIFETIME + 300.0
"""Seconds after which a request is no longer in flight, whatever its outcome: Segmind has dropped its result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    The limits of a run, over all its tries.

    :param max_cost: USD; None for no limit.
    :param max_rows: distinct rows that are sent.
    :param max_failed_rows: rows without a usable answer: a count (int), or a share of those sent (float up to 1.0).
    :param expected_cost: USD a request is assumed to cost until one has been billed.
    """

    max_cost: float | None = None
    max_rows: int | None = None
    max_failed_rows: int | float | None = None
    expected_cost: float = 0.0

    def too_many_failed(self, failed: int, rows: int, *, final: bool = False) -> str | None:
        """
        Return a message if too many rows have no usable answer, else None.

        :param rows: how many have an outcome; distinct ones while the run continues.
        :param final: whether no more rows come, so that a share is checked even for few rows.
        """
        allowed = self.max_failed_rows
        if allowed is None:
            return None
        if isinstance(allowed, int):
            too_many = failed > allowed
        else:
            too_many = failed > allowed * rows and (final or rows >= SMALLEST_SAMPLE)
        noun = "rows" if final else "distinct rows"
        return f"{failed} of {rows} {noun} failed, max_failed_rows={allowed}" if too_many else None


FREE = CostBound(usd=0.0, certain=True)
"""The cost of an answer that is already billed."""


class Permission(StrEnum):
    """
    The answer to "may I send one more paid call?".

    ``WAIT`` means: not until what is in flight has been billed; ``LATER``: not until the rows with open requests of an
    earlier try have been read.
    """

    GO = "go"
    WAIT = "wait"
    LATER = "later"
    STOP = "stop"


class RunUsage:
    """
    Counts what a run uses, against its limits.

    :param totals: what earlier tries of the run used.
    """

    def __init__(self, limits: Limits, totals: RunTotals | None = None) -> None:
        totals = totals or RunTotals()
        self.limits = limits
        self.spent = totals.cost
        self.rows = totals.rows
        self.in_flight = 0
        self.lost = 0
        self.outcomes: Counter[Outcome] = Counter()
        self.excess = 1.0
        self.charged = totals.charged
        """The most in USD that requests may have cost whose bill is unknown and no longer waited for."""
        self._given_up = 0.0
        self._priced = max(0, totals.rows - totals.unpriced) if totals.cost else 0
        self._reserved: dict[bytes, CostBound] = {}
        self._bounded = self._guessed = 0.0
        self._guesses = 0
        self._estimates: dict[bytes, float] = {}
        self._bill_to_input = 1.0
        self._unmet: set[bytes] = set()
        self._unread_in_flight: set[bytes] = set()
        self._has_bill = False

    @property
    def failed(self) -> int:
        """Rows without a usable answer, including those of earlier tries that were not sent again."""
        return sum(count for outcome, count in self.outcomes.items() if outcome in FAILURES)

    @property
    def mean_cost(self) -> float:
        """The expected cost of a request in USD."""
        return self.spent / self._priced if self._priced else self.limits.expected_cost

    @property
    def reserved(self) -> float:
        """The highest cost in USD of requests that are not billed yet."""
        return self._bounded * self.excess + max(self._guesses * self.mean_cost, self._guessed)

    @property
    def held(self) -> float:
        """The highest cost in USD of requests that may still be billed, where it is known for certain."""
        return (self._bounded - self._given_up) * self.excess

    @property
    def unreported(self) -> float:
        """The highest cost in USD of requests that ended without a reported bill, or that an earlier try gave up."""
        return max(0.0, self.charged - self._given_up)

    @property
    def unread(self) -> int:
        """Open requests of earlier tries whose rows have not been read yet."""
        return len(self._unmet)

    @property
    def unread_in_flight(self) -> int:
        """Those of them that Segmind may still be working on."""
        return len(self._unread_in_flight)

    def permission(self, bound: CostBound = UNBOUNDED, *, new_row: bool) -> Permission:
        """
        Return whether one more paid call may be sent.

        :param bound: its highest cost.
        :param new_row: whether the call is about a row that this run has not sent before.
        """
        if self.exceeded(new_row=new_row):
            return Permission.STOP
        if self.limits.max_cost is None:
            return Permission.GO
        used = self.spent + self.unreported + self.reserved
        if used + self.expected(bound) <= self.limits.max_cost * (1 + 1e-9):
            return Permission.WAIT if self._awaits_bill(self.expected(bound)) else Permission.GO
        if self.in_flight:
            return Permission.WAIT
        unmet = sum(self.expected(self._reserved[mark]) for mark in self._unmet)
        fits = used - unmet + self.expected(bound) <= self.limits.max_cost
        return Permission.LATER if unmet and fits else Permission.STOP

    def _awaits_bill(self, expected: float) -> bool:
        """Return whether one more request is too many before the first bill has shown the price."""
        if self._has_bill or self.in_flight < MOST_BEFORE_BILL or self.limits.max_cost is None:
            return False
        share = SHARE_BEFORE_BILL * (self.limits.max_cost - self.spent - self.unreported)
        return not 0 < self.reserved + expected <= share

    def exceeded(self, *, new_row: bool = False) -> str | None:
        """Return a message about the limit that is reached, or None."""
        limits = self.limits
        if limits.max_cost is not None and self.spent >= limits.max_cost:
            return f"max_cost={format_usd(limits.max_cost)} is used up ({format_usd(self.spent)} billed)"
        if new_row and limits.max_rows is not None and self.rows >= limits.max_rows:
            return f"max_rows={limits.max_rows} is reached"
        return limits.too_many_failed(self.failed, self.outcomes.total())

    def explain(self, bound: CostBound = UNBOUNDED, *, new_row: bool) -> str:
        """Return a message about why the last permission was refused."""
        most = "of up to" if bound.certain else "of"
        advice = ""
        if bound.assumed_cap is not None:
            advice = (
                f"; a request may have {bound.assumed_cap} tokens of output, fewer with 'max_tokens' in its options"
            )
        ended = f"{format_usd(self.unreported)} for requests without a reported bill, " if self.unreported else ""
        return self.exceeded(new_row=new_row) or (
            f"max_cost={format_usd(self.limits.max_cost)} leaves no room for one more request {most} "
            f"{format_usd(self.expected(bound))} ({format_usd(self.spent)} billed, {ended}{format_usd(self.reserved)} "
            f"reserved for requests that may be billed{advice})"
        )

    def reserve(self, mark: bytes, bound: CostBound) -> None:
        """Reserve the highest cost of a row's open request, instead of what was reserved for the row before."""
        self.release(mark)
        self._reserved[mark] = bound
        if bound.certain:
            self._bounded += bound.usd
        else:
            # It is released as it was reserved, whatever bills come in between.
            self._estimates[mark] = self._estimate(bound)
            self._guessed += self._estimates[mark]
            self._guesses += 1

    def reserve_open(self, mark: bytes, bound: CostBound, *, in_flight: bool = True) -> None:
        """
        Reserve the highest cost of an open request of an earlier try until its row is read.

        :param in_flight: whether Segmind may still be working on it.
        """
        self.reserve(mark, bound)
        self._unmet.add(mark)
        if in_flight:
            self._unread_in_flight.add(mark)

    def release(self, mark: bytes) -> CostBound | None:
        """Release what was reserved for a row."""
        self._unmet.discard(mark)
        self._unread_in_flight.discard(mark)
        bound = self._reserved.pop(mark, None)
        if bound is not None and bound.certain:
            self._bounded -= bound.usd
        elif bound is not None:
            self._guessed -= self._estimates.pop(mark)
            self._guesses -= 1
        if not self._reserved:
            # Rounding errors must not add up.
            self._bounded = self._guessed = 0.0
        return bound

    def started(self, mark: bytes, bound: CostBound = UNBOUNDED, *, new_row: bool) -> None:
        """Record a paid call that is about to be sent, or a request taken over from an earlier try."""
        self.reserve(mark, bound)
        self.in_flight += 1
        self.rows += new_row

    def billed(self, mark: bytes, cost: float | None) -> None:
        """Record the cost of a request when it ends; None if Segmind did not report it, 0 if nothing was charged."""
        self.in_flight -= 1
        bound = self.release(mark)
        # A failure costs nothing, which says nothing about the price.
        self._has_bill = self._has_bill or cost != 0 or bound is None or not bound.certain
        if cost is None and bound is not None:
            self.charged += bound.usd if bound.ceiling is None else self.expected(bound)
        if cost is not None and cost > 0:
            self.spent += cost
            self._priced += 1
            if bound is not None and bound.certain and bound.usd > 0:
                # The price differs from the configured one: later reservations grow accordingly.
                self.excess = max(self.excess, cost / bound.usd)
            if bound is not None and bound.ceiling is not None and bound.usd > 0:
                self._bill_to_input = max(self._bill_to_input, cost / bound.usd)

    def not_sent(self, mark: bytes, *, new_row: bool) -> None:
        """Record that a paid call was certainly not sent."""
        self.in_flight -= 1
        self.rows -= new_row
        self.release(mark)

    def request_lost(self) -> None:
        """Record a paid call of unknown outcome; it may be billed, so its reservation is kept."""
        self.in_flight -= 1
        self.lost += 1

    def lost_earlier(self, mark: bytes, bound: CostBound) -> None:
        """Record a paid call of an earlier try whose outcome is unknown."""
        self.lost += 1
        self.reserve(mark, bound)

    def lost_found(self) -> None:
        """Record that a lost call was found again; its reservation is kept until it is billed."""
        self.lost -= 1

    def uncount_row(self) -> None:
        """Remove a counted row that is to be sent as if for the first time."""
        self.rows -= 1

    def never_arrived(self, mark: bytes) -> None:
        """Record that a lost call never arrived."""
        self.lost -= 1
        self.release(mark)

    def resubmitted(self, mark: bytes) -> float:
        """
        Record that a lost call is given up and its row sent again; the lost one may still be billed.

        :returns: the USD that it may cost, which later tries of the run are charged.
        """
        self.lost -= 1
        bound = self.release(mark)
        if bound is None:
            return 0.0
        self.reserve(b"given up " + mark, bound)
        if not bound.certain:
            return self.expected(bound)
        self._given_up += bound.usd
        self.charged += bound.usd
        return bound.usd

    def finished(self, outcome: Outcome) -> None:
        """Record the outcome of a distinct row."""
        self.outcomes[outcome] += 1

    def expected(self, bound: CostBound) -> float:
        """Return the USD that are reserved for a request; before the first bill of a retry at least the mean of all."""
        if not bound.certain:
            return max(self.mean_cost, self._estimate(bound))
        return max(bound.usd * self.excess, 0.0 if self._has_bill or not self._priced else self.mean_cost)

    def _estimate(self, bound: CostBound) -> float:
        """Return the USD of a request without a certain bound: where it has a ceiling, as the highest bill so far."""
        return bound.usd if bound.ceiling is None else min(bound.ceiling, bound.usd * self._bill_to_input)
