"""Rows into a table of answers, in transactions; those that the database refuses are named, and the others written."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

from airflow_provider_segmind.enrichment.sql.column_types import cell, key_cell
from airflow_provider_segmind.enrichment.sql.dialects import (
    again_after_conflicts,
    described,
    driver_errors,
    may_be_a_row,
)
from airflow_provider_segmind.enrichment.sql.statements import OWN_COLUMNS, Statements
from airflow_provider_segmind.exceptions import SegmindEnrichmentError

KEPT = "The answers are in the ledger: a retry writes them and pays nothing again."
MOST_IN_VAIN = 1000
"""Rows that are refused one after another before those of a refused batch are not tried one by one any more."""
_Tag = TypeVar("_Tag")


class TableWriter(Generic[_Tag]):
    """
    Writes rows by key, and tells of each whether the database took it.

    Not for use by several threads. What was written stays, whatever comes after it.

    :param connection: a connection of PEP 249.
    :param title: what messages call the table.
    :param batch_rows: how many rows a transaction holds.
    """

    def __init__(self, connection: Any, *, statements: Statements, title: str, batch_rows: int) -> None:
        self._connection = connection
        self._statements = statements
        self._title = title
        self._batch_rows = batch_rows
        self._waiting: list[tuple[Mapping[str, Any] | None, _Tag]] = []
        self._in_vain = 0
        self._lost = False
        self._refusal = ""
        self.rows_refused = 0

    def put(self, row: Mapping[str, Any] | None, tag: _Tag) -> list[tuple[_Tag, str]]:
        """
        Take a row, and write when there are enough of them.

        :param row: its columns by name, for one row a key; None for one that has no place in the table.
        :param tag: what it is told by.
        :returns: the tags of the rows that were tried by now, in order, each with the reason for which the database
            refused it, "" where it did not.
        :raises SegmindEnrichmentError: the database cannot be written to.
        """
        self._waiting.append((None if row is None else self._cells(row), tag))
        return self.flush() if len(self._waiting) >= self._batch_rows else []

    def flush(self) -> list[tuple[_Tag, str]]:
        """
        Write the rows that wait; see :meth:`put`.

        :raises SegmindEnrichmentError: the database cannot be written to.
        """
        waiting, self._waiting = self._waiting, []
        refusals = iter(self._write([row for row, _ in waiting if row is not None]))
        return [(tag, "" if row is None else next(refusals)) for row, tag in waiting]

    def check_refused(self) -> None:
        """
        Say that rows were refused.

        :raises SegmindEnrichmentError: some were.
        """
        if self.rows_refused:
            raise SegmindEnrichmentError(
                f"{self._title} refused {self.rows_refused} rows ({self._refusal}); the others are in it. The dead "
                "letters name them. Their answers are in the ledger: change the table so that it takes them and clear "
                "the task; nothing is paid again."
            )

    def _cells(self, row: Mapping[str, Any]) -> dict[str, Any]:
        statements = self._statements
        texts, kinds = statements.dialect.texts, {**statements.answers, **OWN_COLUMNS}
        cells = {name: key_cell(kind, row[name], texts=texts) for name, kind in statements.key.items()}
        return cells | {name: cell(kind, row.get(name)) for name, kind in kinds.items()}

    def _write(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Write rows; where they are refused, half of them at a time, until the one is found."""
        refusal = self._transact(rows) if rows else None
        if refusal is None:
            self._in_vain = 0
            return [""] * len(rows)
        if len(rows) > 1 and self._in_vain < MOST_IN_VAIN:
            middle = len(rows) // 2
            return self._write(rows[:middle]) + self._write(rows[middle:])
        self._in_vain += 1
        self._refusal = refusal
        self.rows_refused += len(rows)
        if len(rows) > 1:
            refusal += f", tried with {len(rows) - 1} others, since {MOST_IN_VAIN} rows before it were refused in turn"
        return [refusal] * len(rows)

    def _transact(self, rows: Sequence[Mapping[str, Any]]) -> str | None:
        """Write rows in one transaction; return what the driver says when it refused them, so that none was written."""
        with driver_errors(f"Writing to {self._title}", meaning=KEPT, values=True, retryable=True):
            try:
                again_after_conflicts(lambda: self._transact_once(rows))
            except Exception as error:
                if self._lost or not may_be_a_row(error):
                    raise
                return described(error, values=True)
        return None

    def _transact_once(self, rows: Sequence[Mapping[str, Any]]) -> None:
        statements, step = self._statements, self._statements.rows_per_statement
        self._lost = True
        with contextlib.closing(self._connection.cursor()) as cursor:
            self._lost = False
            try:
                if statements.dialect.begin:
                    cursor.execute(statements.dialect.begin)
                for start in range(0, len(rows), step):
                    part = rows[start : start + step]
                    cursor.execute(statements.write(len(part)), statements.parameters(part))
                self._end(cursor, "COMMIT")
            except Exception:
                try:
                    self._end(cursor, "ROLLBACK")
                except Exception:  # noqa: BLE001 (the first error says more)
                    self._lost = True
                raise

    def _end(self, cursor: Any, how: Literal["COMMIT", "ROLLBACK"]) -> None:
        """End a transaction where it was begun: a cursor of DuckDB is a connection of its own."""
        if self._statements.dialect.begin:
            cursor.execute(how)
        else:
            (self._connection.commit if how == "COMMIT" else self._connection.rollback)()
