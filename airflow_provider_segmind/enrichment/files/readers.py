"""
Readers of JSONL, CSV and Parquet: one file, a pattern, a folder, or several of these; row by row.

Of Parquet only the needed columns are decoded, value by value where pyarrow cannot decode a block.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from importlib import import_module
from types import ModuleType
from typing import IO, Any, TypeAlias

from airflow_provider_segmind.enrichment.rows import PartOfRow, Undecoded
from airflow_provider_segmind.enrichment.storage import StorePath, store_path
from airflow_provider_segmind.exceptions import (
    SegmindConfigError,
    SegmindEnrichmentError,
    SegmindError,
    shorten,
    type_name,
)


class Format(StrEnum):
    """The formats of tables that are read and written."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


_SUFFIXES = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
}


@dataclass(frozen=True, slots=True)
class FileKind:
    """How a file is written: its format, and whether it is compressed with gzip."""

    format: Format
    compressed: bool = False


def kind_of(name: str) -> FileKind | None:
    """Return the kind of file by its name, None if unknown."""
    stem = name.lower().removesuffix(".gz")
    compressed = stem != name.lower()
    for suffix, kind in _SUFFIXES.items():
        if stem.endswith(suffix):
            return FileKind(kind, compressed)
    return None


def known_kind(name: str) -> FileKind:
    """
    Return the kind of file by its name.

    :raises SegmindConfigError: it is unknown.
    """
    kind = kind_of(name)
    if kind is None or (kind.compressed and kind.format is Format.PARQUET):
        raise SegmindConfigError(
            f"The format of {name!r} is unknown: its name must end with {', '.join(_SUFFIXES)}, or with .gz after a "
            "text format."
        )
    return kind


def pyarrow() -> ModuleType:
    """
    Import pyarrow, which only Parquet needs.

    :raises SegmindConfigError: it is not installed.
    """
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError as error:
        raise SegmindConfigError(
            "Parquet needs pyarrow: install airflow-provider-segmind[parquet], or use .jsonl or .csv. Nothing was sent."
        ) from error


_BLOCK_ROWS = 1024


def parquet_rows(file: IO[bytes], name: str, columns: frozenset[str] | None) -> Iterator[Mapping[str, Any]]:
    """
    Yield the rows of a file.

    :param columns: those to decode, if the file has them; None for all.
    :raises SegmindConfigError: two columns have the same name.
    """
    table = pyarrow().parquet.ParquetFile(file)
    names: list[str] = table.schema_arrow.names
    twice = sorted({column for column in names if names.count(column) > 1})
    if twice:
        raise SegmindConfigError(f"{name!r} has the columns {twice} twice: rename one of each pair.")
    wanted = [column for column in names if columns is None or column in columns]
    everything = tuple(names)
    for block in table.iter_batches(batch_size=_BLOCK_ROWS, columns=None if wanted == names else wanted):
        # A name with a dot may select the inside of another column as well.
        decoded = [_decoded(block.column(column)) for column in wanted]
        for number in range(block.num_rows):
            values = {column: cells[number] for column, cells in zip(wanted, decoded, strict=True)}
            yield values if len(wanted) == len(names) else PartOfRow(values, everything)


def _decoded(column: Any) -> list[Any]:
    arrow = pyarrow()
    if arrow.types.is_timestamp(column.type) and column.type.unit == "ns":
        return _moments(column)
    try:
        cells: list[Any] = column.to_pylist()
    except (ValueError, ArithmeticError, arrow.ArrowException):
        return [_cell(value) for value in column]
    return cells


def _cell(value: Any) -> Any:
    try:
        return value.as_py()
    except (ValueError, ArithmeticError, pyarrow().ArrowException) as error:
        return Undecoded(f"{value.type} that cannot be read ({type(error).__name__})")


