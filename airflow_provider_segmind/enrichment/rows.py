"""
Rows, the placeholders filled from them, and the fingerprint by which equal rows are recognized and sent once.

A placeholder is ``{column}``, a name and nothing else: no expressions, attributes, format codes or Jinja, so the
contents of a row can never be executed. Braces around words (joined by spaces, hyphens or dots, at least one with a
letter) are always a placeholder; around anything else only where a column of the table has exactly that name. Other
braces stay byte for byte, so a prompt may contain JSON examples; ``{{column}}`` writes the literal ``{column}``.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any, NamedTuple
from unicodedata import category

from airflow_provider_segmind.client.submission import text_digest
from airflow_provider_segmind.exceptions import SegmindRowError

_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
MOST_DIGITS = 4000
"""Most digits of a number written without an exponent. By default Python reads and writes at most 4300."""
_MOST_BITS = 13_200
_BRACES = re.compile(r"\{\{([^{}]+)\}\}|\{([^{}]+)\}")
_NAME = re.compile(r"(?=.*[^\W\d])\w+(?:[ .\-]+\w+)*\Z")
_JOINERS = "\u200c\u200d"
_USUAL = frozenset({str, int})
"""Types of most key columns; none of them represents a value that is missing or could not be decoded."""
_PLAIN = (str, int, float, Decimal, date, time, bytes, bytearray, memoryview, Mapping, list, tuple, set, frozenset)
_ADDRESS = re.compile(r"(<.+) at 0x[0-9a-fA-F]+>", re.DOTALL)
"""What Python writes for an object that has no text of its own; its address is another one in each process."""
_JSON_FIELD = re.compile(r'\s*"')


@dataclass(frozen=True, slots=True)
class Undecoded:
    """
    A value of a row that could not be decoded.

    :param reason: what it is, for a message.
    """

    reason: str


class PartOfRow(dict[str, Any]):
    """
    The columns of a row that a question needs.

    :param all_names: the names of all its columns.
    """

    def __init__(self, values: Mapping[str, Any], all_names: tuple[str, ...]) -> None:
        super().__init__(values)
        self.all_names = all_names


def column_names(values: Mapping[str, Any]) -> Collection[str]:
    """Return the names of all columns of a row, including those that were not read."""
    return values.all_names if isinstance(values, PartOfRow) else values.keys()


class Row(NamedTuple):
    """
    One row of a table.

    :param number: its position in the source, from 0.
    :param values: its columns by name.
    :param known: names of columns that other rows of the table have; in braces they are placeholders here as well.
    """

    number: int
    values: Mapping[str, Any]
    known: Collection[str] = frozenset()

    def key(self, columns: tuple[str, ...]) -> dict[str, Any]:
        """
        Return the key columns.

        :raises SegmindRowError: a key column is missing or could not be decoded; names it.
        """
        values = self.values
        return {
            name: values[name] if type(values.get(name)) in _USUAL else self._column(name, "key") for name in columns
        }

    def fill(self, text: str) -> str:
        """
        Fill the placeholders in a string.

        :raises SegmindRowError: a column is missing or could not be decoded; names it.
        """
        parts, braces = _parts(text)
        filled, values = parts.copy(), self.values
        for place, name, doubled in braces:
            value = None if doubled else values.get(name)
            filled[place] = value if type(value) is str else self._filled(parts[place], name, doubled)
        return "".join(filled)

    def fill_inputs(self, inputs: Any) -> Any:
        """
        Fill the placeholders in every string of a JSON value; the names of its fields are left alone.

        A string that is one placeholder and nothing else becomes the column's own value, so that
        ``{"seed": "{seed}"}`` sends a number.

        :raises SegmindRowError: a column is missing or could not be decoded; names it.
        """
        if isinstance(inputs, str):
            whole = _BRACES.fullmatch(inputs)
            if whole is not None and whole[2] is not None and self._is_column(whole[2]):
                return json_value(self._column(whole[2], "placeholder"))
            return self.fill(inputs)
        if isinstance(inputs, Mapping):
            return {name: self.fill_inputs(value) for name, value in inputs.items()}
        if isinstance(inputs, (list, tuple)):
            return [self.fill_inputs(value) for value in inputs]
        return inputs

    def _filled(self, text: str, name: str, doubled: bool) -> str:
        if not self._is_column(name):
            return text
        return text[1:-1] if doubled else plain_text(self._column(name, "placeholder"))

    def _is_column(self, name: str) -> bool:
        return name in self.values or name in self.known or is_name(name)

    def _column(self, name: str, role: str) -> Any:
        try:
            value = self.values[name]
        except KeyError:
            raise SegmindRowError(
                f"Row {self.number} has no column {name!r}, which a {role} names. Its columns are: "
                f"{', '.join(sorted(map(str, column_names(self.values))))}. Nothing was sent for this row."
            ) from None
        if isinstance(value, Undecoded):
            raise SegmindRowError(
                f"The column {name!r} of row {self.number}, which a {role} names, contains a {value.reason}. "
                "Nothing was sent for this row."
            )
        if not isinstance(value, _PLAIN) and _ADDRESS.fullmatch(str(value)):
            raise SegmindRowError(
                f"The column {name!r} of row {self.number}, which a {role} names, contains an object of type "
                f"{type(value).__name__}, which has no text. Nothing was sent for this row."
            )
        return value


@lru_cache(64)
def _parts(text: str) -> tuple[list[str], list[tuple[int, str, bool]]]:
    """Split a template; say which parts are braces, the name inside of each, and whether they are doubled."""
    parts: list[str] = []
    braces: list[tuple[int, str, bool]] = []
    end = 0
    for match in _BRACES.finditer(text):
        parts += [text[end : match.start()], match[0]]
        braces.append((len(parts) - 1, match[1] or match[2], match[1] is not None))
        end = match.end()
    return [*parts, text[end:]], braces


@lru_cache(256)
def is_name(text: str) -> bool:
    """Return whether a string in braces is a placeholder whatever columns there are."""
    return _NAME.match(text if text.isascii() else "".join(_letters(text))) is not None


def _letters(text: str) -> Iterator[str]:
    """Yield the characters of a string without accents, vowel signs and joiners that belong to the letter before."""
    before = ""
    for character in text:
        if (character not in _JOINERS and not category(character).startswith("M")) or not before.isalpha():
            yield character
            before = character


def placeholders(template: Any) -> frozenset[str]:
    """
    Return the column names that a string, or the strings of a JSON value, may refer to.

    Those that :func:`is_name` accepts must be columns; the others are placeholders only if a column has that name.
    """
    return frozenset(_names(template))


def _names(template: Any) -> Iterator[str]:
    if isinstance(template, str):
        names = (match[2] for match in _BRACES.finditer(template) if match[2] is not None)
        yield from (name for name in names if not _JSON_FIELD.match(name))
    elif isinstance(template, Mapping):
        for value in template.values():
            yield from _names(value)
    elif isinstance(template, (list, tuple)):
        for value in template:
            yield from _names(value)


def plain_text(value: Any) -> str:
    """
    Write a value as a string that does not depend on the file format it came from.

    None and NaN, which tables use for a missing value, are empty; exact numbers keep their digits and get no exponent;
    dates are ISO 8601; bytes are Base64; lists and objects are JSON, and sets are sorted lists. It is the same in every
    process, as a row whose text changes is paid for again.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(_readable(value))
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    if isinstance(value, Decimal):
        return "" if value.is_nan() else _decimal_text(value)
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        return canonical_json(value)
    return str(_scalar(value))


