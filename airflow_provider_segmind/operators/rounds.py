"""
What the requests of one answer came to so far.

An answer may take several paid requests. They form a chain: the note of each further one is kept under the id of the
request before it, and holds what had been spent and tried until then. So whoever finds the last note knows all of it,
even when the results of the earlier requests are gone; and a first request that was submitted anew starts a new chain.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from airflow_provider_segmind.api.outcomes import TokenUsage
from airflow_provider_segmind.api.repairs import AskAgainLarger, Repair, enlarge_inputs, repair_inputs
from airflow_provider_segmind.exceptions import SegmindStateError

MAX_ENLARGEMENTS = 1
"""How often a truncated answer is asked for again with a larger output cap."""


def part_after(request_id: str) -> str:
    """Return under which name the note of the request after this one is kept."""
    plain = re.fullmatch(r"[A-Za-z0-9_-]{1,100}", request_id)
    return f"after-{request_id if plain else hashlib.sha256(request_id.encode()).hexdigest()[:40]}"


@dataclass(frozen=True, slots=True)
class Spent:
    """
    What an answer has taken so far.

    :param requests: how many were paid.
    :param repairs: how many of them asked again because of wrong data.
    :param enlargements: how many of them asked again with a larger output cap.
    :param cost: USD as billed for all of them; None when Segmind did not tell it of each.
    :param usage: tokens of all of them; None where a provider did not tell.
    """

    requests: int = 0
    repairs: int = 0
    enlargements: int = 0
    cost: float | None = 0.0
    usage: Mapping[str, int | None] | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Spent:
        """
        Read it back out of a note.

        :raises SegmindStateError: it is something else.
        """
        try:
            return cls(**(value or {}))
        except TypeError as error:
            raise SegmindStateError(
                "What an earlier try noted about its requests was written by another version of this package. Nothing "
                "is submitted until it can be read."
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON, for a note."""
        return asdict(self)

    def plus(self, cost: float | None, usage: TokenUsage) -> Spent:
        """Add one more request."""
        told = usage.as_dict()
        if self.usage is not None:
            told = {name: _sum(self.usage.get(name), count) for name, count in told.items()}
        return replace(self, requests=self.requests + 1, cost=_sum(self.cost, cost), usage=told)

    def toward(self, decision: AskAgainLarger | Repair) -> Spent:
        """Count what is about to be asked."""
        if isinstance(decision, Repair):
            return replace(self, repairs=self.repairs + 1)
        return replace(self, enlargements=self.enlargements + 1)


def further_inputs(inputs: Mapping[str, Any], decision: AskAgainLarger | Repair) -> dict[str, Any]:
    """Return the body of the request that carries on from ``inputs``."""
    if isinstance(decision, Repair):
        return repair_inputs(inputs, decision)
    return enlarge_inputs(inputs, decision.cap)


def _sum(one: Any, other: Any) -> Any:
    return None if one is None or other is None else one + other
