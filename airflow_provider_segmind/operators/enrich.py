"""Ask a model about every row of a file or of a query, pay once for each distinct row, and merge the work of shards."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from airflow_provider_segmind.argument_names import check_template_names
from airflow_provider_segmind.arguments import (
    TableRows,
    as_inputs,
    check_answers,
    check_budget,
    check_choice,
    check_count,
    check_flag,
    check_key,
    check_model,
    check_notes,
    check_output_path,
    check_path,
    check_reuse,
    check_row_question,
    check_run_limits,
    check_shard,
    check_source,
    check_sql_target,
    contains_later,
    is_given_later,
    path_or_none,
    path_text,
    read_output_type,
    read_rerun,
)
from airflow_provider_segmind.compat import BaseOperator, conf
from airflow_provider_segmind.defaults import (
    BATCH_ROWS,
    CONCURRENCY,
    DEFAULT_CONNECTION,
    MAX_FAILED_ROWS,
    MAX_REPAIRS,
    OnBudget,
    OnPartial,
    OnUnknown,
    Rerun,
    ReuseAnswers,
)
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.links import SegmindModelLink, SegmindOutputLink, task_address
from airflow_provider_segmind.rendering import TemplatedOperator, masks_prompts, once_rendered, unmasked

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow_provider_segmind.budget.guard import BudgetSettings
    from airflow_provider_segmind.budget.slices import TableSlice
    from airflow_provider_segmind.compat import Context, OperatorLineage
    from airflow_provider_segmind.enrichment.manifest import Manifest
    from airflow_provider_segmind.enrichment.question import Question
    from airflow_provider_segmind.enrichment.settings import Shard
    from airflow_provider_segmind.enrichment.stats import ResumeState
    from airflow_provider_segmind.execution.enrichment import EnrichmentRun, EnrichmentSettings
    from airflow_provider_segmind.execution.file_table import TableIO
    from airflow_provider_segmind.execution.lineage import Tables
    from airflow_provider_segmind.hooks.segmind import SegmindHook
    from airflow_provider_segmind.type_hints import AnyPath, GivenLater, OperatorArguments


class SegmindEnrichOperator(TemplatedOperator, BaseOperator):
    """
    Ask a model about every row of a table; a subclass defines where the rows come from and where the answers go.

    A row is paid for once as long as its prompt, the model, the schema and the options stay the same: the ledger at
    ``ledger_path`` records every request, across runs, DAGs and row numbers. Equal rows share one answer.

    **XCom**: the manifest: rows by outcome, which add up to the rows read, cost, tokens, latencies, and the paths of
    the outputs. It is written to storage as well. Rows never go into XCom.

    **A retry, a clear, a killed worker**: rows with an answer cost nothing, accepted requests are fetched by id, and a
    POST that may have been lost is looked up in Segmind's history and not sent again unless ``on_unknown`` says
    so. However the task ends, what has finished is written first; after SIGKILL, the retry writes it.

    **Templated**, once, before any row is read: ``prompt``, ``system``, ``files``, ``inputs``, ``options``,
    ``key``, ``ledger_path``, ``answers_path``, ``model``, ``segmind_conn_id``, ``rerun``, ``notes``. ``{column}`` is
    filled afterwards, by name only, so that nothing in a row is executed.

    *What to ask*

    :param model: the model to run; the connection's default when None.
    :param key: the columns that identify a row; they are part of the output.
    :param prompt: the user message, with ``{column}`` placeholders.
    :param system: the system message, with or without placeholders.
    :param files: attachments: paths, object storage URIs or http(s) addresses, with placeholders. Files of at most 7 MB
        are read and sent, addresses are passed on. A placeholder alone may name a column of bytes. A row whose file is
        missing, too large or of a type that the model does not accept is ``skipped`` with the reason, unpaid.
    :param inputs: instead of all three, the JSON body as on the model's page, with placeholders in its strings.
    :param options: further options of a chat model, sent unchanged.
    :param output_type: the type of an answer: a pydantic model, a type, or a JSON Schema. The fields of an object
        become columns; any other answer is in the column ``answer``. With ``inputs`` it only validates the answer.

    *Where*

    :param ledger_path: folder of the ledger. Runs that share it share answers.
    :param answers_path: folder of the answer cache; ``[segmind] answers_path`` when None.
    :param segmind_conn_id: the Connection.
    :param deferrable: release the worker slot while there is nothing to do for minutes but wait: for slow models, or
        a low rate limit. Airflow's ``[operators] default_deferrable`` when not given.

    *Limits*

    :param reuse_answers: whether a row that is not in the ledger is answered from the answer cache that chat tasks
        and other tables share: ``never``, ``always``, or up to an age; see ``docs/how-to/reuse.md``.
    :param budget: a budget of ``[segmind] budgets`` that applies to this task in addition to that of its connection.
    :param max_cost: USD the task instance may spend over all its tries.
    :param max_rows: distinct rows it may send.
    :param max_failed_rows: rows that may fail: a count (int), or a share (float). None for any number.
    :param max_repairs: how many further requests, each of them paid, may be sent for a row whose answer was truncated
        or does not match ``output_type``.
    :param sample: send only this many rows, the first ones, write them to ``….sample.…``, and extrapolate the cost.
    :param dry_run: submit nothing, and return an estimate of the cost.

    *When it goes wrong*

    :param on_budget: what to do when a budget has no room for another request: ``fail`` the task, ``skip_downstream``,
        which skips the task and with it the tasks downstream, or ``defer`` until the budget's next day or month begins.
        Requests in flight are finished first.
    :param on_partial: what to do when rows were skipped, because of a limit or of their content: ``fail`` the task,
        ``succeed``, or ``skip_downstream``, which skips the task and with it the tasks downstream.
    :param on_unknown: what to do when a POST was lost and the history does not show it: ``fail`` (the row's outcome is
        ``unknown`` and nothing is sent again), or ``resubmit`` (may pay twice). Rows do not support ``wait``.
    :param rerun: which rows without an answer are sent again: those that were not billed (``unbilled``), those with
        certain outcomes (``["truncated", "failed"]``), all of them (``dead_letters``), or ``nothing``.

    *Rarely needed*

    :param api_format: ``gemini``, ``openai`` or ``anthropic``, for a model whose name does not show it; otherwise
        it is prompted in OpenAI's format, with a warning.
    :param concurrency: requests in flight; the account's rate limit applies in any case.
    :param shard_index: which share of the rows this task processes, from 0.
    :param shard_count: number of task instances that share the rows, as in ``.partial(shard_count=2)`` with
        ``.expand(shard_index=[0, 1])``. Limits apply to each of them; the connection's ``requests_per_minute`` is
        divided among those that may run at once (``max_active_tis_per_dag``).
    :param notes: names and strings that the manifest repeats, such as who approved the run; at most 2,000 characters.
    :param mask_prompts: keep ``prompt``, ``system`` and ``inputs`` out of Airflow's rendered fields and of the ledger,
        which otherwise keeps them once, so that the prompt of a row can be looked up; ``[segmind] mask_prompts``
        when None.

    :raises AirflowFailException: a retry cannot help; the answers received are written.
    """

    template_fields: Sequence[str] = (
        *("prompt", "system", "files", "inputs", "options", "key"),
        *("ledger_path", "answers_path", "model", "segmind_conn_id", "rerun", "notes"),
    )
    late_fields: ClassVar[Sequence[str]] = (
        *("api_format", "output_type", "max_repairs", "max_cost", "max_rows", "max_failed_rows", "budget", "on_budget"),
        *("on_partial", "on_unknown", "concurrency", "shard_index", "shard_count"),
        *("sample", "estimate_only", "deferrable", "mask_prompts"),
        "reuse_answers",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "prompt": "md",
        "system": "md",
        "inputs": "json",
        "options": "json",
    }
    ui_color = "#e3f1ff"
    operator_extra_links = (SegmindModelLink(), SegmindOutputLink())
    has_page = True

    def __init__(
        self,
        *,
        key: str | Sequence[str] | GivenLater,
        model: str | GivenLater | None = None,
        prompt: str | GivenLater | None = None,
        system: str | GivenLater | None = None,
        files: Sequence[str | AnyPath | GivenLater] | GivenLater | None = None,
        inputs: Mapping[str, Any] | GivenLater | None = None,
        options: Mapping[str, Any] | GivenLater | None = None,
        output_type: Any = None,
        ledger_path: Any = None,
        answers_path: str | AnyPath | GivenLater | None = None,
        segmind_conn_id: str | GivenLater = DEFAULT_CONNECTION,
        deferrable: bool | GivenLater = conf.getboolean("operators", "default_deferrable", fallback=False),
        reuse_answers: ReuseAnswers | timedelta | GivenLater = "never",
        budget: str | GivenLater | None = None,
        max_cost: float | GivenLater | None = None,
        max_rows: int | GivenLater | None = None,
        max_failed_rows: int | float | GivenLater | None = MAX_FAILED_ROWS,
        max_repairs: int | GivenLater = MAX_REPAIRS,
        sample: int | GivenLater | None = None,
        dry_run: bool | GivenLater = False,
        on_budget: OnBudget | GivenLater = "fail",
        on_partial: OnPartial | GivenLater = "fail",
        on_unknown: OnUnknown | GivenLater = "fail",
        rerun: Rerun | Collection[Rerun] | GivenLater = "unbilled",
        api_format: str | GivenLater | None = None,
        concurrency: int | GivenLater = CONCURRENCY,
        shard_index: int | GivenLater = 0,
        shard_count: int | GivenLater = 1,
        notes: Mapping[str, str] | GivenLater | None = None,
        mask_prompts: bool | GivenLater | None = None,
        **kwargs: Unpack[OperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        dag = self.get_dag()
        if dag is not None and self.mapped_arguments is None:
            texts = {"prompt": prompt, "system": system, "files": files, "inputs": inputs}
            check_template_names(texts, dag.user_defined_macros or ())
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
        self.key = once_rendered(key)
        self.prompt = once_rendered(prompt)
        self.system = once_rendered(system)
        self.files = once_rendered(files)
        self.inputs = once_rendered(inputs)
        self.options = once_rendered(options)
        self.api_format = once_rendered(api_format)
        self.output_type = output_type
        self.max_repairs = once_rendered(max_repairs)
        self.model = once_rendered(model)
        self.ledger_path = once_rendered(ledger_path)
        self.reuse_answers: ReuseAnswers | timedelta = once_rendered(reuse_answers)
        self.answers_path = once_rendered(answers_path)
        self.max_cost = once_rendered(max_cost)
        self.max_rows = once_rendered(max_rows)
        self.max_failed_rows = once_rendered(max_failed_rows)
        self.budget = once_rendered(budget)
        self.on_budget: OnBudget = once_rendered(on_budget)
        self.on_partial: OnPartial = once_rendered(on_partial)
        self.on_unknown: OnUnknown = once_rendered(on_unknown)
        self.rerun = once_rendered(rerun)
        self.concurrency = once_rendered(concurrency)
        self.shard_index = once_rendered(shard_index)
        self.shard_count = once_rendered(shard_count)
        self.sample = once_rendered(sample)
        # The name "dry_run" is a method of every operator.
        self.estimate_only = once_rendered(dry_run)
        self.deferrable = once_rendered(deferrable)
        self.notes = once_rendered(notes)
        self.segmind_conn_id = once_rendered(segmind_conn_id)
        self.model_used: str | None = None
        self.result_uri: str | None = None
        self.mask_prompts = once_rendered(mask_prompts)
        self._run: EnrichmentRun | None = None
        SegmindEnrichOperator.check_arguments(self)
        self.find_late_fields()

    def check_arguments(self) -> None:
        """Check arguments that have a range or a choice."""
        check_model(self.model)
        check_key(self.key)
        check_path("ledger_path", self.ledger_path, none=True)
        check_reuse(self.reuse_answers, self.answers_path)
        check_answers(output_type=self.output_type, key=self.key, max_repairs=self.max_repairs)
        check_run_limits(
            max_cost=self.max_cost, max_rows=self.max_rows, max_failed_rows=self.max_failed_rows, sample=self.sample
        )
        check_budget(self.budget, self.on_budget)
        check_shard(self.shard_index, self.shard_count)
        check_count("concurrency", self.concurrency)
        check_choice("on_partial", self.on_partial, OnPartial)
        if not is_given_later(self.on_unknown) and self.on_unknown not in ("fail", "resubmit"):
            raise SegmindConfigError(f"'on_unknown' is {self.on_unknown!r}; for rows it must be 'fail' or 'resubmit'.")
        if not contains_later(self.rerun):
            read_rerun(self.rerun)
        check_flag("dry_run", self.estimate_only)
        check_flag("deferrable", self.deferrable)
        check_notes(self.notes)
        check_flag("mask_prompts", self.mask_prompts, none=True)

    @cached_property
    def hook(self) -> SegmindHook:
        """Return the hook of the connection."""
        from airflow_provider_segmind.hooks.segmind import SegmindHook

        made = SegmindHook(self.segmind_conn_id)
        made.sharing_tasks = self._shards_at_once()
        return made

    def _shards_at_once(self) -> int:
        """Return how many shards of this table may run at the same time and so divide the rate limit."""
        most = (self.shard_count, self.max_active_tis_per_dag, self.max_active_tis_per_dagrun)
        return min(number for number in most if number)

    @abstractmethod
    def table_io(self, question: Question) -> TableIO:
        """Return the reader of the rows and writer of the answers; called with the fields rendered."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Ask about every row, write the output, and return the manifest."""
        return self._try(context)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Continue after a deferral: fetch by id what has ended, and send further rows."""
        from airflow_provider_segmind.enrichment.stats import ResumeState

        payload = event or {}
        if payload.get("error"):
            self.log.warning("Waiting in the triggerer failed (%s); no request was lost", payload["error"])
        self.log.info(
            "Continuing with the table; %s requests ended in the meantime", payload.get("ended", "an unknown number of")
        )
        return self._try(context, ResumeState.from_json(payload.get("resume_state")), resumed=True)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Continue even if Airflow ended the deferral without a trigger event; in that case without deferring again."""
        from airflow_provider_segmind.deferral import timed_out

        if not timed_out(next_method, next_kwargs):
            return super().resume_execution(next_method, next_kwargs, context)
        self.log.warning("Deferral timed out without a trigger event; continuing without deferring again")
        self.deferrable = False
        return self.execute_complete(context)

    def _try(
        self, context: Context, resume_state: ResumeState | None = None, *, resumed: bool = False
    ) -> dict[str, Any]:
        from airflow_provider_segmind.execution.asset_events import describe_outlets, table_figures
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
                        question,
                        table,
                        hook=self.hook,
                        shard=self._shard(),
                        sample=self.sample,
                        rerun=read_rerun(self.rerun),
                        budgets=self._budgets,
                        log=self.log,
                    )
                self.model_used = question.model
                self._run = self._new_run(context, question, table, resume_state)
                value = self._run.execute()
                describe_outlets(context, self.outlets, table_figures(value, table.manifest_path))
                return value
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
            key=(self.key,) if isinstance(self.key, str) else tuple(dict.fromkeys(self.key)),
            output_type=read_output_type(self.output_type),
            max_repairs=self.max_repairs,
            max_cost=self.max_cost,
            budgeted=not self.estimate_only and bool(self._budgets.rules),
        )
        priced = settings.budgeted or self.max_cost is not None
        return row_question(settings, prices=self.hook.get_prices() if priced else None, log=self.log)

    @cached_property
    def _budgets(self) -> BudgetSettings:
        return self.hook.budget_settings(self.budget)

    def _table_budget(self, owner: str, model: str, table: TableIO) -> TableSlice | None:
        """Return the task's part of its budgets, None if none applies."""
        from airflow_provider_segmind.budget.slices import TableSlice

        budgets = self._budgets
        if budgets.store is None or not budgets.hold:
            return None
        self.hook.settle_orphans(budgets.store)
        return TableSlice(
            budgets.store,
            budgets.rules,
            owner=owner,
            connection=self.segmind_conn_id,
            model=model,
            ledger=str(table.ledger),
            max_in_flight=budgets.max_in_flight,
            deferrable=self.deferrable,
            defers=self.deferrable or self.on_budget == "defer",
            log=self.log,
        )

    def _new_run(
        self, context: Context, question: Question, table: TableIO, resume_state: ResumeState | None
    ) -> EnrichmentRun:
        from airflow_provider_segmind.enrichment.progress_file import write_progress
        from airflow_provider_segmind.execution.enrichment import EnrichmentRun, ProgressReporter
        from airflow_provider_segmind.spend.recorder import recorder_for

        ti, settings = context["ti"], self._settings(context)
        return EnrichmentRun(
            settings,
            question=question,
            table=table,
            hook=self.hook,
            # The store is missing before Airflow 3.3.
            progress=ProgressReporter(
                context.get("task_state_store"),
                try_number=ti.try_number,
                log=self.log,
                keep=partial(
                    write_progress, table.ledger, settings.run_id, model=question.model, connection=self.segmind_conn_id
                ),
            ),
            defer=self.defer,
            xcom_push=ti.xcom_push if self.do_xcom_push else lambda **_: None,
            log=self.log,
            resume_state=resume_state,
            spend=recorder_for(context, self.segmind_conn_id, log=self.log),
            budget=self._table_budget(settings.run_id, question.model, table),
        )

    def _settings(self, context: Context) -> EnrichmentSettings:
        from airflow_provider_segmind.deferral import deadline_of_task
        from airflow_provider_segmind.execution.answers import answers_for
        from airflow_provider_segmind.execution.enrichment import EnrichmentSettings
        from airflow_provider_segmind.failures import earlier_try

        ti = context["ti"]
        return EnrichmentSettings(
            run_id=f"{ti.dag_id}/{ti.run_id}/{ti.task_id}/{ti.map_index}",
            names={"dag_id": ti.dag_id, "task_id": ti.task_id},
            segmind_conn_id=self.segmind_conn_id,
            deadline=deadline_of_task(context, self.execution_timeout),
            max_cost=self.max_cost,
            max_rows=self.max_rows,
            max_failed_rows=self.max_failed_rows,
            on_budget=self.on_budget,
            max_repairs=self.max_repairs,
            on_partial=self.on_partial,
            on_unknown=self.on_unknown,
            rerun=read_rerun(self.rerun),
            concurrency=self.concurrency,
            shard=self._shard(),
            sample=self.sample,
            deferrable=self.deferrable,
            keep_prompt=not masks_prompts(self.mask_prompts),
            # Rendered as native objects, a note may be a number or a time.
            notes={name: str(note) for name, note in (self.notes or {}).items()},
            task_url=task_address(ti),
            answers=answers_for(self.reuse_answers, path_or_none(self.answers_path)),
            is_retry=earlier_try(context) is not None,
        )

    def _sent_before(self, context: Context, resume_state: ResumeState | None, resumed: bool) -> str | None:
        """Describe what is known to have been sent for this table in this run; None if nothing."""
        from airflow_provider_segmind.failures import earlier_try
        from airflow_provider_segmind.wording import counted

        known = 0 if self._run is None else self._run.requests_sent
        count = max(known, 0 if resume_state is None else resume_state.posts)
        if count:
            return f"this run had sent {counted(count, 'request')} before"
        # Airflow may resume a task without the trigger's event, and so without its counts.
        return "requests may have been sent before the task was deferred" if resumed else earlier_try(context)

    @abstractmethod
    def lineage_tables(self) -> Tables:
        """Return the datasets of the task for OpenLineage; called with the fields rendered."""

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any]:
        """Tell OpenLineage the datasets."""
        from airflow_provider_segmind.execution.lineage import on_start

        return on_start(self.lineage_tables())

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Tell OpenLineage what was read, sent and written, and what it cost, even for a try that failed."""
        from airflow_provider_segmind.execution.lineage import on_end

        run = self._run
        return on_end(
            self.lineage_tables(),
            None if run is None else run.manifest,
            question=None if run is None else run.question,
            output_type=read_output_type(self.output_type),
            source_columns=run.source_columns if run else (),
        )

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

    *What to ask*

    :param key: the columns that identify a row; they are part of the output.

    *Where*

    :param source: a path or ObjectStoragePath URI of JSONL, CSV or Parquet, a pattern (``*.jsonl``), a folder, or a
        list of these or of rows (dicts), which may come from XCom.
    :param output_path: the table to write: ``.jsonl``, ``.csv`` or ``.parquet``. Rows without an answer are listed
        next to it in ``….dead_letters.jsonl``, the manifest is ``….manifest.json``.
    :param ledger_path: folder of the ledger; ``_segmind_ledger`` next to the output when None. Runs that share it share
        answers.

    :raises AirflowFailException: a retry cannot help; the answers received are written.
    """

    template_fields: Sequence[str] = ("source", *SegmindEnrichOperator.template_fields, "output_path")

    def __init__(
        self,
        *,
        key: str | Sequence[str] | GivenLater,
        source: Any,
        output_path: str | AnyPath | GivenLater,
        model: str | GivenLater | None = None,
        prompt: str | GivenLater | None = None,
        system: str | GivenLater | None = None,
        files: Sequence[str | AnyPath | GivenLater] | GivenLater | None = None,
        inputs: Mapping[str, Any] | GivenLater | None = None,
        options: Mapping[str, Any] | GivenLater | None = None,
        output_type: Any = None,
        ledger_path: str | AnyPath | GivenLater | None = None,
        answers_path: str | AnyPath | GivenLater | None = None,
        segmind_conn_id: str | GivenLater = DEFAULT_CONNECTION,
        deferrable: bool | GivenLater = conf.getboolean("operators", "default_deferrable", fallback=False),
        reuse_answers: ReuseAnswers | timedelta | GivenLater = "never",
        budget: str | GivenLater | None = None,
        max_cost: float | GivenLater | None = None,
        max_rows: int | GivenLater | None = None,
        max_failed_rows: int | float | GivenLater | None = MAX_FAILED_ROWS,
        max_repairs: int | GivenLater = MAX_REPAIRS,
        sample: int | GivenLater | None = None,
        dry_run: bool | GivenLater = False,
        on_budget: OnBudget | GivenLater = "fail",
        on_partial: OnPartial | GivenLater = "fail",
        on_unknown: OnUnknown | GivenLater = "fail",
        rerun: Rerun | Collection[Rerun] | GivenLater = "unbilled",
        api_format: str | GivenLater | None = None,
        concurrency: int | GivenLater = CONCURRENCY,
        shard_index: int | GivenLater = 0,
        shard_count: int | GivenLater = 1,
        notes: Mapping[str, str] | GivenLater | None = None,
        mask_prompts: bool | GivenLater | None = None,
        **kwargs: Unpack[OperatorArguments],
    ) -> None:
        super().__init__(
            key=key,
            prompt=prompt,
            system=system,
            files=files,
            inputs=inputs,
            options=options,
            api_format=api_format,
            output_type=output_type,
            max_repairs=max_repairs,
            model=model,
            ledger_path=ledger_path,
            reuse_answers=reuse_answers,
            answers_path=answers_path,
            max_cost=max_cost,
            max_rows=max_rows,
            max_failed_rows=max_failed_rows,
            on_partial=on_partial,
            on_unknown=on_unknown,
            rerun=rerun,
            concurrency=concurrency,
            shard_index=shard_index,
            shard_count=shard_count,
            sample=sample,
            dry_run=dry_run,
            deferrable=deferrable,
            segmind_conn_id=segmind_conn_id,
            notes=notes,
            budget=budget,
            on_budget=on_budget,
            mask_prompts=mask_prompts,
            **kwargs,
        )
        check_source(source)
        check_output_path(output_path, source)
        self.source = TableRows.hide(source)
        self.output_path = once_rendered(output_path)

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Start a mapped task; inline rows are kept out of the serialized DAG, including those that it expands over."""
        return super().partial(**{name: cls.hide_rows(name, value) for name, value in kwargs.items()})

    @staticmethod
    def hide_rows(name: str, value: Any) -> Any:
        """Wrap rows that are given as an argument."""
        return TableRows.hide(value) if name == "source" else value

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

    def lineage_tables(self) -> Tables:
        """Return the files."""
        from airflow_provider_segmind.execution.lineage import file_tables

        return file_tables(self.source, self.output_path, shard=self._shard(), sample=self.sample)


class SegmindEnrichSqlOperator(SegmindEnrichOperator):
    """
    Ask a model about every row of a query, and write the typed answers into a table, by key.

    For prompts, limits, retries and kills see
    :class:`~airflow_provider_segmind.operators.enrich.SegmindEnrichOperator`, whose arguments it takes as well.

    The source may be any database with a ``DbApiHook``; the target PostgreSQL, SQLite, DuckDB, Snowflake or BigQuery. A
    missing target is created: key columns as in the source, answer columns according to ``output_type``, and
    ``_segmind_`` columns; an existing one is checked before anything is paid. Running the task twice
    changes nothing. A failure is written with its reason; it replaces an answer only if that answer was to another
    prompt.

    A row whose key is NULL, or is also the key of an earlier row, is ``skipped`` and listed with the reason.

    **Also templated**: ``sql`` (or a ``.sql`` file), ``target_table``, ``sql_conn_id``, ``target_conn_id``.

    *What to ask*

    :param key: the columns that identify a row.

    *Where*

    :param sql_conn_id: the source's Connection.
    :param sql: a SELECT, or ``table`` or ``schema.table`` to read whole. Names are used exactly as written, including
        upper and lower case.
    :param target_table: where the answers go, as ``table`` or ``schema.table``.
    :param target_conn_id: the target's; the source's when None.
    :param ledger_path: folder of the ledger. Runs that share it share answers, so keep it the same every day. The dead
        letters, the manifest and the report are in its folder ``reports``.

    *Rarely needed*

    :param incremental: exclude rows whose answer to the same prompt is in the target: they cost no request and no
        write. Otherwise every row is written, from the ledger where that has the answer.
    :param batch_rows: rows per transaction. Answers are written in batches of this size while other rows are sent.

    :raises AirflowFailException: a retry cannot help; the answers received are written.
    """

    template_fields: Sequence[str] = (
        *("sql", "target_table", "sql_conn_id", "target_conn_id"),
        *SegmindEnrichOperator.template_fields,
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
        key: str | Sequence[str] | GivenLater,
        sql_conn_id: str | GivenLater,
        sql: str | GivenLater,
        target_table: str | GivenLater,
        ledger_path: str | AnyPath | GivenLater,
        model: str | GivenLater | None = None,
        prompt: str | GivenLater | None = None,
        system: str | GivenLater | None = None,
        files: Sequence[str | AnyPath | GivenLater] | GivenLater | None = None,
        inputs: Mapping[str, Any] | GivenLater | None = None,
        options: Mapping[str, Any] | GivenLater | None = None,
        output_type: Any = None,
        target_conn_id: str | GivenLater | None = None,
        answers_path: str | AnyPath | GivenLater | None = None,
        segmind_conn_id: str | GivenLater = DEFAULT_CONNECTION,
        deferrable: bool | GivenLater = conf.getboolean("operators", "default_deferrable", fallback=False),
        reuse_answers: ReuseAnswers | timedelta | GivenLater = "never",
        budget: str | GivenLater | None = None,
        max_cost: float | GivenLater | None = None,
        max_rows: int | GivenLater | None = None,
        max_failed_rows: int | float | GivenLater | None = MAX_FAILED_ROWS,
        max_repairs: int | GivenLater = MAX_REPAIRS,
        sample: int | GivenLater | None = None,
        dry_run: bool | GivenLater = False,
        on_budget: OnBudget | GivenLater = "fail",
        on_partial: OnPartial | GivenLater = "fail",
        on_unknown: OnUnknown | GivenLater = "fail",
        rerun: Rerun | Collection[Rerun] | GivenLater = "unbilled",
        api_format: str | GivenLater | None = None,
        concurrency: int | GivenLater = CONCURRENCY,
        shard_index: int | GivenLater = 0,
        shard_count: int | GivenLater = 1,
        incremental: bool | GivenLater = True,
        batch_rows: int | GivenLater = BATCH_ROWS,
        notes: Mapping[str, str] | GivenLater | None = None,
        mask_prompts: bool | GivenLater | None = None,
        **kwargs: Unpack[OperatorArguments],
    ) -> None:
        super().__init__(
            key=key,
            prompt=prompt,
            system=system,
            files=files,
            inputs=inputs,
            options=options,
            api_format=api_format,
            output_type=output_type,
            max_repairs=max_repairs,
            model=model,
            ledger_path=ledger_path,
            reuse_answers=reuse_answers,
            answers_path=answers_path,
            max_cost=max_cost,
            max_rows=max_rows,
            max_failed_rows=max_failed_rows,
            on_partial=on_partial,
            on_unknown=on_unknown,
            rerun=rerun,
            concurrency=concurrency,
            shard_index=shard_index,
            shard_count=shard_count,
            sample=sample,
            dry_run=dry_run,
            deferrable=deferrable,
            segmind_conn_id=segmind_conn_id,
            notes=notes,
            budget=budget,
            on_budget=on_budget,
            mask_prompts=mask_prompts,
            **kwargs,
        )
        check_sql_target(sql, target_table)
        same_place = target_conn_id is None or target_conn_id == sql_conn_id
        if same_place and sql == target_table:
            raise SegmindConfigError("'target_table' is the source itself: write the answers into another table.")
        for name, value in (("sql_conn_id", sql_conn_id), ("ledger_path", ledger_path)):
            if value is None or value == "":
                raise SegmindConfigError(f"{name!r} is {value!r}, but it is required.")
        self.sql = once_rendered(sql)
        self.target_table = once_rendered(target_table)
        self.sql_conn_id = once_rendered(sql_conn_id)
        self.target_conn_id = once_rendered(target_conn_id)
        self.incremental = once_rendered(incremental)
        self.batch_rows = once_rendered(batch_rows)
        SegmindEnrichSqlOperator.check_arguments(self)
        self.find_late_fields()

    def check_arguments(self) -> None:
        """Check arguments that have a range or a choice."""
        super().check_arguments()
        check_flag("incremental", self.incremental)
        check_count("batch_rows", self.batch_rows)

    def table_io(self, question: Question) -> TableIO:
        """Return the query and the table."""
        from airflow_provider_segmind.execution.sql_table import SqlTableIO, SqlTableSettings

        check_sql_target(self.sql, self.target_table)
        settings = SqlTableSettings(
            sql_conn_id=self.sql_conn_id,
            target_conn_id=self.target_conn_id or self.sql_conn_id,
            sql=self.sql,
            target_table=self.target_table,
            ledger_path=self.ledger_path,
            output_type=read_output_type(self.output_type),
            incremental=self.incremental,
            batch_rows=self.batch_rows,
            shard=self._shard(),
            sample=self.sample,
        )
        return SqlTableIO(settings, question, log=self.log)

    def lineage_tables(self) -> Tables:
        """Return the tables of the databases."""
        from airflow_provider_segmind.execution.lineage import sql_tables

        return sql_tables(
            sql_conn_id=self.sql_conn_id,
            sql=self.sql,
            target_conn_id=self.target_conn_id or self.sql_conn_id,
            target_table=self.target_table,
            sample=self.sample,
        )


class SegmindMergeOperator(TemplatedOperator, BaseOperator):
    """
    Merge the manifests of all shards of an enrichment, check that no row is missing, and merge their files.

    Use it after ``.expand(shard_index=[…])``. It sends no request and costs nothing; a retry does the same again.

    **XCom**: one manifest for the whole table, in the form that a single task returns. With an ``output_path`` it is
    also written next to the output, with the report and the dead letters of all shards.

    **Templated**: ``manifests``, ``output_path``.

    :param manifests: the return values of the shards: the ``output`` of the mapped task.
    :param output_path: the table to write, ``.jsonl``, ``.csv`` or ``.parquet``: all rows in the order of the source.
        Preferably in the format of the shards' files, as CSV has no types. None to write nothing, as for shards that
        write into one table of a database.
    :raises AirflowFailException: a shard or a row is missing, or the shards are not of one run; nothing was written.
    """

    template_fields: Sequence[str] = ("manifests", "output_path")
    template_fields_renderers: ClassVar[dict[str, str]] = {"manifests": "json"}
    ui_color = "#e3f1ff"
    operator_extra_links = (SegmindOutputLink(),)
    has_page = True

    def __init__(
        self,
        *,
        manifests: Any,
        output_path: str | AnyPath | GivenLater | None = None,
        **kwargs: Unpack[OperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        if manifests is None or isinstance(manifests, bytes):
            raise SegmindConfigError(
                "'manifests' is missing: give it the output of the mapped task, such as shards.output."
            )
        if output_path is not None:
            check_output_path(output_path)
        self.manifests = manifests
        self.output_path = once_rendered(output_path)
        self.result_uri: str | None = None
        self._merged: tuple[list[str], Manifest] | None = None

    def finish_rendering(self) -> None:
        """Read the manifests from the lazy sequence that Airflow passes for a mapped task."""
        if not isinstance(self.manifests, Mapping | str) and not is_given_later(self.manifests):
            self.manifests = list(self.manifests)

    def execute(self, context: Context) -> dict[str, Any]:
        """Merge, write the output if there is one, and return the manifest of the whole table."""
        from airflow_provider_segmind.enrichment.manifest import merge
        from airflow_provider_segmind.execution.asset_events import describe_outlets, table_figures
        from airflow_provider_segmind.execution.file_table import add_report, merge_files, read_manifests
        from airflow_provider_segmind.execution.table_log import log_end
        from airflow_provider_segmind.failures import task_failures

        manifest_path = None
        with task_failures():
            self.check_rendered()
            manifest = merge(read_manifests(self.manifests))
            self._merged = (manifest.outputs, manifest)
            if self.output_path is not None:
                manifest_path = merge_files(manifest, self.output_path)
                self.result_uri = manifest.outputs[0]
                add_report(manifest, manifest_path, task_url=task_address(context["ti"]), log=self.log)
        log_end(self.log, manifest, manifest_path)
        value = manifest.to_json()
        describe_outlets(context, self.outlets, table_figures(value, manifest_path))
        return value

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:
        """Tell OpenLineage which files became one, and the figures of all shards."""
        if self._merged is None or self.output_path is None:
            return None
        from airflow_provider_segmind.execution.lineage import merged_tables, on_end

        parts, manifest = self._merged
        return on_end(merged_tables(parts, self.output_path), manifest)
