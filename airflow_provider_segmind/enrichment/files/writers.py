"""
Writers of JSONL, CSV and Parquet files, row by row, and whole or not at all.

An answer that was paid for can always be written: a value that a format cannot represent is written in the form
defined here. Outputs are written last, when everything has been paid. So two things are checked before the first
request: that they can be written, and that no output replaces a source or is read as one.
"""

from __future__ import annotations

import contextlib
import fnmatch
import gzip
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, TypeAlias

from airflow_provider_segmind.chat.json_values import is_too_deep, without_surrogates
from airflow_provider_segmind.enrichment.files.readers import Format, is_pattern, is_table, known_kind, pyarrow
from airflow_provider_segmind.enrichment.rows import json_value, plain_text
from airflow_provider_segmind.enrichment.storage import StorePath, is_refusal, make_folder, write_whole
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindEnrichmentError, shorten

# The module csv does not quote a lone carriage return before Python 3.11.9 and 3.12.3, and then splits the row there.
# Characters that only some readers treat as a line end, or trim, are quoted as well.
_QUOTED = re.compile('[",\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]|\\A\\s|\\s\\Z')
_LARGEST_INT = 2**63 - 1
_LARGEST_EXACT_FLOAT = 2**53
_MOST_DIGITS = 38
_USERINFO = re.compile(r"://[^/@]*@/?")


def text_cell(value: Any) -> str:
    """Return a value as a string, for CSV and for the text columns of Parquet; lists and objects are JSON."""
    return without_surrogates(_flat_json(value) if is_too_deep(value) else plain_text(value))


def json_cell(value: Any) -> Any:
    """Return a value as it is written to JSONL: itself, or its JSON as a string where it nests too deeply."""
    return _flat_json(value) if is_too_deep(value) else json_value(value)


def csv_line(values: list[str]) -> str:
    """Return a line of CSV that every reader of quoted fields parses in the same way."""
    if values == [""]:
        return '""\n'
    return (
        ",".join(f'"{value.replace(chr(34), chr(34) * 2)}"' if _QUOTED.search(value) else value for value in values)
        + "\n"
    )


def _flat_json(value: Any) -> str:
    """Write JSON without recursion, with names sorted."""
    parts: list[str] = []
    left: list[tuple[str, Any]] = [("value", value)]
    while left:
        kind, item = left.pop()
        if kind == "text":
            parts.append(item)
        elif isinstance(item, Mapping):
            left.append(("text", "}"))
            pairs = sorted(((str(name), inner) for name, inner in item.items()), key=lambda pair: pair[0])
            for number, (name, inner) in reversed(list(enumerate(pairs))):
                left.append(("value", inner))
                left.append(("text", f"{',' if number else ''}{json.dumps(name, ensure_ascii=False)}:"))
            left.append(("text", "{"))
        elif isinstance(item, (list, tuple)):
            left.append(("text", "]"))
            for number, inner in reversed(list(enumerate(item))):
                left.append(("value", inner))
                left.append(("text", "," if number else ""))
            left.append(("text", "["))
        else:
            parts.append(json.dumps(json_value(item), ensure_ascii=False))
    return "".join(parts)


def written_names(columns: Iterable[str]) -> dict[str, str]:
    """
    Return the name under which CSV and Parquet have each column, in order.

    Halves of surrogate pairs, which UTF-8 cannot encode, become U+FFFD. A name that is another column's then gets a
    number: ``_2``, ``_3`` and so on.
    """
    called = {name: without_surrogates(name) for name in columns}
    taken = {name for name, written in called.items() if written == name}
    for name, written in called.items():
        if written != name:
            numbers = (f"{written}_{number}" for number in itertools.count(2))
            called[name] = next(one for one in itertools.chain([written], numbers) if one not in taken)
            taken.add(called[name])
    return called


