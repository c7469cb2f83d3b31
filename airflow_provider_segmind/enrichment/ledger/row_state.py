"""The state of a row in the ledger, its attempts and their cost, and the totals of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

from airflow_provider_segmind.chat.cost_estimate import UNBOUNDED, CostBound
from airflow_provider_segmind.enrichment.ledger.events import (
    Bill,
    Claimed,
    Finished,
    FinishedHead,
    Freed,
    Submitted,
    bills_of,
    is_unpriced,
)
from airflow_provider_segmind.enrichment.outcomes import FinishedRequest, Outcome


@dataclass(slots=True)
class OpenRow:
    """
    All events of a row later than its last outcome; the order in which they were read does not matter.

    There is more than one open claim only where runs overlap. At most one of them was sent: see
    :mod:`~airflow_provider_segmind.enrichment.ledger.run_liveness`.

    :param claims: by id.
    :param freed: the claims for which certainly nothing was sent, or whose call was given up.
    :param requests: by attempt and request id.
    :param finished_attempt: the attempt of the row's latest outcome, 0 when it has none.
    """

    claims: dict[str, Claimed] = field(default_factory=dict)
    freed: dict[str, Freed] = field(default_factory=dict)
    requests: dict[tuple[int, str], Submitted] = field(default_factory=dict)
    finished_attempt: int = 0

    def add(self, event: Claimed | Submitted | Freed) -> None:
        """Add an event; the result does not depend on the order of events."""
        if isinstance(event, Claimed):
            self.claims[event.id] = event
        elif isinstance(event, Freed):
            self.freed[event.claim] = event
        else:
            known = self.requests.get((event.attempt, event.request_id))
            if known is None or (event.at, event.claim) < (known.at, known.claim):
                self.requests[event.attempt, event.request_id] = event

    def drop_through(self, attempt: int) -> bool:
        """Drop the events that an outcome of this attempt makes void; return whether none are left."""
        self.finished_attempt = attempt
        self.claims = {key: claim for key, claim in self.claims.items() if claim.attempt > attempt}
        self.freed = {key: event for key, event in self.freed.items() if event.attempt > attempt}
        self.requests = {key: one for key, one in self.requests.items() if one.attempt > attempt}
        return not (self.claims or self.freed or self.requests)

    @property
    def attempt(self) -> int:
        """The latest attempt."""
        return max(event.attempt for event in self.events())

    @property
    def submitted(self) -> Submitted | None:
        """The request whose answer is not known yet; of several, that of the latest attempt."""
        if not self.requests:
            return None
        waited = [one for one in self.requests.values() if not self._is_answered(one)]
        return min(waited, key=lambda one: (-one.attempt, one.request_id), default=None)

    @property
    def unresolved(self) -> list[Claimed]:
        """The claims that are neither freed nor followed up and have no request: each may be, or have been, sent."""
        return [
            claim
            for key, claim in self.claims.items()
            if key not in self.freed and not self._is_followed(claim) and not self._requests_of(claim)
        ]

    @property
    def is_free(self) -> bool:
        """Whether there is certainly no request whose answer is unknown."""
        return self.submitted is None and not self.unresolved

    def writers(self) -> set[str]:
        """Return the writers of the claims that have not ended."""
        waited = self.submitted
        claims = [*self.unresolved, *([self.claims[waited.claim]] if waited and waited.claim in self.claims else [])]
        return {claim.writer for claim in claims}

    def blocks(self, mine: Claimed) -> bool:
        """
        Return whether a claim's request must not be sent.

        It is never decided which of two claims came first: each sees the other, and neither is sent.
        """
        others = any(claim.id != mine.id for claim in self.unresolved)
        ended = mine.id in self.freed or self._is_followed(mine)
        passed = self.attempt > mine.attempt or self.finished_attempt >= mine.attempt
        return others or ended or passed or self.submitted is not None

    def claim_for(self, run: str) -> Claimed | None:
        """Return the decisive claim: that of the open request, else the earliest unresolved, else a run's latest."""
        waited, unresolved = self.submitted, self.unresolved
        if waited is not None:
            return self.claims.get(waited.claim)
        if unresolved:
            return min(unresolved, key=lambda claim: (claim.at, claim.id))
        return max(self.claims.values(), key=lambda claim: _worth(claim, run), default=None)

    @property
    def bound(self) -> CostBound:
        """The most its request may cost."""
        claim = self.claim_for("")
        return UNBOUNDED if claim is None else claim.bound

    def charged(self, run: str) -> float | None:
        """
        Return the USD that a run is charged without a bill, None if it has not claimed the row since its outcome.

        A claim includes what was charged before it.
        """
        own = [claim for claim in self.claims.values() if claim.run == run]
        if not own:
            return None
        latest = max(own, key=lambda claim: (claim.attempt, claim.at, claim.id))
        given_up = (self.freed[claim.id].charged for claim in own
                    if claim.attempt >= latest.attempt and claim.id in self.freed)  # fmt: skip
        return latest.charged + sum(given_up)

    def events(self) -> Iterator[Claimed | Submitted | Freed]:
        """Yield all events of the row."""
        yield from self.claims.values()
        yield from self.freed.values()
        yield from self.requests.values()

    def _requests_of(self, claim: Claimed) -> bool:
        return any(one.claim == claim.id for one in self.requests.values())

    def _is_followed(self, claim: Claimed) -> bool:
        return any(other.follows == claim.id for other in self.claims.values())

    def _is_answered(self, one: Submitted) -> bool:
        return any(one.request_id in claim.request_ids or claim.follows == one.claim for claim in self.claims.values())


