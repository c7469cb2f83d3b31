"""A table file without some of its rows: rewritten whole, or left as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

from airflow_provider_segmind.enrichment.files.readers import Format, known_kind, open_source, parquet_rows, pyarrow
from airflow_provider_segmind.enrichment.files.writers import open_sink
from airflow_provider_segmind.enrichment.storage import StorePath, write_whole

Drop = Callable[[Mapping[str, Any]], bool]


def count_rows(path: StorePath, drop: Drop) -> int:
    """Count the rows of a table file for which ``drop`` is true; 0 if the file does not exist."""
    return sum(1 for row in open_source(path) if drop(row)) if path.exists() else 0


def remove_rows(path: StorePath, drop: Drop) -> None:
    """
    Rewrite a table file without the rows for which ``drop`` is true; the columns and their types stay.

    Until the end the old file is there, so it may be interrupted and repeated.

    :param path: a file that this package has written.
    """
    if not count_rows(path, drop):
        return
    if known_kind(path.name).format is Format.PARQUET:
        _rewrite_parquet(path, drop)
        return
    rows = open_source(path)
    first = next(rows)
    with open_sink(path, list(first)) as write:
        for row in chain([first], rows):
            if not drop(row):
                write(row)


def _rewrite_parquet(path: StorePath, drop: Drop) -> None:
    arrow = pyarrow()
    with path.open("rb") as file:
        keep = [not drop(row) for row in parquet_rows(file, str(path), None)]
    with path.open("rb") as file, write_whole(path) as target:
        table = arrow.parquet.ParquetFile(file)
        with arrow.parquet.ParquetWriter(target, table.schema_arrow) as writer:
            begin = 0
            for batch in table.iter_batches():
                mask = arrow.array(keep[begin : begin + batch.num_rows])
                begin += batch.num_rows
                writer.write_batch(batch.filter(mask))
