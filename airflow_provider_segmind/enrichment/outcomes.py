"""The outcome of a row, the verdict on its reply, and counts of reasons."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from airflow_provider_segmind.chat.reply_policy import Accept, Decision, FollowUp
from airflow_provider_segmind.client.models import RequestResult

OTHER = "other reasons"
NO_REASON = "no reason given"
MOST_KEPT = 100
MOST_TOLD = 10
LONGEST_REASON = 100
_GAP = "…"
# An apostrophe within a word is not a quotation mark; a quote that was cut off extends to the end.
_QUOTED = re.compile(
    r"(?<!\w)(?:\".*?(?:\"(?!\w)|$)|'.*?(?:'(?!\w)|$)|`.*?(?:`|$)"
    r"|\u201c.*?(?:\u201d|$)|\u2018.*?(?:\u2019(?!\w)|$))"
)
# The text after the first bracket is dropped as well, since brackets nest; an index, as in a path, is kept.
_BRACKETED = re.compile(r"(?:\{|\[(?!\d+\])).*")
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_NUMBER = re.compile(r"\b(?:[0-9a-fA-F]+-)*[0-9a-fA-F]*\d[\w.:-]*\b|\d+")


def in_short(reason: str) -> str:
    """Return the part of a reason that many rows may share."""
    # Databases accept neither NUL nor half of a surrogate pair in a manifest.
    line = _CONTROL.sub(" ", reason.strip().split("\n", 1)[0])
    for pattern in (_QUOTED, _BRACKETED, _NUMBER):
        line = pattern.sub(_GAP, line)
    line = re.sub(rf"{_GAP}(?:[\s,]*{_GAP})+", _GAP, " ".join(line.split())).strip()
    if len(line) > LONGEST_REASON:
        line = line[: LONGEST_REASON - 1].rstrip() + _GAP
    return line if line.strip(f" {_GAP}.,:;") else NO_REASON


class Reasons:
    """Rows without an answer by outcome and reason; bounded in size."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def add(self, outcome: Outcome, reason: str) -> None:
        """Count a row."""
        self._put(outcome, in_short(reason), 1)

    def to_json(self, most: int = MOST_TOLD) -> dict[str, dict[str, int]]:
        """
        Return the counts, most frequent first.

        :param most: number of reasons for each outcome; the others are added up as :data:`OTHER`.
        """
        return {outcome: _most_frequent(counts, most) for outcome, counts in self._counts.items()}

    @classmethod
    def sum_of(cls, several: Iterable[Mapping[str, Mapping[str, int]]]) -> Reasons:
        """Add up counts, each as :meth:`to_json` returns them."""
        total = cls()
        for one in several:
            for outcome, counts in one.items():
                for reason, count in counts.items():
                    total._put(outcome, reason, count)
        return total

    def _put(self, outcome: str, reason: str, count: int) -> None:
        counts = self._counts.setdefault(str(outcome), Counter())
        counts[reason if reason in counts or len(counts) < MOST_KEPT else OTHER] += count


def _most_frequent(counts: Counter[str], most: int) -> dict[str, int]:
    shown = dict(Counter({reason: count for reason, count in counts.items() if reason != OTHER}).most_common(most))
    rest = counts.total() - sum(shown.values())
    return {**shown, OTHER: rest} if rest else shown


class Outcome(StrEnum):
    """
    The outcome of a row. Every row read has exactly one.

    ``unknown`` means a request may exist and may be billed, but its answer is not there; ``skipped`` means nothing
    was asked.
    """

    SUCCESS = "success"
    FAILED = "failed"
    BLOCKED = "blocked"
    TRUNCATED = "truncated"
    INVALID = "invalid"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """
    A request that ended.

    :param at: epoch seconds when it ended, or the best estimate.
    :param outcome: of this request; one that led to a follow-up has the outcome that its row would have had.
    :param cost: USD billed, None if Segmind did not report it.
    :param tokens: of input and output, None if unknown.
    :param run: the enrichment run that sent it, empty for a request of no table.
    :param reused: its answer was paid for before, so that it cost nothing this time.
    """

    request_id: str
    model: str
    at: float
    outcome: Outcome
    cost: float | None
    tokens: int | None = None
    run: str = ""
    reused: bool = False


@dataclass(frozen=True, slots=True)
class RowReply:
    """
    What Segmind answered for a row.

    :param result: the completed result.
    :param first: builds the body first sent for the row, which may not be the one that was answered.
    :param sent: the body that was answered; the first one where an earlier try sent a follow-up.
    :param follow_ups: as in :func:`~airflow_provider_segmind.chat.reply_policy.decide_reply`.
    """

    result: RequestResult
    first: Callable[[], Mapping[str, Any]]
    sent: Mapping[str, Any]
    follow_ups: tuple[int, ...] = ()

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The body first sent for the row."""
        return self.first()


@dataclass(frozen=True, slots=True)
class RowVerdict:
    """
    What to do with a row's reply.

    :param decision: if accepted, its result is the answer columns by name.
    :param tokens: tokens used, None when the model did not report them.
    """

    decision: Decision
    tokens: int | None = None


def outcome_of(decision: Decision) -> Outcome:
    """Return the outcome of the request whose reply was decided."""
    if isinstance(decision, FollowUp):
        return outcome_before(decision.follow_ups)
    return Outcome.SUCCESS if isinstance(decision, Accept) else outcome_of_refusal(decision.reason)


def outcome_before(follow_ups: Sequence[int]) -> Outcome:
    """
    Return the outcome of the request before a follow-up.

    :param follow_ups: as in :class:`~airflow_provider_segmind.chat.reply_policy.FollowUp`.
    """
    *before, latest = follow_ups
    return Outcome.TRUNCATED if latest and not any(before) else Outcome.INVALID


def outcome_of_refusal(reason: str) -> Outcome:
    """Return the outcome of a row whose reply was refused for a reason of the reply policy."""
    return Outcome(reason) if reason in (Outcome.TRUNCATED, Outcome.BLOCKED) else Outcome.INVALID


ReadRow: TypeAlias = Callable[[RowReply], RowVerdict]
