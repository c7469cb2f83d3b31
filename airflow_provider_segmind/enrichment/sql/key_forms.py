"""
How the key columns of a table compare: which keys are equal there, and which would be changed.

The column decides that. To a case-insensitive one, ``Ab`` equals ``aB``; to one of numbers, ``01`` equals ``1``; to a
padded one, ``a`` equals ``a`` and a space; and one with two decimals rounds the third away. This must be known before a
row is paid for. So each value gets the form that the column compares, and where that is unknown the table is refused.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from ipaddress import ip_interface
from typing import Any, TypeAlias
from uuid import UUID

from airflow_provider_segmind.chat.json_values import clean_text
from airflow_provider_segmind.enrichment.sql.column_types import (
    LARGEST_INTEGER,
    Kind,
    MisfitError,
    as_text,
    compared,
    key_text,
    number_text,
)
from airflow_provider_segmind.enrichment.sql.table_schema import Column
from airflow_provider_segmind.exceptions import SegmindConfigError

KeyForm: TypeAlias = Callable[[Any], str]
"""
Returns the same string for all values that a column treats as equal.

Raises MisfitError for a value that the column would silently change, or that may equal others.
"""
_ROUNDED = "it has digits that the column would round away"
_NUMBER_OF_SQLITE = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*\Z", re.ASCII)
_TRUE = frozenset({"1", "t", "tr", "tru", "true", "y", "ye", "yes", "on"})
_FALSE = frozenset({"0", "f", "fa", "fal", "fals", "false", "n", "no", "of", "off"})
_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")
_NEARLY = str.maketrans("\u03c2\u0131\u1e9e", "\u03c3i\xdf")
"""A final sigma, a dotless i and a capital sharp s, which some locales lower to these letters."""
_NAME_BYTES = 63


def key_form(column: Column, *, texts: bool, title: str) -> KeyForm:
    """
    Return how a key column compares.

    :param texts: whether the driver accepts dates, decimals and UUIDs only as strings.
    :param title: the table's name in messages.
    :raises SegmindConfigError: it is unknown which values it treats as equal.
    """
    folds = [_COLLATIONS.get(collation) for collation in column.collations]
    if None in folds:
        raise SegmindConfigError(
            f"The key column {column.name!r} of {title} compares by the collation {', '.join(column.collations)}, and "
            "it is unknown which keys it treats as equal, so one answer could overwrite another. Nothing was sent. "
            'Give the column, and its unique index, a collation that compares exactly, such as "C" in PostgreSQL.'
        )
    form = _form_of(column, texts)
    if form is None:
        raise SegmindConfigError(
            f"The key column {column.name!r} of {title} is of type {column.type!r}, and it is unknown which keys "
            "it treats as equal, so one answer could overwrite another. Nothing was sent. Use a text or number column."
        )
    return _folded(form, [fold for fold in folds if fold is not None])


def _folded(form: KeyForm, folds: list[Callable[[str], str]]) -> KeyForm:
    def folded(value: Any) -> str:
        text = form(value)
        for fold in folds:
            text = fold(text)
        return text

    return folded if folds else form


def _form_of(column: Column, texts: bool) -> KeyForm | None:
    if column.loose:
        return _form_of_sqlite(column.type.upper())
    if column.exact:
        return _same
    if (form := _FORMS_OF_TYPES.get(column.base_type)) is not None:
        return form
    if column.kind is Kind.TEXT:
        return _text_form(column, texts)
    if column.kind in (Kind.DECIMAL, Kind.LOCAL, Kind.MOMENT):
        bounds = column.bounds
        if column.kind is Kind.DECIMAL:
            scale = (*bounds, 0)[1] if bounds else None
            return lambda value: _decimal(value, scale)
        digits = bounds[0] if bounds else 6
        return lambda value: _moment(value, digits, zoned=column.kind is Kind.MOMENT)
    return _FORMS.get(column.kind) if column.kind is not None else None


def _same(value: Any) -> str:
    return compared(value) or ""


# Texts ---------------------------------------------------------------------------------------------------------------


def _text_form(column: Column, texts: bool) -> KeyForm:
    bounds, base = column.bounds, column.base_type

    def form(value: Any) -> str:
        text = key_text(value, texts=texts)
        if base in ("character", "char", "bpchar"):
            return text.rstrip(" ")
        if bounds and len(text) > bounds[0] and not text[bounds[0] :].strip(" "):
            # By the SQL standard, spaces beyond the length are cut off silently and other characters are refused.
            return text[: bounds[0]]
        return text

    return (lambda value: caseless(form(value))) if base == "citext" else form


def caseless(text: str) -> str:
    """
    Return a string with its case removed.

    Databases lower letters by their locale. What any of them treats as equal is equal here, and a few more.
    """
    return text.replace("\u0130", "i").lower().translate(_NEARLY)


_COLLATIONS: Mapping[str, Callable[[str], str]] = {
    "NOCASE": lambda text: text.translate(_LOWER),
    "DuckDB NOCASE": caseless,
    "RTRIM": lambda text: text.rstrip(" "),
}
"""Those of SQLite, and DuckDB's NOCASE, which also lowers letters beyond ASCII."""
# Numbers -------------------------------------------------------------------------------------------------------------


