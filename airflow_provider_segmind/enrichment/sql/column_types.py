"""The kinds of columns: derived from a JSON Schema or from values, and the cells of each kind."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from airflow_provider_segmind.chat.json_schema import resolve
from airflow_provider_segmind.chat.json_values import clean_text
from airflow_provider_segmind.enrichment.rows import json_value, plain_text

LARGEST_INTEGER = 2**63 - 1
MOST_DECIMALS = 9
_MOST_DIGITS = 38
_MOST_ZEROS = 1000
"""Maximum number of digits before or after the point of a decimal that is written without an exponent."""


class Kind(StrEnum):
    """The kinds of columns; their types in a database are in its dialect."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    MOMENT = "moment"
    LOCAL = "local"
    DECIMAL = "decimal"
    UUID = "uuid"
    BYTES = "bytes"


class MisfitError(Exception):
    """A value does not fit its column."""


_JSON_TYPES = {"integer": Kind.INTEGER, "number": Kind.NUMBER, "boolean": Kind.BOOLEAN}
_FORMATS = {"date": Kind.DATE, "date-time": Kind.MOMENT}


def kind_of_schema(node: Any, root: Mapping[str, Any]) -> Kind:
    """
    Return the kind of column for values that match a JSON Schema.

    Objects, lists and values of several types become strings; those that are not strings become JSON.

    :param root: the schema that contains ``node``, for its references.
    """
    kinds = _kinds(node, root, depth=16)
    if kinds == {Kind.INTEGER, Kind.NUMBER}:
        return Kind.NUMBER
    return kinds.pop() if len(kinds) == 1 else Kind.TEXT


def _kinds(node: Any, root: Mapping[str, Any], depth: int) -> set[Kind]:
    if not isinstance(node, Mapping) or not depth:
        return {Kind.TEXT}
    if "$ref" in node:
        return _kinds(resolve(root, node["$ref"]), root, depth - 1)
    for word in ("anyOf", "oneOf"):
        if node.get(word):
            return set().union(*(_kinds(choice, root, depth - 1) for choice in node[word]))
    if len(node.get("allOf") or ()) == 1:
        return _kinds(node["allOf"][0], root, depth - 1)
    types = node.get("type")
    if types is None and ("enum" in node or "const" in node):
        values = [*node.get("enum", ()), *([node["const"]] if "const" in node else [])]
        return {_JSON_TYPES.get(_json_type(value), Kind.TEXT) for value in values if value is not None}
    found: set[Kind] = set()
    for name in [types] if isinstance(types, str) else types or ["object"]:
        if name == "string":
            found.add(_FORMATS.get(node.get("format", ""), Kind.TEXT))
        elif name != "null":
            found.add(_JSON_TYPES.get(name, Kind.TEXT))
    return found


def _json_type(value: Any) -> str:
    return {bool: "boolean", int: "integer", float: "number"}.get(type(value), "string")


def kind_of_values(values: Iterable[Any], *, unbounded: bool = False) -> Kind | None:
    """
    Return the kind of column for some values from a database, None when all are None.

    :param unbounded: whether the database's decimal type has no limit.
    """
    kinds = {_kind_of_value(value, unbounded) for value in values if value is not None}
    if kinds == {Kind.INTEGER, Kind.NUMBER}:
        return Kind.NUMBER
    if kinds == {Kind.INTEGER, Kind.DECIMAL}:
        return Kind.DECIMAL
    return kinds.pop() if len(kinds) == 1 else Kind.TEXT if kinds else None


def _kind_of_value(value: Any, unbounded: bool) -> Kind:
    if isinstance(value, bool):
        return Kind.BOOLEAN
    if isinstance(value, int):
        return Kind.INTEGER if abs(value) <= LARGEST_INTEGER else Kind.DECIMAL if unbounded else Kind.TEXT
    if isinstance(value, datetime):
        return Kind.LOCAL if value.tzinfo is None else Kind.MOMENT
    if isinstance(value, Decimal):
        return Kind.DECIMAL if _fits(value, unbounded) else Kind.TEXT
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Kind.BYTES
    return {float: Kind.NUMBER, date: Kind.DATE, UUID: Kind.UUID}.get(type(value), Kind.TEXT)


