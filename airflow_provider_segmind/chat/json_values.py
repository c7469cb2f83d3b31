"""
JSON values that every store downstream accepts, and the conversion of all others.

A model may reply with valid JSON that a store cannot hold. The limits, and their sources:

=====================  ==========================================================================================
limit                  source
=====================  ==========================================================================================
:data:`MAX_DEPTH`      Python's decoder gives up near 1,000 levels, pydantic's at 200, its serializer at 255
:data:`MAX_DIGITS`     a larger number becomes infinity when read as a double; Python reads up to 4,300 digits
:data:`LARGEST_INT`    Airflow transmits XComs as MessagePack, whose integers have 64 bits
NUL                    PostgreSQL refuses it in strings and in JSON
a lone surrogate       UTF-8 cannot encode it
NaN and infinity       they are not JSON
=====================  ==========================================================================================

Typed data beyond the limits of depth and digits is refused before it is stored (:func:`storage_problem`). The body of a
result, which is delivered unchanged where possible, keeps its content in another form (:func:`read_json`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

MAX_DEPTH = 100
"""Levels of nested lists and objects."""
MAX_DIGITS = 308
"""Digits of an integer, and the largest power of ten of any number."""
LARGEST_INT = 2**64 - 1
SMALLEST_INT = -(2**63)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|[{}\[\]]', re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_LONG_INTEGER = re.compile(rf"(?<![.0-9])[0-9]{{{MAX_DIGITS + 1}}}")
_EXPONENT = re.compile(r"[0-9]+(?:\.[0-9]+)?[eE]\+?[0-9]{3}[0-9]*")
_Link: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class StorableValue:
    """
    A value that every store accepts.

    :param replaced: how many strings contained characters that became U+FFFD.
    :param as_text: whether the value could not be stored as data and became a string of JSON.
    """

    value: Any
    replaced: int = 0
    as_text: bool = False


def clean_text(text: str) -> str:
    """Return a string with NUL and lone surrogates replaced by U+FFFD."""
    text = without_surrogates(text)
    return text.replace("\x00", "\ufffd") if "\x00" in text else text


def without_surrogates(text: str) -> str:
    """Return a string with lone surrogates, legal in JSON but not in UTF-8, replaced by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def clean_value(value: Any) -> StorableValue:
    """
    Clean every string in a JSON value, including the names of its fields.

    :param value: no deeper than :data:`MAX_DEPTH`, see :func:`storage_problem`.
    """
    return _rebuilt(value, wide=True)


def for_xcom(value: Any) -> StorableValue:
    """
    Return a JSON value in a form that every XCom backend accepts.

    Strings are cleaned, integers beyond 64 bits become strings of digits, NaN and infinity become None, and an entry of
    the value that is nested too deeply becomes a string of JSON.

    :param value: plain JSON data.
    """
    if isinstance(value, Mapping):
        value = {key: json_text(item) if _too_deep(item, 1) else item for key, item in value.items()}
    elif _too_deep(value, 0):
        value = json_text(value)
    return _rebuilt(value, wide=False)


def body_for_xcom(body: Any, source: str | None = None) -> StorableValue:
    """
    Return the body of a result in a form that every XCom backend accepts.

    If possible as data with its strings cleaned, else as one string of JSON that contains all of it.

    :param body: plain JSON data.
    :param source: the JSON that ``body`` was read from, if reading changed it, see :func:`was_changed`.
    """
    if source is None and not _too_deep(body, 0) and not _exceeds_64_bits(body):
        storable = _rebuilt(body, wide=False)
        # Two names that differ only in replaced characters would collapse into one.
        if not storable.replaced or _entries(storable.value) == _entries(body):
            return storable
    return StorableValue(clean_text(json_text(body) if source is None else source), as_text=True)


def was_changed(text: str | bytes) -> bool:
    """
    Return whether :func:`read_json` converts parts of a JSON object: deep nesting, and long numbers.

    :param text: JSON, as given to ``read_json``.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        except UnicodeDecodeError:
            # It was not JSON, so nothing was read from it.
            return False
    if text.count("[") + text.count("{") > MAX_DEPTH and _flattened(text, 1) != text:
        return True
    if _LONG_INTEGER.search(text) is None and _EXPONENT.search(text) is None:
        return False
    bare = _STRING.sub('""', text)
    return _LONG_INTEGER.search(bare) is not None or any(
        math.isinf(float(number.group())) for number in _EXPONENT.finditer(bare)
    )


def storage_problem(value: Any) -> tuple[str, str] | None:
    """
    Return where and why a JSON value cannot be stored, None when it can.

    :returns: the JSON path, and a reason that does not show the value.
    """
    stack: list[tuple[Any, int, _Link]] = [(value, 1, ())]
    while stack:
        node, depth, link = stack.pop()
        if isinstance(node, (Mapping, list)):
            if depth > MAX_DEPTH:
                return "$", f"it is nested more than {MAX_DEPTH} levels deep"
            items = node.items() if isinstance(node, Mapping) else enumerate(node)
            stack += [(item, depth + 1, (link, step)) for step, item in items]
        elif isinstance(node, float) and not math.isfinite(node):
            return _path(link), "it is not a finite number"
        elif isinstance(node, int) and not isinstance(node, bool) and too_many_digits(node):
            return _path(link), f"it is a number of more than {MAX_DIGITS} digits"
    return None


def too_many_digits(number: int) -> bool:
    """Return whether a number has more than :data:`MAX_DIGITS` digits, without writing it out."""
    return number.bit_length() > 1000 and abs(number) >= 10**MAX_DIGITS


def read_json(text: str | bytes, *, entries: int = 1) -> Any:
    """
    Decode JSON of any depth and with numbers of any size.

    NaN and infinity become None, and integers beyond :data:`MAX_DIGITS` strings of digits. An entry that contains more
    than :data:`MAX_DEPTH` levels stays, as a whole, a string of JSON.

    :param entries: the level of the entries that are kept as strings.
    :raises ValueError: it is not JSON.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    if text.count("[") + text.count("{") > MAX_DEPTH:
        text = _flattened(text, entries)
    try:
        return _DECODER.decode(text.removeprefix("\ufeff"))
    except RecursionError as error:
        # Brackets that are never closed were not flattened.
        raise ValueError("not JSON: its lists and objects are not closed") from error


