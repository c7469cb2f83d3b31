"""
Merge the files of a run's shards into one table in the order of the source, however large it is.

Each shard wrote its rows in the order of the source and numbered them, so one row per shard in memory is enough.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow_provider_segmind.enrichment.files.readers import open_source
from airflow_provider_segmind.enrichment.files.writers import Kinds, needs_kinds, open_sink, write_jsonl
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.output import ROW_COLUMN
from airflow_provider_segmind.enrichment.storage import StorePath
from airflow_provider_segmind.exceptions import SegmindEnrichmentError

_DEAD_LETTER_ROW = "row"


def join_outputs(manifest: Manifest, parts: Sequence[StorePath], target: StorePath) -> list[str]:
    """
    Write the rows of all shards as one table, without the column of row numbers.

    :param manifest: of all shards, as :func:`~airflow_provider_segmind.enrichment.manifest.merge` returns it.
    :param parts: the files of the shards.
    :returns: the columns of the table.
    :raises SegmindEnrichmentError: a row is missing, is duplicated, or has no number; nothing is written.
    :raises SegmindConfigError: a file is missing, or is not a table.
    """
    columns = [name for name in manifest.columns if name != ROW_COLUMN]
    kinds = None
    if needs_kinds(target):
        kinds = Kinds(columns)
        for row in _in_order(parts, ROW_COLUMN):
            kinds.observe(row)
    count = 0
    with open_sink(target, columns, kinds) as write:
        for number, row in _numbered(_in_order(parts, ROW_COLUMN), ROW_COLUMN):
            if manifest.complete and number != count:
                raise SegmindEnrichmentError(f"Row {count} is in no shard's output. {_ADVICE}")
            write({name: row.get(name) for name in columns})
            count += 1
        if count != manifest.rows_read:
            raise SegmindEnrichmentError(
                f"The outputs of the shards contain {count} rows, their manifests {manifest.rows_read}. {_ADVICE}"
            )
    return columns


def join_dead_letters(parts: Sequence[StorePath], target: StorePath) -> None:
    """Write the rows without an answer of all shards as one file, in the order of the source."""
    write_jsonl(target, _in_order(parts, _DEAD_LETTER_ROW))


_ADVICE = (
    "Another process has written there since. Run the shards again, which costs nothing for rows with an answer. "
    "Nothing was written."
)


def _in_order(parts: Sequence[StorePath], column: str) -> Iterator[Mapping[str, Any]]:
    readers = [_numbered(open_source(part), column) for part in parts]
    return (row for _, row in heapq.merge(*readers, key=lambda pair: pair[0]))


def _numbered(rows: Iterator[Mapping[str, Any]], column: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield each row with its number, which must increase: then no row is duplicated."""
    last = -1
    for row in rows:
        try:
            number = int(row[column])
        except (KeyError, TypeError, ValueError) as error:
            raise SegmindEnrichmentError(
                f"A row of a shard's output has no number in the column {column!r}: no shard has written it. "
                "Nothing was written."
            ) from error
        if number <= last:
            raise SegmindEnrichmentError(
                f"Row {number} is in the outputs of the shards twice, or out of order. {_ADVICE}"
            )
        last = number
        yield number, row