def json_value(value: Any) -> Any:
    """
    Return a value as JSON can represent it.

    A number that JSON cannot hold exactly becomes a string; with thousands of digits it has an exponent or is
    hexadecimal. NaN and infinity become None.
    """
    # Most values are of these types, and checks for abstract ones take several times as long.
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        return _readable(value)
    if kind is dict:
        return {
            name if type(name) is str else str(name): inner if type(inner) is str else json_value(inner)
            for name, inner in value.items()
        }
    if kind is list:
        return [inner if type(inner) is str else json_value(inner) for inner in value]
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return _readable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return _json_decimal(value)
    if isinstance(value, Mapping):
        return {str(name): json_value(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(inner) for inner in value]
    if isinstance(value, (set, frozenset)):
        # Their order differs from process to process.
        return sorted(map(json_value, value), key=canonical_json)
    return _scalar(value)


def _json_decimal(value: Decimal) -> Any:
    if not value.is_finite():
        return None
    if _is_long(value):
        return str(value)
    if value == value.to_integral_value():
        return int(value)
    return float(value) if Decimal(repr(float(value))) == value else format(value, "f")


def _decimal_text(value: Decimal) -> str:
    return str(value) if _is_long(value) else format(value, "f")


def _is_long(value: Decimal) -> bool:
    """Return whether a number needs thousands of digits without an exponent."""
    if not value.is_finite():
        return False
    lowest, highest = int(value.as_tuple().exponent), value.adjusted()
    return max(highest, 0) - min(lowest, 0) >= MOST_DIGITS


def _readable(value: int) -> int | str:
    """Return an integer, or its hexadecimal digits where Python refuses to write decimal ones."""
    return value if value.bit_length() <= _MOST_BITS else hex(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode("ascii")
    return _ADDRESS.sub(r"\1>", str(value))


def canonical_json(value: Any) -> str:
    """Write JSON so that equal values are equal strings: names sorted, no spaces, letters unescaped."""
    if type(value) is str:
        return encode_basestring(value)
    return _CANONICAL.encode(json_value(value))


def frame(*, model: str, schema: Any = None, options: Any = None) -> str:
    """
    Return the part of a fingerprint that all rows of a question share, as canonical JSON.

    :param model: the model to run.
    :param schema: the JSON Schema that the answer must match.
    :param options: whatever else decides how the answer is read.
    """
    return canonical_json({"version": 1, "model": model, "schema": schema, "options": options})


def fingerprint(shared: str, inputs: str) -> bytes:
    """
    Return 32 bytes that identify a question: they change when, and only when, the answer could.

    The position of the row and its key do not count, so a reordered table costs nothing.

    :param shared: what :func:`frame` returned.
    :param inputs: the row's body, its placeholders filled, as canonical JSON.
    """
    # "inputs" sorts before the names in the frame.
    return text_digest(f'{{"inputs":{inputs},{shared[1:]}')
