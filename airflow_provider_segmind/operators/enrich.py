"""Ask a model about every row of a file or of a query, pay once for each distinct row, and merge the work of shards."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_segmind.arguments import (
    TableRows,
    as_inputs,
    check_answers,
    check_choice,
    check_count,
    check_flag,
    check_key,
    check_model,
    check_number,
    check_output_path,
    check_own_columns,
    check_path,
    check_row_question,
    check_run_limits,
    check_shard,
    check_share,
    check_source,
    check_sql_target,
    is_given_later,
    path_text,
    read_output_type,
)
from airflow_provider_segmind.compat import BaseOperator, conf
from airflow_provider_segmind.defaults import (
    BATCH_ROWS,
    CONCURRENCY,
    DEFAULT_CONNECTION,
    MAX_FAILED_ROWS,
    RESULT_LIFETIME,
    OnPartial,
    OnUnknown,
    Rerun,
)
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.links import SegmindModelLink, SegmindOutputLink
from airflow_provider_segmind.rendering import TemplatedOperator, unmasked

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.enrichment.settings import Question, Shard
    from airflow_provider_segmind.execution.enrichment import EnrichmentRun, EnrichmentSettings
    from airflow_provider_segmind.execution.file_table import TableIO
    from airflow_provider_segmind.hooks.segmind import SegmindHook


class SegmindEnrichOperator(TemplatedOperator, BaseOperator):
    """
    Ask a model about every row of a table; a subclass defines where the rows come from and where the answers go.

    A row is paid for once as long as its prompt, the model, the schema and the options stay the same: the ledger at
    ``ledger_path`` records every request, across runs, DAGs and row numbers. Equal rows share one answer.

    **XCom**: the manifest: rows by outcome, which add up to the rows read, cost, tokens, latencies, and the paths of
    the outputs. It is written to storage as well. Rows never go into XCom.

    **A retry, a clear, a killed worker**: rows with an answer cost nothing, accepted requests are fetched by id, and a
    POST that may have been lost is looked up in Segmind's history and not sent again unless ``on_unknown`` says so.
    However the task ends, what has finished is written first; after SIGKILL, the retry writes it.

    **Templated**, once, before any row is read: ``prompt``, ``system``, ``files``, ``inputs``, ``options``,
    ``key``, ``ledger_path``, ``model``, ``segmind_conn_id``. ``{column}`` is filled afterwards, by name only, so that
    nothing in a row is executed.

    :param key: the columns that identify a row; they are part of the output.
    :param prompt: the user message, with ``{column}`` placeholders.
    :param system: the system message, with or without placeholders.
    :param files: attachments: paths, object storage URIs or http(s) addresses, with placeholders. Files of at most 7 MB
        are read and sent, addresses are passed on. A placeholder alone may name a column of bytes. A row whose file is
        missing, too large or of a type that the model does not accept is ``skipped`` with the reason, unpaid.
    :param inputs: instead of all three, the JSON body as on the model's page, with placeholders in its strings.
    :param options: further options of a chat model, sent unchanged.
    :param api_format: ``gemini``, ``openai`` or ``anthropic``, for a model whose name does not show it.
    :param output_type: the type of an answer: a pydantic model, a type, or a JSON Schema. The fields of an object
        become columns; any other answer is in the column ``answer``. With ``inputs`` it only validates the answer.
    :param max_repairs: how many further requests, each of them paid, may be sent for a row whose answer was truncated
        or is not of ``output_type``.
    :param model: the model to run; the connection's default when None.
    :param ledger_path: folder of the ledger. Runs that share it share answers.
    :param max_cost: USD the task instance may spend over all its tries.
    :param max_rows: distinct rows it may ask about.
    :param max_failed_rows: rows that may fail: a count (int), or a share (float). None for any number.
    :param on_partial: some rows were skipped, because of a limit or of their content: ``fail`` the task, ``succeed``,
        or ``skip_downstream``, which skips the task and with it the tasks downstream.
    :param on_unknown: a POST was lost and the history does not show it: ``fail`` (the row's outcome is ``unknown`` and
        nothing is sent again), or ``resubmit`` (may pay twice). Rows do not support ``wait``.
    :param rerun: which rows without an answer are asked again: those that were not billed (``unbilled``), all of them
        (``dead_letters``), or ``nothing``.
    :param concurrency: requests in flight; the account's rate limit applies in any case.
    :param timeout: seconds to wait for a request after its submission.
    :param poll_interval: seconds between polls; by default they adapt to the model.
    :param shard_index: which share of the rows this task processes, from 0.
    :param shard_count: number of task instances that share the rows. Limits apply to each of them.
    :param sample: ask about the first so many rows only, write them to ``….sample.…``, and extrapolate the cost.
    :param dry_run: submit nothing, and return an estimate of the cost.
    :param deferrable: release the worker slot while there is nothing to do for minutes but wait: for slow models, or
        a low rate limit. Airflow's ``[operators] default_deferrable`` when not given.
    :param report: write a report with charts beside the manifest, ``….report.html``.
    :param segmind_conn_id: the Connection.
    :param rate_share: the part of the account's rate limit for this task, above 0 up to 1, where several run at once.
        For mapped tasks in a pool, one divided by the number of its slots.
    :param mask_prompts: keep ``prompt``, ``system`` and ``inputs`` out of Airflow's rendered fields; ``[segmind]
        mask_prompts`` when None.
    :raises AirflowFailException: a retry cannot help; the answers received are written.
    """

    template_fields: Sequence[str] = (
        *("prompt", "system", "files", "inputs", "options", "key"),
        *("ledger_path", "model", "segmind_conn_id"),
    )
    late_fields: ClassVar[Sequence[str]] = (
        *("api_format", "output_type", "max_repairs", "max_cost", "max_rows", "max_failed_rows"),
        *("on_partial", "on_unknown", "rerun", "concurrency", "timeout", "poll_interval", "shard_index", "shard_count"),
        *("sample", "estimate_only", "deferrable", "report", "rate_share", "mask_prompts"),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "prompt": "md",
        "system": "md",
        "inputs": "json",
        "options": "json",
    }
    ui_color = "#e3f1ff"
    operator_extra_links = (SegmindModelLink(), SegmindOutputLink())

    def __init__(
        self,
        *,
        key: str | Sequence[str],
        prompt: str | None = None,
        system: str | None = None,
        files: Sequence[str] | None = None,
        inputs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        api_format: str | None = None,
        output_type: Any = None,
        max_repairs: int = 1,
        model: str | None = None,
        ledger_path: Any = None,
        max_cost: float | None = None,
        max_rows: int | None = None,
        max_failed_rows: int | float | None = MAX_FAILED_ROWS,
        on_partial: OnPartial = "fail",
        on_unknown: OnUnknown = "fail",
        rerun: Rerun = "unbilled",
        concurrency: int = CONCURRENCY,
        timeout: float = RESULT_LIFETIME,
        poll_interval: float | None = None,
        shard_index: int = 0,
        shard_count: int = 1,
        sample: int | None = None,
        dry_run: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        report: bool = True,
        segmind_conn_id: str = DEFAULT_CONNECTION,
        rate_share: float | None = None,
        mask_prompts: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_key(key)
        check_row_question(
            prompt=prompt,
            system=system,
            files=files,
            inputs=inputs,
            options=options,
            api_format=api_format,
            model=model,
        )
        self.key = key
        self.prompt = prompt
        self.system = system
        self.files = files
        self.inputs = inputs
        self.options = options
        self.api_format = api_format
        self.output_type = output_type
        self.max_repairs = max_repairs
        self.model = model
        self.ledger_path = ledger_path
        self.max_cost = max_cost
        self.max_rows = max_rows
        self.max_failed_rows = max_failed_rows
        self.on_partial = on_partial
        self.on_unknown = on_unknown
        self.rerun = rerun
        self.concurrency = concurrency
        self.timeout = timeout
        self.poll_interval = poll_interval
        self.shard_index = shard_index
        self.shard_count = shard_count
        self.sample = sample
        # The name "dry_run" is a method of every operator.
        self.estimate_only = dry_run
        self.deferrable = deferrable
        self.report = report
        self.segmind_conn_id = segmind_conn_id
        self.rate_share = rate_share
        self.model_used: str | None = None
        self.result_uri: str | None = None
        self.mask_prompts = mask_prompts
        self._run: EnrichmentRun | None = None
        SegmindEnrichOperator.check_arguments(self)
        self.find_late_fields()

    def check_arguments(self) -> None:
        """Check arguments that have a range or a choice."""
        check_model(self.model)
        check_path("ledger_path", self.ledger_path, none=True)
        check_answers(output_type=self.output_type, key=self.key, max_repairs=self.max_repairs)
        check_run_limits(
            max_cost=self.max_cost, max_rows=self.max_rows, max_failed_rows=self.max_failed_rows, sample=self.sample
        )
        check_shard(self.shard_index, self.shard_count)
        check_count("concurrency", self.concurrency)
        check_number("timeout", self.timeout)
        if self.poll_interval is not None:
            check_number("poll_interval", self.poll_interval)
        check_choice("on_partial", self.on_partial, OnPartial)
        if not is_given_later(self.on_unknown) and self.on_unknown not in ("fail", "resubmit"):
            raise SegmindConfigError(f"'on_unknown' is {self.on_unknown!r}; for rows it must be 'fail' or 'resubmit'.")
        check_choice("rerun", self.rerun, Rerun)
        check_flag("dry_run", self.estimate_only)
        check_flag("deferrable", self.deferrable)
        check_flag("report", self.report)
        check_flag("mask_prompts", self.mask_prompts, none=True)
        check_share(self.rate_share)

    @cached_property
    def hook(self) -> SegmindHook:
        """Return the hook of the connection."""
        from airflow_provider_segmind.hooks.segmind import SegmindHook

        return SegmindHook(self.segmind_conn_id, rate_share=self.rate_share)

    @abstractmethod
    def table_io(self, question: Question) -> TableIO:
        """Return the reader of the rows and writer of the answers; called with the fields rendered."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Ask about every row, write the output, and return the manifest."""
        return self._try(context)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Continue after a deferral: fetch by id what has ended, and ask about further rows."""
        payload = event or {}
        if payload.get("error"):
            self.log.warning("Waiting in the triggerer failed (%s); no request is lost by it", payload["error"])
        self.log.info(
            "Continuing with the table; %s requests ended in the meantime", payload.get("ended", "an unknown number of")
        )
        return self._try(context, payload.get("resume_state"), resumed=True)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Continue also when Airflow ended the deferral without a trigger event; then without deferring again."""
        from airflow_provider_segmind.deferral import timed_out

        if not timed_out(next_method, next_kwargs):
            return super().resume_execution(next_method, next_kwargs, context)
        self.log.warning("Deferral timed out without a trigger event; continuing without deferring again")
        self.deferrable = False
        return self.execute_complete(context)

    def _try(
        self, context: Context, resume_state: dict[str, Any] | None = None, *, resumed: bool = False
    ) -> dict[str, Any]:
        from airflow_provider_segmind.execution.dry_run import estimate_table
        from airflow_provider_segmind.failures import task_failures

        with task_failures(partial(self._sent_before, context, resume_state, resumed)):
            try:
                self.check_rendered()
                if resumed:
                    self.hook.find_connection()
                question = self._question()
                table = self.table_io(question)
                if self.estimate_only:
                    return estimate_table(
                        question, table, hook=self.hook, shard=self._shard(), sample=self.sample, log=self.log
                    )
                self.model_used = question.model
                self._run = self._new_run(context, question, table, resume_state)
                return self._run.execute()
            finally:
                self.result_uri = self._run.output_uri if self._run else None
                self.hook.close()

    def _shard(self) -> Shard:
        from airflow_provider_segmind.enrichment.settings import Shard

        return Shard(index=self.shard_index, count=self.shard_count)

    def _question(self) -> Question:
        from airflow_provider_segmind.execution.row_prompt import RowPromptSettings, row_question

        model = self.hook.model_or_default(self.model)
        question: dict[str, Any] = {
            "prompt": unmasked(self.prompt),
            "system": unmasked(self.system),
            "inputs": None if self.inputs is None else as_inputs(unmasked(self.inputs)),
            "options": self.options,
            "api_format": self.api_format,
            "model": model,
        }
        check_row_question(**question, files=self.files)
        settings = RowPromptSettings(
            **question,
            files=tuple(path_text(file) for file in self.files or ()),
            key=(self.key,) if isinstance(self.key, str) else tuple(self.key),
            output_type=read_output_type(self.output_type),
            max_repairs=self.max_repairs,
            max_cost=self.max_cost,
        )
        return row_question(settings, prices=None if self.max_cost is None else self.hook.get_prices(), log=self.log)

    def _new_run(
        self, context: Context, question: Question, table: TableIO, resume_state: dict[str, Any] | None
    ) -> EnrichmentRun:
        from airflow_provider_segmind.execution.enrichment import EnrichmentRun, ProgressReporter

        ti = context["ti"]
        return EnrichmentRun(
            self._settings(context),
            question=question,
            table=table,
            hook=self.hook,
            # The store is missing before Airflow 3.3.
            progress=ProgressReporter(context.get("task_state_store"), try_number=ti.try_number, log=self.log),
            defer=self.defer,
            xcom_push=ti.xcom_push if self.do_xcom_push else lambda **_: None,
            log=self.log,
            resume_state=resume_state,
        )

    def _settings(self, context: Context) -> EnrichmentSettings:
        from airflow_provider_segmind.deferral import deadline_of_task
        from airflow_provider_segmind.execution.enrichment import EnrichmentSettings

        ti = context["ti"]
        return EnrichmentSettings(
            run_id=f"{ti.dag_id}/{ti.run_id}/{ti.task_id}/{ti.map_index}",
            segmind_conn_id=self.segmind_conn_id,
            deadline=deadline_of_task(context, self.execution_timeout),
            max_cost=self.max_cost,
            max_rows=self.max_rows,
            max_failed_rows=self.max_failed_rows,
            max_repairs=self.max_repairs,
            on_partial=self.on_partial,
            on_unknown=self.on_unknown,
            rerun=self.rerun,
            concurrency=self.concurrency,
            timeout=self.timeout,
            poll_interval=self.poll_interval,
            shard=self._shard(),
            sample=self.sample,
            deferrable=self.deferrable,
            report=self.report,
        )

    def _sent_before(self, context: Context, resume_state: dict[str, Any] | None, resumed: bool) -> str | None:
        """Describe what was sent for this table in this run, as far as is known here; None when nothing."""
        from airflow_provider_segmind.failures import earlier_try

        known = 0 if self._run is None else self._run.requests_sent
        count = max(known, int((resume_state or {}).get("posts", 0)))
        if count:
            return f"{count} requests were sent in this run before"
        # Airflow may resume a task without the trigger's event, and so without its counts.
        return "requests may have been sent before the task was deferred" if resumed else earlier_try(context)

    def on_kill(self) -> None:
        """Submit nothing more, give what is in flight a moment, and write what has finished."""
        if self._run is not None:
            self._run.stop("the task was killed")


