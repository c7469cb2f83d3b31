"""A table in a database: the rows of a query, and a table of answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.arguments import properties_of
from airflow_provider_segmind.defaults import ANSWER_COLUMN
from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.files.writers import check_apart, check_writable
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.output import FINGERPRINT_COLUMN, OutputRow, write_output
from airflow_provider_segmind.enrichment.sql.answer_table import AnsweredRows, Target
from airflow_provider_segmind.enrichment.sql.column_types import Kind, kind_of_schema
from airflow_provider_segmind.enrichment.sql.dialects import TableName, dialect_of, quotation_mark, quoted
from airflow_provider_segmind.enrichment.sql.query import Query
from airflow_provider_segmind.enrichment.sql.table_writer import TableWriter
from airflow_provider_segmind.enrichment.storage import StorePath
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindEnrichmentError
from airflow_provider_segmind.execution.file_table import ForEachRow, beside, locate_named, path_of_part

if TYPE_CHECKING:
    from airflow_provider_segmind.chat.output_type import OutputType
    from airflow_provider_segmind.enrichment.settings import KeyedTarget, Question, Shard


TYPED_ROWS = 1000
"""Rows from which the types of a new table's key columns are inferred."""
REPORTS_FOLDER = "reports"
SAMPLE_ENDING = "_sample"


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlTableSettings:
    """The arguments of :class:`~airflow_provider_segmind.operators.enrich.SegmindEnrichSqlOperator`, rendered."""

    sql_conn_id: str
    target_conn_id: str
    sql: str | None
    source_table: str | None
    target_table: str
    ledger_path: Any
    report_path: Any
    output_type: OutputType | None
    incremental: bool
    batch_rows: int
    shard: Shard
    sample: int | None


class SqlTableIO:
    """
    The rows of a query, and a table of answers.

    :param question: what is asked of each row.
    """

    def __init__(self, settings: SqlTableSettings, question: Question, *, log: Any) -> None:
        self._settings = settings
        self._log = log
        self.ledger = locate_named("ledger_path", settings.ledger_path)
        name = TableName.parse(settings.target_table, "target_table")
        if settings.sample is not None:
            name = name.beside(SAMPLE_ENDING)
        hook = database_hook(settings.target_conn_id, "target_conn_id")
        self._target_uri = f"{settings.target_conn_id}:{name}"
        self._reports = self._report_paths(name)
        self._dead_letters = beside(self._reports, "dead_letters", ending=".jsonl")
        self._target = Target(
            hook.get_conn,
            dialect=dialect_of(hook.conn_type),
            name=name,
            place=settings.target_conn_id,
            key=question.key,
            answers=answer_kinds(settings.output_type),
            batch_rows=settings.batch_rows,
        )
        self._source_hook = database_hook(settings.sql_conn_id, "sql_conn_id")
        self._sql = self._select()
        self._answered = AnsweredRows()
        self._source = self._query(self._sql)
        self._counted: int | None = None
        self._check_refused: Callable[[], None] = _none_refused

    @property
    def address(self) -> str:
        """The manifest, since a table has no URI."""
        return str(self.manifest_path)

    @property
    def manifest_path(self) -> StorePath:
        """Among the reports."""
        return beside(self._reports, "manifest", ending=".json")

    def total(self) -> int | None:
        """Let the database count a table; counting a query would run it twice."""
        if self._counted is None and self._settings.sql is None:
            self._counted = self._count_rows()
        return self._counted

    def prepare(self, *, dry: bool) -> KeyedTarget:
        """
        Create the target if it is absent, check it, and read the answers in it.

        :param dry: create nothing.
        """
        check_apart((), self.ledger, ())
        argument = "report_path" if self._settings.report_path else "ledger_path"
        check_writable(argument, (self._dead_letters, self.manifest_path), dry=dry)
        exists = self._target.prepare(None if dry else self._first_rows)
        if exists and self._settings.incremental and self._settings.sample is None:
            self._answered = AnsweredRows(self._target.answered_rows(), self._target.mark)
        elif exists:
            self._answered = AnsweredRows(mark=self._target.mark)
        elif not dry:
            self._log.info("The source is empty, so %s is not created yet", self._target_uri)
        # From here, because only the main thread of a task may ask Airflow for a connection on every version.
        self._source.open()
        if self._settings.sample is not None and not dry:
            # Before anything is paid, since the estimate from a sample needs it and it may fail.
            self._counted = self._count_rows()
        return self._answered

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Return the rows of the query."""
        return iter(self._source)

    def count(self, rows_read: int) -> int:
        """Return the database's count from before the first request."""
        return max(rows_read, self._count_rows() if self._counted is None else self._counted)

    def _count_rows(self) -> int:
        """
        Let the database count; where it does not accept the query as a subquery, read it to its end.

        SQL Server, for one, rejects ORDER BY there.
        """
        # On a separate line, since the query may end with a comment; without AS, which not every database accepts here.
        counting = self._query(f"SELECT COUNT(*) FROM (\n{self._source.sql}\n) counted", hold=False)  # noqa: S608
        try:
            return sum(int(next(iter(row.values()))) for row in counting)
        except SegmindEnrichmentError as error:
            if error.retryable and self._settings.sql is None:
                raise
            return sum(1 for _ in self._query(self._sql, hold=False))
        finally:
            counting.close()

    def store(self, engine: Engine, each: ForEachRow | None) -> Manifest:
        """Write the rows into the target, and the dead letters and the manifest into files."""
        # SQLite cannot write while a query is open.
        self._source.close()
        with self._target.writing() as writer:
            manifest = write_output(
                engine,
                dead_letters=self._dead_letters,
                each=each,
                keyed=_KeyedRows(writer, lambda values, row: self._priced(values, row, engine.ledger.run)),
                misfit=self._target.misfit,
            )
        manifest.columns, manifest.outputs = list(self._target.columns), [self._target_uri]
        manifest.write(self.manifest_path)
        self._check_refused = writer.check_refused
        return manifest

    def check_refused(self) -> None:
        """Raise if the table refused rows."""
        self._check_refused()

    def close(self) -> None:
        """Close the query."""
        self._source.close()

    def _priced(self, values: Mapping[str, Any], row: OutputRow, run: str) -> dict[str, Any]:
        """Add the fingerprint; an answer that was billed for another row of the table costs nothing."""
        fingerprint = row.source.fingerprint or b""
        priced = {**values, FINGERPRINT_COLUMN: fingerprint.hex()}
        if row.event is not None and row.event.run != run and self._answered.has_fingerprint(fingerprint):
            priced["_segmind_cost"], priced["_segmind_tokens"] = 0.0, 0
        return priced

    def _first_rows(self) -> Iterator[Mapping[str, Any]]:
        peek = self._query(self._sql, hold=False)
        try:
            yield from islice(peek, TYPED_ROWS)
        finally:
            peek.close()

    def _query(self, sql: str, *, hold: bool = True) -> Query:
        return Query(
            self._source_hook.get_conn,
            sql,
            name=f"the source at {self._settings.sql_conn_id!r}",
            hold=hold,
            conn_type=self._source_hook.conn_type,
        )

    def _select(self) -> str:
        if self._settings.sql is not None:
            return self._settings.sql
        name = TableName.parse(str(self._settings.source_table), "source_table")
        mark = quotation_mark(self._source_hook.conn_type)
        return f"SELECT * FROM {'.'.join(quoted(part, mark) for part in name.parts)}"  # noqa: S608 (all is quoted)

    def _report_paths(self, name: TableName) -> StorePath:
        settings = self._settings
        folder = settings.report_path
        reports = locate_named("report_path", folder) if folder else self.ledger / REPORTS_FOLDER
        file_name = re.sub(r"[^\w.\-]+", "_", str(name)) + ".jsonl"
        return path_of_part(reports / file_name, settings.shard, settings.sample)


