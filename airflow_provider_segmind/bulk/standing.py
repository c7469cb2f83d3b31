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
    The latest attempt of a row that is not finished: every event of it, whichever order they came in.

    :param attempt: the number of that attempt.
    :param claims: the claim of each writer; more than one only where two runs ask about the same row at the same time.
    :param freed: the writers that are certain to have sent nothing.
    """

    attempt: int
    claims: dict[str, Claimed] = field(default_factory=dict)
    submitted: Submitted | None = None
    freed: dict[str, Freed] = field(default_factory=dict)

    def add(self, event: Claimed | Submitted | Freed) -> None:
        """Take in an event of this attempt; the result does not depend on the order of events."""
        if isinstance(event, Claimed):
            self.claims[event.writer] = event
        elif isinstance(event, Freed):
            self.freed[event.writer] = event
        elif self.submitted is None or event.request_id < self.submitted.request_id:
            self.submitted = event

    @property
    def is_free(self) -> bool:
        """Whether it is certain that nothing was sent."""
        return self.submitted is None and bool(self.freed) and self.claims.keys() <= self.freed.keys()

    @property
    def claim(self) -> Claimed | None:
        """The claim that counts: the earliest that was not freed."""
        held = [claim for writer, claim in self.claims.items() if writer not in self.freed] or list(
            self.claims.values()
        )
        return min(held, key=lambda claim: (claim.at, claim.writer), default=None)

    @property
    def bound(self) -> CostBound:
        """What its request may cost."""
        return UNBOUNDED if self.claim is None else self.claim.bound

    def events(self) -> Iterator[Claimed | Submitted | Freed]:
        """Yield the events this row is made of."""
        yield from self.claims.values()
        yield from self.freed.values()
        if self.submitted is not None:
            yield self.submitted


@dataclass(frozen=True, slots=True)
class Standing:
    """
    Where a row stands.

    :param open: its unfinished attempt, None when there is none or it was freed.
    :param claim: the claim of its latest attempt, also when that was freed.
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
