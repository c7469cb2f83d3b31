"""The rows of a query, read in blocks by a thread of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airflow_provider_segmind.bulk.sql.drivers import again_after_conflicts, driver_errors
from airflow_provider_segmind.bulk.sql.select_text import only_statement
from airflow_provider_segmind.exceptions import SegmindConfigError

BLOCK_ROWS = 1000
CURSOR = "segmind_rows"
CLOSING_SECONDS = 0.5
"""How long a cursor may take to close; a driver that hangs must not hold up what has finished."""


class Query:
    """
    The rows of one query, as dicts.

    SQLite lets only the thread that opened a connection use it, and the engine reads in whichever is free; so a thread
    of its own opens, reads and closes. PostgreSQL keeps the rows at the server, in a cursor that outlives its
    transaction: rows are read for as long as answers take, and an open transaction would keep vacuum waiting that long.

    :param connect: opens a connection of PEP 249.
    :param sql: a SELECT.
    :param name: what messages call it.
    :param hold: whether reading takes long; False where it is over at once.
    :param conn_type: Airflow's connection type of the database, which says how its statements are written.
    :raises SegmindConfigError: ``sql`` is not one statement.
    """

    def __init__(
        self, connect: Callable[[], Any], sql: str, *, name: str, hold: bool = True, conn_type: str = ""
    ) -> None:
        self._hold = hold
        self._connect = connect
        self.sql = only_statement(sql, conn_type)
        self._name = name
        self._rows_read = 0
        self._connection: Any = None
        self._cursor: Any = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segmind-sql")

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """
        Yield the rows, once.

        :raises SegmindBulkError: the database did not answer.
        :raises SegmindConfigError: two columns have the same name.
        """
        self.open()
        names: list[str] | None = None
        while True:
            block, description = self._thread.submit(self._fetch).result()
            if names is None:
                names = self._names(description)
            self._rows_read += len(block)
            for row in block:
                yield row if isinstance(row, Mapping) else dict(zip(names, map(_plain, row), strict=True))
            if len(block) < BLOCK_ROWS:
                self.close()
                return

    def open(self) -> None:
        """
        Run the query, unless it runs already.

        :raises SegmindBulkError: the database refused it.
        """
        if self._cursor is None:
            with driver_errors(f"Reading {self._name}", meaning="Nothing was sent."):
                self._thread.submit(again_after_conflicts, self._open).result()

    def close(self) -> None:
        """Close the connection."""
        closing = self._thread.submit(self._close)
        with contextlib.suppress(TimeoutError):
            closing.result(CLOSING_SECONDS)
        self._thread.shutdown(wait=False)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segmind-sql")

    def _open(self) -> None:
        connection = self._connection = self._connect()
        server_side = type(connection).__module__.startswith("psycopg")
        self._cursor = connection.cursor(name=CURSOR, withhold=self._hold) if server_side else connection.cursor()
        try:
            self._cursor.execute(self.sql)
            if server_side and self._hold:
                connection.commit()
        except BaseException:
            self._close()
            raise

    def _fetch(self) -> tuple[Sequence[Any], Any]:
        # Numbers only: a message must not repeat a statement, which may name people, nor what stands in a row.
        doing = f"Reading {self._name} broke off after {self._rows_read} rows: fetching more"
        meaning = "What was answered for the rows before is in the ledger and is not paid again."
        with driver_errors(doing, meaning=meaning, values=True):
            return self._cursor.fetchmany(BLOCK_ROWS), self._cursor.description

    def _close(self) -> None:
        for each in (self._cursor, self._connection):
            # Everything that was wanted of it has been read.
            with contextlib.suppress(Exception):
                if each is not None:
                    each.close()
        self._connection = self._cursor = None

    def _names(self, description: Sequence[Sequence[Any]] | None) -> list[str]:
        names = [str(column[0]) for column in description or ()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SegmindConfigError(
                f"{self._name} has the columns {twice} twice: give them names of their own with AS. Nothing was sent."
            )
        return names


def _plain(value: Any) -> Any:
    return bytes(value) if type(value) is memoryview else value