def _worth(claim: Claimed, run: str) -> tuple[bool, int, float, str]:
    # The claim of another run that sent nothing must not hide what this run has paid for the row.
    return (claim.run == run and bool(claim.request_ids), claim.attempt, -claim.at, claim.id)


@dataclass(frozen=True, slots=True)
class RowState:
    """
    The state of a row.

    :param open: its unfinished attempt, None when there is none or it was freed.
    :param claim: the decisive claim, even if it was freed; see :meth:`OpenRow.claim_for`.
    :param success: whether that outcome is an answer.
    :param attempt: the latest attempt, 0 when it was never claimed.
    """

    open: OpenRow | None = None
    claim: Claimed | None = None
    finished: bool = False
    success: bool = False
    attempt: int = 0

    def unsent_follow_up(self, run: str) -> Claimed | None:
        """
        Return the claim of a follow-up that a run certainly did not send, None when there is none.

        The earlier answers were paid for in this run and can be fetched again free of charge.
        """
        claim = self.claim
        if self.open is None and claim is not None and claim.follow_ups and claim.run == run:
            return claim
        return None


KNOWN_REQUESTS = 256
"""Recent requests that are remembered to tell how up to date Segmind's history is."""


@dataclass(frozen=True, slots=True)
class KnownRequest:
    """
    A request of ours that tells how up to date the history is.

    :param body: SHA-256 in hex of the body that was sent.
    :param not_before: epoch seconds before which Segmind cannot have accepted it.
    :param not_after: epoch seconds by which it was accepted, None if unknown.
    :param writer: the try whose clock these times are from, empty if unknown.
    """

    request_id: str
    body: str
    not_before: float
    not_after: float | None = None
    writer: str = ""


@dataclass(slots=True)
class RunTotals:
    """
    What a run has spent so far, over all its tries.

    :param rows: distinct rows it sent requests for.
    :param cost: USD billed; unknown bills count nothing.
    :param unpriced: rows with a request whose cost Segmind did not report.
    :param charged: USD that such requests, and calls that were given up, may have cost: their upper bounds, or an
        estimate where none is known.
    :param outcomes: finished rows by outcome.
    :param since: epoch seconds when the first row finished, infinity before that.
    """

    rows: int = 0
    cost: float = 0.0
    unpriced: int = 0
    charged: float = 0.0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    since: float = field(default=math.inf, compare=False)

    def add(self, event: Finished | FinishedHead, sign: int = 1) -> None:
        """Add a finished row, or subtract it with ``sign=-1``."""
        cost, at = event.cost, event.at
        self.rows += sign
        self.cost += sign * (cost or 0.0)
        if cost is None or isinstance(event, Finished):
            self.unpriced += sign * is_unpriced(event)
        self.charged += sign * event.charged
        self.outcomes[event.outcome] += sign
        if at < self.since:
            self.since = at


