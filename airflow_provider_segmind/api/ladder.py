"""
Find the JSON in a model's text: the text itself, a fenced block, then whole values that stand in the prose.

Only whole, outermost values count. Of an answer that was cut off, or is broken inside, no inner piece is taken: a piece
can look right and be a part of the truth only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

Rung: TypeAlias = Literal["strict", "fenced", "embedded"]

MAX_EMBEDDED = 20
"""How many values in the prose are looked at."""

_FENCE = re.compile(r"```[A-Za-z0-9_-]*[ \t]*\r?\n(.*?)```", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|["{}\[\]]', re.DOTALL)
_BRACKET = re.compile(r"[{\[]")
_OPENING = re.compile(r"\ufeff?\s*(?:```[A-Za-z0-9_-]*\s*)?[{\[]")
_CLOSES = {"{": "}", "[": "]"}


@dataclass(frozen=True, slots=True)
class Found:
    """
    JSON found in a text.

    :param rung: where on the ladder.
    """

    rung: Rung
    value: Any


def climb(text: str) -> Iterator[Found]:
    """
    Yield the JSON values a text may mean, best first. A text that is JSON as a whole means nothing else.

    :param text: what the model wrote.
    """
    stripped = text.strip("\ufeff \t\r\n")
    try:
        yield Found("strict", load(stripped))
        return
    except (ValueError, RecursionError):
        pass
    for rung, piece in _pieces(stripped):
        try:
            yield Found(rung, load(piece))
        except (ValueError, RecursionError):
            continue


def load(text: str) -> Any:
    """
    Read JSON and nothing but JSON: no NaN, no Infinity, no number too large for a float.

    :param text: the JSON.
    :raises ValueError: it is not JSON.
    """
    return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)


def why_not(text: str) -> str:
    """
    Say in one line why a text is not JSON.

    :param text: what the model wrote.
    """
    try:
        load(text.strip("\ufeff \t\r\n"))
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at line {error.lineno} column {error.colno}"
    except RecursionError:
        return "not JSON: nested too deeply"
    except ValueError as error:
        return f"not JSON: {error}"
    return ""


def cut_short(text: str) -> bool:
    """
    Tell whether a text begins as JSON, fenced or not, and ends in the middle of it.

    :param text: what the model wrote.
    """
    opened = _OPENING.match(text)
    return opened is not None and _end_of_value(text, opened.end() - 1) is None


def _pieces(text: str) -> Iterator[tuple[Rung, str]]:
    for match in _FENCE.finditer(text):
        yield "fenced", match.group(1).strip()
    at = 0
    for _ in range(MAX_EMBEDDED):
        start = _BRACKET.search(text, at)
        end = _end_of_value(text, start.start()) if start else None
        if start is None or end is None:
            return
        yield "embedded", text[start.start() : end]
        at = end


def _end_of_value(text: str, start: int) -> int | None:
    """Return where the bracket at ``start`` is closed again, None when it never is."""
    waiting: list[str] = []
    for match in _TOKEN.finditer(text, start):
        mark = match.group()
        if mark in _CLOSES:
            waiting.append(_CLOSES[mark])
        elif mark == '"':
            return None
        elif mark in "}]" and (mark != waiting.pop() or not waiting):
            return match.end()
    return None


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a number is too large")
    return number
