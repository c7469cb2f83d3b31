"""
Rows, the placeholders filled from them, and the fingerprint by which the same question is asked only once.

A placeholder is ``{column}``, a name and nothing else: no expressions, attributes, format codes or Jinja, so that
what stands in a row can never run. What reads like a name (words, joined by spaces, hyphens or dots, with a letter in
them) is always a placeholder; anything else in braces only where a column has just that name. Other braces stay byte
for byte, which lets JSON examples stand in a prompt; ``{{column}}`` writes the literal ``{column}``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from airflow_provider_segmind.exceptions import SegmindRowError

_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
MOST_DIGITS = 4000
"""Of a number written without an exponent. Python reads and writes 4300 digits unless told otherwise."""
_MOST_BITS = 13_200
_BRACES = re.compile(r"\{\{([^{}]+)\}\}|\{([^{}]+)\}")
_NAME = re.compile(r"(?=.*[^\W\d])\w+(?:[ .\-]+\w+)*\Z")
_JSON_FIELD = re.compile(r'\s*"')


@dataclass(frozen=True, slots=True)
class Undecoded:
    """
    Stands in a row for a value that its file holds and nobody can read.

    :param reason: what it is, for a message.
    """

    reason: str


class PartOfRow(dict[str, Any]):
    """
    The columns of a row that are asked about.

    :param everything: the names of all of its columns.
    """

    def __init__(self, values: Mapping[str, Any], everything: tuple[str, ...]) -> None:
        super().__init__(values)
        self.everything = everything


def column_names(values: Mapping[str, Any]) -> Collection[str]:
    """Return the names of all columns of a row, of those as well that were not read."""
    return values.everything if isinstance(values, PartOfRow) else values.keys()


@dataclass(frozen=True, slots=True)
class Row:
    """
    One row of a table.

    :param number: its place in the source, from 0.
    :param values: its columns by name.
    :param known: columns that other rows of the table have; a placeholder of that name is one here as well.
    """

    number: int
    values: Mapping[str, Any]
    known: Collection[str] = frozenset()

    def key(self, columns: tuple[str, ...]) -> dict[str, Any]:
        """
        Return the key columns.

        :raises SegmindRowError: a key column is missing or cannot be read; names it.
        """
        return {name: self._column(name, "key") for name in columns}

    def fill(self, text: str) -> str:
        """
        Fill the placeholders of a text.

        :raises SegmindRowError: a column is missing or cannot be read; names it.
        """
        return _BRACES.sub(lambda match: self._filled(match), text)

    def fill_inputs(self, inputs: Any) -> Any:
        """
        Fill the placeholders in every text of a JSON value; the names of its fields are left alone.

        A text that is one placeholder and nothing else takes over the column's own value, so that
        ``{"seed": "{seed}"}`` sends a number.

        :raises SegmindRowError: a column is missing or cannot be read; names it.
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

    def _filled(self, match: re.Match[str]) -> str:
        if match[1] is not None:
            return match[0][1:-1] if self._is_column(match[1]) else match[0]
        name = match[2]
        return plain_text(self._column(name, "placeholder")) if self._is_column(name) else match[0]

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
                f"Row {self.number} has in the column {name!r}, which a {role} names, a {value.reason}. Nothing was "
                "sent for this row."
            )
        return value


def is_name(text: str) -> bool:
    """Tell whether a text in braces is a placeholder whatever columns there are."""
    return _NAME.match(text) is not None


def placeholders(template: Any) -> frozenset[str]:
    """
    Return what a text, or the texts of a JSON value, may name of a row.

    What :func:`is_name` takes for a name must be a column; the others are placeholders if a column has that name.
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
    Write a value into a text, the same for the same value whatever file format it came from.

    None and NaN, which tables use for "nothing", are empty; numbers keep their digits and never turn to exponents where
    they are exact; dates are ISO 8601; bytes are Base64; lists and objects are JSON.
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
    if isinstance(value, (Mapping, list, tuple)):
        return canonical_json(value)
    return str(_scalar(value))


def json_value(value: Any) -> Any:
    """
    Return what JSON can carry of a value.

    A number JSON cannot hold exactly becomes a text, one of thousands of digits a text with an exponent or in
    hexadecimal digits; NaN and infinity become None.
    """
    if value is None or isinstance(value, (bool, str)):
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
    """Tell whether a number needs thousands of digits without an exponent."""
    if not value.is_finite():
        return False
    lowest, highest = int(value.as_tuple().exponent), value.adjusted()
    return max(highest, 0) - min(lowest, 0) >= MOST_DIGITS


def _readable(value: int) -> int | str:
    """Return an integer, in hexadecimal digits where Python itself writes no decimal ones."""
    return value if value.bit_length() <= _MOST_BITS else hex(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(bytes(value)).decode("ascii")
    return str(value)


def canonical_json(value: Any) -> str:
    """Write JSON with one spelling for one meaning: names sorted, no spaces, letters unescaped."""
    return _CANONICAL.encode(json_value(value))


def digest(value: Any) -> bytes:
    """Return the SHA-256 of a JSON value, whatever the order of its names."""
    return text_digest(canonical_json(value))


def text_digest(canonical: str) -> bytes:
    """Return the SHA-256 of what :func:`canonical_json` wrote."""
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).digest()


def fingerprint(*, model: str, inputs: Mapping[str, Any], schema: Any = None, options: Any = None) -> bytes:
    """
    Return what identifies a question: 32 bytes that change when, and only when, the answer could.

    Where the row stands and what its key is do not count, so a table that is reordered costs nothing.

    :param model: the model to run.
    :param inputs: the body with its placeholders filled.
    :param schema: the JSON Schema the answer must fit.
    :param options: what else decides how the answer is read.
    """
    return fingerprint_within(frame(model=model, schema=schema, options=options), canonical_json(inputs))


def frame(*, model: str, schema: Any = None, options: Any = None) -> str:
    """Return the part of a fingerprint that all rows of a question share, as canonical JSON."""
    return canonical_json({"version": 1, "model": model, "schema": schema, "options": options})


def fingerprint_within(shared: str, inputs: str) -> bytes:
    """
    Return the fingerprint of a row.

    :param shared: what :func:`frame` returned.
    :param inputs: the row's body as canonical JSON.
    """
    # "inputs" sorts before the names in the frame.
    return text_digest(f'{{"inputs":{inputs},{shared[1:]}')
