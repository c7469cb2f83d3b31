"""
The events of the ledger: one line of JSON for each step of a row, readable with ``jq``.

===========  ================================================================  ==============================
event        written                                                           after a crash it means
===========  ================================================================  ==============================
claimed      before the POST                                                   it may have been sent
submitted    after Segmind named the request                                   fetch it by its id
freed        when certainly nothing was sent, or the call is given up          send as if for the first time
finished     when the answer is read, or is known never to come                nothing more to do
===========  ================================================================  ==============================

``attempt`` counts the claims of one fingerprint over all time. An outcome voids the events of its attempt and of those
before it. Of the attempts after it, every claim counts until it is freed, followed up or answered. So it does not
matter in which order, or how often, events are read.
"""

from __future__ import annotations

import json
import re
from binascii import unhexlify
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, TypeAlias

from airflow_provider_segmind.chat.cost_estimate import UNBOUNDED, CostBound
from airflow_provider_segmind.chat.json_values import DECODER, read_json
from airflow_provider_segmind.enrichment.outcomes import FinishedRequest, Outcome

REUSED = "#reused"
"""Follows the run in an outcome that it took from the answer cache: the run has not paid for it."""


class Bill(NamedTuple):
    """
    What one request of a row cost.

    :param cost: USD, None if Segmind did not report it.
    :param at: epoch seconds when it ended.
    """

    cost: float | None
    tokens: int | None
    outcome: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """
    A paid call is about to be sent.

    :param at: epoch seconds.
    :param writer: the process of the run.
    :param body: SHA-256 of the body in hex, to find a lost request in the history.
    :param follow_ups: of the follow-ups sent because a reply could not be used, this one included: the larger output
        cap in tokens, or 0.
    :param request_ids: the requests of this run for the row before this one.
    :param cost: USD billed for those.
    :param tokens: tokens used by those.
    :param bills: of each of those.
    :param most: USD this call may cost at most, None if unknown.
    :param charged: as in :class:`Finished`, for those, and for calls before this one that were given up.
    :param id: identifies this claim.
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
    bills: tuple[Bill, ...] = ()
    most: float | None = None
    charged: float = 0.0
    id: str
    follows: str = ""

    @property
    def bound(self) -> CostBound:
        """Return the highest cost of this call."""
        return UNBOUNDED if self.most is None else CostBound(usd=self.most, certain=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """Segmind accepted the request of a claim; ``at`` is when it was submitted, epoch seconds."""

    kind: ClassVar[str] = "submitted"
    fingerprint: bytes
    attempt: int
    at: float
    request_id: str
    claim: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """
    The call of this one claim was certainly not sent, was refused before anything was created, or is given up.

    :param charged: USD that a call which is given up may still be billed: its upper bound, or an estimate where none is
        known.
    """

    kind: ClassVar[str] = "freed"
    fingerprint: bytes
    attempt: int
    at: float
    claim: str
    charged: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """
    The final outcome of a row.

    :param reason: why there is no answer; empty on success.
    :param body: SHA-256 in hex of the body that the last request was sent.
    :param answer: the answer columns, None without success.
    :param request_ids: all requests of this run for the row; the last one was answered.
    :param cost: USD billed for them in this run, None if Segmind did not report it.
    :param bills: of each of them, if there are several.
    :param seconds: from submission to the answer, None if nothing was submitted.
    :param billed: whether money was spent, None if unknown.
    :param charged: USD that those without a reported cost, and calls that were given up, may have cost: their
        upper bounds, or an estimate where none is known. Limits and budgets count it.
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
    bills: tuple[Bill, ...] = ()
    seconds: float | None = None
    billed: bool | None = None
    charged: float = 0.0


Event: TypeAlias = Claimed | Submitted | Freed | Finished
_COMPACT = json.JSONEncoder(separators=(",", ":"))
_FEW_BRACKETS = 32
_HEAD = re.compile(
    rb'\{"event":"finished","fingerprint":"(.{64})","attempt":(\d{1,9}),"at":(\d{1,12}(?:\.\d+)?),"run":"([^"\\]*)"'
    rb',"model":"[^"\\]*","outcome":"([a-z]+)","body":"(.{64}|)","reason":"'
)
_REQUESTS = b',"request_ids":['
_NAMES_OF_REQUESTS = rb',"request_ids":\[((?:"[^"\\]+"(?:,"[^"\\]+")*)?)\]'
_IDS = re.compile(_NAMES_OF_REQUESTS)
_TAIL = re.compile(
    _NAMES_OF_REQUESTS + rb',"cost":(null|\d+(?:\.\d+)?(?:e-\d+)?),"tokens":(?:null|\d+)'
    rb',"seconds":(null|\d+(?:\.\d+)?(?:e-\d+)?),"billed":(true|false|null)(?:,"charged":(\d+(?:\.\d+)?(?:e-\d+)?))?\}'
)
_STEP = re.compile(rb'\{"event":"(?:claimed|submitted|freed)","fingerprint":"([0-9a-f]+)","attempt":(\d+),')
_KINDS: dict[str, type[Event]] = {kind.kind: kind for kind in (Claimed, Submitted, Freed, Finished)}
_OUTCOMES = {str(outcome).encode(): outcome for outcome in Outcome}
_FLAGS = {b"true": True, b"false": False, b"null": None}
_NAMES = {kind: [field.name for field in fields(kind)] for kind in _KINDS.values()}


Ends: TypeAlias = tuple[bytes, re.Match[bytes], re.Match[bytes]]
"""The fingerprint of an outcome, what the line has before its reason, and what after its answer."""


