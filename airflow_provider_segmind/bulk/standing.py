"""Where a row stands in the ledger, and what a run has used up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from airflow_provider_segmind.api.pricing import UNBOUNDED, CostBound
from airflow_provider_segmind.bulk.events import Claimed, Finished, Freed, Submitted
from airflow_provider_segmind.bulk.verdicts import Outcome


@dataclass(slots=True)
class OpenRow:
    """
    Everything noted of a row beyond its last outcome, whichever order it was read in.

    More than one claim stands only where runs overlap. At most one of them was sent: see
    :mod:`~airflow_provider_segmind.bulk.live`.

    :param claims: by their names.
    :param freed: the claims that are certain to have sent nothing.
    :param requests: what was submitted, by attempt and request id.
    """

    claims: dict[str, Claimed] = field(default_factory=dict)
    freed: dict[str, Freed] = field(default_factory=dict)
    requests: dict[tuple[int, str], Submitted] = field(default_factory=dict)

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
        ended = mine.key in self.freed or self._is_followed(mine) or self.attempt > mine.attempt
        return others or ended or self.submitted is not None

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
class Standing:
    """
    Where a row stands.

    :param open: its unfinished attempt, None when there is none or it was freed.
    :param claim: the claim that counts, also when it was freed; see :meth:`OpenRow.claim_for`.
    :param place: where its latest outcome lies, None when it has none.
    :param success: whether that outcome is an answer.
    :param attempt: the latest attempt, 0 when it was never claimed.
    """

    open: OpenRow | None = None
    claim: Claimed | None = None
    place: int | None = None
    success: bool = False
    attempt: int = 0

    def half_asked(self, run: str) -> Claimed | None:
        """
        Return the claim of a further question that a run certainly did not send, None when there is none.

        The answers before it were paid for in this run and can be fetched for nothing.
        """
        claim = self.claim
        if self.open is None and claim is not None and claim.question > 1 and claim.run == run:
            return claim
        return None


WITNESSES = 256
"""How many recent requests are remembered, to tell how far Segmind's history has come."""


@dataclass(frozen=True, slots=True)
class Witness:
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
