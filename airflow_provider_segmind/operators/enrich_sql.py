"""Ask a model one question about every row of a query, and pay once for each distinct row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_segmind.arguments import check_flag, check_path, is_given_later
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.operators import tables
from airflow_provider_segmind.operators.enrich_rows import SegmindEnrichOperator

if TYPE_CHECKING:
    from airflow_provider_segmind.bulk.plan import Question
    from airflow_provider_segmind.operators.ends import Ends

BATCH_ROWS = 1000
OWN_PREFIX = "_segmind_"


class SegmindEnrichSqlOperator(SegmindEnrichOperator):
    """
    Ask a model about every row of a query, and write the typed answers into a table, by key.

    What is asked, what it may cost, what a retry and a kill do: see
    :class:`~airflow_provider_segmind.operators.enrich_rows.SegmindEnrichOperator`, whose arguments it takes as well.

    The source may be any database with a ``DbApiHook``; the target PostgreSQL, SQLite, DuckDB, Snowflake or BigQuery. A
    target that is absent is created: key columns as the source has them, answer columns as ``output_type`` says, and
    ``_segmind_`` columns; one that is there is checked before anything is paid. Loading twice changes nothing. A
    failure is written with its reason, and over a good answer only when that answered another question.

    A row whose key is NULL, or stands in an earlier row too, is ``skipped`` and listed with the reason.

    **Templated** besides: ``sql`` (also from a file ``.sql``), ``source_table``, ``target_table``, ``sql_conn_id``,
    ``target_conn_id``, ``report_path``.

    :param sql: a SELECT; or
    :param source_table: a table to read whole. Names are taken as they are written, upper and lower case included.
    :param key: the columns that name a row.
    :param target_table: where the answers go, as ``table`` or ``schema.table``.
    :param ledger_path: folder of the ledger. Runs that share it share answers, so keep it the same every day.
    :param report_path: folder of the dead letters and the manifest; ``reports`` in the ledger's when None.
    :param incremental: leave out the rows whose answer to just this question the target holds: they cost no request and
        no write. Otherwise every row is written, from the ledger where that knows the answer.
    :param batch_rows: rows a transaction holds.
    :param sql_conn_id: the source's Connection.
    :param target_conn_id: the target's; the source's when None.
    :raises AirflowFailException: where a retry cannot help; what was answered is written by then.
    """

    template_fields: Sequence[str] = (
        *("sql", "source_table", "target_table", "sql_conn_id", "target_conn_id"),
        *SegmindEnrichOperator.template_fields,
        "report_path",
    )
    template_ext: Sequence[str] = (".sql",)
    late_fields: ClassVar[Sequence[str]] = (*SegmindEnrichOperator.late_fields, "incremental", "batch_rows")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **SegmindEnrichOperator.template_fields_renderers,
        "sql": "sql",
    }

    def __init__(
        self,
        *,
        sql_conn_id: str,
        key: str | Sequence[str],
        target_table: str,
        ledger_path: str | os.PathLike[str],
        sql: str | None = None,
        source_table: str | None = None,
        target_conn_id: str | None = None,
        report_path: str | os.PathLike[str] | None = None,
        incremental: bool = True,
        batch_rows: int = BATCH_ROWS,
        **kwargs: Any,
    ) -> None:
        super().__init__(key=key, ledger_path=ledger_path, **kwargs)
        _check_places(sql, source_table, target_table)
        _check_own_columns(key)
        same_place = target_conn_id is None or target_conn_id == sql_conn_id
        if same_place and isinstance(source_table, str) and source_table == target_table:
            raise SegmindConfigError("'target_table' is the source itself: answers go into a table of their own.")
        for name, value in (("sql_conn_id", sql_conn_id), ("ledger_path", ledger_path)):
            if value is None or value == "":
                raise SegmindConfigError(f"{name!r} is {value!r}; it must be given.")
        self.sql = sql
        self.source_table = source_table
        self.target_table = target_table
        self.sql_conn_id = sql_conn_id
        self.target_conn_id = target_conn_id
        self.report_path = report_path
        self.incremental = incremental
        self.batch_rows = batch_rows
        SegmindEnrichSqlOperator.check_arguments(self)
        self.find_late_fields()

    def check_arguments(self) -> None:
        """Check what has a range or a choice."""
        super().check_arguments()
        check_flag("incremental", self.incremental)
        tables.check_count("batch_rows", self.batch_rows)
        check_path("report_path", self.report_path, none=True)

    def ends(self, question: Question) -> Ends:
        """Return the query and the table."""
        from airflow_provider_segmind.operators.sql_ends import SqlEnds

        _check_places(self.sql, self.source_table, self.target_table)
        return SqlEnds(self, question)


def _check_own_columns(key: Any) -> None:
    """
    Check that no key column has the name of one of ours.

    :raises SegmindConfigError: one has.
    """
    names = [key] if isinstance(key, str) else key if isinstance(key, list | tuple) else []
    ours = [name for name in names if isinstance(name, str) and name.startswith(OWN_PREFIX)]
    if ours:
        raise SegmindConfigError(
            f"'key' names {ours[0]!r}: names that begin with {OWN_PREFIX!r} are kept for ourselves."
        )


def _check_places(sql: Any, source_table: Any, target_table: Any) -> None:
    """
    Check where rows come from and answers go, as far as it is known.

    :raises SegmindConfigError: it cannot work; names the field.
    """
    if (sql is None) == (source_table is None):
        raise SegmindConfigError("Exactly one of 'sql' and 'source_table' says where the rows come from.")
    for name, value in (("sql", sql), ("source_table", source_table), ("target_table", target_table)):
        if value is None and name != "target_table":
            continue
        if not is_given_later(value) and (not isinstance(value, str) or not value.strip()):
            raise SegmindConfigError(f"{name!r} is {value!r}; it must be a text.")
    from airflow_provider_segmind.bulk.sql.names import TableName

    for name, value in (("source_table", source_table), ("target_table", target_table)):
        if value is not None and not is_given_later(value):
            TableName.parse(value, name)