def _fits(value: Decimal, unbounded: bool) -> bool:
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int) or unbounded:
        return isinstance(exponent, int)
    return exponent >= -MOST_DECIMALS and value.adjusted() + 1 <= _MOST_DIGITS - MOST_DECIMALS


def cell(kind: Kind, value: Any) -> Any:
    """
    Return a value of an answer in the form that its column accepts.

    A moment without an offset is UTC. Characters that databases refuse (NUL, halves of surrogate pairs) become U+FFFD.

    :raises MisfitError: it does not fit; names the kind, never the value.
    """
    if value is None:
        return None
    try:
        return _CELLS[kind](value)
    except (TypeError, ValueError, OverflowError) as error:
        raise MisfitError(f"it is not a valid {kind} for the column") from error


def key_cell(kind: Kind | None, value: Any, *, texts: bool = False) -> Any:
    """
    Return a key in the form that its column accepts: unchanged, or as a string for a text column.

    :param kind: None if unknown, so that the database decides.
    :param texts: whether the driver accepts dates, decimals and UUIDs only as strings.
    """
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, UUID):
        # Every database accepts the string, but not every driver the object.
        return str(value)
    return key_text(value, texts=texts) if kind is Kind.TEXT and value is not None else value


def key_text(value: Any, *, texts: bool) -> str:
    """
    Return a key as a string, independent of whether its column was created or existed before.

    :param texts: whether the driver accepts dates, decimals and UUIDs only as strings.
    """
    return clean_text(plain_text(as_text(value) if texts else value))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return clean_text(value)
    # Escapes keep halves of surrogate pairs, and NUL, out of the string.
    return clean_text(json.dumps(json_value(value), ensure_ascii=False, allow_nan=False))


def _integer(value: Any) -> int:
    number = int(value)
    if isinstance(value, (bool, str)) or number != value or abs(number) > LARGEST_INTEGER:
        raise ValueError("not an integer of 64 bits")
    return number


def _number(value: Any) -> float:
    if isinstance(value, (bool, str)):
        raise TypeError("not a number")
    return float(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("not a boolean")
    return value


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_CELLS: dict[Kind, Any] = {
    Kind.TEXT: _text,
    Kind.INTEGER: _integer,
    Kind.NUMBER: _number,
    Kind.BOOLEAN: _boolean,
    Kind.DATE: date.fromisoformat,
    Kind.MOMENT: _moment,
}


def as_text(value: Any) -> Any:
    """Return dates, times, decimals and UUIDs as strings, for a driver that accepts none of them; others unchanged."""
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.tzinfo else value).isoformat(" ")
    if isinstance(value, Decimal):
        return _decimal_text(value)
    return str(value) if isinstance(value, (date, time, UUID)) else value


def compared(value: Any) -> str | None:
    """
    Return a key's value in a form that does not depend on its database: for comparing, not for writing.

    Numbers are compared by their value and exactly: ``1.50`` is ``1.5``, and no digit is rounded.
    """
    if value is None:
        return None
    if isinstance(value, (bool, int)):
        return str(int(value))
    if isinstance(value, float):
        return number_text(Decimal(repr(value)))
    if isinstance(value, Decimal):
        return number_text(value)
    return clean_text(plain_text(as_text(value)))


def number_text(value: Decimal) -> str:
    """Return the canonical string of a number: all its digits, and no redundant zeros."""
    if not value.is_finite():
        return "NaN" if value.is_nan() else str(value)
    sign, digits, exponent = value.as_tuple()
    significant = "".join(map(str, digits)).lstrip("0").rstrip("0")
    if not significant:
        return "0"
    # Arithmetic, normalize() included, would round to the 28 digits of the context.
    power = int(exponent) + len(digits) - len("".join(map(str, digits)).rstrip("0"))
    exact = Decimal((sign, tuple(map(int, significant)), power))
    return _decimal_text(exact)


def _decimal_text(value: Decimal) -> str:
    """Return a decimal with all its digits, in plain notation unless that would be mostly zeros."""
    return format(value, "f") if value.is_finite() and abs(value.adjusted()) <= _MOST_ZEROS else str(value)
