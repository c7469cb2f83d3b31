"""Tables written to a file as a run writes its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_segmind.enrichment.files.writers import Kinds, open_sink


def write_table(path: Any, rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...]) -> None:
    """Write rows; what Parquet must know of their values is observed first."""
    kinds = Kinds(columns)
    for row in rows:
        kinds.observe(row)
    with open_sink(path, columns, kinds) as write:
        for row in rows:
            write(row)
