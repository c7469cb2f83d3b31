"""A table in a database: the rows of a query, and a table of answers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.arguments import properties_of
from airflow_provider_segmind.chat.json_schema import dereferenced
from airflow_provider_segmind.defaults import ANSWER_COLUMN
from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.files.writers import check_apart, check_writable
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.output import FINGERPRINT_COLUMN, Output, OutputRow, write_output
from airflow_provider_segmind.enrichment.report.history import earlier_runs
from airflow_provider_segmind.enrichment.sql.answer_table import AnsweredRows, TableWriter, Target
from airflow_provider_segmind.enrichment.sql.batch_loader import BatchLoader
from airflow_provider_segmind.enrichment.sql.column_types import Kind, kind_of_schema
from airflow_provider_segmind.enrichment.sql.dialects import TableName, dialect_of, quotation_mark, quoted
from airflow_provider_segmind.enrichment.sql.query import Query
from airflow_provider_segmind.enrichment.storage import StorePath
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from airflow_provider_segmind.execution.file_table import ForEachRow, TableIO, beside, locate_named, path_of_part
from airflow_provider_segmind.stores import database_hook

if TYPE_CHECKING:
    from airflow_provider_segmind.chat.output_type import OutputType
    from airflow_provider_segmind.enrichment.question import Question
    from airflow_provider_segmind.enrichment.settings import KeyedTarget, Shard


TYPED_ROWS = 1000
"""Rows from which the types of a new table's key columns are inferred."""
REPORTS_FOLDER = "reports"
SAMPLE_ENDING = "_sample"


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlTableSettings:
    """The arguments of :class:`~airflow_provider_segmind.operators.enrich.SegmindEnrichSqlOperator`, rendered."""

    sql_conn_id: str
    target_conn_id: str
    sql: str
    target_table: str
    ledger_path: Any
    output_type: OutputType | None
    incremental: bool
    batch_rows: int
    shard: Shard
    sample: int | None


