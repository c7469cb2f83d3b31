"""
The events of the ledger: one line of JSON for each step of a row, readable with ``jq``.

===========  ================================================================  ==============================
event        written                                                           after a crash it means
===========  ================================================================  ==============================
claimed      before the POST                                                   it may have been sent
submitted    after Segmind named the request                                   fetch it by its id
freed        when it is certain that nothing was sent                          ask as if for the first time
finished     when the answer is read, or is known never to come                nothing more to do
===========  ================================================================  ==============================

``attempt`` counts the claims of one fingerprint over all time. An outcome makes void what was noted for its attempt and
those before it; beyond it every claim counts until it is freed, followed or answered, whichever attempt it is of. So it
does not matter in which order, or how often, events are read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

from airflow_provider_segmind.chat.cost_estimate import UNBOUNDED, CostBound
from airflow_provider_segmind.chat.json_values import read_json
from airflow_provider_segmind.enrichment.outcomes import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """
    A paid call is about to be sent.

    :param at: epoch seconds.
    :param run: the run.
    :param writer: the process of the run.
    :param body: SHA-256 of the body in hex, to find a lost request in the history.
    :param follow_ups: of the follow-ups sent because a reply could not be used, this one included: the larger output
        cap in tokens, or 0.
    :param request_ids: the requests of this run for the row before this one.
    :param cost: USD billed for those.
    :param tokens: tokens used by those.
    :param most: USD this call may cost at most, None if unknown.
    :param id: identifies this claim; empty in ledgers of 0.1.0 and older.
    :param follows: the claim whose reply led to this follow-up, which ends with this one.
    """

    kind: ClassVar[str] = "claimed"
    fingerprint: bytes
    attempt: int
    at: float
    run: str
    writer: str
    model: str
    body: str
    follow_ups: tuple[int, ...] = ()
    request_ids: tuple[str, ...] = ()
    cost: float = 0.0
    tokens: int = 0
    most: float | None = None
    id: str = ""
    follows: str = ""

    @property
    def bound(self) -> CostBound:
        """Return the highest cost of this call."""
        return UNBOUNDED if self.most is None else CostBound(usd=self.most, certain=True)

    @property
    def key(self) -> str:
        """The claim's key, also if it has no id."""
        return self.id or f"{self.writer}/{self.attempt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """Segmind accepted the request of a claim; ``at`` is when it was submitted, epoch seconds."""

    kind: ClassVar[str] = "submitted"
    fingerprint: bytes
    attempt: int
    at: float
    request_id: str
    claim: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """The call of this one claim was certainly not sent, or was refused before anything was created."""

    kind: ClassVar[str] = "freed"
    fingerprint: bytes
    attempt: int
    at: float
    writer: str
    claim: str = ""

    @property
    def key(self) -> str:
        """The claim that ends, by :attr:`Claimed.key`."""
        return self.claim or f"{self.writer}/{self.attempt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """
    The final outcome of a row.

    :param reason: why there is no answer; empty on success.
    :param body: SHA-256 in hex of the body that the last request was sent.
    :param answer: the answer columns, None without success.
    :param request_ids: all requests of this run for the row; the last one was answered.
    :param cost: USD billed for them in this run, None if Segmind did not report it.
    :param seconds: from submission to the answer, None if nothing was submitted.
    :param billed: whether money was spent, None if unknown.
    """

    kind: ClassVar[str] = "finished"
    fingerprint: bytes
    attempt: int
    at: float
    run: str
    model: str
    outcome: Outcome
    body: str = ""
    reason: str = ""
    answer: Any = None
    request_ids: tuple[str, ...] = ()
    cost: float | None = None
    tokens: int | None = None
    seconds: float | None = None
    billed: bool | None = None


Event: TypeAlias = Claimed | Submitted | Freed | Finished
_COMPACT = json.JSONEncoder(separators=(",", ":"))
_KINDS: dict[str, type[Event]] = {kind.kind: kind for kind in (Claimed, Submitted, Freed, Finished)}
_NAMES = {kind: [field.name for field in fields(kind)] for kind in _KINDS.values()}


def to_line(event: Event) -> bytes:
    """Write an event as one line of JSON, without the line end."""
    values: dict[str, Any] = {"event": event.kind}
    for name in _NAMES[type(event)]:
        values[name] = getattr(event, name)
    values["fingerprint"] = event.fingerprint.hex()
    return _COMPACT.encode(values).encode("ascii")


def from_line(line: bytes) -> Event:
    """
    Read an event.

    :raises ValueError: it is unknown to this version.
    """
    # Earlier versions stored answers that not every reader can represent; their columns are under "answer".
    values = read_json(line, entries=2)
    try:
        kind = _KINDS[values.pop("event")]
        values["fingerprint"] = bytes.fromhex(values["fingerprint"])
        for name in ("request_ids", "follow_ups"):
            if name in values:
                values[name] = tuple(values[name])
        if "outcome" in values:
            values["outcome"] = Outcome(values["outcome"])
        return kind(**values)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not an event of the ledger: {error}") from error