__all__ = ["SegmindEnrichFileOperator", "SegmindEnrichSqlOperator", "SegmindMergeOperator"]


class SegmindEnrichFileOperator(SegmindEnrichOperator):
    """
    Ask a model about every row of a file, and write a file of typed answers in the same order.

    For prompts, limits, retries and kills see
    :class:`~airflow_provider_segmind.operators.enrich.SegmindEnrichOperator`, whose arguments it takes as well.

    **Also templated**: ``source`` (a path; rows never) and ``output_path``.

    :param source: a path or ObjectStoragePath URI of JSONL, CSV or Parquet, a pattern (``*.jsonl``), a folder, or a
        list of these or of rows (dicts), which may come from XCom.
    :param key: the columns that identify a row; they are part of the output.
    :param output_path: the table to write: ``.jsonl``, ``.csv`` or ``.parquet``. Rows without an answer are listed
        beside it in ``….dead_letters.jsonl``, the manifest is ``….manifest.json``.
    :param ledger_path: folder of the ledger; ``_segmind_ledger`` beside the output when None. Runs that share it share
        answers.
    :raises AirflowFailException: a retry cannot help; the answers received are written.
    """

    template_fields: Sequence[str] = ("source", *SegmindEnrichOperator.template_fields, "output_path")

    def __init__(
        self,
        *,
        source: Any,
        key: str | Sequence[str],
        output_path: str | os.PathLike[str],
        ledger_path: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(key=key, ledger_path=ledger_path, **kwargs)
        check_source(source)
        check_output_path(output_path, source)
        self.source = TableRows.hide(source)
        self.output_path = output_path

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Start a mapped task; inline rows are kept out of the serialised DAG."""
        if "source" in kwargs:
            kwargs["source"] = TableRows.hide(kwargs["source"])
        return super().partial(**kwargs)

    def finish_rendering(self) -> None:
        """Prevent rows from XCom from being stored as a rendered field."""
        self.source = TableRows.hide(self.source)

    def table_io(self, question: Question) -> TableIO:
        """Return the files."""
        from airflow_provider_segmind.execution.file_table import FileTableIO, FileTableSettings

        settings = FileTableSettings(
            source=self.source,
            output_path=self.output_path,
            ledger_path=self.ledger_path,
            shard=self._shard(),
            sample=self.sample,
        )
        return FileTableIO(settings, question)


class SegmindEnrichSqlOperator(SegmindEnrichOperator):
    """
    Ask a model about every row of a query, and write the typed answers into a table, by key.

    For prompts, limits, retries and kills see
    :class:`~airflow_provider_segmind.operators.enrich.SegmindEnrichOperator`, whose arguments it takes as well.

    The source may be any database with a ``DbApiHook``; the target PostgreSQL, SQLite, DuckDB, Snowflake or BigQuery. A
    missing target is created: key columns as in the source, answer columns according to ``output_type``, and
    ``_segmind_`` columns; an existing one is checked before anything is paid. Running the task twice changes nothing. A
    failure is written with its reason; it replaces an answer only if that answered another prompt.

    A row whose key is NULL, or is also the key of an earlier row, is ``skipped`` and listed with the reason.

    **Also templated**: ``sql`` (also from a file ``.sql``), ``source_table``, ``target_table``, ``sql_conn_id``,
    ``target_conn_id``, ``report_path``.

    :param sql: a SELECT; or
    :param source_table: a table to read whole. Names are used exactly as written, including upper and lower case.
    :param key: the columns that identify a row.
    :param target_table: where the answers go, as ``table`` or ``schema.table``.
    :param ledger_path: folder of the ledger. Runs that share it share answers, so keep it the same every day.
    :param report_path: folder of the dead letters and the manifest; ``reports`` in the ledger's when None.
    :param incremental: exclude rows whose answer to the same prompt is in the target: they cost no request and no
        write. Otherwise every row is written, from the ledger where that has the answer.
    :param batch_rows: rows per transaction.
    :param sql_conn_id: the source's Connection.
    :param target_conn_id: the target's; the source's when None.
    :raises AirflowFailException: a retry cannot help; the answers received are written.
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
        check_sql_target(sql, source_table, target_table)
        check_own_columns(key)
        same_place = target_conn_id is None or target_conn_id == sql_conn_id
        if same_place and isinstance(source_table, str) and source_table == target_table:
            raise SegmindConfigError("'target_table' is the source itself: write the answers into another table.")
        for name, value in (("sql_conn_id", sql_conn_id), ("ledger_path", ledger_path)):
            if value is None or value == "":
                raise SegmindConfigError(f"{name!r} is {value!r}; it is required.")
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
        """Check arguments that have a range or a choice."""
        super().check_arguments()
        check_flag("incremental", self.incremental)
        check_count("batch_rows", self.batch_rows)
        check_path("report_path", self.report_path, none=True)

    def table_io(self, question: Question) -> TableIO:
        """Return the query and the table."""
        from airflow_provider_segmind.execution.sql_table import SqlTableIO, SqlTableSettings

        check_sql_target(self.sql, self.source_table, self.target_table)
        settings = SqlTableSettings(
            sql_conn_id=self.sql_conn_id,
            target_conn_id=self.target_conn_id or self.sql_conn_id,
            sql=self.sql,
            source_table=self.source_table,
            target_table=self.target_table,
            ledger_path=self.ledger_path,
            report_path=self.report_path,
            output_type=read_output_type(self.output_type),
            incremental=self.incremental,
            batch_rows=self.batch_rows,
            shard=self._shard(),
            sample=self.sample,
        )
        return SqlTableIO(settings, question, log=self.log)


class SegmindMergeOperator(TemplatedOperator, BaseOperator):
    """
    Merge the manifests of all shards of an enrichment, check that no row is missing, and merge their files.

    Use it after ``.expand(shard_index=[…])``. It sends no request and costs nothing; a retry does the same again.

    **XCom**: one manifest for the whole table, in the form that a single task returns. With an ``output_path`` it is
    also written beside the output, with the report and the dead letters of all shards.

    **Templated**: ``manifests``, ``output_path``.

    :param manifests: the return values of the shards: the ``output`` of the mapped task.
    :param output_path: the table to write, ``.jsonl``, ``.csv`` or ``.parquet``: all rows in the order of the source.
        Preferably in the format of the shards' files, as CSV has no types. None to write nothing, as for shards that
        write into one table of a database.
    :param report: write a report with charts beside the output.
    :raises AirflowFailException: a shard or a row is missing, or the shards are not of one run; nothing was written.
    """

    template_fields: Sequence[str] = ("manifests", "output_path")
    late_fields: ClassVar[Sequence[str]] = ("report",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"manifests": "json"}
    ui_color = "#e3f1ff"
    operator_extra_links = (SegmindOutputLink(),)

    def __init__(
        self,
        *,
        manifests: Any,
        output_path: str | os.PathLike[str] | None = None,
        report: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if manifests is None or isinstance(manifests, bytes):
            raise SegmindConfigError(
                "'manifests' is missing: give it the output of the mapped task, such as shards.output."
            )
        if output_path is not None:
            check_output_path(output_path)
        self.manifests = manifests
        self.output_path = output_path
        self.report = report
        self.result_uri: str | None = None
        self.check_arguments()
        self.find_late_fields()

    def check_arguments(self) -> None:
        """Check arguments that have a choice."""
        check_flag("report", self.report)

    def finish_rendering(self) -> None:
        """Read the manifests from the lazy sequence that Airflow passes for a mapped task."""
        if not isinstance(self.manifests, Mapping | str) and not is_given_later(self.manifests):
            self.manifests = list(self.manifests)

    def execute(self, context: Context) -> dict[str, Any]:
        """Merge, write the output if there is one, and return the manifest of the whole table."""
        from airflow_provider_segmind.enrichment.manifest import merge
        from airflow_provider_segmind.execution.enrichment import add_report
        from airflow_provider_segmind.execution.file_table import merge_files, read_manifests
        from airflow_provider_segmind.failures import task_failures

        with task_failures():
            self.check_rendered()
            manifest = merge(read_manifests(self.manifests))
            if self.output_path is not None:
                manifest_path = merge_files(manifest, self.output_path)
                self.result_uri = manifest.outputs[0]
                if self.report:
                    add_report(manifest, manifest_path, log=self.log)
        counts = ", ".join(f"{count} {outcome}" for outcome, count in manifest.outcomes.items() if count)
        self.log.info("%d rows of all shards: %s; %.6f USD", manifest.rows_read, counts or "none", manifest.cost)
        return manifest.to_json()