class FinishedHead:
    """An outcome of which only the ends of the line are read; the attributes are those of :class:`Finished`."""

    __slots__ = ("_head", "_tail", "fingerprint")

    def __init__(self, ends: Ends) -> None:
        # Of most rows few attributes are needed, and decoding all of them takes longer than the search.
        self.fingerprint, self._head, self._tail = ends

    @property
    def attempt(self) -> int:  # noqa: D102
        return int(self._head[2])

    @property
    def at(self) -> float:  # noqa: D102
        return float(self._head[3])

    @property
    def run(self) -> str:  # noqa: D102
        return self._head[4].decode()

    @property
    def outcome(self) -> Outcome:  # noqa: D102
        return _OUTCOMES[self._head[5]]

    @property
    def body(self) -> str:  # noqa: D102
        return self._head[6].decode("latin-1")

    @property
    def request_ids(self) -> tuple[str, ...]:  # noqa: D102
        ids = self._tail[1]
        return tuple(ids[1:-1].decode().split('","')) if ids else ()

    @property
    def cost(self) -> float | None:  # noqa: D102
        return _number(self._tail[2])

    @property
    def seconds(self) -> float | None:  # noqa: D102
        return _number(self._tail[3])

    @property
    def billed(self) -> bool | None:  # noqa: D102
        return _FLAGS[self._tail[4]]

    @property
    def charged(self) -> float:  # noqa: D102
        return float(self._tail[5] or 0.0)


def _number(text: bytes) -> float | None:
    return None if text == b"null" else float(text)


def to_line(event: Event) -> bytes:
    """Write an event as one line of JSON, without the line end."""
    values: dict[str, Any] = {"event": event.kind}
    for name in _NAMES[type(event)]:
        values[name] = getattr(event, name)
    for name in ("bills", "charged"):
        if not values.get(name, True):
            del values[name]
    values["fingerprint"] = event.fingerprint.hex()
    return _COMPACT.encode(values).encode("ascii")


def from_line(line: bytes) -> Event:
    """
    Read an event.

    :raises ValueError: it is unknown to this version.
    """
    values = _read(line)
    try:
        kind = _KINDS[values.pop("event")]
        values["fingerprint"] = bytes.fromhex(values["fingerprint"])
        for name in ("request_ids", "follow_ups"):
            if name in values:
                values[name] = tuple(values[name])
        if "bills" in values:
            values["bills"] = tuple(Bill(*bill) for bill in values["bills"])
        if "outcome" in values:
            values["outcome"] = Outcome(values["outcome"])
        return kind(**values)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not an event of the ledger: {error}") from error


def _read(line: bytes) -> Any:
    """Decode a line; what this package writes is within the limits of :func:`read_json`, which takes twice as long."""
    if line.count(b"[") + line.count(b"{") <= _FEW_BRACKETS:
        with suppress(ValueError):
            return DECODER.decode(line.decode())
    return read_json(line, entries=2)


def ends_of(line: bytes) -> Ends | None:
    """
    Find what a :class:`FinishedHead` needs, without decoding the answer, which takes most of the time.

    :returns: None for a line that is not an outcome, or not written exactly as :func:`to_line` writes one request's.
    """
    if (head := _HEAD.match(line)) is None:
        return None
    # Strings in JSON escape their quotes, so the last place with these bytes is not inside one, and nothing of an
    # answer can be followed by the rest of the line.
    tail = _TAIL.fullmatch(line, line.rfind(_REQUESTS))
    if tail is None or head[5] not in _OUTCOMES:
        return None
    try:
        return unhexlify(head[1]), head, tail
    except ValueError:
        return None


def request_ids_of(line: bytes) -> tuple[str, ...]:
    """Return the requests that a claim or an outcome names; none for other lines."""
    start = line.rfind(_REQUESTS)
    if start < 0:
        return ()
    if (found := _IDS.match(line, start)) is None:
        return tuple(getattr(from_line(line), "request_ids", ()))
    return tuple(found[1][1:-1].decode().split('","')) if found[1] else ()


def step_of(line: bytes) -> tuple[bytes, int] | None:
    """Return fingerprint and attempt of a line that is not an outcome, without reading all of it; None for others."""
    found = _STEP.match(line)
    return None if found is None else (unhexlify(found[1]), int(found[2]))


def marks_of(event: Event) -> Iterator[str]:
    """Yield the fingerprint of an event's row, in hex, and the requests that the event names."""
    yield event.fingerprint.hex()
    yield from getattr(event, "request_ids", ())
    if isinstance(event, Submitted):
        yield event.request_id


def bills_of(event: Claimed | Finished) -> tuple[Bill, ...]:
    """Return what each request of a row cost, in the order of their ids."""
    if isinstance(event, Finished) and len(event.request_ids) == 1:
        return (Bill(event.cost, event.tokens, event.outcome, event.at),)
    return event.bills


def is_unpriced(event: Finished | FinishedHead) -> bool:
    """Return whether Segmind did not report the cost of one of a row's requests that was, or may have been, billed."""
    # A head is of one request.
    bills = event.bills if isinstance(event, Finished) else ()
    return (event.cost is None and event.billed is not False) or any(bill.cost is None for bill in bills)


def requests_of(event: Claimed | Finished) -> list[FinishedRequest]:
    """Return the requests of a row that ended."""
    return [
        FinishedRequest(request_id, event.model, bill.at, Outcome(bill.outcome), bill.cost, bill.tokens, event.run)
        for request_id, bill in zip(event.request_ids, bills_of(event), strict=False)
    ]
