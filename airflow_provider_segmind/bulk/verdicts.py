"""What became of a row, and what the reader of an answer may decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from airflow_provider_segmind.api.models import RequestResult


class Outcome(StrEnum):
    """
    What became of a row. Every row read has exactly one.

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
class Reply:
    """
    What Segmind answered for a row.

    :param result: the completed result.
    :param inputs: the body first built for the row, also when this is the answer to a later question.
    :param attempt: which question of this row is answered, from 1.
    """

    result: RequestResult
    inputs: Mapping[str, Any]
    attempt: int


@dataclass(frozen=True, slots=True)
class Accept:
    """
    The answer is good.

    :param answer: the answer columns by name.
    :param tokens: tokens used, None when the model did not say.
    """

    answer: Mapping[str, Any]
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class AskAgain:
    """
    The answer cannot be used; another question, which is paid as well, may mend it.

    :param inputs: the body to send.
    :param reason: why, in a few words.
    """

    inputs: Mapping[str, Any]
    reason: str
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """
    The answer cannot be used and asking again is no help.

    :param outcome: ``blocked``, ``truncated``, ``invalid`` or ``failed``.
    :param reason: why, in a few words.
    """

    outcome: Outcome
    reason: str
    tokens: int | None = None


Verdict: TypeAlias = Accept | AskAgain | Refuse
Read: TypeAlias = Callable[[Reply], Verdict]
