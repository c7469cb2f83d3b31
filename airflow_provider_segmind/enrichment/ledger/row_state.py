"""The state of a row in the ledger, its attempts and their cost, and what a run has used up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

from airflow_provider_segmind.chat.cost_estimate import UNBOUNDED, CostBound
from airflow_provider_segmind.enrichment.ledger.events import Claimed, Finished, Freed, Submitted
from airflow_provider_segmind.enrichment.outcomes import Outcome


@dataclass(slots=True)
class OpenRow:
    """
    Everything noted of a row beyond its last outcome, whichever order it was read in.

    More than one claim stands only where runs overlap. At most one of them was sent: see
    :mod:`~airflow_provider_segmind.enrichment.ledger.live`.

    :param claims: by their names.
    :param freed: the claims that are certain to have sent nothing.
    :param requests: what was submitted, by attempt and request id.
    :param finished_attempt: the attempt of the row's latest outcome, 0 when it has none.
    """

    claims: dict[str, Claimed] = field(default_factory=dict)
    freed: dict[str, Freed] = field(default_factory=dict)
    requests: dict[tuple[int, str], Submitted] = field(default_factory=dict)
    finished_attempt: int = 0

    def add(self, event: Claimed | Submitted | Freed) -> None:
        """Take in an event; the result does not depend on the order of events."""
        if isinstance(event, Claimed):
            self.claims[event.key] = event
        elif isinstance(event, Freed):
            self.freed[event.key] = event
        else:
            known = self.requests.get((event.attempt, event.request_id))
            if known is None or (event.at, event.claim) < (known.at, known.claim):
                self.requests[event.attempt, event.request_id] = event

    def drop_through(self, attempt: int) -> bool:
        """Forget what an outcome of this attempt makes void; tell whether nothing is left."""
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
        """The request whose answer is not known yet: of several the latest attempt's."""
        if not self.requests:
            return None
        waited = [one for one in self.requests.values() if not self._is_answered(one)]
        return min(waited, key=lambda one: (-one.attempt, one.request_id), default=None)

    @property
    def unresolved(self) -> list[Claimed]:
        """The claims that were neither freed nor followed and have no request: each may be sent, or was."""
        return [
            claim
            for key, claim in self.claims.items()
            if key not in self.freed and not self._is_followed(claim) and not self._requests_of(claim)
        ]

    @property
    def is_free(self) -> bool:
        """Whether it is certain that nothing was sent whose answer is not known."""
        return self.submitted is None and not self.unresolved

    def holders(self) -> set[str]:
        """Return the writers of claims that are not ended."""
        waited = self.submitted
        claims = [*self.unresolved, *(claim for claim in self.claims.values() if waited and _is_of(waited, claim))]
        return {claim.writer for claim in claims}

    def bars(self, mine: Claimed) -> bool:
        """
        Say whether anything stands against sending for a claim.

        Never is decided which of two claims came first: each sees the other, and neither is sent.
        """
        others = any(claim.key != mine.key for claim in self.unresolved)
        ended = mine.key in self.freed or self._is_followed(mine)
        passed = self.attempt > mine.attempt or self.finished_attempt >= mine.attempt
        return others or ended or passed or self.submitted is not None

    def claim_for(self, run: str) -> Claimed | None:
        """Return the claim that counts: of the request waited for, the earliest unresolved, or a run's latest."""
        waited, unresolved = self.submitted, self.unresolved
        if waited is not None:
            own = [claim for claim in self.claims.values() if _is_of(waited, claim)]
            return min(own, key=lambda claim: (claim.at, claim.key), default=None)
        if unresolved:
            return min(unresolved, key=lambda claim: (claim.at, claim.key))
        return max(self.claims.values(), key=lambda claim: _worth(claim, run), default=None)

    @property
    def bound(self) -> CostBound:
        """What its request may cost."""
        claim = self.claim_for("")
        return UNBOUNDED if claim is None else claim.bound

    def events(self) -> Iterator[Claimed | Submitted | Freed]:
        """Yield the events this row is made of."""
        yield from self.claims.values()
        yield from self.freed.values()
        yield from self.requests.values()

    def _requests_of(self, claim: Claimed) -> bool:
        return any(_is_of(one, claim) for one in self.requests.values())

    def _is_followed(self, claim: Claimed) -> bool:
        if claim.id:
            return any(other.follows == claim.id for other in self.claims.values())
        # Before claims had names the later attempt took the place of the earlier one.
        return claim.attempt < self.attempt

    def _is_answered(self, one: Submitted) -> bool:
        if not one.claim:
            return one.attempt < self.attempt
        return any(one.request_id in claim.request_ids or claim.follows == one.claim for claim in self.claims.values())


def _is_of(one: Submitted, claim: Claimed) -> bool:
    return one.claim == claim.id if one.claim else one.attempt == claim.attempt


def _worth(claim: Claimed, run: str) -> tuple[bool, int, float, str]:
    # What a run paid for a row must not be hidden by the claim of somebody who sent nothing.
    return (claim.run == run and bool(claim.request_ids), claim.attempt, -claim.at, claim.key)


