"""Rows of a table of answers, found and deleted by columns of their key."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from airflow_provider_segmind.enrichment.output import FINGERPRINT_COLUMN
from airflow_provider_segmind.enrichment.sql.dialects import Dialect, TableName
from airflow_provider_segmind.exceptions import SegmindEnrichmentError, shorten


class AnswerRows:
    """
    The rows with some values in a table of answers.

    :param connect: returns a connection of the database (DB-API).
    :param place: the Connection and the table, for messages.
    :param key: the values of key columns.
    """

    def __init__(
        self, connect: Callable[[], Any], *, dialect: Dialect, name: TableName, place: str, key: Mapping[str, Any]
    ) -> None:
        self.name = place
        self._connect = connect
        self._dialect = dialect
        self._table = name
        self._key = key

    @property
    def delete_statement(self) -> str:
        """The statement that deletes the rows, with placeholders."""
        return f"DELETE FROM {self._dialect.table(self._table)} WHERE {self._condition}"  # noqa: S608

    def marks(self) -> list[tuple[str | None, str | None]]:
        """Return fingerprint in hex and request id of each row."""
        columns = ", ".join(map(self._dialect.quote, (FINGERPRINT_COLUMN, "_segmind_request_id")))
        table = self._dialect.table(self._table)
        with self._cursor() as cursor:
            cursor.execute(f"SELECT {columns} FROM {table} WHERE {self._condition}", self._values)  # noqa: S608
            return [(row[0], row[1]) for row in cursor.fetchall()]

    def read(self) -> list[dict[str, Any]]:
        """Return all columns of each row."""
        with self._cursor() as cursor:
            cursor.execute(
                f"SELECT * FROM {self._dialect.table(self._table)} WHERE {self._condition}",  # noqa: S608
                self._values,
            )
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def delete(self) -> None:
        """Delete the rows, in one transaction."""
        with self._cursor() as cursor:
            cursor.execute(self.delete_statement, self._values)

    @property
    def _condition(self) -> str:
        dialect = self._dialect
        parts = [f"{dialect.quote(name)} = {dialect.placeholder(number)}" for number, name in enumerate(self._key)]
        return " AND ".join(parts)

    @property
    def _values(self) -> Any:
        return self._dialect.bind(list(self._key.values()))

    @contextlib.contextmanager
    def _cursor(self) -> Iterator[Any]:
        try:
            with contextlib.closing(self._connect()) as connection, contextlib.closing(connection.cursor()) as cursor:
                yield cursor
                connection.commit()
        except Exception as error:  # Drivers raise errors of their own.
            raise SegmindEnrichmentError(
                f"The rows in {self.name} cannot be read or deleted: {type(error).__name__}: {shorten(str(error))}."
            ) from error
