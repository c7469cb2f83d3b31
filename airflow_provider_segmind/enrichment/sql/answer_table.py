"""A table of answers: created if missing, checked before anything is paid, and written by key."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, Literal, TypeVar

from airflow_provider_segmind.client.submission import text_digest
from airflow_provider_segmind.enrichment.local_database import LocalDatabase
from airflow_provider_segmind.enrichment.rows import canonical_json
from airflow_provider_segmind.enrichment.sql.column_types import (
    Kind,
    MisfitError,
    cell,
    compared,
    key_cell,
    kind_of_values,
)
from airflow_provider_segmind.enrichment.sql.dialects import (
    Dialect,
    TableName,
    again_after_conflicts,
    described,
    driver_errors,
    is_transient,
    may_be_a_row,
)
from airflow_provider_segmind.enrichment.sql.key_forms import KeyForm, key_form
from airflow_provider_segmind.enrichment.sql.query import Query
from airflow_provider_segmind.enrichment.sql.statements import OWN_COLUMNS, Statements
from airflow_provider_segmind.enrichment.sql.table_schema import Column, deferrable_key, read_columns
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindEnrichmentError, shorten
from airflow_provider_segmind.wording import counted

_NUMBERS = frozenset({Kind.INTEGER, Kind.NUMBER, Kind.DECIMAL})
_MOMENTS = frozenset({Kind.MOMENT, Kind.LOCAL})
_HOLDS: Mapping[Kind, frozenset[Kind]] = {
    Kind.TEXT: frozenset({Kind.TEXT}),
    Kind.INTEGER: frozenset({Kind.TEXT, *_NUMBERS}),
    # An integer column would round it silently.
    Kind.NUMBER: frozenset({Kind.TEXT, Kind.NUMBER, Kind.DECIMAL}),
    Kind.BOOLEAN: frozenset({Kind.TEXT, Kind.BOOLEAN}),
    Kind.DATE: frozenset({Kind.TEXT, Kind.DATE, *_MOMENTS}),
    Kind.MOMENT: frozenset({Kind.TEXT, *_MOMENTS}),
}
"""The kinds of columns that store the answers of a kind without loss."""
_ALWAYS_EMPTY = "_segmind_error"
"""The column that is NULL in a row with an answer."""


def check_names(statements: Statements, title: str) -> None:
    """Check that the database accepts all names unchanged, and distinguishes them."""
    for part in statements.name.parts:
        if trouble := _name_trouble(statements, part):
            raise SegmindConfigError(
                f"The name {shorten(part)!r} of {title} {trouble}, so it could refer to another table. Nothing was "
                "sent. Use another name."
            )
    met = {statements.dialect.fold(name): name for name in OWN_COLUMNS}
    for role, name in (*(("key", name) for name in statements.key), *(("answer", name) for name in statements.answers)):
        advice = f"Nothing was sent. Rename it in the {'query, with AS' if role == 'key' else 'output type'}."
        if trouble := _name_trouble(statements, name) or _reserved(statements, name):
            raise SegmindConfigError(f"The {role} column {name!r} of {title} {trouble}. {advice}")
        folded = statements.dialect.fold(name)
        if folded in met:
            raise SegmindConfigError(
                f"The columns {met[folded]!r} and {name!r} of {title} have the same name in {statements.dialect.name}. "
                f"{advice}"
            )
        met[folded] = name


def _name_trouble(statements: Statements, name: str) -> str | None:
    """Return why a database would not accept a name unchanged, None if it would."""
    dialect = statements.dialect
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError:
        return "cannot be encoded as UTF-8"
    if not name or "\x00" in name:
        return "is empty or contains a NUL character"
    length = len(encoded) if dialect.longest_in_bytes else len(name)
    if dialect.longest is not None and length > dialect.longest:
        unit = "bytes" if dialect.longest_in_bytes else "characters"
        return f"has {length} {unit}, but {dialect.name} keeps only {dialect.longest}"
    return None


def _reserved(statements: Statements, name: str) -> str | None:
    return f"has a name that is reserved in {statements.dialect.name}" if name in statements.dialect.reserved else None


def check_present(statements: Statements, columns: Collection[str], title: str) -> None:
    """Check that the table has all columns that are written."""
    fold = statements.dialect.fold
    there = set(map(fold, columns))
    missing = [name for name in statements.columns if fold(name) not in there]
    if not missing:
        return
    by_case = {name.lower(): name for name in columns}
    similar = [f"{by_case[name.lower()]!r}" for name in missing if name.lower() in by_case]
    hint = f" Names are case-sensitive: it has {', '.join(similar)}." if similar else ""
    raise SegmindConfigError(
        f"{title} has no column {', '.join(map(repr, missing))}.{hint} Nothing was sent. Add what is missing: "
        f"{'; '.join(map(statements.add, missing))}"
    )


def check_columns(statements: Statements, columns: Mapping[str, Column], title: str) -> None:
    """
    Check the constraints and types of a table's columns.

    :param columns: by their names as the database compares them.
    """
    found = list(_troubles(statements, columns))
    if found:
        raise SegmindConfigError(f"{title} cannot store the answers: {'; '.join(found)}. Nothing was sent.")


def _troubles(statements: Statements, columns: Mapping[str, Column]) -> Iterator[str]:
    kinds: dict[str, Kind | None] = {**statements.key, **statements.answers, **OWN_COLUMNS}
    ours = {statements.dialect.fold(name): kind for name, kind in kinds.items()}
    for folded, column in columns.items():
        if folded not in ours:
            if column.required:
                yield (
                    f"its column {column.name!r} is NOT NULL without a default, and this task writes nothing into it: "
                    "give it a default, or drop NOT NULL"
                )
        elif column.generated:
            yield f"its column {column.name!r} is generated by the database, which accepts no value for it"
        elif folded == _ALWAYS_EMPTY and not column.nullable:
            yield f"its column {column.name!r} is NOT NULL, and a row with an answer has none: drop NOT NULL"
        elif folded not in map(statements.dialect.fold, statements.key):
            yield from _type_trouble(statements, column, ours[folded])


def _type_trouble(statements: Statements, column: Column, kind: Kind | None) -> Iterator[str]:
    holds = column.kind
    if kind is None or holds is None or holds in _HOLDS[kind]:
        return
    if kind is Kind.BOOLEAN and holds in _NUMBERS and statements.dialect.name != "PostgreSQL":
        return
    needed = statements.dialect.types[kind]
    yield f"its column {column.name!r} is of type {column.type}, but answers of type {kind} need {needed}"


class Target:
    """
    One table of answers.

    :param connect: opens a connection of PEP 249.
    :param place: the database's name in messages.
    :param required: answer columns that have a value in every answer.
    :param batch_rows: rows in a transaction.
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
        required: Collection[str] = (),
    ) -> None:
        self._connect = connect
        self.title = f"the table {str(name)!r} of {place!r}"
        """Its name in messages."""
        self._batch_rows = batch_rows
        self._statements = Statements(
            dialect=dialect, name=name, key=dict.fromkeys(key), answers=answers, required=required
        )
        self._forms: Mapping[str, KeyForm] = {}

    @property
    def merges(self) -> bool:
        """Whether rows are written by MERGE, for which a warehouse bills what it reads of the table."""
        return self._statements.dialect.merge

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are written."""
        return self._statements.columns

    def prepare(self, first_rows: Callable[[], Iterable[Mapping[str, Any]]] | None) -> bool:
        """
        Create the table if it is missing, and test without a row whether rows can be written. Blocks.

        :param first_rows: returns some rows of the source, whose keys determine the column types; None to create
            nothing.
        :returns: whether the table exists. It is not created for an empty source, which has no types.
        :raises SegmindConfigError: the table lacks columns, or a key to write by; names them. Nothing was sent.
        :raises SegmindEnrichmentError: the database failed.
        """
        check_names(self._statements, self.title)
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
            check_present(self._statements, columns, self.title)
            self._learn(connection)
            self._rehearse(connection)
            return True

    def mark(self, key: Mapping[str, Any]) -> bytes:
        """
        Return 32 bytes that are the same for all keys that the table treats as equal.

        :raises MisfitError: the table would change the key, or it may equal others; names the column.
        """
        marks: list[str | None] = []
        for name, value in key.items():
            form = self._forms.get(name, compared)
            try:
                marks.append(None if value is None else form(value))
            except MisfitError as error:
                raise MisfitError(f"its key {name!r} does not fit the column of the table: {error}") from None
        return text_digest(canonical_json(marks))

    def _learn(self, connection: Any) -> None:
        """
        Read the table's columns, and check that they can store what is written.

        :raises SegmindConfigError: they cannot; names the columns. Nothing was sent.
        """
        dialect, name = self._statements.dialect, self._statements.name
        columns = read_columns(connection, dialect, name)
        self._roll_back(connection)
        if columns is None:
            return
        found = {dialect.fold(each): column for each, column in columns.items()}
        check_columns(self._statements, found, self.title)
        keys = {each: found[dialect.fold(each)] for each in self._statements.key if dialect.fold(each) in found}
        self._forms = {each: key_form(column, texts=dialect.texts, title=self.title) for each, column in keys.items()}
        self._set_key_kinds({each: _key_kind(column) for each, column in keys.items()})

    def _set_key_kinds(self, kinds: Mapping[str, Kind | None]) -> None:
        self._statements = replace(self._statements, key={**self._statements.key, **kinds})

    def answered_rows(self) -> Iterator[tuple[bytes, str]]:
        """Yield the mark of the key (see :meth:`mark`) and the fingerprint of every row that has its answer."""
        key = list(self._statements.key)
        query = Query(self._connect, self._statements.select_answered(), name=self.title, hold=False)
        for row in query:
            *values, fingerprint = row.values()
            # A stored value is valid for its column; a value written by other means may not be distinguishable.
            with contextlib.suppress(MisfitError):
                yield self.mark(dict(zip(key, values, strict=True))), fingerprint

    def misfit(self, answer: Mapping[str, Any]) -> str | None:
        """Return why an answer does not fit the columns, None if it does."""
        for name, kind in self._statements.answers.items():
            try:
                cell(kind, answer.get(name))
            except MisfitError as error:
                return f"the answer is in the ledger, but its {name!r} does not fit: {error}"
        return None

    @contextlib.contextmanager
    def writing(self) -> Iterator[TableWriter[Any]]:
        """
        Return the writer of the table's rows.

        :raises SegmindEnrichmentError: the database cannot be opened.
        """
        with self._opened(meaning=KEPT, retryable=True) as connection:
            yield TableWriter(connection, statements=self._statements, title=self.title, batch_rows=self._batch_rows)

    def _columns(self, connection: Any) -> list[str] | None:
        with contextlib.closing(connection.cursor()) as cursor:
            try:
                cursor.execute(self._statements.select_columns())
                return [str(column[0]) for column in cursor.description]
            except Exception:  # noqa: BLE001 (PEP 249 gives the drivers no common class); creating it shows the error
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
                # Another shard may have created it first.
                refusal: Exception | None = error
            else:
                refusal = None
        columns = self._columns(connection)
        if columns is None:
            with driver_errors(f"Creating {self.title}", meaning="Nothing was sent."):
                raise refusal or RuntimeError("the table does not exist after it was created")
        return columns or []

    def _rehearse(self, connection: Any) -> None:
        try:
            again_after_conflicts(lambda: self._try_writing(connection))
        except Exception as error:
            said = described(error, values=False)
            if is_transient(error):
                raise SegmindEnrichmentError(
                    f"Testing {self.title} failed: {said}. Nothing was sent.", retryable=True
                ) from error
            raise SegmindConfigError(
                f"{self.title} cannot be written by key: {said}. Nothing was sent. It needs a primary key or a unique "
                f"constraint on {', '.join(self._statements.key)}."
            ) from error
        statements = self._statements
        try:
            deferrable = deferrable_key(connection, statements.dialect, statements.name, statements.key)
        finally:
            self._roll_back(connection)
        if deferrable is not None:
            raise SegmindConfigError(
                f"{self.title} cannot be written by key: its constraint {deferrable!r} is DEFERRABLE. Nothing was "
                f"sent. It needs one on {', '.join(statements.key)} that is not."
            )

    def _try_writing(self, connection: Any) -> None:
        with contextlib.closing(connection.cursor()) as cursor:
            try:
                cursor.execute(self._statements.rehearse())
            finally:
                self._roll_back(connection)

    def _roll_back(self, connection: Any) -> None:
        # Drivers that commit automatically have nothing to roll back, and some raise an error.
        with contextlib.suppress(Exception):
            connection.rollback()

    @contextlib.contextmanager
    def _opened(self, *, meaning: str = "Nothing was sent.", retryable: bool | None = None) -> Iterator[Any]:
        with driver_errors(f"Opening {self.title}", meaning=meaning, retryable=retryable):
            connection = self._connect()
        try:
            yield connection
        finally:
            with contextlib.suppress(Exception):
                connection.close()


def _key_kind(column: Column) -> Kind | None:
    """Return the form of a key in a statement: a string if the driver accepts only strings, else unchanged."""
    is_text = column.kind is Kind.TEXT
    if column.loose:
        is_text = any(word in column.type.upper() for word in ("CHAR", "CLOB", "TEXT")) and "INT" not in column.type
    return Kind.TEXT if is_text else None


def key_mark(key: Mapping[str, Any]) -> bytes:
    """Return 32 bytes that are the same for the same key from any database."""
    return text_digest(canonical_json([compared(value) for value in key.values()]))


_LOAD_ROWS = 1000


class AnsweredRows:
    """
    The keys and fingerprints that a table has answers for, and the keys seen in the source, in a temporary database.

    :param answered: the mark of the key and the hex fingerprint of every row that has its answer.
    :param mark: returns the mark of a key, the same for all keys that the table considers equal; it raises MisfitError
        for a key that cannot be distinguished from others there.
    """

    def __init__(
        self, answered: Iterable[tuple[bytes, str]] = (), mark: Callable[[Mapping[str, Any]], bytes] = key_mark
    ) -> None:
        self._mark = mark
        self._local = LocalDatabase(
            "CREATE TABLE answered (key BLOB, fingerprint BLOB, PRIMARY KEY (key, fingerprint)) WITHOUT ROWID; "
            "CREATE INDEX by_fingerprint ON answered (fingerprint); "
            "CREATE TABLE seen (key BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID"
        )
        rows = ((key, fingerprint) for key, text in answered if (fingerprint := _fingerprint(text)))
        while batch := list(itertools.islice(rows, _LOAD_ROWS)):
            self._local.write(("INSERT OR IGNORE INTO answered VALUES (?, ?)", batch))

    def trouble(self, key: Mapping[str, Any], number: int) -> str | None:
        """
        Return why a row with this key cannot be written to the table, None when it can, and remember the key.

        :param number: the row's, from 0.
        """
        empty = [name for name, value in key.items() if value is None]
        if empty:
            return f"its key column {empty[0]!r} is NULL"
        try:
            mark = self._mark(key)
        except MisfitError as error:
            return str(error)
        if self._local.change("INSERT OR IGNORE INTO seen VALUES (?, ?)", mark, number):
            return None
        (earlier,) = self._local.first("SELECT number FROM seen WHERE key = ?", mark)
        where = f"an earlier row of the source has the same key (row {earlier}, counted from 0)"
        return where if self._mark is key_mark else f"{where}, as the table compares keys"

    def has_answer(self, key: Mapping[str, Any], fingerprint: bytes) -> bool:
        """Return whether the table has the answer to exactly this question under this key."""
        query = "SELECT 1 FROM answered WHERE key = ? AND fingerprint = ?"
        return self._local.first(query, self._mark(key), fingerprint) is not None

    def has_fingerprint(self, fingerprint: bytes) -> bool:
        """Return whether the table had the answer to this question, under any key, before the run."""
        return self._local.first("SELECT 1 FROM answered WHERE fingerprint = ?", fingerprint) is not None


def _fingerprint(text: str | None) -> bytes:
    """Return the fingerprint in a column, empty when the column contains something else."""
    try:
        return bytes.fromhex(text or "")
    except (ValueError, TypeError):
        # SQLite may have anything in any column.
        return b""


KEPT = "The answers are in the ledger: a retry writes them and pays nothing again."
MOST_IN_VAIN = 1000
"""Consecutive refused rows after which the rows of a refused batch are no longer tried one by one."""
_Tag = TypeVar("_Tag")


class TableWriter(Generic[_Tag]):
    """
    Writes rows by key, and reports for each whether the database accepted it.

    Not for use by several threads. Written rows stay, even after a later error.

    :param connection: a connection of PEP 249.
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
                f"{self._title} refused {counted(self.rows_refused, 'row')} ({self._refusal}); the others were "
                "written. The dead letters list the refused rows. Their answers are in the ledger: change the table so "
                "that it accepts them and clear the task; nothing is paid for again."
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