@dataclass(frozen=True, slots=True)
class RowState:
    """
    Where a row stands.

    :param open: its unfinished attempt, None when there is none or it was freed.
    :param claim: the claim that counts, also when it was freed; see :meth:`OpenRow.claim_for`.
    :param finished: whether it has an outcome.
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
        Return the claim of a further question that a run certainly did not send, None when there is none.

        The answers before it were paid for in this run and can be fetched for nothing.
        """
        claim = self.claim
        if self.open is None and claim is not None and claim.question > 1 and claim.run == run:
            return claim
        return None


KNOWN_REQUESTS = 256
"""How many recent requests are remembered, to tell how far Segmind's history has come."""


@dataclass(frozen=True, slots=True)
class KnownRequest:
    """
    A request of ours that can tell how far the history has come.

    :param body: SHA-256 in hex of what was sent.
    :param not_before: epoch seconds before which Segmind cannot have accepted it.
    :param not_after: epoch seconds after which it had accepted it, None where nobody noted that.
    :param writer: the try whose clock these are of, empty where nobody noted that.
    """

    request_id: str
    body: str
    not_before: float
    not_after: float | None = None
    writer: str = ""


@dataclass(slots=True)
class RunTotals:
    """
    What a run has used up so far, over all its tries.

    :param rows: distinct rows it asked about.
    :param cost: USD billed as far as known.
    :param unpriced: rows whose cost Segmind did not say.
    :param outcomes: finished rows by outcome.
    """

    rows: int = 0
    cost: float = 0.0
    unpriced: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)

    def add(self, event: Finished, sign: int = 1) -> None:
        """Count a finished row in, or with ``sign=-1`` out."""
        self.rows += sign
        self.cost += sign * (event.cost or 0.0)
        self.unpriced += sign * (event.cost is None and event.billed is not False)
        self.outcomes[event.outcome] += sign


LONG_AGO = 0.0
"""Stands for a time of submission that is no longer known."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """
    One attempt.

    :param claim: its claim, whose cost grows as answers come in.
    :param new_row: whether the run did not ask about the row before.
    :param failures: how often Segmind reported the row as FAILED in this try.
    :param counted: whether the request that is waited for is in the claim already.
    :param unpriced: whether a request was billed and Segmind did not say how much.
    """

    claim: Claimed
    new_row: bool = False
    failures: int = 0
    counted: bool = False
    unpriced: bool = False

    def carrying(self, earlier: Claimed | Finished | None) -> Self:
        """Account for what the same run has paid for this row before."""
        if earlier is None or earlier.run != self.claim.run:
            return self
        if isinstance(earlier, Claimed) and not earlier.request_ids:
            return self
        claim = replace(
            self.claim,
            request_ids=earlier.request_ids,
            cost=earlier.cost or 0.0,
            tokens=earlier.tokens or 0,
        )
        return replace(self, claim=claim, new_row=False)

    def answered(self, request_id: str, *, cost: float | None, tokens: int | None = None) -> Self:
        """Add a request that has ended."""
        if self.counted:
            return replace(self, counted=False)
        claim = replace(
            self.claim,
            request_ids=(*self.claim.request_ids, request_id),
            cost=self.claim.cost + (cost or 0.0),
            tokens=self.claim.tokens + (tokens or 0),
        )
        return replace(self, claim=claim, unpriced=self.unpriced or cost is None)

    def before_follow_up(self) -> tuple[Self, Submitted]:
        """
        Go back to the answer that led to this attempt's question, which was never sent.

        The answer is fetched once more, for nothing, and leads to the same question.
        """
        claim = replace(self.claim, question=self.claim.question - 1)
        submitted = Submitted(
            fingerprint=claim.fingerprint, attempt=claim.attempt, at=LONG_AGO, request_id=claim.request_ids[-1]
        )
        return replace(self, claim=claim, new_row=False, counted=True), submitted

    def follow_up(
        self, *, at: float, run: str, writer: str, name: str, body: str, question: int, failures: int
    ) -> Self:
        """Return the next attempt, which a run claims under a name and pays."""
        claim = replace(
            self.claim,
            attempt=self.claim.attempt + 1,
            at=at,
            run=run,
            writer=writer,
            body=body,
            question=question,
            id=name,
            follows=self.claim.id,
        )
        return replace(self, claim=claim, new_row=False, failures=failures)

    def freed(self, at: float) -> Freed:
        """Return the event that gives this attempt back."""
        claim = self.claim
        return Freed(fingerprint=claim.fingerprint, attempt=claim.attempt, at=at, writer=claim.writer, claim=claim.id)

    def finished(
        self, outcome: Outcome, *, at: float, reason: str, answer: object, submitted: Submitted | None, billed: bool
    ) -> Finished:
        """Return the event that ends the row; its cost is that of the run that sent the request, whoever read it."""
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
            seconds=None if submitted is None or submitted.at == LONG_AGO else max(0.0, at - submitted.at),
            billed=billed or claim.cost > 0,
        )
