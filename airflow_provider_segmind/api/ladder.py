"""
Find the JSON in a model's text: the text itself, a fenced block, then whole values that stand in the prose.

Only whole, outermost values count. Of an answer that was cut off, or is broken inside, no inner piece is taken: a piece
can look right and be a part of the truth only. What a model writes while it thinks is no answer either: the text
between ``<think>`` and ``</think>`` (and the like, see :data:`_MARKS`) is passed over, that before a lone closing mark,
and that after an opening one which is never closed. Of several values the last goes first, because drafts come before
the answer.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

from airflow_provider_segmind.api.json_values import MAX_DIGITS

Rung: TypeAlias = Literal["strict", "fenced", "embedded"]

MAX_PIECES = 20
"""How many values of a rung are looked at, from the end."""

_FENCE = re.compile(r"```[A-Za-z0-9_-]*[ \t]*\r?\n(.*?)```", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|["{}\[\]]', re.DOTALL)
_BRACKET = re.compile(r"[{\[]")
_OPENING = re.compile(r"\ufeff?\s*(?:```[A-Za-z0-9_-]*\s*)?[{\[]")
_CLOSES = {"{": "}", "[": "]"}
_WORDS = (
    r"think|thinking|thought|thoughts|reason|reasoning|reflect|reflection|analysis|scratchpad|chain_of_thought|"
    r"internal_monologue"
)
_MARKS = re.compile(
    rf"(?P<open><(?:\w+:)?(?:{_WORDS})(?:\s[^<>]*)?>|\[THINK\]|◁think▷|<\|(?:begin_of_thought|start_thinking)\|>"
    r"|<\|channel\|>(?:analysis|commentary)\b[^<]*<\|message\|>)"
    rf"|(?P<close></(?:\w+:)?(?:{_WORDS})\s*>|\[/THINK\]|◁/think▷|<\|(?:end_of_thought|end_thinking)\|>"
    r"|<\|channel\|>final\b[^<]*<\|message\|>)"
    r"|(?P<bracket>[{\[])",
    re.IGNORECASE,
)
"""Marks of DeepSeek, Qwen and others in XML, of Mistral, Kimi, Cohere and OpenAI's open models in their own form."""


class Digits(float):
    """A number that a double cannot hold as it was written; ``str`` returns what was written."""

    __slots__ = ("_written",)
    _written: str

    @classmethod
    def of(cls, written: str) -> float:
        """
        Read a number, as a plain float where that keeps every digit.

        :raises ValueError: it is too large for a double.
        """
        number = float(written)
        if number in (float("inf"), float("-inf")):
            raise ValueError("a number is too large")
        if repr(number) == written:
            return number
        kept = cls(number)
        kept._written = written
        return kept

    def __str__(self) -> str:
        return self._written


def holds_digits(value: Any) -> bool:
    """Tell whether :class:`Digits` stand anywhere in a value."""
    if isinstance(value, dict):
        return any(map(holds_digits, value.values()))
    return any(map(holds_digits, value)) if isinstance(value, list) else isinstance(value, Digits)


def plain_floats(value: Any) -> Any:
    """Return a value with plain floats in the place of :class:`Digits`."""
    if isinstance(value, dict):
        return {key: plain_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_floats(item) for item in value]
    return float(value) if isinstance(value, Digits) else value


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
    answer = after_reasoning(stripped)[0]
    if answer != stripped:
        yield from climb(answer)
        return
    for rung, piece in _pieces(stripped):
        try:
            yield Found(rung, load(piece))
        except (ValueError, RecursionError):
            continue


def load(text: str) -> Any:
    """
    Read JSON and nothing but JSON: no NaN, no Infinity, no number too large for a float.

    :param text: the JSON.
    :returns: plain data; numbers that a float would round are :class:`Digits`.
    :raises ValueError: it is not JSON.
    """
    return _DECODER.decode(text)


def why_not(text: str) -> str:
    """
    Say in one line why a text is not JSON.

    :param text: what the model wrote.
    """
    answer, unended = after_reasoning(text.strip("\ufeff \t\r\n"))
    if unended:
        return "not JSON: it is reasoning that does not end"
    try:
        load(answer)
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at line {error.lineno} column {error.colno}"
    except RecursionError:
        return "not JSON: nested too deeply"
    except ValueError as error:
        return f"not JSON: {error}"
    return ""


def cut_short(text: str) -> bool:
    """
    Tell whether a text begins as JSON, fenced or not, and ends in the middle of it, or in the middle of reasoning.

    :param text: what the model wrote.
    """
    answer, unended = after_reasoning(text)
    opened = _OPENING.match(answer)
    return unended or (opened is not None and _end_of_value(answer, opened.end() - 1) is None)


def after_reasoning(text: str) -> tuple[str, bool]:
    """
    Return a text without what its model wrote while it thought.

    A mark inside a whole JSON value is data and no mark.

    :returns: the rest, and whether the text ends inside reasoning.
    """
    kept: list[str] = []
    at = searched = plain_until = 0
    while (mark := _MARKS.search(text, searched)) is not None:
        searched = mark.end()
        if mark.lastgroup == "bracket":
            if mark.start() >= plain_until:
                searched, plain_until = _protected(text, mark.start())
        elif mark.lastgroup == "close":
            # Chat templates often open the reasoning themselves, so that only its end is seen.
            kept, at = [], mark.end()
        else:
            kept.append(text[at : mark.start()])
            closed = next((one for one in _MARKS.finditer(text, searched) if one.lastgroup == "close"), None)
            if closed is None:
                return "".join(kept).strip(), True
            at = searched = closed.end()
    return ("".join([*kept, text[at:]]).strip() if at else text), False


def _protected(text: str, start: int) -> tuple[int, int]:
    """
    Tell where to look for marks after a bracket: behind the whole value it opens, else right behind the bracket.

    :returns: that place, and up to where other brackets need no look.
    """
    end = _end_of_value(text, start)
    if end is None:
        return start + 1, len(text)
    try:
        load(text[start:end])
    except (ValueError, RecursionError):
        return start + 1, end
    return end, end


def _pieces(text: str) -> Iterator[tuple[Rung, str]]:
    fenced = deque((match.group(1).strip() for match in _FENCE.finditer(text)), maxlen=MAX_PIECES)
    yield from (("fenced", piece) for piece in reversed(fenced))
    yield from (("embedded", piece) for piece in reversed(deque(_embedded(text), maxlen=MAX_PIECES)))


def _embedded(text: str) -> Iterator[str]:
    at = 0
    while (start := _BRACKET.search(text, at)) is not None and (end := _end_of_value(text, start.start())) is not None:
        yield text[start.start() : end]
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


def _integer(digits: str) -> int:
    if len(digits.removeprefix("-")) > MAX_DIGITS:
        raise ValueError("a number is too large")
    return int(digits)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=Digits.of, parse_int=_integer)
