"""Tables to write: JSONL, CSV and Parquet, row by row, and whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, TypeAlias

from airflow_provider_segmind.bulk.columns import Kinds
from airflow_provider_segmind.bulk.formats import Format, known_kind, pyarrow
from airflow_provider_segmind.bulk.rows import json_value, plain_text
from airflow_provider_segmind.bulk.storage import StorePath, make_folder, write_whole

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
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        yield lambda row: writer.writerow([plain_text(row.get(name)) for name in columns])
        text.flush()
        text.detach()
    else:
        with _ParquetRows(file, columns, kinds or Kinds(columns)) as rows:
            yield rows.write


def _write_json(file: IO[bytes], row: Mapping[str, Any]) -> None:
    text = json.dumps(json_value(row), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    file.write(text.encode("utf-8", "backslashreplace") + b"\n")


class _ParquetRows(contextlib.AbstractContextManager["_ParquetRows"]):
    """Writes rows in groups, so that one group is in memory and not the table."""

    def __init__(self, file: IO[bytes], columns: Sequence[str], kinds: Kinds) -> None:
        self._kinds = kinds
        self._columns = columns
        self._schema = kinds.schema()
        self._writer = pyarrow().parquet.ParquetWriter(file, self._schema)
        self._rows: list[Mapping[str, Any]] = []

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._flush()
        self._writer.close()

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        self._rows.append({name: self._kinds.cell(name, row.get(name)) for name in self._columns})
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