LONG_AGO = 0.0
"""A submission time that is no longer known."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """
    One attempt at a row.

    :param claim: its claim, whose cost grows with each answer.
    :param new_row: whether the run has sent no request for the row before.
    :param counted: whether the claim already includes the request being waited for.
    :param unpriced: whether a request was billed at a cost that Segmind did not report.
    """

    claim: Claimed
    new_row: bool = False
    counted: bool = False
    unpriced: bool = False

    def carrying(self, earlier: Claimed | Finished | None) -> Self:
        """Include what the same run has already paid for this row."""
        if earlier is None or earlier.run != self.claim.run:
            return self
        if isinstance(earlier, Claimed) and not earlier.request_ids:
            return self
        claim = replace(
            self.claim,
            request_ids=earlier.request_ids,
            cost=earlier.cost or 0.0,
            tokens=earlier.tokens or 0,
            bills=bills_of(earlier),
            charged=max(self.claim.charged, earlier.charged),
        )
        return replace(self, claim=claim, new_row=False)

    def answered(self, request: FinishedRequest, *, most: float = 0.0) -> Self:
        """
        Add a finished request.

        :param most: USD that it may have cost, if its cost is not reported; 0 if that is unknown.
        """
        if self.counted:
            return replace(self, counted=False)
        claim = replace(
            self.claim,
            request_ids=(*self.claim.request_ids, request.request_id),
            cost=self.claim.cost + (request.cost or 0.0),
            tokens=self.claim.tokens + (request.tokens or 0),
            bills=(*self.claim.bills, Bill(request.cost, request.tokens, request.outcome, request.at)),
            charged=self.claim.charged + (most if request.cost is None else 0.0),
        )
        return replace(self, claim=claim, unpriced=self.unpriced or request.cost is None)

    def before_follow_up(self) -> tuple[Self, Submitted]:
        """
        Go back to the answer that led to this follow-up, which was never sent.

        That answer is fetched again, free of charge, and leads to the same follow-up.
        """
        claim = replace(self.claim, follow_ups=self.claim.follow_ups[:-1])
        submitted = Submitted(
            fingerprint=claim.fingerprint,
            attempt=claim.attempt,
            at=LONG_AGO,
            request_id=claim.request_ids[-1],
            claim=claim.follows,
        )
        return replace(self, claim=claim, new_row=False, counted=True), submitted

    def follow_up(self, *, at: float, run: str, writer: str, name: str, body: str, follow_ups: tuple[int, ...]) -> Self:
        """Return the next attempt, which a run claims under an id and pays for."""
        claim = replace(
            self.claim,
            attempt=self.claim.attempt + 1,
            at=at,
            run=run,
            writer=writer,
            body=body,
            follow_ups=follow_ups,
            most=None,
            id=name,
            follows=self.claim.id,
        )
        return replace(self, claim=claim, new_row=False)

    def freed(self, at: float) -> Freed:
        """Return the event that releases this attempt's claim."""
        claim = self.claim
        return Freed(fingerprint=claim.fingerprint, attempt=claim.attempt, at=at, claim=claim.id)

    def finished(
        self, outcome: Outcome, *, at: float, reason: str, answer: object, submitted: Submitted | None, billed: bool
    ) -> Finished:
        """Return the event that ends the row; the cost belongs to the run that sent the request, not to the reader."""
        claim = self.claim
        return Finished(
            fingerprint=claim.fingerprint,
            attempt=claim.attempt,
            at=at,
            run=claim.run,
            model=claim.model,
            outcome=outcome,
            body=claim.body,
            reason=reason,
            answer=answer,
            request_ids=claim.request_ids,
            cost=None if self.unpriced and not claim.cost else round(claim.cost, 12),
            tokens=claim.tokens or None,
            bills=claim.bills if len(claim.bills) > 1 else (),
            seconds=None if submitted is None or submitted.at == LONG_AGO else max(0.0, at - submitted.at),
            billed=billed or claim.cost > 0,
            charged=round(claim.charged, 12),
        )