def _parsed(value: Any) -> Decimal | None:
    """Return the number that a value is, or that a database reads from its text; None if there is none."""
    if isinstance(value, (int, Decimal)):
        return Decimal(value)
    if isinstance(value, float):
        return Decimal(repr(value))
    if not isinstance(value, str):
        raise MisfitError("it is not a number")
    text = value.strip()
    try:
        return Decimal(text)
    except InvalidOperation:
        pass
    try:
        # PostgreSQL reads 0x1F, 0o7 and 0b1 since release 16.
        return Decimal(int(text, 0))
    except ValueError:
        # The database refuses it with an error.
        return None


def _decimal(value: Any, scale: int | None) -> str:
    if type(value) is int:
        # Most keys are, and the general case takes three times as long.
        return str(value)
    number = _parsed(value)
    if number is None:
        return _same(value)
    if number.is_finite() and scale is not None and not _ends_within(number, scale):
        raise MisfitError(_ROUNDED)
    return number_text(number)


def _ends_within(number: Decimal, scale: int) -> bool:
    _, digits, exponent = number.as_tuple()
    text = "".join(map(str, digits))
    zeros = len(text) - len(text.rstrip("0"))
    return not text.strip("0") or int(exponent) + zeros >= -scale


def _float(value: Any) -> str:
    return _binary(value, float, repr)


def _real(value: Any) -> str:
    return _binary(value, _rounded, _shortest)


def _binary(value: Any, kept: Callable[[float], float], text: Callable[[float], str]) -> str:
    number = _parsed(value)
    if number is None:
        return _same(value)
    try:
        shortest = Decimal(text(float(number)))
    except (OverflowError, ValueError):
        return number_text(number)
    # A read value has all digits of the stored number.
    whole = isinstance(value, float) and kept(value) == value
    if number.is_finite() and shortest != number and not whole:
        raise MisfitError(_ROUNDED)
    return number_text(shortest)