def _none_refused() -> None:
    """Do nothing: no row has been written yet."""


@dataclass(frozen=True, slots=True)
class _KeyedRows:
    """The table as an output that may refuse rows."""

    writer: TableWriter[OutputRow]
    priced: Callable[[Mapping[str, Any], OutputRow], Mapping[str, Any]]

    def put(self, values: Mapping[str, Any], row: OutputRow) -> list[tuple[OutputRow, str]]:
        """Write a row that could be asked about; others have no place in the table."""
        return self.writer.put(None if row.source.fingerprint is None else self.priced(values, row), row)

    def flush(self) -> list[tuple[OutputRow, str]]:
        """Write the rows waiting for their batch."""
        return self.writer.flush()


def database_hook(conn_id: str, field: str) -> Any:
    """
    Return the hook of a database.

    :param field: the argument that an error names.
    :raises SegmindConfigError: it is not a database.
    """
    from airflow_provider_segmind.compat import AirflowException, BaseHook

    try:
        from airflow_provider_segmind.compat import DbApiHook
    except ImportError as error:
        raise SegmindConfigError(
            "Tables of a database need apache-airflow-providers-common-sql: install airflow-provider-segmind[sql]. "
            "Nothing was sent."
        ) from error
    connection: Any = BaseHook.get_connection(conn_id)
    try:
        hook = connection.get_hook(hook_params=connection.extra_dejson)
    except AirflowException as error:
        raise SegmindConfigError(
            f"{field!r} names {conn_id!r}, a connection of type {connection.conn_type!r}, which no installed provider "
            "supports. Install the provider of that database. Nothing was sent."
        ) from error
    if not isinstance(hook, DbApiHook):
        raise SegmindConfigError(
            f"{field!r} names {conn_id!r}, a connection of type {connection.conn_type!r}, which is not a database "
            f"({type(hook).__name__} is not a DbApiHook). Nothing was sent."
        )
    return hook


def answer_kinds(output_type: OutputType | None) -> dict[str, Kind]:
    """Return the kind of each answer column."""
    if output_type is None:
        return {ANSWER_COLUMN: Kind.TEXT}
    properties = properties_of(output_type) or {ANSWER_COLUMN: output_type.schema}
    return {name: kind_of_schema(node, output_type.schema) for name, node in properties.items()}
