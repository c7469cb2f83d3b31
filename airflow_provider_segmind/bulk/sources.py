"""
Tables to read: JSONL, CSV and Parquet, one file, a pattern, a folder, or several of these; row by row.

CSV has no types, so every value of it is a text; that keeps the fingerprint of a row the same whatever its neighbours
hold.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

from airflow_provider_segmind.bulk.formats import FileKind, Format, kind_of, known_kind, pyarrow
from airflow_provider_segmind.bulk.storage import StorePath, store_path
from airflow_provider_segmind.exceptions import SegmindConfigError

_PATTERN = frozenset("*?[")
_LONGEST_CELL = 1 << 30
_PARQUET_ROWS = 1024


def open_source(source: Any) -> Iterator[Mapping[str, Any]]:
    """
    Return the rows of a table.

    :param source: a path (or its text), whose name may hold ``*``, ``?`` and ``[``, or which may be a folder; a list of
        rows; or a list of paths. Files of a folder are read in the order of their names; those that begin with a dot or
        an underscore are left out.
    :raises SegmindConfigError: nothing is there, or it cannot be read as a table.
    """
    if isinstance(source, Mapping):
        raise SegmindConfigError("The source is one dict: give a list of rows, or a path.")
    if isinstance(source, Iterable) and not isinstance(source, (str, bytes)) and not hasattr(source, "open"):
        return _rows_of_list(source)
    return _rows_of_files([store_path(source)])


def _rows_of_list(source: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    for number, item in enumerate(source):
        if isinstance(item, Mapping):
            yield item
        elif isinstance(item, str) or hasattr(item, "open"):
            yield from _rows_of_files([store_path(item)])
        else:
            raise SegmindConfigError(
                f"Entry {number} of the source is a {type(item).__name__}: a list holds rows (dicts) or paths."
            )


def source_files(path: StorePath) -> list[StorePath]:
    """
    Return the files a path stands for, in order.

    :raises SegmindConfigError: there are none.
    """
    if _PATTERN & set(path.name):
        files = sorted(path.parent.glob(path.name), key=lambda inner: str(inner))
    elif path.is_dir():
        files = sorted((inner for inner in path.iterdir() if _is_table(inner)), key=lambda inner: str(inner))
    else:
        files = [path] if path.exists() else []
    if not files:
        raise SegmindConfigError(f"There is no table at {str(path)!r}. Nothing was sent.")
    return files


def rows_in(source: Any) -> int | None:
    """
    Return how many rows a table has, None when only reading it to its end would tell.

    :param source: as for :func:`open_source`; what must not be read twice is not touched.
    :raises SegmindConfigError: nothing is there, or it cannot be read as a table.
    """
    if isinstance(source, Sequence) and not isinstance(source, (str, bytes)):
        counts = [1 if isinstance(item, Mapping) else rows_in(item) for item in source]
        return None if None in counts else sum(count or 0 for count in counts)
    if not isinstance(source, str) and not hasattr(source, "open"):
        return None
    files = source_files(store_path(source))
    if any(known_kind(file.name).format is not Format.PARQUET for file in files):
        return None
    return sum(_rows_of_parquet(file) for file in files)


def _rows_of_parquet(path: StorePath) -> int:
    arrow = pyarrow()
    with path.open("rb") as file:
        try:
            return int(arrow.parquet.ParquetFile(file).metadata.num_rows)
        except arrow.ArrowInvalid as error:
            raise SegmindConfigError(f"{str(path)!r} cannot be read as Parquet: {type(error).__name__}.") from error


def _is_table(path: StorePath) -> bool:
    return path.name[0] not in "._" and kind_of(path.name) is not None


def _rows_of_files(paths: Sequence[StorePath]) -> Iterator[Mapping[str, Any]]:
    for path in paths:
        for file in source_files(path):
            yield from _READERS[known_kind(file.name).format](file, known_kind(file.name))


@contextlib.contextmanager
def _opened(path: StorePath, kind: FileKind) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        if kind.compressed:
            with gzip.open(file, "rb") as unpacked:
                yield unpacked
        else:
            yield file


def _read_jsonl(path: StorePath, kind: FileKind) -> Iterator[Mapping[str, Any]]:
    with _opened(path, kind) as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(b"\xef\xbb\xbf").strip()
            if not text:
                continue
            try:
                row = json.loads(text)
            except ValueError as error:
                raise SegmindConfigError(f"Line {number} of {str(path)!r} is no JSON.") from error
            if not isinstance(row, dict):
                raise SegmindConfigError(f"Line {number} of {str(path)!r} is no JSON object.")
            yield row


def _read_csv(path: StorePath, kind: FileKind) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(_LONGEST_CELL)
    with _opened(path, kind) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(text, strict=True)
        try:
            header = next(lines, [])
            if len(set(header)) != len(header):
                raise SegmindConfigError(f"{str(path)!r} has a column name twice in its header: {header}.")
            for cells in lines:
                if not cells:
                    continue
                if len(cells) != len(header):
                    found = f"{len(cells)} cells where its header has {len(header)}"
                    raise SegmindConfigError(f"Line {lines.line_num} of {str(path)!r} has {found}.")
                yield dict(zip(header, cells, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise SegmindConfigError(
                f"{str(path)!r} cannot be read as CSV in UTF-8, line {lines.line_num}: {type(error).__name__}."
            ) from error


def _read_parquet(path: StorePath, kind: FileKind) -> Iterator[Mapping[str, Any]]:
    arrow = pyarrow()
    with path.open("rb") as file:
        try:
            table = arrow.parquet.ParquetFile(file)
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS):
                yield from batch.to_pylist()
        except arrow.ArrowInvalid as error:
            raise SegmindConfigError(f"{str(path)!r} cannot be read as Parquet: {type(error).__name__}.") from error


_READERS = {Format.JSONL: _read_jsonl, Format.CSV: _read_csv, Format.PARQUET: _read_parquet}
