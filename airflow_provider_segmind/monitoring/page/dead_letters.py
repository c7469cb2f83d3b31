"""
What the page may read from storage: dead letters and progress under configured folders, bounded in size.

A manifest names its files, and whoever writes a DAG decides what it names. So a path is read only if it is in a folder
that the deployment has configured for results, whatever the manifest says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

from airflow_provider_segmind.compat import conf
from airflow_provider_segmind.enrichment.dead_letters import DeadLetter
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.monitoring.reader import Reader
from airflow_provider_segmind.stores import locate

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Largest file of dead letters that the page reads, in bytes; one request may scan all of it."""
SHOWN = 25
"""Rows on the page; the download has all of them."""


@dataclass(frozen=True, slots=True)
class Found:
    """Dead letters, or why there are none to show."""

    rows: list[DeadLetter] = field(default_factory=list)
    more: bool = False
    refusal: str = ""


def readable_folders() -> list[str]:
    """Return the folders from which the page may read."""
    listed = conf.get("segmind", "page_paths", fallback="") or ""
    folders = [conf.get("segmind", "output_path", fallback="") or "", *listed.split(",")]
    return [folder.strip() for folder in folders if folder.strip()]


def may_read(path: str) -> bool:
    """Return whether a path is in one of them."""
    return any(is_under(path, folder) for folder in readable_folders())


def is_under(path: str, folder: str) -> bool:
    """Return whether a path is in a folder: the same store and Connection, no ``..``, symbolic links followed."""
    path, folder = _plain(path), _plain(folder)
    if not path or not folder or "\\" in path or ".." in path.split("/"):
        return False
    if "://" in folder or "://" in path:
        return path.startswith(f"{folder.rstrip('/')}/")
    return Path(path).resolve().is_relative_to(Path(folder).resolve()) and Path(path).is_absolute()


def _plain(path: str) -> str:
    """Return a local path without its scheme."""
    return path.removeprefix("file://") if path.startswith("file:///") else path


def refusal(manifest: Manifest) -> str:
    """Return why the dead letters of a manifest cannot be read here, empty if they can. Blocks."""
    for path in manifest.dead_letters:
        if not may_read(path):
            return (
                "Their file is in none of the folders that this page may read: [segmind] output_path and page_paths of "
                "the API server."
            )
        try:
            with locate(path).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
        except Exception as error:  # noqa: BLE001 - stores and their libraries raise anything
            return _unreachable(error)
        if size > MAX_FILE_BYTES:
            return f"Their file has {size / 1e6:,.0f} MB, but this page reads at most {MAX_FILE_BYTES / 1e6:.0f} MB."
    return "" if manifest.dead_letters else "The run wrote no dead-letter file."


def find(reader: Reader, manifest: Manifest, outcome: str | None, reason: str | None) -> Found:
    """Return the first dead letters. Blocks."""
    if why := refusal(manifest):
        return Found(refusal=why)
    try:
        rows = list(islice(reader.dead_letters(manifest, outcome=outcome, reason=reason), SHOWN + 1))
    except Exception as error:  # noqa: BLE001 - as above, and the file may be broken
        return Found(refusal=_unreachable(error))
    return Found(rows[:SHOWN], more=len(rows) > SHOWN)


def lines(reader: Reader, manifest: Manifest, outcome: str | None, reason: str | None) -> Iterator[str]:
    """Yield dead letters as JSONL. Blocks."""
    for row in reader.dead_letters(manifest, outcome=outcome, reason=reason):
        yield json.dumps(asdict(row), ensure_ascii=False) + "\n"


def _unreachable(error: Exception) -> str:
    return f"Their file cannot be read from the API server ({type(error).__name__})."
