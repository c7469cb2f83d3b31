"""One entry of the spend record: a finished request, whose task it was of, and what it cost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self, TypeAlias, get_args

SpendOutcome: TypeAlias = Literal["success", "failed", "blocked", "truncated", "invalid", "unknown"]
OUTCOMES: frozenset[str] = frozenset(get_args(SpendOutcome))
INSTANCE = ("dag_id", "run_id", "task_id", "map_index")
"""The fields that name a task instance, whatever its try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendEntry:
    """
    A finished request.

    :param at: epoch seconds when it finished, or the best estimate.
    :param connection: id of the Airflow Connection, which stands for the account.
    :param dag_id: empty, like the other names, for a request that no task has recorded.
    :param map_index: -1 for a task that is not mapped.
    :param outcome: of this request, not of the task: a reply that led to a follow-up is ``truncated`` or ``invalid``.
    :param tokens: of input and output, None if the provider did not report them.
    :param cost_micros: micro-dollars as billed, None while Segmind has not reported it. Segmind bills fractions of a
        micro-dollar: add them up first, then round.
    :param reused: the answer was paid for before, so it cost nothing here.
    """

    at: float
    connection: str
    dag_id: str = ""
    task_id: str = ""
    run_id: str = ""
    map_index: int = -1
    try_number: int = 0
    model: str
    request_id: str
    outcome: SpendOutcome
    tokens: int | None = None
    cost_micros: float | None = None
    reused: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {name: getattr(self, name) for name in FIELDS}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """
        Read it back; fields of a later version are ignored.

        :raises ValueError: it is not an entry.
        """
        try:
            entry = cls(**{name: value[name] for name in FIELDS if name in value})
        except (TypeError, KeyError) as error:
            raise ValueError(f"not an entry of the spend record: {error}") from error
        if entry.outcome not in OUTCOMES:
            raise ValueError(f"{entry.outcome!r} is not an outcome of a request")
        return entry

    @property
    def day(self) -> str:
        """The day in UTC, ISO 8601."""
        return datetime.fromtimestamp(self.at, UTC).date().isoformat()


FIELDS = tuple(field.name for field in fields(SpendEntry))
_COMPACT = json.JSONEncoder(separators=(",", ":"))


def entry_line(entry: SpendEntry) -> bytes:
    """Write an entry as one line of JSON, with the line end."""
    return _COMPACT.encode(entry.to_json()).encode("ascii") + b"\n"


def reuse_id(request_id: str, task: Mapping[str, Any]) -> str:
    """
    Return the id of an entry for an answer that was paid for before: it counts once for each task instance.

    :param request_id: of the request that was paid for.
    :param task: the names of the task instance that reused its answer.
    """
    names = "\x1f".join(str(task[name]) for name in INSTANCE)
    return f"{request_id}#{hashlib.sha256(names.encode()).hexdigest()[:12]}"


def combine(one: SpendEntry, other: SpendEntry) -> SpendEntry:
    """
    Return the two entries of one request as one; their order does not matter.

    That of a task precedes one from Segmind's history, and the earlier precedes the later. Fields that it lacks are
    taken from the other one.
    """
    first, second = sorted((one, other), key=_precedence)
    return replace(
        first,
        model=first.model or second.model,
        cost_micros=second.cost_micros if first.cost_micros is None else first.cost_micros,
        tokens=second.tokens if first.tokens is None else first.tokens,
        outcome=second.outcome if first.outcome == "unknown" else first.outcome,
    )


def merged(entries: Iterable[SpendEntry]) -> dict[str, SpendEntry]:
    """Return one entry for each request, by its id."""
    found: dict[str, SpendEntry] = {}
    for entry in entries:
        known = found.get(entry.request_id)
        found[entry.request_id] = entry if known is None else combine(known, entry)
    return found


def _precedence(entry: SpendEntry) -> tuple[bool, bool, float, int, bytes]:
    return entry.reused, not entry.dag_id, entry.at, entry.try_number, entry_line(entry)
