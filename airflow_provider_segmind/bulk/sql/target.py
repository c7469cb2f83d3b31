"""A table of answers: made if it is not there, checked before anything is paid, and written by key."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from airflow_provider_segmind.bulk.rows import digest
from airflow_provider_segmind.bulk.sql.dialects import Dialect
from airflow_provider_segmind.bulk.sql.drivers import again_after_conflicts, described, driver_errors, is_transient
from airflow_provider_segmind.bulk.sql.key_forms import KeyForm, key_form
from airflow_provider_segmind.bulk.sql.kinds import Kind, MisfitError, cell, compared, kind_of_values
from airflow_provider_segmind.bulk.sql.names import TableName
from airflow_provider_segmind.bulk.sql.query import Query
from airflow_provider_segmind.bulk.sql.statements import Statements
from airflow_provider_segmind.bulk.sql.table_check import check_columns, check_names, check_present
from airflow_provider_segmind.bulk.sql.table_schema import Column, read_columns
from airflow_provider_segmind.bulk.sql.table_writer import TableWriter
from airflow_provider_segmind.exceptions import SegmindBulkError, SegmindConfigError


class Target:
    """
    One table of answers.

    :param connect: opens a connection of PEP 249.
    :param place: what messages call the database.
    :param answers: the answer columns.
    :param batch_rows: how many rows a transaction holds.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        dialect: Dialect,
        name: TableName,
        place: str,
        key: Sequence[str],
        answers: Mapping[str, Kind],
        batch_rows: int,
    ) -> None:
        self._connect = connect
        self._title = f"the table {str(name)!r} of {place!r}"
        self._batch_rows = batch_rows
        self._statements = Statements(dialect=dialect, name=name, key=dict.fromkeys(key), answers=answers)
        self._forms: Mapping[str, KeyForm] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are written."""
        return self._statements.columns

    def prepare(self, first_rows: Callable[[], Iterable[Mapping[str, Any]]] | None) -> bool:
        """
        Create the table if it is absent, and try without a row whether rows can be written. Blocks.

        :param first_rows: gives some rows of the source, whose keys tell what their columns must hold; None to create
            nothing.
        :returns: whether the table is there. It is not created for an empty source, which tells no types.
        :raises SegmindConfigError: the table lacks columns, or a key to write by; names them. Nothing was sent.
        :raises SegmindBulkError: the database did not answer.
        """
        check_names(self._statements, self._title)
        with self._opened() as connection:
            columns = self._columns(connection)
            if columns is None:
                rows = list(first_rows()) if first_rows is not None else []
                if not rows:
                    return False
                unbounded = self._statements.dialect.unbounded
                self._set_key_kinds(
                    {
                        name: kind_of_values((row.get(name) for row in rows), unbounded=unbounded)
                        for name in self._statements.key
                    }
                )
                columns = self._create(connection)
            check_present(self._statements, columns, self._title)
            self._learn(connection)
            self._rehearse(connection)
            return True

    def mark(self, key: Mapping[str, Any]) -> bytes:
        """
        Return 32 bytes that are the same for all keys that the table takes as equal.

        :raises MisfitError: the table would change the key, or it cannot be told from others; names the column.
        """
        marks: list[str | None] = []
        for name, value in key.items():
            form = self._forms.get(name, compared)
            try:
                marks.append(None if value is None else form(value))
            except MisfitError as error:
                raise MisfitError(f"its key {name!r} does not fit the column of the table: {error}") from None
        return digest(marks)

    def _learn(self, connection: Any) -> None:
        """
        Read how the table's columns are made, and check that they can hold what is written.

        :raises SegmindConfigError: they cannot; names the columns. Nothing was sent.
        """
        dialect, name = self._statements.dialect, self._statements.name
        columns = read_columns(connection, dialect, name)
        self._roll_back(connection)
        if columns is None:
            return
        found = {dialect.fold(each): column for each, column in columns.items()}
        check_columns(self._statements, found, self._title)
        keys = {each: found[dialect.fold(each)] for each in self._statements.key if dialect.fold(each) in found}
        self._forms = {each: key_form(column, texts=dialect.texts, title=self._title) for each, column in keys.items()}
        self._set_key_kinds({each: _key_kind(column) for each, column in keys.items()})

    def _set_key_kinds(self, kinds: Mapping[str, Kind | None]) -> None:
        self._statements = replace(self._statements, key={**self._statements.key, **kinds})

    def held(self) -> Iterator[tuple[bytes, str]]:
        """Yield the mark of the key (see :meth:`mark`) and the fingerprint of every row that has its answer."""
        key = list(self._statements.key)
        query = Query(self._connect, self._statements.held(), name=self._title, hold=False)
        for row in query:
            *values, fingerprint = row.values()
            # What a column holds fits it; what was put there by other means may be told from nothing else.
            with contextlib.suppress(MisfitError):
                yield self.mark(dict(zip(key, values, strict=True))), fingerprint

    def misfit(self, answer: Mapping[str, Any]) -> str | None:
        """Say why an answer does not fit the columns, None when it does."""
        for name, kind in self._statements.answers.items():
            try:
                cell(kind, answer.get(name))
            except MisfitError as error:
                return f"the answer is in the ledger, but its {name!r} does not fit: {error}"
        return None

    @contextlib.contextmanager
    def writing(self) -> Iterator[TableWriter[Any]]:
        """
        Give what writes rows into the table.

        :raises SegmindBulkError: the database cannot be opened.
        """
        with self._opened() as connection:
            yield TableWriter(connection, statements=self._statements, title=self._title, batch_rows=self._batch_rows)

    def _columns(self, connection: Any) -> list[str] | None:
        """Return the table's columns, None when it cannot be read."""
        with contextlib.closing(connection.cursor()) as cursor:
            try:
                cursor.execute(self._statements.look())
                return [str(column[0]) for column in cursor.description]
            except Exception:  # noqa: BLE001 (PEP 249 gives the drivers no common class); creating it will tell
                return None
            finally:
                self._roll_back(connection)

    def _create(self, connection: Any) -> list[str]:
        with contextlib.closing(connection.cursor()) as cursor:
            try:
                cursor.execute(self._statements.create())
                connection.commit()
            except Exception as error:  # noqa: BLE001 (PEP 249 gives the drivers no common class)
                self._roll_back(connection)
                # Another shard may have been quicker.
                refusal: Exception | None = error
            else:
                refusal = None
        columns = self._columns(connection)
        if columns is None:
            with driver_errors(f"Creating {self._title}", meaning="Nothing was sent."):
                raise refusal or RuntimeError("it is not there afterwards")
        return columns or []

    def _rehearse(self, connection: Any) -> None:
        try:
            again_after_conflicts(lambda: self._try_writing(connection))
        except Exception as error:
            said = described(error, values=False)
            if is_transient(error):
                raise SegmindBulkError(
                    f"Trying {self._title} failed: {said}. Nothing was sent.", retryable=True
                ) from error
            raise SegmindConfigError(
                f"{self._title} cannot be written by key: {said}. Nothing was sent. It needs a primary key or a unique "
                f"constraint on {', '.join(self._statements.key)}."
            ) from error

    def _try_writing(self, connection: Any) -> None:
        with contextlib.closing(connection.cursor()) as cursor:
            try:
                cursor.execute(self._statements.rehearse())
            finally:
                self._roll_back(connection)

    def _roll_back(self, connection: Any) -> None:
        # Drivers that commit by themselves have nothing to roll back, and some say so.
        with contextlib.suppress(Exception):
            connection.rollback()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        with driver_errors(f"Opening {self._title}", meaning="Nothing was sent for it."):
            connection = self._connect()
        try:
            yield connection
        finally:
            with contextlib.suppress(Exception):
                connection.close()


def _key_kind(column: Column) -> Kind | None:
    """Return what a key must be written as: a text where the column takes texts only, else as it is."""
    is_text = column.kind is Kind.TEXT
    if column.loose:
        is_text = any(word in column.type.upper() for word in ("CHAR", "CLOB", "TEXT")) and "INT" not in column.type
    return Kind.TEXT if is_text else None


def key_mark(key: Mapping[str, Any]) -> bytes:
    """Return 32 bytes that are the same for the same key, whichever database its values came from."""
    return digest([compared(value) for value in key.values()])