def _moments(column: Any) -> list[Any]:
    """Return times, as strings if they are finer than Python's; whether pandas is installed makes no difference."""
    arrow = pyarrow()
    counts = column.cast(arrow.int64()).to_pylist()
    microseconds = [None if count is None else count // 1000 for count in counts]
    moments = arrow.array(microseconds, arrow.timestamp("us", column.type.tz)).to_pylist()
    return [_exact(moment, count) for moment, count in zip(moments, counts, strict=True)]


def _exact(moment: datetime | None, nanoseconds: int | None) -> datetime | str | None:
    if moment is None or nanoseconds is None or nanoseconds % 1000 == 0:
        return moment
    text = moment.isoformat(timespec="microseconds")
    return f"{text[:26]}{nanoseconds % 1000:03d}{text[26:]}"


Columns: TypeAlias = frozenset[str] | None
"""The needed columns; None for all."""
_PATTERN = frozenset("*?[")
_UNREAD = re.compile(r"^[^._].*\.(?:jsonl|ndjson|csv|parquet|pq)\.(?:bz2|br|lz4|xz|zip|zst)\Z", re.IGNORECASE)
"""Tables whose compression is not supported; they must not be left out of a folder silently."""
_LONGEST_CELL = 1 << 30
_ESCAPED = re.compile("[\udc80-\udcff]")
"""What invalid bytes are decoded to; valid UTF-8 never contains it."""
_DAMAGED = (ValueError, EOFError, RecursionError, zlib.error, csv.Error, gzip.BadGzipFile)


def open_source(source: Any, columns: Columns = None) -> Iterator[Mapping[str, Any]]:
    """
    Return the rows of a table.

    :param source: a path or string whose name may contain ``*``, ``?`` and ``[``, or which may be a folder; a list of
        rows; or a list of paths. Files of a folder are read in the order of their names; those whose name begins with a
        dot or an underscore are skipped. A file with exactly the name is not a pattern.
    :param columns: a format that can skip other columns does not decode them.
    :raises SegmindConfigError: it does not exist or is not a table; reading it again does not help.
    :raises SegmindEnrichmentError: the store, or the iterable of rows, failed; a retry may help.
    """
    if isinstance(source, Mapping):
        raise SegmindConfigError("The source is one dict: give a list of rows, or a path.")
    if isinstance(source, Iterable) and not isinstance(source, (str, bytes)) and not hasattr(source, "open"):
        return _rows_of_list(source, columns)
    return _rows_of_files([store_path(source)], columns)


def cannot_be_read(error: Exception, where: str) -> SegmindError:
    """Return the error of a source that fails: damaged data stays damaged, but a store or a session may recover."""
    message = f"{where} cannot be read: {_cause(error)}."
    damaged = isinstance(error, _DAMAGED) or _is_damaged_page(error)
    return SegmindConfigError(message) if damaged else SegmindEnrichmentError(message, retryable=True)


def _cause(error: Exception) -> str:
    """Describe an error without showing the content of the file."""
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 ({error.reason}); save it as UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON ({error.msg.removesuffix(' at')} at character {error.pos + 1})"
    if isinstance(error, csv.Error):
        return f"it is not CSV ({error})"
    if isinstance(error, RecursionError):
        return "its data is nested too deeply"
    if _is_packing(error):
        return f"the compressed data {'ends too early' if isinstance(error, EOFError) else 'is damaged'}"
    name = type(error).__name__
    # Python's message about a number beyond its limit of digits (4300) does not quote it.
    if type(error) is ValueError and "integer string conversion" in str(error):
        return "a number has too many digits"
    if type(error).__module__.startswith("pyarrow") or _is_damaged_page(error):
        return f"it is not Parquet, or damaged ({name})"
    return f"{name} ({shorten(error.strerror)})" if isinstance(error, OSError) and error.strerror else name


def _is_damaged_page(error: Exception) -> bool:
    # pyarrow reports damaged pages as an OSError without a number; those of a file system have one.
    return type(error) is OSError and error.errno is None


def _is_packing(error: Exception) -> bool:
    return isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile))


def _rows_of_list(source: Iterable[Any], columns: Columns) -> Iterator[Mapping[str, Any]]:
    for number, item in enumerate(source):
        if isinstance(item, Mapping):
            yield item
        elif isinstance(item, str) or hasattr(item, "open"):
            yield from _rows_of_files([store_path(item)], columns)
        else:
            raise SegmindConfigError(
                f"Entry {number} of the source is {type_name(item)}: a list must contain rows (dicts) or paths."
            )


