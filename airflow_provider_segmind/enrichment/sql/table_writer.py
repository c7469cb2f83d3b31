"""Writes rows into a table of answers, in transactions; refused rows are named, the others written."""

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
"""Consecutive refused rows after which the rows of a refused batch are no longer tried one by one."""
_Tag = TypeVar("_Tag")


class TableWriter(Generic[_Tag]):
    """
    Writes rows by key, and reports for each whether the database accepted it.

    Not for use by several threads. Written rows stay, also after a later error.

    :param connection: a connection of PEP 249.
    :param title: the table's name in messages.
    :param batch_rows: rows in a transaction.
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
        Add a row, and write when a batch is full.

        :param row: its columns by name, one row for each key; None for one that is not written.
        :param tag: identifies the row in what is returned.
        :returns: the tags of the rows that were tried, in order, each with the reason why the database refused it, ""
            if it did not.
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
        Raise an error if rows were refused.

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
        """Write rows; if they are refused, in halves, until the refused row is found."""
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
            refusal += (
                f", tried with {len(rows) - 1} others, because the {MOST_IN_VAIN} rows before it were all refused"
            )
        return [refusal] * len(rows)

    def _transact(self, rows: Sequence[Mapping[str, Any]]) -> str | None:
        """Write rows in one transaction; return the driver's message if it refused them, so that none was written."""
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
        """End a transaction on the cursor that began it: a cursor of DuckDB is a separate connection."""
        if self._statements.dialect.begin:
            cursor.execute(how)
        else:
            (self._connection.commit if how == "COMMIT" else self._connection.rollback)()
