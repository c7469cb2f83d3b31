"""Tables to write: JSONL, CSV and Parquet, row by row, and whole or not at all."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import IO, Any, TypeAlias

from airflow_provider_segmind.enrichment.files.cells import csv_line, json_cell, text_cell, unicode_text
from airflow_provider_segmind.enrichment.files.readers import Format, known_kind, pyarrow
from airflow_provider_segmind.enrichment.storage import StorePath, make_folder, write_whole

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


Write: TypeAlias = Callable[[Mapping[str, Any]], None]
_GROUP_ROWS = 4096


def needs_kinds(path: StorePath) -> bool:
    """Tell whether the types of all columns must be known before the first row is written."""
    return known_kind(path.name).format is Format.PARQUET


@contextlib.contextmanager
def open_sink(path: StorePath, columns: Sequence[str], kinds: Kinds | None = None) -> Iterator[Write]:
    """
    Open a table for writing; the file appears when the block ends, and never when it fails.

    :param columns: their names, in order.
    :param kinds: what was seen in them; needed for Parquet.
    :raises SegmindConfigError: the name does not say the format, or pyarrow is missing.
    """
    kind = known_kind(path.name)
    if kind.format is Format.PARQUET:
        pyarrow()
    make_folder(path.parent)
    with write_whole(path) as file:
        if kind.compressed:
            # Without a time of its own the same rows make the same bytes.
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                yield from _written(kind.format, packed, columns, kinds)  # type: ignore[arg-type]
        else:
            yield from _written(kind.format, file, columns, kinds)


def _written(kind: Format, file: IO[bytes], columns: Sequence[str], kinds: Kinds | None) -> Iterator[Write]:
    if kind is Format.JSONL:
        yield lambda row: _write_json(file, row)
    elif kind is Format.CSV:
        file.write(csv_line([unicode_text(name) for name in columns]).encode())
        yield lambda row: _write_csv(file, [text_cell(row.get(name)) for name in columns])
    else:
        with _ParquetRows(file, columns, kinds or Kinds(columns)) as rows:
            yield rows.write


def _write_json(file: IO[bytes], row: Mapping[str, Any]) -> None:
    values = {str(name): json_cell(value) for name, value in row.items()}
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # A lone half of a surrogate pair becomes its escape, which JSON allows.
    file.write(text.encode("utf-8", "backslashreplace") + b"\n")


def _write_csv(file: IO[bytes], cells: list[str]) -> None:
    file.write(csv_line(cells).encode())


class _ParquetRows(contextlib.AbstractContextManager["_ParquetRows"]):
    """Writes rows in groups, so that one group is in memory and not the table."""

    def __init__(self, file: IO[bytes], columns: Sequence[str], kinds: Kinds) -> None:
        self._kinds = kinds
        self._columns = {name: unicode_text(name) for name in columns}
        self._schema = kinds.schema()
        self._writer = pyarrow().parquet.ParquetWriter(file, self._schema)
        self._rows: list[dict[str, Any]] = []

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._flush()
        self._writer.close()

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        cells = {called: self._kinds.cell(name, row.get(name)) for name, called in self._columns.items()}
        self._rows.append(cells)
        if len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pyarrow().Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []


def write_jsonl(path: StorePath, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSONL, whole."""
    make_folder(path.parent)
    with write_whole(path) as file:
        for row in rows:
            _write_json(file, row)