def source_files(path: StorePath) -> list[StorePath]:
    """
    Return the files of a path, in order.

    :raises SegmindConfigError: there are none, or the format of one is unknown.
    """
    if is_pattern(path):
        files = sorted(path.parent.glob(path.name), key=lambda inner: str(inner))
    elif path.is_dir():
        inside = sorted(path.iterdir(), key=lambda inner: str(inner))
        files = [inner for inner in inside if is_table(inner) or _UNREAD.search(inner.name)]
    else:
        files = [path] if path.exists() else []
    for file in files:
        # Before the rows of other files are paid for.
        known_kind(file.name)
    if not files:
        raise SegmindConfigError(f"There is no table at {str(path)!r}.")
    return files


def check_names(paths: Iterable[StorePath]) -> None:
    """
    Check that the name of each path shows its format, unless it is a pattern or a folder.

    :raises SegmindConfigError: one does not.
    """
    for path in paths:
        if kind_of(path.name) is None and not is_pattern(path) and not path.is_dir():
            known_kind(path.name)


def rows_in(source: Any) -> int | None:
    """
    Return how many rows a table has, None if it must be read to its end to know.

    :param source: as for :func:`open_source`; an iterable that can be read only once is not read.
    :raises SegmindConfigError: it does not exist, or cannot be read as a table.
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


def declared_types(path: StorePath) -> dict[str, str]:
    """
    Return the types that the first file of a table declares for its columns; those of Parquet, as Arrow names them.

    :raises SegmindConfigError: there is no file.
    :raises Exception: any of the store's or of pyarrow's.
    """
    file = source_files(path)[0]
    if known_kind(file.name).format is not Format.PARQUET:
        return {}
    with file.open("rb") as opened:
        return {column.name: str(column.type) for column in pyarrow().parquet.ParquetFile(opened).schema_arrow}


def _rows_of_parquet(path: StorePath) -> int:
    arrow = pyarrow()
    try:
        with path.open("rb") as file:
            return int(arrow.parquet.ParquetFile(file).metadata.num_rows)
    except Exception as error:
        # As when the rows are read.
        raise cannot_be_read(error, repr(str(path))) from error


def is_pattern(path: StorePath) -> bool:
    """Return whether a path is a pattern for several files; not if one has exactly this name, such as ``a[1].csv``."""
    if _PATTERN.isdisjoint(path.name):
        return False
    try:
        return not path.exists()
    except OSError:
        # Reading the rows meets the same error, and reports it.
        return True


def is_table(path: StorePath) -> bool:
    """Return whether a file of a folder is read with it."""
    return path.name[0] not in "._" and kind_of(path.name) is not None


def _rows_of_files(paths: Sequence[StorePath], columns: Columns) -> Iterator[Mapping[str, Any]]:
    for path in paths:
        for file in _found(path):
            yield from _rows_of_file(file, columns)


def _found(path: StorePath) -> list[StorePath]:
    try:
        return source_files(path)
    except OSError as error:
        raise cannot_be_read(error, f"The folder of {str(path)!r}") from error


@dataclass(slots=True)
class _Position:
    """How far a file was read."""

    file: str
    unit: str = "Line"
    number: int = 0

    def __str__(self) -> str:
        if not self.number:
            return repr(self.file)
        if self.unit == "Row":
            # Rows of Parquet come in blocks, so the damaged one is not known exactly.
            return f"{self.file!r}, after row {self.number},"
        return f"{self.unit} {self.number} of {self.file!r}"


def _rows_of_file(file: StorePath, columns: Columns) -> Iterator[Mapping[str, Any]]:
    kind, position = known_kind(file.name), _Position(str(file))
    try:
        yield from _READERS[kind.format](file, kind, position, columns)
    except Exception as error:
        # A store's or a format's library may raise anything, and the rows before it are worth keeping.
        cause = _damage(file, error) if kind.compressed else error
        if isinstance(cause, SegmindError):
            raise
        where = f"{position.file!r}, after line {position.number - 1}," if _is_packing(cause) else str(position)
        raise cannot_be_read(cause, where) from error


def _damage(file: StorePath, error: Exception) -> Exception:
    """Return why a compressed file cannot be read: damaged data may decompress to a bad line before it is noticed."""
    if not _is_packing(error) and not isinstance(error, OSError):
        try:
            with file.open("rb") as packed, gzip.open(packed, "rb") as unpacked:
                while unpacked.read(1 << 20):
                    pass
        except (EOFError, zlib.error, OSError) as damage:
            return damage if _is_packing(damage) else error
    return error


@contextlib.contextmanager
def _opened(path: StorePath, kind: FileKind) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        if kind.compressed:
            with gzip.open(file, "rb") as unpacked:
                yield unpacked
        else:
            yield file


def _read_jsonl(path: StorePath, kind: FileKind, position: _Position, _: Columns) -> Iterator[Mapping[str, Any]]:
    with _opened(path, kind) as file:
        position.number = 1
        for line in file:
            text = line.removeprefix(b"\xef\xbb\xbf").strip().decode("utf-8", "surrogatepass")
            if text:
                row = _decoded_row(text)
                if not isinstance(row, dict):
                    raise SegmindConfigError(f"{position} is not a JSON object.")
                if type(row) is not dict:
                    raise SegmindConfigError(f"{position} has a column name twice.")
                yield row
            position.number += 1


class _TwiceNamed(dict[str, Any]):
    """An object in which a name was repeated, so that a value is lost."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _TwiceNamed(found)


