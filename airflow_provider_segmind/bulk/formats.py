"""Which file format a name stands for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from types import ModuleType

from airflow_provider_segmind.exceptions import SegmindConfigError


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
    """
    How a file is written.

    :param compressed: whether it is packed with gzip.
    """

    format: Format
    compressed: bool = False


def kind_of(name: str) -> FileKind | None:
    """Return the kind of file a name stands for, None when it says nothing."""
    stem = name.lower().removesuffix(".gz")
    compressed = stem != name.lower()
    for suffix, kind in _SUFFIXES.items():
        if stem.endswith(suffix):
            return FileKind(kind, compressed)
    return None


def known_kind(name: str) -> FileKind:
    """
    Return the kind of file a name stands for.

    :raises SegmindConfigError: it stands for none.
    """
    kind = kind_of(name)
    if kind is None or (kind.compressed and kind.format is Format.PARQUET):
        raise SegmindConfigError(
            f"{name!r} does not say what it holds: its name must end with {', '.join(_SUFFIXES)}, or with .gz after a "
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
