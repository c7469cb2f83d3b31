"""What every task that asks about a table shares: the question, the limits, the run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_segmind.api.policies import DEFAULT_CONNECTION, RESULT_LIFETIME
from airflow_provider_segmind.arguments import (
    check_choice,
    check_flag,
    check_model,
    check_number,
    check_path,
    check_share,
)
from airflow_provider_segmind.compat import BaseOperator, conf
from airflow_provider_segmind.links import SegmindModelLink, SegmindOutputLink
from airflow_provider_segmind.operators import tables
from airflow_provider_segmind.operators.tables import OnPartial, OnUnknownRow, Rerun
from airflow_provider_segmind.rendering import TemplatedOperator

if TYPE_CHECKING:
    from airflow_provider_segmind.bulk.plan import Question
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.hooks.segmind import SegmindHook
    from airflow_provider_segmind.operators.ends import Ends
    from airflow_provider_segmind.operators.enriching import Enriching

CONCURRENCY = 64
MAX_FAILED_ROWS = 0.1


class SegmindEnrichOperator(TemplatedOperator, BaseOperator):
    """
    Ask a model about every row of a table; a subclass says where the rows come from and where the answers go.

    A row is paid for once for as long as its question, the model, the schema and the options stay the same: the ledger
    at ``ledger_path`` knows what was asked, whichever run, DAG or row number it was. Equal rows share one answer.

    **XCom**: the manifest: rows by outcome, which add up to the rows read, cost, tokens, latencies, and where the
    outputs are. It stands on storage as well. Rows never go into XCom.

    **A retry, a clear, a killed worker**: rows that have an answer cost nothing, requests that were accepted are
    fetched by id, and a POST of unknown fate is looked for in Segmind's history and never sent again by itself.
    Whatever ends the task, what has finished is written first, except by SIGKILL; then the retry writes it.

    **Templated**, once, before any row is read: ``prompt``, ``system``, ``files``, ``inputs``, ``options``,
    ``key``, ``ledger_path``, ``model``, ``segmind_conn_id``. ``{column}`` is filled afterwards, by name only, so that
    nothing in a row can run.

    :param key: the columns that name a row; they stand in the output.
    :param prompt: the question, with ``{column}`` placeholders.
    :param system: what the model is told before it, with or without placeholders.
    :param files: what goes with the question: paths, object storage URIs or http(s) addresses, with placeholders;
        files of at most 7 MB are read and sent, addresses are passed on. A column of bytes may stand alone. A row whose
        file is missing, too large or of a type the model does not take is ``skipped`` with the reason, unpaid.
    :param inputs: instead of all three, the JSON body as the model's page describes it, with placeholders in its texts.
    :param options: what else a chat model takes, sent as it is.
    :param api_format: ``gemini``, ``openai`` or ``anthropic``, for a model whose name does not tell.
    :param output_type: what an answer must be: a pydantic model, a type, or a JSON Schema. The fields of an object
        become columns; anything else stands in the column ``answer``. With ``inputs`` it only checks the answer.
    :param max_repairs: how often a row is asked again, each time paid, because its answer was cut off or is not of
        ``output_type``.
    :param model: the model to run; the connection's default when None.
    :param ledger_path: folder of the ledger. Runs that share it share answers.
    :param max_cost: USD the task instance may spend over all its tries.
    :param max_rows: distinct rows it may ask about.
    :param max_failed_rows: rows that may fail: a count (int), or a share (float). None for any number.
    :param on_partial: rows are left without being asked, because of a limit or of what stands in them: ``fail`` the
        task, ``succeed``, or ``skip_downstream``, which skips the task and with it what follows.
    :param on_unknown: a POST was lost and the history does not show it: ``leave`` the row, or ``resubmit`` (may pay
        twice).
    :param rerun: which rows without an answer are asked again: those that were not billed (``unbilled``), all of them
        (``dead_letters``), or ``nothing``.
    :param concurrency: requests in flight; the account's rate limit holds whatever it is.
    :param timeout: seconds after its submission for which to wait for a request.
    :param poll_interval: seconds between looks, None to choose.
    :param shard_index: which share of the rows is this task's, from 0.
    :param shard_count: over how many task instances the rows are dealt out. Limits count for each.
    :param sample: ask about the first so many rows only, write them to ``….sample.…``, and extrapolate the cost.
    :param dry_run: submit nothing and return what the table may cost.
    :param deferrable: give the worker slot back while all there is to do is to wait for minutes: for slow models, or
        for a tiny rate. Airflow's ``[operators] default_deferrable`` when not given.
    :param report: write a report with charts beside the manifest, ``….report.html``.
    :param segmind_conn_id: the Connection.
    :param rate_share: the part of the account's limit for this task, above 0 up to 1, where several run at once; a
        share each for a pool of mapped tasks is one divided by the slots of the pool.
    :param mask_prompts: keep ``prompt``, ``system`` and ``inputs`` out of Airflow's rendered fields; ``[segmind]
        mask_prompts`` when None.
    :raises AirflowFailException: where a retry cannot help; what was answered is written by then.
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
        on_unknown: OnUnknownRow = "leave",
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
        tables.check_key(key)
        tables.check_question(
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
        self._enriching: Enriching | None = None
        SegmindEnrichOperator.check_arguments(self)
        self.find_late_fields()

    def check_arguments(self) -> None:
        """Check what has a range or a choice."""
        check_model(self.model)
        check_path("ledger_path", self.ledger_path, none=True)
        tables.check_answers(output_type=self.output_type, key=self.key, max_repairs=self.max_repairs)
        tables.check_limits(
            max_cost=self.max_cost, max_rows=self.max_rows, max_failed_rows=self.max_failed_rows, sample=self.sample
        )
        tables.check_shard(self.shard_index, self.shard_count)
        tables.check_count("concurrency", self.concurrency)
        check_number("timeout", self.timeout)
        if self.poll_interval is not None:
            check_number("poll_interval", self.poll_interval)
        check_choice("on_partial", self.on_partial, OnPartial)
        check_choice("on_unknown", self.on_unknown, OnUnknownRow)
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
    def ends(self, question: Question) -> Ends:
        """Return where the rows come from and where their answers go; called with the fields rendered."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Ask about every row, write the output, and return the manifest."""
        return self._leg(context, None)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Go on after a rest: what has ended is fetched by id, and further rows are asked about."""
        told = event or {}
        if told.get("trouble"):
            self.log.warning("Waiting in the triggerer broke off (%s); nothing is lost by it", told["trouble"])
        self.log.info(
            "Going on with the table; %s requests ended meanwhile", told.get("ended", "it is unknown how many")
        )
        return self._leg(context, told.get("carried"))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on also when Airflow ended the rest because no trigger spoke; then without another one."""
        from airflow_provider_segmind.deferral import timed_out

        if not timed_out(next_method, next_kwargs):
            return super().resume_execution(next_method, next_kwargs, context)
        self.log.warning("No triggerer reported in time; going on with the table and keeping the worker")
        self.deferrable = False
        return self.execute_complete(context)

    def _leg(self, context: Context, carried: dict[str, Any] | None) -> dict[str, Any]:
        from airflow_provider_segmind.failures import task_failures
        from airflow_provider_segmind.operators.enriching import Enriching
        from airflow_provider_segmind.operators.foresight import foresee_table

        with task_failures(partial(self._sent_before, context, carried)):
            try:
                self.check_rendered()
                if carried is not None:
                    self.hook.find_connection()
                if self.estimate_only:
                    return foresee_table(self)
                self._enriching = Enriching(self, context, carried)
                return self._enriching.go()
            finally:
                self.hook.close()

    def _sent_before(self, context: Context, carried: dict[str, Any] | None) -> str | None:
        """Say in words what was sent for this table in this run, as far as is known here; None when nothing."""
        from airflow_provider_segmind.failures import earlier_try

        known = 0 if self._enriching is None else self._enriching.requests
        count = max(known, int((carried or {}).get("posts", 0)))
        return f"{count} requests were sent in this run before" if count else earlier_try(context)

    def on_kill(self) -> None:
        """Submit nothing more, give what is in flight a moment, and write what has finished."""
        if self._enriching is not None:
            self._enriching.stop("the task was told to stop")