_ROWS = json.JSONDecoder(object_pairs_hook=_object)


def _decoded_row(text: str) -> Any:
    """Decode JSON without spaces around it, which :meth:`json.JSONDecoder.decode` searches for twice."""
    row, end = _ROWS.raw_decode(text)
    return row if end == len(text) else _ROWS.decode(text)


def _read_csv(path: StorePath, kind: FileKind, position: _Position, _: Columns) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(_LONGEST_CELL)
    encoding, errors = "utf-8-sig", "surrogateescape"
    with _opened(path, kind) as file, io.TextIOWrapper(file, encoding, errors, newline="") as text:
        position.number = 1
        lines = csv.reader(_utf8_lines(text, position), strict=True)
        first = next(filter(None, lines), [])
        position.number = max(1, lines.line_num)
        header = _header(first, position)
        position.number = lines.line_num + 1
        for cells in lines:
            if cells and len(cells) != len(header):
                position.number = lines.line_num
                raise SegmindConfigError(f"{position} has {len(cells)} cells, but its header has {len(header)}.")
            if cells:
                yield dict(zip(header, cells, strict=True))
            position.number = lines.line_num + 1


def _utf8_lines(text: Iterable[str], position: _Position) -> Iterator[str]:
    """Yield lines up to one that is not UTF-8; a strict decoder would lose the lines before it in the same block."""
    for number, line in enumerate(text, 1):
        if not line.isascii() and _ESCAPED.search(line):
            position.number = number
            raise SegmindConfigError(f"{position} cannot be read: it is not UTF-8; save it as UTF-8.")
        yield line


def _header(cells: list[str], position: _Position) -> list[str]:
    """
    Return the names of the columns.

    :raises SegmindConfigError: two are the same, apart from spaces around them and a byte order mark; or the file is in
        UTF-16, whose letters decode as UTF-8 with NULs between them.
    """
    if any("\x00" in name for name in cells):
        raise SegmindConfigError(f"{position} cannot be read: it is not UTF-8; save it as UTF-8.")
    names = [cells[0].lstrip("\ufeff"), *cells[1:]] if cells else []
    bare = [name.strip() for name in names]
    twice = sorted({name for name in bare if bare.count(name) > 1})
    if twice:
        raise SegmindConfigError(f"{position} has the columns {twice} twice in its header: rename one of each.")
    return names


def _read_parquet(path: StorePath, _: FileKind, position: _Position, columns: Columns) -> Iterator[Mapping[str, Any]]:
    position.unit = "Row"
    with path.open("rb") as file:
        for number, row in enumerate(parquet_rows(file, str(path), columns), 1):
            position.number = number
            yield row
        position.number = 0


_READERS: dict[Format, Callable[[StorePath, FileKind, _Position, Columns], Iterator[Mapping[str, Any]]]] = {
    Format.JSONL: _read_jsonl,
    Format.CSV: _read_csv,
    Format.PARQUET: _read_parquet,
}
