"""
JSON values that every store downstream accepts, and the conversion of all others.

A model may reply with valid JSON that a store cannot represent. The limits, and their sources:

=====================  ==========================================================================================
limit                  source
=====================  ==========================================================================================
:data:`MAX_DEPTH`      Python's decoder gives up near 1,000 levels, pydantic's at 200, its serializer at 255
:data:`MAX_DIGITS`     a larger number becomes infinity when read as a double; Python reads up to 4,300 digits
:data:`LARGEST_INT`    Airflow transmits XComs as MessagePack, whose integers have 64 bits
NUL                    PostgreSQL refuses it in strings and in JSON
a lone surrogate       UTF-8 cannot encode it
NaN and infinity       they are not JSON
:data:`AIRFLOWS_KEYS`  ``airflow.serialization.serde`` refuses an object that has one, or makes something else of it
=====================  ==========================================================================================

A typed answer beyond the limits of depth and digits is refused before it is stored. The body of a result, which is
delivered unchanged where possible, keeps its content in another form (:func:`read_json`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

MAX_DEPTH = 100
"""Levels of nested lists and objects."""
MAX_DIGITS = 308
"""Digits of an integer, and the largest power of ten of any number."""
LARGEST_INT = 2**64 - 1
SMALLEST_INT = -(2**63)
AIRFLOWS_KEYS = ({"__classname__"}, {"__id__"}, {"__type", "__var"})
"""Names of fields by which Airflow tells its own objects in XCom from data."""
_SCALARS = frozenset({str, int, float, bool, type(None)})
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|[{}\[\]]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class StorableValue:
    """
    A value that every store accepts.

    :param replaced: how many strings contained characters that became U+FFFD.
    :param as_text: whether the value could not be stored as data and became a string of JSON.
    :param whole: False if a number or an object became a string, or two names became one.
    """

    value: Any
    replaced: int = 0
    as_text: bool = False
    whole: bool = True


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
    Clean every string in a JSON value, including the names of its fields; NaN and infinity become None.

    :param value: no deeper than :data:`MAX_DEPTH`, see :func:`is_too_deep`.
    """
    return _rebuilt(value, wide=True)


def for_xcom(value: Any) -> StorableValue:
    """
    Return a JSON value in a form that every XCom backend accepts.

    As :func:`clean_value`; integers beyond 64 bits become strings of digits, and an entry of the value that is nested
    too deeply, or an object with :data:`AIRFLOWS_KEYS`, becomes a string of JSON.
    """
    if isinstance(value, Mapping):
        value = {key: json_text(item) if is_too_deep(item, MAX_DEPTH - 1) else item for key, item in value.items()}
    elif is_too_deep(value):
        value = json_text(value)
    return _rebuilt(value, wide=False)


def body_for_xcom(body: Any, source: str | None = None) -> StorableValue:
    """
    Return the body of a result in a form that every XCom backend accepts.

    If possible as data with its strings cleaned, else as one string of JSON that contains all of it.

    :param source: the JSON that ``body`` was read from, if reading changed it, see :func:`was_changed`.
    """
    if source is None and not is_too_deep(body) and (storable := _rebuilt(body, wide=False)).whole:
        return storable
    return StorableValue(clean_text(json_text(body) if source is None else source), as_text=True)


def was_changed(text: str | bytes) -> bool:
    """Return whether :func:`read_json` converts parts of a JSON object: deep nesting, and long numbers."""
    try:
        text = _decoded(text)
        flat = _flattened(text, 1)
        _UNCHANGED.decode(flat)
    except _Changed:
        return True
    except ValueError:
        # It was not JSON, so nothing was read from it.
        return False
    return flat != text


def is_too_deep(value: Any, levels: int = MAX_DEPTH) -> bool:
    """Return whether a JSON value has more levels of nested lists and objects."""
    if type(value) in _SCALARS or not isinstance(value, (Mapping, list, tuple)):
        return False
    items = value.values() if isinstance(value, Mapping) else value
    return levels == 0 or any(is_too_deep(item, levels - 1) for item in items)


def read_json(text: str | bytes, *, entries: int = 1) -> Any:
    """
    Decode JSON of any depth and with numbers of any size.

    NaN and infinity become None, and integers beyond :data:`MAX_DIGITS` strings of digits. Strings may contain control
    characters. An entry that contains more
    than :data:`MAX_DEPTH` levels stays, as a whole, a string of JSON.

    :param entries: the level of the entries that are kept as strings.
    :raises ValueError: it is not JSON.
    """
    try:
        return DECODER.decode(_flattened(_decoded(text), entries))
    except RecursionError as error:
        # Brackets that are never closed were not flattened.
        raise ValueError("not JSON: its lists and objects are not closed") from error


def json_text(value: Any) -> str:
    """Write JSON within the limits of this module."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _decoded(text: str | bytes) -> str:
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    return text.removeprefix("\ufeff")


def _rebuilt(value: Any, *, wide: bool) -> StorableValue:
    replaced = 0
    whole = True

    def text(old: str) -> str:
        nonlocal replaced
        new = clean_text(old)
        replaced += new != old
        return new

    def rebuild(node: Any) -> Any:
        nonlocal whole
        if isinstance(node, str):
            return text(node)
        if isinstance(node, Mapping):
            rebuilt = {text(key) if isinstance(key, str) else key: rebuild(item) for key, item in node.items()}
            is_airflows = not wide and any(names <= rebuilt.keys() for names in AIRFLOWS_KEYS)
            whole = whole and not is_airflows and len(rebuilt) == len(node)
            return json_text(rebuilt) if is_airflows else rebuilt
        if isinstance(node, (list, tuple)):
            return [rebuild(item) for item in node]
        if isinstance(node, float) and not math.isfinite(node):
            return None
        if not wide and isinstance(node, int) and not SMALLEST_INT <= node <= LARGEST_INT:
            whole = False
            # ``str`` refuses more than 4,300 digits.
            return format(Decimal(node), "f")
        return node

    rebuilt = rebuild(value)
    return StorableValue(rebuilt, replaced, whole=whole)


def _flattened(text: str, entries: int) -> str:
    """Turn the values at level ``entries`` that are nested too deeply into JSON strings."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return text
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


class _Changed(Exception):  # noqa: N818
    """Raised when a number cannot be kept unchanged."""


def _kept(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def number(digits: str) -> Any:
        if not isinstance(found := read(digits), (int, float)):
            raise _Changed
        return found

    return number


DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=lambda _: None, strict=False)
"""Reads what :func:`read_json` reads if it has few levels."""
_UNCHANGED = json.JSONDecoder(
    parse_int=_kept(_integer), parse_float=_kept(_float), parse_constant=lambda _: None, strict=False
)