def json_text(value: Any) -> str:
    """Write JSON of any depth, with numbers of any size; NaN and infinity become null."""
    written: list[str] = []
    # Popped from the end: (True, a string to write verbatim) or (False, a value).
    stack: list[tuple[bool, Any]] = [(False, value)]
    while stack:
        done, node = stack.pop()
        if done:
            written.append(node)
        elif isinstance(node, Mapping):
            _push(stack, "{}", [(f"{_scalar(str(key))}: ", item) for key, item in node.items()])
        elif isinstance(node, (list, tuple)):
            _push(stack, "[]", [("", item) for item in node])
        else:
            written.append(_scalar(node))
    return "".join(written)


def _push(stack: list[tuple[bool, Any]], marks: str, items: list[tuple[str, Any]]) -> None:
    stack.append((True, marks[1]))
    for number in range(len(items) - 1, -1, -1):
        name, item = items[number]
        stack += [(False, item), (True, f"{', ' if number else ''}{name}")]
    stack.append((True, marks[0]))


def _scalar(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "null"
    if isinstance(value, int) and not isinstance(value, bool):
        return digits_of(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def digits_of(number: int) -> str:
    """Write an integer of any size; ``str`` refuses more than 4,300 digits."""
    if number.bit_length() < 10_000:
        return str(int(number))
    return format(_decimal_of(number), "f")


def _decimal_of(number: int) -> Any:
    from decimal import MAX_EMAX, MAX_PREC, Context

    return Context(prec=MAX_PREC, Emax=MAX_EMAX).create_decimal(number)


def _rebuilt(value: Any, *, wide: bool) -> StorableValue:
    replaced = 0

    def text(old: str) -> str:
        nonlocal replaced
        new = clean_text(old)
        replaced += new != old
        return new

    def rebuild(node: Any) -> Any:
        if isinstance(node, str):
            return text(node)
        if isinstance(node, Mapping):
            return {text(key) if isinstance(key, str) else key: rebuild(item) for key, item in node.items()}
        if isinstance(node, (list, tuple)):
            return [rebuild(item) for item in node]
        if wide or isinstance(node, bool):
            return node
        if isinstance(node, float) and not math.isfinite(node):
            return None
        if isinstance(node, int) and not SMALLEST_INT <= node <= LARGEST_INT:
            return digits_of(node)
        return node

    return StorableValue(rebuild(value), replaced)


def _too_deep(value: Any, above: int) -> bool:
    return any(depth + above > MAX_DEPTH for node, depth in _nodes(value) if isinstance(node, (Mapping, list, tuple)))


def _exceeds_64_bits(value: Any) -> bool:
    return any(isinstance(node, int) and not SMALLEST_INT <= node <= LARGEST_INT for node, _ in _nodes(value))


def _entries(value: Any) -> int:
    return sum(len(node) for node, _ in _nodes(value) if isinstance(node, Mapping))


def _nodes(value: Any) -> Iterator[tuple[Any, int]]:
    """Yield all values in a JSON value, each with its level."""
    stack = [(value, 1)]
    while stack:
        node, depth = stack.pop()
        yield node, depth
        if isinstance(node, (Mapping, list, tuple)):
            stack += [(item, depth + 1) for item in (node.values() if isinstance(node, Mapping) else node)]


def _path(link: _Link) -> str:
    steps: list[str] = []
    while link:
        link, step = link
        steps.append(f"[{step}]" if isinstance(step, int) else f".{step}")
    return "$" + "".join(reversed(steps))


def _flattened(text: str, entries: int) -> str:
    """Turn the values at level ``entries`` that are nested too deeply into JSON strings."""
    pieces: list[str] = []
    depth = deepest = start = kept = 0
    for match in _TOKEN.finditer(text):
        mark = match.group()
        if mark in "{[":
            depth += 1
            if depth == entries + 1:
                start, deepest = match.start(), depth
            deepest = max(deepest, depth)
        elif mark in "}]":
            depth -= 1
            if depth == entries and deepest > MAX_DEPTH:
                pieces += [text[kept:start], json.dumps(text[start : match.end()])]
                kept = match.end()
            deepest = deepest if depth > entries else 0
        if depth < 0:
            break
    return "".join([*pieces, text[kept:]])


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= MAX_DIGITS + digits.startswith("-") else digits


def _float(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=lambda _: None)