def _rounded(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


def _shortest(value: float) -> str:
    """Return the shortest string that reads as the same 32-bit number."""
    tries = (f"{value:.{digits}g}" for digits in range(1, 9))
    return next((text for text in tries if _rounded(float(text)) == _rounded(value)), f"{_rounded(value):.9g}")


# Dates, times and others ---------------------------------------------------------------------------------------------


def _date(value: Any) -> str:
    if isinstance(value, str):
        value = _read(date.fromisoformat, value) if len(value.strip()) <= 10 else _read(datetime.fromisoformat, value)
    if isinstance(value, datetime):
        if value.time() != time() or value.tzinfo is not None:
            raise MisfitError("it has a time of day, which the column would drop")
        value = value.date()
    if not isinstance(value, date):
        raise MisfitError("it is not a date")
    return value.isoformat()


def _moment(value: Any, digits: int, *, zoned: bool) -> str:
    if isinstance(value, str):
        value = _read(datetime.fromisoformat, value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if not isinstance(value, datetime):
        raise MisfitError("it is not a timestamp")
    if zoned and value.tzinfo is None:
        # PostgreSQL assumes the session's zone, so that it may equal a string with a zone.
        raise MisfitError("it has no time zone, so the point in time depends on the database session")
    if not zoned and value.tzinfo is not None:
        raise MisfitError("it has a time zone, which the column would drop")
    if value.microsecond % 10 ** (6 - min(6, digits)):
        raise MisfitError("it has a fraction of a second that the column would round away")
    return (value.astimezone(UTC) if value.tzinfo else value).isoformat()


def _read(parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text.strip())
    except ValueError:
        # The database may read it, as "1 May 2026", and treat it as equal to another string.
        raise MisfitError("it is not in ISO 8601 form, so it cannot be compared with other keys") from None


def _time(value: Any) -> str:
    return _read(time.fromisoformat, value).isoformat() if isinstance(value, str) else _same(value)


def _boolean(value: Any) -> str:
    text = str(value).strip().lower()
    return "1" if text in _TRUE else "0" if text in _FALSE else _same(value)


def _uuid(value: Any) -> str:
    try:
        return str(UUID(str(value).strip()))
    except ValueError:
        return _same(value)


def _bytes(value: Any) -> str:
    if not isinstance(value, str):
        return _same(value)
    try:
        return _same(bytes.fromhex(value[2:]) if value.startswith("\\x") else _plain_bytes(value))
    except ValueError:
        return value


def _plain_bytes(text: str) -> bytes:
    if "\\" in text:
        raise MisfitError("it contains a backslash, with which the same bytes can be written in several ways")
    return text.encode("utf-8", "replace")


def _address(value: Any) -> str:
    try:
        return str(ip_interface(str(value).strip()))
    except ValueError:
        return _same(value)


def _name(value: Any) -> str:
    text = key_text(value, texts=False)
    if len(text.encode("utf-8")) > _NAME_BYTES:
        raise MisfitError("it is longer than the longest name, so that the column would cut it off")
    return text


_FORMS: Mapping[Kind, KeyForm] = {
    Kind.INTEGER: lambda value: _decimal(value, 0),
    Kind.NUMBER: _float,
    Kind.BOOLEAN: _boolean,
    Kind.DATE: _date,
    Kind.UUID: _uuid,
    Kind.BYTES: _bytes,
}
_FORMS_OF_TYPES: Mapping[str, KeyForm] = {
    "real": _real,
    "float": _real,
    "timestamp_s": lambda value: _moment(value, 0, zoned=False),
    "timestamp_ms": lambda value: _moment(value, 3, zoned=False),
    "time without time zone": _time,
    "time": _time,
    "inet": _address,
    "name": _name,
}
"""The types whose form differs from that of their kind."""
# SQLite, whose columns have an affinity rather than a type -----------------------------------------------------------


def _form_of_sqlite(declared: str) -> KeyForm:
    """See https://www.sqlite.org/datatype3.html for the order of these rules."""
    if "INT" in declared:
        return _number_of_sqlite
    if any(word in declared for word in ("CHAR", "CLOB", "TEXT")):
        return lambda value: key_text(value, texts=True)
    if "BLOB" in declared or not declared:
        return _typed_of_sqlite
    if any(word in declared for word in ("REAL", "FLOA", "DOUB")):
        return lambda value: _number_of_sqlite(value, integers=False)
    return _number_of_sqlite


def _number_of_sqlite(value: Any, *, integers: bool = True) -> str:
    if type(value) is int and abs(value) <= LARGEST_INTEGER and integers:
        return str(value)
    value = as_text(value)
    if isinstance(value, str):
        if not _NUMBER_OF_SQLITE.match(value):
            return clean_text(value)
        value = Decimal(value.strip())
    if not isinstance(value, (int, float, Decimal)):
        return _same(value)
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if integers and number.is_finite() and _ends_within(number, 0) and abs(number) <= LARGEST_INTEGER + 1:
        return number_text(number)
    return _float(value)


def _typed_of_sqlite(value: Any) -> str:
    value = as_text(value)
    return f"text {clean_text(value)}" if isinstance(value, str) else _same(value)
