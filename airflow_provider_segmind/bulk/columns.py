"""What stands in the columns of a table, and the Parquet types that hold all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from airflow_provider_segmind.bulk.cells import text_cell, unicode_text
from airflow_provider_segmind.bulk.formats import pyarrow

_LARGEST_INT = 2**63 - 1
_LARGEST_EXACT_FLOAT = 2**53
_MOST_DIGITS = 38


class Kinds:
    """
    Watches every value of a table, so that a rare type in the last row does not break a file that is half written.

    Values of several types in one column become texts, as do integers beyond 64 bits, decimals that need more than 38
    digits between them, and integers beside floats that cannot hold them; lists and objects become JSON texts.

    :param columns: their names, in order.
    """

    def __init__(self, columns: Iterable[str]) -> None:
        self._seen: dict[str, set[str]] = {name: set() for name in columns}
        self._whole: dict[str, int] = {}
        self._scale: dict[str, int] = {}

    def observe(self, row: Mapping[str, Any]) -> None:
        """Take note of a row."""
        for name, seen in self._seen.items():
            value = row.get(name)
            if value is not None:
                kind = _kind(value)
                seen.add(kind)
                if kind == "decimal":
                    self._whole[name] = max(self._whole.get(name, 0), value.adjusted() + 1)
                    self._scale[name] = max(self._scale.get(name, 0), -int(value.as_tuple().exponent))

    def schema(self) -> Any:
        """Return the pyarrow schema that holds every value seen."""
        arrow = pyarrow()
        return arrow.schema([(unicode_text(name), self._type(arrow, name)) for name in self._seen])

    def cell(self, name: str, value: Any) -> Any:
        """Return a value in the form its column takes."""
        if value is None:
            return None
        kind = self._column(name)
        if kind == "text":
            return text_cell(value)
        return float(value) if kind == "float" else value

    def _column(self, name: str) -> str:
        seen = self._seen[name]
        if seen == {"decimal"}:
            return "decimal" if self._whole[name] + self._scale[name] <= _MOST_DIGITS else "text"
        if seen and seen <= {"int", "long"}:
            return "int"
        if seen == {"int", "float"}:
            return "float"
        return next(iter(seen)) if len(seen) == 1 else "text"

    def _type(self, arrow: Any, name: str) -> Any:
        return {
            "text": arrow.string,
            "bool": arrow.bool_,
            "int": arrow.int64,
            "float": arrow.float64,
            "date": arrow.date32,
            "moment": lambda: arrow.timestamp("us", tz="UTC"),
            "local": lambda: arrow.timestamp("us"),
            "bytes": arrow.binary,
            "decimal": lambda: arrow.decimal128(_MOST_DIGITS, self._scale[name]),
        }[self._column(name)]()


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if abs(value) > _LARGEST_INT:
            return "text"
        return "int" if abs(value) <= _LARGEST_EXACT_FLOAT else "long"
    if isinstance(value, float):
        return "float"
    if isinstance(value, datetime):
        return _moment_kind(value)
    if isinstance(value, Decimal):
        return "decimal" if value.is_finite() else "text"
    simple = {date: "date", bytes: "bytes"}
    return simple.get(type(value), "text")


def _moment_kind(value: datetime) -> str:
    if getattr(value, "nanosecond", 0):
        return "text"
    if value.tzinfo is None:
        return "local"
    try:
        value.astimezone(UTC)
    except OverflowError:
        return "text"
    return "moment"
