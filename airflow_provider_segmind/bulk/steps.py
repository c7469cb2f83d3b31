"""The latest attempt of a row and what it has cost so far, while it is being asked about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from airflow_provider_segmind.bulk.events import Claimed, Finished, Freed, Submitted
from airflow_provider_segmind.bulk.verdicts import Outcome

LONG_AGO = 0.0
"""Stands for a time of submission that is no longer known."""


@dataclass(frozen=True, slots=True)
class Step:
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

    def before_the_last_question(self) -> tuple[Self, Submitted]:
        """
        Go back to the answer that led to this attempt's question, which was never sent.

        The answer is fetched once more, for nothing, and leads to the same question.
        """
        claim = replace(self.claim, question=self.claim.question - 1)
        submitted = Submitted(
            fingerprint=claim.fingerprint, attempt=claim.attempt, at=LONG_AGO, request_id=claim.request_ids[-1]
        )
        return replace(self, claim=claim, new_row=False, counted=True), submitted

    def following(
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
