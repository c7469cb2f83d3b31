"""
The spend record as files: a folder for each day (UTC), in it write-once files of JSON lines, readable with DuckDB.

The name of a file is the SHA-256 of its content. So a file is never changed, writing it twice is harmless, and one that
was copied into another file can be deleted whoever may be reading or writing at the time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow_provider_segmind.enrichment.storage import StorePath, make_folder, names_if_any, write_whole
from airflow_provider_segmind.exceptions import SegmindStateError
from airflow_provider_segmind.spend.entries import SpendEntry, entry_line, merged

DAY = "day="
"""Before the date in the name of a folder, as readers of partitioned tables expect it."""
FILE_SUFFIX = ".jsonl"
NEW = "new-"
"""Prefix of the name of a file that is not compacted yet."""
COMPACTED = "all-"
MOST_NEW = 256
"""Number of files of the current day from which they are compacted as well."""
FULL = 32 << 20
"""Size in bytes from which a compacted file is left as it is."""


class FileStore:
    """
    The spend record in a folder of any object store.

    :param root: the folder; created with the first entry.
    """

    def __init__(self, root: StorePath) -> None:
        self.name = f"the folder {str(root)!r}"
        self._root = root
        self._made: set[str] = set()

    def write(self, entries: Sequence[SpendEntry]) -> None:
        """Write one file for each day."""
        days: dict[str, list[SpendEntry]] = {}
        for entry in entries:
            days.setdefault(DAY + entry.day, []).append(entry)
        for day, its in days.items():
            folder = self._root / day
            if day not in self._made:
                make_folder(folder)
                self._made.add(day)
            _write(folder, NEW, b"".join(map(entry_line, its)))

    def read(self, *, since: float | None = None, until: float | None = None) -> Iterator[SpendEntry]:
        """Yield the entries, day by day."""
        seen: set[int] = set()
        for day in self._days(since, until):
            for entry in merged(self._entries(self._root / day)).values():
                # A retry after midnight may have recorded a request a second time.
                mark = hash(entry.request_id)
                if mark in seen or not _is_within(entry.at, since, until):
                    continue
                seen.add(mark)
                yield entry

    def known(self, request_ids: Iterable[str]) -> set[str]:
        """Return which of the given requests are in the record; reads all of it."""
        wanted = set(request_ids)
        return {entry.request_id for entry in self.read() if entry.request_id in wanted} if wanted else set()

    def tidy(self, *, since: float, now: float) -> None:
        """
        Compact the days before today, and today if it has many files.

        Safe while others read, write and compact, and wherever it is killed: a file is deleted only when what it
        contains is durable in another one, and what is there twice counts once.
        """
        today = _folder_of(now)
        for day in self._days(since, None):
            folder = self._root / day
            names = _files(folder)
            new = [name for name in names if name.startswith(NEW)]
            if len(new) >= (MOST_NEW if day >= today else 1):
                compacted = [] if day >= today else [name for name in names if name.startswith(COMPACTED)]
                _compact(folder, new + [name for name in compacted if not _is_full(folder / name)])

    def _days(self, since: float | None, until: float | None) -> list[str]:
        names = [name for name in names_if_any(self._root) if name.startswith(DAY)]
        first = "" if since is None else _folder_of(since)
        return sorted(name for name in names if name >= first and (until is None or name <= _folder_of(until)))

    def _entries(self, folder: StorePath) -> Iterator[SpendEntry]:
        known: set[str] = set()
        # A file that is gone was copied into another before, which a later listing shows.
        while wanted := [name for name in _files(folder) if name not in known]:
            for name in wanted:
                known.add(name)
                yield from _parse(name, _read(folder, name) or b"")


def _folder_of(at: float) -> str:
    return DAY + datetime.fromtimestamp(at, UTC).date().isoformat()


def _is_within(at: float, since: float | None, until: float | None) -> bool:
    return (since is None or at >= since) and (until is None or at < until)


def _files(folder: StorePath) -> list[str]:
    return sorted(name for name in names_if_any(folder) if name.endswith(FILE_SUFFIX) and name[0] != ".")


def _is_full(path: StorePath) -> bool:
    try:
        size: int = path.stat().st_size  # type: ignore[attr-defined]
    except FileNotFoundError:
        return True
    return size >= FULL


def _compact(folder: StorePath, names: list[str]) -> None:
    """Copy files into few, without lines that are there twice, and delete them."""
    seen: set[bytes] = set()
    lines: list[bytes] = []
    size = 0
    written: set[str] = set()
    copied: list[str] = []
    for name in names:
        content = _read(folder, name)
        if content is None:
            # Another one has copied it.
            continue
        copied.append(name)
        for line in content.splitlines(keepends=True):
            if (mark := hashlib.blake2b(line, digest_size=16).digest()) in seen:
                continue
            seen.add(mark)
            lines.append(line)
            size += len(line)
        if size >= FULL:
            written.add(_write(folder, COMPACTED, b"".join(lines)))
            lines, size = [], 0
    if lines:
        written.add(_write(folder, COMPACTED, b"".join(lines)))
    for name in copied:
        if name not in written:
            (folder / name).unlink(missing_ok=True)


def _write(folder: StorePath, prefix: str, content: bytes) -> str:
    name = f"{prefix}{hashlib.sha256(content).hexdigest()[:40]}{FILE_SUFFIX}"
    with write_whole(folder / name) as file:
        file.write(content)
    return name


def _read(folder: StorePath, name: str) -> bytes | None:
    """
    Return the content of a file, None when it is no longer there.

    :raises SegmindStateError: its content is not what was written.
    """
    try:
        with (folder / name).open("rb") as file:
            content: bytes = file.read()
    except FileNotFoundError:
        return None
    if hashlib.sha256(content).hexdigest()[:40] != name.removesuffix(FILE_SUFFIX).rpartition("-")[2]:
        raise _unreadable(name, "its content does not match the hash in its name")
    return content


def _parse(name: str, content: bytes) -> Iterator[SpendEntry]:
    for line in content.splitlines():
        try:
            value: Any = json.loads(line)
            yield SpendEntry.from_json(value)
        except ValueError as error:
            raise _unreadable(name, error) from error


def _unreadable(name: str, why: object) -> SegmindStateError:
    return SegmindStateError(
        f"The file {name!r} of the spend record cannot be read: {why}. Nothing was changed. Without that file the "
        "record would be incomplete; delete it only if it is lost for good, then run spend --reconcile."
    )