class SqlTableIO(TableIO):
    """
    The rows of a query, and a table of answers.

    :param question: what is sent for each row.
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
            required=_required(settings.output_type),
            batch_rows=settings.batch_rows,
        )
        self._source_table = TableName.of_source(settings.sql)
        self._source_hook = database_hook(settings.sql_conn_id, "sql_conn_id")
        self._sql = self._select()
        self._answered = self._written_before = AnsweredRows()
        self._loader: BatchLoader | None = None
        self._source = self._query(self._sql)
        self._counted: int | None = None
        self._check_refused: Callable[[], None] = lambda: None

    @property
    def source(self) -> str:
        """The table with its Connection, or a note that it is a query."""
        place = self._settings.sql_conn_id
        return f"a query at {place}" if self._source_table is None else f"{place}:{self._source_table}"

    @property
    def target(self) -> str:
        """The table with its Connection."""
        return self._target_uri

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
        if self._counted is None and self._source_table is not None:
            self._counted = self._count_rows()
        return self._counted

    def prepare(self, *, dry: bool) -> KeyedTarget:
        """
        Create the target if it is absent, check it, and read the answers in it.

        :param dry: create nothing.
        """
        check_apart((), self.ledger, ())
        check_writable("ledger_path", (self._dead_letters, self.manifest_path), dry=dry)
        exists = self._target.prepare(None if dry else self._first_rows)
        if exists:
            there = AnsweredRows(self._target.answered_rows(), self._target.mark)
            incremental = self._settings.incremental and self._settings.sample is None
            self._written_before = there
            self._answered = there if incremental else AnsweredRows(mark=self._target.mark)
        elif not dry:
            self._log.info("The source is empty, so %s is not created yet", self._target_uri)
        # Here, because on some versions only the main thread of a task may ask Airflow for a connection.
        self._source.open()
        if self._settings.sample is not None and not dry:
            # Before anything is paid, since the estimate from a sample needs it and it may fail.
            self._counted = self._count_rows()
        return self._answered

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Return the rows of the query."""
        return iter(self._source)

    def count(self, rows_read: int) -> int:
        """Return the number of rows that the database counted before the first request."""
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
            # A subquery may be refused with an error that looks retryable; a table is not refused.
            if error.retryable and self._source_table is not None:
                raise
            return sum(1 for _ in self._query(self._sql, hold=False))
        finally:
            counting.close()

    def load(self, engine: Engine) -> SegmindEnrichmentError | None:
        """
        Write rows that have their outcome, in batches; not where writing them once more at the end would be billed as
        well.
        """
        return None if self._target.merges else self._loading(engine).load_if_due()

    def flush(self, engine: Engine) -> None:
        """Write the rows that have their outcome."""
        if not self._target.merges:
            self._loading(engine).flush()

    def _loading(self, engine: Engine) -> BatchLoader:
        if self._loader is None:
            output = Output(engine, self._target.misfit)
            self._loader = BatchLoader(
                self._target,
                engine,
                output,
                batch_rows=self._settings.batch_rows,
                columns=lambda row: self._priced(output.values(row), row, engine.ledger.run),
                has_answer=self._written_before.has_answer,
            )
        return self._loader

    def store(self, engine: Engine, each: ForEachRow | None) -> Manifest:
        """Write the rows into the target, and the dead letters and the manifest into files."""
        if self._loader is not None:
            self._loader.close()
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
        manifest.source, manifest.earlier = self.source, earlier_runs(self.manifest_path, run_id=manifest.run_id)
        manifest.write(self.manifest_path)
        self._check_refused = writer.check_refused
        return manifest

    def check_refused(self) -> None:
        """Raise if the table refused rows."""
        self._check_refused()

    def close(self) -> None:
        """Close the query, and begin no other transaction."""
        self._source.close()
        if self._loader is not None:
            # It no longer matters whether a transaction under way ends.
            with contextlib.suppress(SegmindEnrichmentError):
                self._loader.close()

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
        if self._source_table is None:
            return self._settings.sql
        mark = quotation_mark(self._source_hook.conn_type)
        return f"SELECT * FROM {'.'.join(quoted(part, mark) for part in self._source_table.parts)}"  # noqa: S608 (all is quoted)

    def _report_paths(self, name: TableName) -> StorePath:
        settings = self._settings
        names = (settings.target_conn_id, f"{'.'.join(name.parts)}.jsonl")
        folder, file_name = (re.sub(r"[^\w.\-]+", "_", each) for each in names)
        return path_of_part(self.ledger / REPORTS_FOLDER / folder / file_name, settings.shard, settings.sample)


@dataclass(frozen=True, slots=True)
class _KeyedRows:
    """The table as an output that may refuse rows."""

    writer: TableWriter[OutputRow]
    priced: Callable[[Mapping[str, Any], OutputRow], Mapping[str, Any]]

    def put(self, values: Mapping[str, Any], row: OutputRow) -> list[tuple[OutputRow, str]]:
        """Write a row that could be sent; others have no row in the table."""
        return self.writer.put(None if row.source.fingerprint is None else self.priced(values, row), row)

    def flush(self) -> list[tuple[OutputRow, str]]:
        """Write the rows waiting for their batch."""
        return self.writer.flush()


def answer_kinds(output_type: OutputType | None) -> dict[str, Kind]:
    """Return the kind of each answer column."""
    if output_type is None:
        return {ANSWER_COLUMN: Kind.TEXT}
    properties = properties_of(output_type) or {ANSWER_COLUMN: output_type.schema}
    return {name: kind_of_schema(node, output_type.schema) for name, node in properties.items()}


def _required(output_type: OutputType | None) -> frozenset[str]:
    """Return the answer columns that have a value in every answer: a NULL in them was not written by a task."""
    if output_type is None:
        return frozenset({ANSWER_COLUMN})
    if output_type.adapter is not None:
        # A validator may replace any value by None.
        return frozenset()
    required = dereferenced(output_type.schema).get("required", ())
    return frozenset(
        name
        for name, node in properties_of(output_type).items()
        if name in required and isinstance(node, Mapping) and "null" not in node.get("type", "null")
    )