class Kinds:
    """
    Watches every value of a table, so that a rare type in the last row does not break a file that is half written.

    Values of several types in one column become strings, as do integers beyond 64 bits, decimals that need more than 38
    digits between them, and integers next to floats that cannot represent them; lists and objects become JSON strings.

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
        """Return the pyarrow schema that fits every value seen."""
        arrow = pyarrow()
        return arrow.schema([(called, self._type(arrow, name)) for name, called in written_names(self._seen).items()])

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
    """Return whether the types of all columns must be known before the first row is written."""
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
            # Without a timestamp in the header, the same rows make the same bytes.
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                yield from _written(kind.format, packed, columns, kinds)  # type: ignore[arg-type]
        else:
            yield from _written(kind.format, file, columns, kinds)


def _written(kind: Format, file: IO[bytes], columns: Sequence[str], kinds: Kinds | None) -> Iterator[Write]:
    if kind is Format.JSONL:
        yield lambda row: _write_json(file, row)
    elif kind is Format.CSV:
        file.write(csv_line(list(written_names(columns).values())).encode())
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
        self._columns = written_names(columns)
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
    """Write rows as JSONL: all of them, or no file."""
    make_folder(path.parent)
    with write_whole(path) as file:
        for row in rows:
            _write_json(file, row)


def check_writable(argument: str, paths: Sequence[StorePath], *, dry: bool) -> None:
    """
    Check that files of one folder can be written, before anything is paid; existing files are left alone.

    The folder is created, and an empty file is written into it and deleted.

    :param argument: the argument that names the path.
    :param dry: write nothing, and so detect only folders in the place of files.
    :raises SegmindConfigError: they cannot be written. Nothing was sent.
    :raises SegmindEnrichmentError: the store failed; a retry may help. Nothing was sent.
    """
    longest = max(paths, key=lambda path: len(path.name))
    try:
        for path in paths:
            if _is_folder(path):
                raise SegmindConfigError(f"{argument!r} names {str(path)!r}, which is a folder. Nothing was sent.")
        if not dry:
            make_folder(longest.parent)
            probe = longest.parent / f".{longest.name}.probe"
            with write_whole(probe):
                pass
            # Permission to write does not imply permission to delete.
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
    except SegmindConfigError:
        raise
    except Exception as error:
        # A store's library may raise anything.
        why = shorten(getattr(error, "strerror", None) or type(error).__name__)
        message = f"{argument!r}: {str(longest)!r} cannot be written: {why}. Nothing was sent."
        if is_refusal(error):
            raise SegmindConfigError(message) from error
        raise SegmindEnrichmentError(message, retryable=True) from error


def _is_folder(path: StorePath) -> bool:
    """Return whether a path is a folder; False without permission to list, which writing does not need."""
    try:
        return path.is_dir()
    except OSError:
        return False


def check_format(path: StorePath) -> None:
    """
    Check that the format of a table's file name can be written.

    :raises SegmindConfigError: the name has no known format, or the package for it is not installed.
    """
    if known_kind(path.name).format is Format.PARQUET:
        pyarrow()


def check_apart(outputs: Sequence[StorePath], ledger: StorePath, sources: Sequence[StorePath]) -> None:
    """
    Check that outputs, ledger and sources do not overlap, now or in the next run.

    :param outputs: the files that are written: the output, the dead letters.
    :raises SegmindConfigError: they overlap; names the argument. Nothing was sent.
    """
    if ledger.exists() and not ledger.is_dir():
        raise SegmindConfigError(f"'ledger_path' {str(ledger)!r} is a file; it must be a folder. Nothing was sent.")
    for output in outputs:
        if _is_inside(output, ledger):
            raise SegmindConfigError(
                f"'output_path' puts {str(output)!r} into the ledger's folder {str(ledger)!r}: move one of them to "
                "another folder. Nothing was sent."
            )
        for source in sources:
            if _reads(source, output):
                raise SegmindConfigError(
                    f"'output_path' creates {str(output)!r}, which 'source' {str(source)!r} reads: its rows would be "
                    "lost, or the next run would read its own answers as rows. Nothing was sent."
                )
    for source in sources:
        folder = source.parent if is_pattern(source) else source
        if _form(folder) == _form(ledger):
            raise SegmindConfigError(
                f"'ledger_path' {str(ledger)!r} is the folder that 'source' reads: choose another. Nothing was sent."
            )


def _reads(source: StorePath, file: StorePath) -> bool:
    """Return whether a source includes a file, now or once the file exists."""
    if _form(source) == _form(file):
        return True
    if is_pattern(source):
        return _form(source.parent) == _form(file.parent) and fnmatch.fnmatchcase(file.name, source.name)
    return _form(source) == _form(file.parent) and is_table(file) and source.is_dir()


def _is_inside(path: StorePath, folder: StorePath) -> bool:
    return f"{_form(path)}/".startswith(f"{_form(folder)}/")


def _form(path: StorePath) -> str:
    """Return a normalized path: without links and dots on the local disk, without a Connection elsewhere."""
    text = os.path.realpath(path) if isinstance(path, Path) and "://" not in str(path) else str(path)
    return _USERINFO.sub("://", text).rstrip("/")
