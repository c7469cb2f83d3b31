"""What stands in the columns of a table, and the Parquet types that hold all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from airflow_provider_segmind.bulk.formats import pyarrow
from airflow_provider_segmind.bulk.rows import plain_text

_LARGEST_INT = 2**63 - 1
_MOST_DIGITS = 38


class Kinds:
    """
    Watches every value of a table, so that a rare type in the last row does not break a file that is half written.

    Values of several types in one column become texts; lists and objects become JSON texts.

    :param columns: their names, in order.
    """

    def __init__(self, columns: Iterable[str]) -> None:
        self._seen: dict[str, set[str]] = {name: set() for name in columns}
        self._scale: dict[str, int] = {}

    def observe(self, row: Mapping[str, Any]) -> None:
        """Take note of a row."""
        for name, seen in self._seen.items():
            value = row.get(name)
            if value is not None:
                kind = _kind(value)
                seen.add(kind)
                if kind == "decimal":
                    self._scale[name] = max(self._scale.get(name, 0), -int(value.as_tuple().exponent))

    def schema(self) -> Any:
        """Return the pyarrow schema that holds every value seen."""
        arrow = pyarrow()
        return arrow.schema([(name, self._type(arrow, name)) for name in self._seen])

    def cell(self, name: str, value: Any) -> Any:
        """Return a value in the form its column takes."""
        if value is None:
            return None
        kind = self._column(name)
        if kind == "text":
            return plain_text(value)
        return float(value) if kind == "float" else value

    def _column(self, name: str) -> str:
        seen = self._seen[name]
        if seen <= {"int", "float"} and seen:
            return "float" if "float" in seen else "int"
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
        return "int" if abs(value) <= _LARGEST_INT else "text"
    if isinstance(value, datetime):
        return "local" if value.tzinfo is None else "moment"
    if isinstance(value, Decimal):
        fits = value.is_finite() and len(value.as_tuple().digits) + abs(int(value.as_tuple().exponent)) <= _MOST_DIGITS
        return "decimal" if fits else "text"
    simple = {float: "float", date: "date", bytes: "bytes"}
    return simple.get(type(value), "text")
