"""
Rows of Parquet files: only the columns that are asked about are decoded, and a value that cannot be is told by its row.

A decoder of pyarrow gives up on a whole block because of one value, so what it refuses is decoded value by value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import IO, Any

from airflow_provider_segmind.bulk.formats import pyarrow
from airflow_provider_segmind.bulk.rows import PartOfRow, Undecoded
from airflow_provider_segmind.exceptions import SegmindConfigError

_BLOCK_ROWS = 1024


def parquet_rows(file: IO[bytes], name: str, columns: frozenset[str] | None) -> Iterator[Mapping[str, Any]]:
    """
    Yield the rows of a file.

    :param name: what messages call it.
    :param columns: those to decode, as far as the file has them; None for all.
    :raises SegmindConfigError: two columns have the same name.
    """
    table = pyarrow().parquet.ParquetFile(file)
    names: list[str] = table.schema_arrow.names
    twice = sorted({column for column in names if names.count(column) > 1})
    if twice:
        raise SegmindConfigError(f"{name!r} has the columns {twice} twice: rename one of each.")
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
    """Return moments, and texts of those that are finer than Python's; whether pandas is installed plays no part."""
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
