"""
Local working state in private files and SQLite databases in the worker's temporary folder, so memory does not grow with
the rows.

The contents are copies of what can be read again, so nothing is synced, and a full disk ends the run without any loss.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from airflow_provider_segmind.exceptions import SegmindEnrichmentError

PRAGMAS = (
    "locking_mode=EXCLUSIVE",
    "synchronous=OFF",
    # A batch that does not fit on the disk is rolled back, and everything before it stays readable. That takes a
    # journal, and pages that only COMMIT writes.
    "journal_mode=MEMORY",
    "cache_spill=OFF",
    "cache_size=-4096",
)
READ_BYTES = 4 << 20
"""Bytes of a file that :meth:`LocalFile.lines` has in memory at once."""


class LocalDatabase:
    """
    A database whose file disappears with the process, however that ends.

    Several threads may use it; only :meth:`each` must not overlap with other uses.

    :param schema: the statements that create its tables.
    :raises SegmindEnrichmentError: the temporary folder cannot hold it; names the folder. Also raised by every method.
    """

    def __init__(self, schema: str) -> None:
        try:
            descriptor, name = tempfile.mkstemp(prefix="segmind-")
            os.close(descriptor)
            try:
                self._connection = sqlite3.connect(name, isolation_level=None, check_same_thread=False)
            finally:
                # A file without a name is deleted when the connection closes.
                Path(name).unlink()
            self._close = weakref.finalize(self, self._connection.close)
            self._lock = threading.Lock()
            for pragma in PRAGMAS:
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.executescript(schema)
        except (OSError, sqlite3.Error) as error:
            raise _unusable(error, "Nothing was sent in this try") from error

    def close(self) -> None:
        """Delete the database."""
        self._close()

    def first(self, query: str, *values: Any) -> Any:
        """Return the first row of a query, None when there is none."""
        try:
            with self._lock:
                return self._connection.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise _unusable(error) from error

    def all(self, query: str, *values: Any) -> list[Any]:
        """Return the rows of a query that has few."""
        try:
            with self._lock:
                return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise _unusable(error) from error

    def each(self, query: str, *values: Any) -> Iterator[Any]:
        """Yield the rows of a query."""
        try:
            yield from self._connection.execute(query, values)
        except sqlite3.Error as error:
            raise _unusable(error) from error

    def change(self, statement: str, *values: Any) -> int:
        """Execute a statement and return how many rows it changed."""
        try:
            with self._lock:
                return self._connection.execute(statement, values).rowcount
        except sqlite3.Error as error:
            raise _unusable(error) from error

    def write(self, *batches: tuple[str, Iterable[Sequence[Any]]]) -> None:
        """Execute statements, each for several tuples of values, in one transaction."""
        connection = self._connection
        try:
            with self._lock:
                connection.execute("BEGIN")
                try:
                    for statement, values in batches:
                        connection.executemany(statement, values)
                    connection.execute("COMMIT")
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise _unusable(error) from error


class LocalFile:
    """
    Bytes appended to a file that disappears with the process, however that ends. Several threads may read it.

    :raises SegmindEnrichmentError: the temporary folder cannot hold it; names the folder. :meth:`append` raises it too.
    """

    def __init__(self) -> None:
        try:
            self._file = tempfile.TemporaryFile(prefix="segmind-", buffering=0)  # noqa: SIM115 - closed with its owner
        except OSError as error:
            raise _unusable(error, "Nothing was sent in this try") from error
        self.size = 0
        self.close = weakref.finalize(self, self._file.close)

    def append(self, content: bytes) -> int:
        """Append bytes, all of them or none, and return where they begin."""
        place, left = self.size, memoryview(content)
        try:
            while left:
                left = left[os.pwrite(self._file.fileno(), left, place + len(content) - len(left)) :]
        except OSError as error:
            raise _unusable(error) from error
        self.size += len(content)
        return place

    def lines(self, size: int) -> Iterator[list[bytes]]:
        """Yield the lines in the first so many bytes, which end with a line end, in portions."""
        rest, place = b"", 0
        while place < size:
            portion = self.read(place, min(READ_BYTES, size - place))
            place += len(portion)
            *lines, rest = (rest + portion).split(b"\n")
            yield lines

    def read(self, place: int, size: int) -> bytes:
        """Return some of the bytes."""
        return os.pread(self._file.fileno(), size, place)


def _unusable(
    error: Exception, meaning: str = "Nothing more is sent; all answers are in the ledger"
) -> SegmindEnrichmentError:
    folder = tempfile.tempdir or "none was found"
    return SegmindEnrichmentError(
        f"The temporary folder of the worker ({folder}) cannot store working files: {error}. {meaning}. Free up space "
        "there, or set TMPDIR to a folder with enough space; a retry continues.",
        retryable=True,
    )
