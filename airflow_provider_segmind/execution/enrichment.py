"""
One try of an enrichment task: the engine in its thread, progress, deferral, the output, and the task's outcome.

The engine's loop runs in a second thread. Airflow stops a task by an exception in the main thread (execution_timeout,
SIGTERM before Airflow 3) or by a call of ``on_kill`` there; inside a loop the exception would interrupt paid requests
halfway.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_segmind.chat.cost_estimate import PRICES
from airflow_provider_segmind.client.client import AsyncSegmindClient
from airflow_provider_segmind.compat import conf
from airflow_provider_segmind.deferral import defer_until
from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.progress_file import delete_progress
from airflow_provider_segmind.enrichment.run_limits import Limits
from airflow_provider_segmind.enrichment.settings import Client, KeyedTarget, Settings, Shard
from airflow_provider_segmind.exceptions import (
    SegmindBudgetError,
    SegmindConfigError,
    SegmindEnrichmentError,
    SegmindError,
    SegmindInFlightError,
    shorten,
)
from airflow_provider_segmind.execution.file_table import add_report
from airflow_provider_segmind.execution.table_log import log_end, log_start, summarize
from airflow_provider_segmind.failures import skip
from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.pausing import PauseWatch, paused_error
from airflow_provider_segmind.spend.recorder import SpendBuffer, SpendRecorder
from airflow_provider_segmind.telemetry.metrics import MetricsSender, call_totals, cost_total
from airflow_provider_segmind.telemetry.tracing import task_tracer
from airflow_provider_segmind.triggers.request import SegmindRequestsTrigger
from airflow_provider_segmind.triggers.spending import RESET_SPREAD, defer_for_slot, defer_while_paused
from airflow_provider_segmind.wording import counted

if TYPE_CHECKING:
    from airflow_provider_segmind.budget.slices import TableSlice
    from airflow_provider_segmind.client.config import ClientConfig
    from airflow_provider_segmind.client.rate_limiter import CallCounts
    from airflow_provider_segmind.defaults import OnBudget, OnPartial, OnUnknown, Rerun
    from airflow_provider_segmind.enrichment.question import Question
    from airflow_provider_segmind.enrichment.settings import TableAnswerCache
    from airflow_provider_segmind.enrichment.stats import Progress, ResumeState
    from airflow_provider_segmind.execution.file_table import TableIO
    from airflow_provider_segmind.hooks.segmind import SegmindHook
    from airflow_provider_segmind.telemetry.tracing import Operation


PROGRESS_KEY = "segmind_progress"
"""
Key of the progress in the task state store (Airflow 3.3), which has the submission records of tasks of other kinds.
"""
TABLE_KEY = "segmind_table"
"""Key of the XCom with the address of the ledger, and with the manifest once there is one."""
REFRESH_INTERVAL = 1.0
STATE_INTERVAL = 3.0
LOG_INTERVAL = 30.0
SHORTEST_TIMEOUT = 5.0
"""Lower bound in seconds; six heartbeats are written in this time, and a busy machine may be late."""
LOOK_UP_AFTER = 60.0
"""Seconds after which a table that was ended by a budget and deferred looks up its requests with an unknown outcome."""
CONFIDENCE = 2.0
"""Standard errors to either side of an extrapolated cost, which covers about 95%."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrichmentSettings:
    """
    The operator's arguments of the same names, rendered and checked; and what Airflow knows about the task.

    :param run_id: the same in every try of a task instance, so that a retry continues under the same limits.
    :param task_url: the task instance in Airflow's UI, None where that address is not known.
    :param deadline: epoch second at which the task must have ended, infinity without an ``execution_timeout``.
    :param names: of DAG and task, as tags of its metrics.
    :param answers: the answer cache, None for a table that asks without it.
    :param is_retry: whether an earlier try may have sent requests.
    """

    run_id: str
    names: Mapping[str, str]
    segmind_conn_id: str
    deadline: float
    max_cost: float | None
    max_rows: int | None
    max_failed_rows: int | float | None
    on_budget: OnBudget
    max_repairs: int
    on_partial: OnPartial
    on_unknown: OnUnknown
    rerun: frozenset[Rerun]
    concurrency: int
    shard: Shard
    sample: int | None
    deferrable: bool
    keep_prompt: bool
    notes: Mapping[str, str]
    task_url: str | None
    answers: TableAnswerCache | None = None
    is_retry: bool = False

    def limits(self, config: ClientConfig) -> Iterator[str]:
        """Yield the limits of the run, for the log."""
        yield "no max_cost" if self.max_cost is None else f"max_cost {format_usd(self.max_cost)}"
        yield "no max_rows" if self.max_rows is None else f"max_rows {self.max_rows:,}"
        most = self.max_failed_rows
        if most is not None:
            yield f"max_failed_rows {100 * most:g}%" if isinstance(most, float) else f"max_failed_rows {most:,}"
        rate, share = config.requests_per_minute, config.rate_share
        yield "no declared rate limit" if rate is None else f"{rate * share:g} calls a minute"
        yield f"{self.concurrency} concurrent requests"
        if self.shard.count > 1:
            yield f"shard {self.shard.index} of {self.shard.count}"
        if self.sample is not None:
            yield f"only the first {counted(self.sample, 'row')}"
        yield f"rerun: {', '.join(sorted(self.rerun)) or 'nothing'}"


class ProgressReporter:
    """
    Writes a run's progress to the log, the task state store and the ledger, from the task's main thread.

    Only that thread may call Airflow; the engine's thread only stores its latest figures here.

    :param store: the task state store, None before Airflow 3.3.
    :param keep: writes the progress to the ledger, with the requests that have not finished.
    :param clock: monotonic seconds.
    """

    def __init__(
        self,
        store: Any,
        *,
        try_number: int,
        log: Any,
        keep: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writers: list[tuple[str, Callable[[dict[str, Any]], None], bool]] = []
        if store is not None:
            self._writers.append(("the task state store", partial(store.set, PROGRESS_KEY), False))
        if keep is not None:
            self._writers.append(("the ledger", keep, True))
        self._try_number = try_number
        self._log = log
        self._clock = clock
        self._latest: Progress | None = None
        self._reported: Progress | None = None
        self._state_due = self._log_due = clock()

    def update(self, progress: Progress) -> None:
        """Set the latest figures; from any thread."""
        self._latest = progress

    def until_done(self, running: Future[None], each_second: Callable[[], None]) -> None:
        """Wait until the engine has finished; report progress at intervals and call ``each_second`` meanwhile."""
        self._log_due = self._clock() + LOG_INTERVAL
        while wait([running], timeout=REFRESH_INTERVAL).not_done:
            each_second()
            self._report()
        self._state_due = 0.0
        self._report()

    def _report(self) -> None:
        progress, now = self._latest, self._clock()
        if progress is None or progress is self._reported:
            return
        if now >= self._log_due:
            self._log_due = now + LOG_INTERVAL
            self._log.info("%s", progress)
        if now >= self._state_due:
            self._state_due = now + STATE_INTERVAL
            self._reported = progress
            self._write(progress)

    def _write(self, progress: Progress) -> None:
        about = {"try_number": self._try_number, "at": round(time.time(), 1)}
        for writer in list(self._writers):
            name, write, listed = writer
            try:
                write({**progress.to_json(listed=listed), **about})
            except Exception as error:  # noqa: BLE001 - a display that does not work must not disturb what is paid for
                self._writers.remove(writer)
                self._log.info("Progress is no longer written to %s: %s", name, type(error).__name__)


class EnrichmentRun:
    """
    One try of one task instance: prepare the table, run the engine, defer or store the answers, decide the outcome.

    :param question: what is sent for each row.
    :param table: reader of the rows and writer of the answers.
    :param hook: of the account.
    :param progress: reports to Airflow while the engine runs.
    :param defer: Airflow's ``defer`` of the operator.
    :param xcom_push: pushes ``value`` under ``key``; a no-op where the task pushes no XCom.
    :param resume_state: counts of this try before it was deferred, None at its start.
    :param spend: records finished requests, None without a spend record.
    :param budget: its part of the budgets that apply, None if none does.
    """

    def __init__(
        self,
        settings: EnrichmentSettings,
        *,
        question: Question,
        table: TableIO,
        hook: SegmindHook,
        progress: ProgressReporter,
        defer: Callable[..., NoReturn],
        xcom_push: Callable[..., Any],
        log: Any,
        resume_state: ResumeState | None = None,
        spend: SpendRecorder | None = None,
        budget: TableSlice | None = None,
    ) -> None:
        self.settings = settings
        self.output_uri: str | None = None
        """Where the answers are; None until they are written."""
        self.manifest: Manifest | None = None
        """What this try has written; None until then."""
        self.question = question
        self._table = table
        self._hook = hook
        self._progress = progress
        self._defer = defer
        self._xcom_push = xcom_push
        self._log = log
        self._resume_state = resume_state
        complete = resume_state is not None and resume_state.spend_recorded
        self._spend = None if spend is None else SpendBuffer(spend, complete=complete)
        self._budget = budget
        self._pause = PauseWatch()
        self._engine: Engine | None = None
        self._target: KeyedTarget | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_reason: str | None = None
        self._costs: list[float] = []
        self._rows_total: int | None = None
        self._calls: CallCounts | None = None
        tags = {**settings.names, "model": question.model, "conn_id": settings.segmind_conn_id}
        self._metrics = MetricsSender(tags, self._totals, self._gauges)
        self._tracer = task_tracer()
        self._began = time.time()

    @property
    def requests_sent(self) -> int:
        """Requests sent in this run, including those of earlier tries that have been read from the ledger so far."""
        return 0 if self._engine is None else max(self._engine.tally.posts, self._engine.usage.rows)

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The columns of the source found so far."""
        return () if self._engine is None else self._engine.reader.columns

    def execute(self) -> dict[str, Any]:
        """
        Process the rows, write what has finished, and return the manifest.

        :raises TaskDeferred: there is nothing to do but wait; nothing is written yet.
        :raises SegmindError: the run stopped for a reason; everything that finished is written.
        """
        self._wait_while_paused()
        self._warn_of_balance()
        try:
            self._target = self._table.prepare(dry=False)
            if self._resume_state is None and not self.settings.is_retry:
                # Later, what was sent before is fetched first, because its results expire.
                self._table.check_own(self.settings.run_id, "Nothing was sent.")
            self._publish(None)
            self._rows_total = self._count_total()
            if self._resume_state is None:
                limits = [*self.settings.limits(self._hook.config), *(self._budget.describe() if self._budget else ())]
                log_start(self._log, self._table, self.question, limits=limits, rows=self._rows_total)
            if self._spend is not None:
                self._spend.open()
            running = self._run_engine()
            if (engine := self._engine) is not None and self._stop_reason is None and running.exception() is None:
                self._defer_if_idle(engine)
                self._defer_until_budget(engine)
                self._defer_for_slot(engine)
            manifest = self._store_answers(running)
            if (error := running.exception()) is not None:
                raise error
            if manifest is None:
                raise SegmindEnrichmentError(
                    "The task was stopped before this try began. Nothing was sent.", retryable=True
                )
            return self._decide_outcome(manifest)
        finally:
            self._metrics.send()
            self._trace()
            self._table.close()

    def _trace(self) -> None:
        """Add the span of this part of the try, and those of some of its rows."""
        if self._tracer is None or self._engine is None:
            return
        tally, model = self._engine.tally, self.question.model
        failed = self.manifest is None or not self.manifest.complete or self._engine.stopped is not None
        table = self._tracer.table(
            began=self._began,
            ended=time.time(),
            attributes={
                "gen_ai.request.model": model,
                "segmind.requests": tally.accepted,
                "segmind.tokens": tally.tokens,
                "segmind.cost_usd": tally.cost,
                **{f"segmind.rows.{outcome}": count for outcome, count in tally.outcomes.items()},
            },
            error="incomplete" if failed and self._engine.deferral is None else None,
        )
        # A body given as inputs may be that of any model.
        operation: Operation = "generate_content" if (self.question.template or {}).get("inputs") else "chat"
        for row in tally.sample.rows:
            table.request(
                operation,
                model=model,
                began=row.at - (row.seconds or 0.0),
                ended=row.at,
                error=None if row.outcome is Outcome.SUCCESS else str(row.outcome),
                request_id=row.request_ids[-1] if row.request_ids else None,
                tokens=row.tokens,
                cost=row.cost,
            )

    def _totals(self) -> dict[str, float]:
        """Return what the metrics count; the engine's thread may be adding to it."""
        if self._engine is None or self._calls is None:
            return {}
        tally = self._engine.tally
        counts = {"requests": tally.accepted, "tokens": tally.tokens, "cost_micros": cost_total(tally.cost)}
        rows: dict[str, float] = {f"rows.{outcome}": count for outcome, count in list(tally.outcomes.items())}
        rows["rows.reused"] = tally.reused_rows
        return {**call_totals(self._calls), **counts, **rows}

    def _gauges(self) -> dict[str, float]:
        return {"in_flight": 0 if self._engine is None else len(self._engine.waiting)}

    def _publish(self, manifest: Manifest | None) -> None:
        """Push to XCom where the ledger is, and what a task that fails has written."""
        value = {"ledger": str(self._table.ledger), "manifest": None if manifest is None else manifest.to_json()}
        try:
            self._xcom_push(key=TABLE_KEY, value=value)
        except Exception as error:  # noqa: BLE001 - a display that does not work must not disturb what is paid for
            self._log.info("The ledger's address could not be pushed to XCom: %s", type(error).__name__)

    def stop(self, reason: str) -> None:
        """Submit nothing more and finish within the grace period; from any thread, or a signal handler."""
        self._stop_reason = reason
        self._in_loop(self._stop_engine)

    def _in_loop(self, change: Callable[[], object]) -> None:
        """Make a change in the engine's thread."""
        if self._loop is not None:
            # The loop may have ended by itself, which is as good.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(change)

    def _wait_while_paused(self) -> None:
        """
        Wait until spending is allowed, or defer until then.

        :raises SegmindPausedError: it was paused until the task was stopped or its time was up; nothing was sent.
        """
        self._pause.changed()
        announced = False
        while (reason := self._pause.reason) is not None:
            if self._stop_reason is not None or time.time() >= self.settings.deadline:
                raise paused_error(reason)
            if self.settings.deferrable:
                self._defer_while_paused(reason, self._resume_state)
            if not announced:
                self._log.warning("%s Waiting", paused_error(reason))
                announced = True
            time.sleep(REFRESH_INTERVAL)
            self._pause.changed()

    def _defer_while_paused(self, reason: str, resume_state: ResumeState | None) -> NoReturn:
        self._log.warning("Spending is paused: %s. Deferring until it is allowed again", reason)
        until = self.settings.deadline
        state = None if resume_state is None else resume_state.to_json()
        defer_while_paused(self._defer, until=until, method_name="execute_complete", resume_state=state)

    def _each_second(self) -> None:
        """Do what only the main thread may do while the engine runs."""
        self._check_pause()
        self._load()
        self._metrics.send_if_due()
        if self._spend is not None:
            self._spend.flush_if_due()

    def _load(self) -> None:
        """Write what has finished, and send no more rows if the target accepts none."""
        engine = self._engine
        if engine is None:
            return
        trouble = self._table.load(engine)
        if trouble is not None and engine.stopped is None:
            self._log.error("No more rows are sent: %s", trouble)
            self._in_loop(partial(engine.stop, str(trouble), error=trouble))

    def _suspend(self, engine: Engine) -> ResumeState:
        """Write what has finished, end this part of the try, and return what the next one continues from."""
        resume_state = engine.resume_state()
        self._flush(engine)
        engine.close()
        if self._spend is not None:
            resume_state = replace(resume_state, spend_recorded=self._spend.flush())
        return resume_state

    def _flush(self, engine: Engine) -> None:
        try:
            self._table.flush(engine)
        except SegmindEnrichmentError as error:
            self._log.warning("Writing the answers so far failed; they are written when the task continues: %s", error)

    def _check_pause(self) -> None:
        """Pass a change of the switch to the engine; from the main thread."""
        if not self._pause.changed() or self._loop is None:
            return
        if (reason := self._pause.reason) is None:
            self._log.info("Spending is allowed again; the table continues")
        else:
            self._log.warning(
                "Spending is paused: %s. No row is sent; answers to requests in flight are still fetched", reason
            )
        self._in_loop(self._pause_engine)

    def _pause_engine(self) -> None:
        if self._engine is not None:
            self._engine.pause(self._pause.current())

    def _warn_of_balance(self) -> None:
        balance, max_cost = self._hook.get_balance(), self.settings.max_cost
        if balance is None:
            self._log.warning("Segmind has no balance record for this account: add credits before the first row")
        elif balance <= 0 or (max_cost is not None and balance < max_cost):
            self._log.warning("The balance of %s may not cover this table", format_usd(balance))

    def _count_total(self) -> int | None:
        total, sample = self._table.total(), self.settings.sample
        return total if sample is None or total is None else min(total, sample)

    def _run_engine(self) -> Future[None]:
        """Run the engine in its thread until it ends; an exception of Airflow's stops it and stores the answers."""
        # The garbage collector need not search what exists by now, mostly Airflow: that would take a tenth of a row's
        # CPU.
        gc.freeze()
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="segmind-engine") as thread:
                running = thread.submit(asyncio.run, self._engine_loop())
                try:
                    self._progress.until_done(running, self._each_second)
                except BaseException:
                    # Any exception that Airflow raises here to end the task; what finishes within the grace period is
                    # kept.
                    self.stop("the task was interrupted")
                    wait([running])
                    self._store_answers(running)
                    raise
        finally:
            gc.unfreeze()
        return running

    async def _engine_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with await AsyncSegmindClient.create(self._hook.config) as client:
            self._calls = client.throttle.counts
            self._engine = self._new_engine(client)
            # Apply what was decided before there was an engine.
            self._stop_engine()
            self._pause_engine()
            watching = asyncio.create_task(self._watch_pause())
            try:
                await self._engine.run()
            finally:
                watching.cancel()

    async def _watch_pause(self) -> None:
        """Pause the engine while the main thread cannot read the switch; no other thread may read it."""
        while True:
            await asyncio.sleep(REFRESH_INTERVAL)
            if self._engine is not None and self._engine.paused != (self._pause.current() is not None):
                self._pause_engine()

    def _stop_engine(self) -> None:
        if self._engine is not None and self._stop_reason is not None:
            self._engine.stop(self._stop_reason, hurry=True)

    def _new_engine(self, client: Client) -> Engine:
        settings, price = self.settings, PRICES.get(self.question.model)
        return Engine(
            question=self.question,
            rows=islice(self._table.rows(), settings.sample),
            rows_total=self._rows_total,
            ledger_folder=self._table.ledger,
            client=client,
            run_id=settings.run_id,
            limits=Limits(
                max_cost=settings.max_cost,
                max_rows=settings.max_rows,
                max_failed_rows=settings.max_failed_rows,
                expected_cost=(price.average_request if price else None) or 0.0,
            ),
            settings=Settings(
                concurrency=settings.concurrency,
                on_unknown=settings.on_unknown,
                rerun=settings.rerun,
                deferrable=settings.deferrable,
                spend=self._spend,
                answers=settings.answers,
                budget=self._budget,
                keep_prompt=settings.keep_prompt,
                notes=settings.notes,
                writer_timeout=writer_timeout(),
            ),
            shard=settings.shard,
            target=self._target,
            progress=self._progress.update,
            resume_state=self._resume_state,
        )

    def _defer_if_idle(self, engine: Engine) -> None:
        """Defer until enough requests have ended, when the engine ended because it can do nothing but wait."""
        if engine.deferral is None:
            return
        resume_state, deferral, now = self._suspend(engine), engine.deferral, time.time()
        if math.isinf(deferral.until):
            self._defer_while_paused(self._pause.reason or "it was paused until a moment ago", resume_state)
        until = min(deferral.until, self.settings.deadline)
        self._log.info(
            "There is nothing to do but wait for %s in progress; deferring until %d of them ended, for at most %d s",
            *(counted(len(deferral.requests), "request"), deferral.enough, max(0, until - now)),
        )
        self._defer_until(until, resume_state, [list(one) for one in deferral.requests], deferral.enough)

    def _defer_until_budget(self, engine: Engine) -> None:
        """Defer until a budget may have room, when it ended the run and the task is to wait for that."""
        refusal = None if engine.stopped is None else engine.stopped.refusal
        if refusal is None or refusal.resets_at is None:
            return
        if self.settings.on_budget != "defer" and (refusal.ask_again_in is None or not self.settings.deferrable):
            return
        until = refusal.resets_at + random.random() * RESET_SPREAD
        if refusal.retryable:
            # Requests with an unknown outcome are looked up soon, because their results are there for an hour. What
            # others have reserved may be returned later, too.
            until = min(until, time.time() + max(LOOK_UP_AFTER, refusal.ask_again_in or 0.0))
        if until >= self.settings.deadline:
            self._log.warning("Not deferring: the budget may have room only after the task's execution_timeout")
            return
        resume_state = self._suspend(engine)
        self._log.warning(
            "%s Deferring until %s", refusal, datetime.fromtimestamp(until, UTC).isoformat(" ", "seconds")
        )
        self._defer_until(until, resume_state)

    def _defer_until(
        self, until: float, resume_state: ResumeState, requests: list[list[Any]] | None = None, enough: int = 0
    ) -> NoReturn:
        trigger = partial(
            SegmindRequestsTrigger,
            requests=requests or [],
            enough=enough,
            until=until,
            segmind_conn_id=self.settings.segmind_conn_id,
            model=self.question.model,
            resume_state=resume_state.to_json(),
        )
        defer_until(until, self._defer, trigger)

    def _defer_for_slot(self, engine: Engine) -> None:
        """
        Defer until fewer paid requests of the Connection are in flight, when the run ended because no slot was free.
        """
        error = None if engine.stopped is None else engine.stopped.error
        late = time.time() >= self.settings.deadline
        if not self.settings.deferrable or not isinstance(error, SegmindInFlightError) or late:
            return
        resume_state = self._suspend(engine)
        self._log.info("%s Deferring until a slot is free", error)
        defer_for_slot(
            self._defer,
            segmind_conn_id=self.settings.segmind_conn_id,
            until=self.settings.deadline,
            method_name="execute_complete",
            resume_state=resume_state.to_json(),
        )

    def _store_answers(self, running: Future[None]) -> Manifest | None:
        """Write what is in the ledger; return None, writing nothing, when not even the first row could be read."""
        engine = self._engine
        if engine is None:
            return None
        try:
            if running.exception() is not None and not engine.reader.rows_seen:
                return None
            sampled = self.settings.sample is not None
            manifest = self._table.store(engine, self._add_cost if sampled else None)
        except SegmindError:
            raise
        except Exception as error:
            # A store's library may raise anything.
            raise SegmindEnrichmentError(
                f"Writing the answers to {self._table.target} failed: "
                f"{shorten(getattr(error, 'strerror', None) or type(error).__name__)}. They are in the ledger: a retry "
                "writes them and pays nothing again.",
                retryable=True,
            ) from error
        finally:
            engine.close()
            if self._spend is not None:
                # After the answers, which must not be delayed by a store that hangs.
                self._spend.flush()
        self.output_uri, self.manifest = self._table.address, manifest
        if self._stop_reason is None:
            # A task that is being stopped has no time for charts; a retry draws them.
            add_report(manifest, self._table.manifest_path, task_url=self.settings.task_url, log=self._log)
        self._publish(manifest)
        if self._spend is not None and self._stop_reason is None:
            self._spend.tidy()
        with contextlib.suppress(Exception):
            # An old file of progress does no harm, whatever the store raises.
            delete_progress(self._table.ledger, self.settings.run_id)
        log_end(self._log, manifest, self._table.manifest_path)
        self._table.check_refused()
        return manifest

    def _add_cost(self, values: Mapping[str, Any]) -> None:
        """Record what a row of a sample cost, unless that is not known, or a limit ended the run before it was sent."""
        cost, outcome = values["_segmind_cost"], values["_segmind_status"]
        stopped = self._engine is not None and self._engine.stopped is not None
        if outcome == Outcome.FAILED or (outcome == Outcome.SKIPPED and not stopped):
            cost = cost or 0.0
        if cost is not None and outcome != Outcome.UNKNOWN:
            self._costs.append(cost)

    def _decide_outcome(self, manifest: Manifest) -> dict[str, Any]:
        """Return the manifest, or raise when the task must fail or be skipped."""
        engine = self._engine
        stopped = engine.stopped if engine is not None else None
        if stopped is not None and stopped.error is not None:
            raise stopped.error
        if stopped is not None and stopped.refusal is not None:
            self._handle_refusal(manifest, stopped.refusal)
        if self._stop_reason is not None:
            raise SegmindEnrichmentError(
                f"Stopped because {self._stop_reason}: {summarize(manifest)}. A retry continues from here.",
                retryable=True,
            )
        self._check_failed_rows(manifest)
        if self.settings.sample is not None:
            self._extrapolate(manifest.rows_in_source)
        value = manifest.to_json()
        if manifest.rows_left or not manifest.complete:
            self._handle_partial(manifest, value)
        return value

    def _handle_refusal(self, manifest: Manifest, refusal: SegmindBudgetError) -> None:
        """Apply ``on_budget`` when a budget ended the run."""
        why = f"{refusal} {summarize(manifest)}. The answers received are in the output and are not paid for again"
        if self.settings.on_budget == "skip_downstream":
            self._xcom_push(key="return_value", value=manifest.to_json())
            skip(f"Skipped, because of on_budget='skip_downstream': {why}")
        error = SegmindBudgetError(
            f"{why}. Run the task again when the budget allows it, or let it wait with on_budget='defer'.",
            resets_at=refusal.resets_at,
        )
        error.retryable = refusal.retryable
        raise error

    def _check_failed_rows(self, manifest: Manifest) -> None:
        limits = Limits(max_failed_rows=self.settings.max_failed_rows)
        too_many = limits.too_many_failed(
            manifest.failed_rows, manifest.rows_read - manifest.rows_unchanged, final=True
        )
        if too_many is not None:
            raise SegmindEnrichmentError(
                f"{too_many}: {summarize(manifest)}. See {', '.join(manifest.dead_letters)}; the answers received are "
                "in the output and are not paid for again.",
                # A retry sends rows again that Segmind did not bill; the outcome of the others is final.
                retryable=not self.settings.rerun.isdisjoint({"unbilled", "failed"})
                and manifest.outcomes[Outcome.FAILED] > 0,
            )

    def _handle_partial(self, manifest: Manifest, value: dict[str, Any]) -> None:
        """Apply ``on_partial`` when rows have no outcome."""
        why = f"{summarize(manifest)}. {manifest.stopped or 'See the dead letters for the reasons'}"
        if self.settings.on_partial == "succeed":
            self._log.warning("The table is not complete: %s", why)
            return
        if self.settings.on_partial == "skip_downstream":
            self._xcom_push(key="return_value", value=value)
            skip(f"The table is not complete: {why}")
        raise SegmindEnrichmentError(
            f"The table is not complete: {why}. The answers received are in the output and are not paid for again.",
            # The next try may find a lost request, but it does not renew a limit.
            retryable=manifest.outcomes[Outcome.UNKNOWN] > 0,
        )

    def _extrapolate(self, rows_read: int) -> None:
        """
        Estimate the cost of the whole table from the cost of the sample's rows.

        :param rows_read: rows of the source that were read, including those of other shards.
        """
        asked = len(self._costs)
        if not asked:
            if rows_read:
                self._log.warning(
                    "The cost of all rows cannot be estimated: the cost of none of the sample's rows is known"
                )
            return
        mean = statistics.fmean(self._costs)
        try:
            total = self._table.count(rows_read)
        except (SegmindError, OSError) as error:
            self._log.warning(
                "A sample row cost %s on average. The cost of all rows cannot be estimated, because they cannot be "
                "counted: %s",
                *(format_usd(mean), error),
            )
            return
        spread = statistics.stdev(self._costs) / math.sqrt(asked) if asked > 1 else mean
        estimate = {
            "rows": total,
            "sample": asked,
            "cost": mean * total,
            "low": max(sum(self._costs), (mean - CONFIDENCE * spread) * total),
            "high": (mean + CONFIDENCE * spread) * total,
        }
        self._log.info(
            "All rows (%d) would cost about %s (%s to %s), from a sample of %d",
            *(total, format_usd(estimate["cost"]), format_usd(estimate["low"]), format_usd(estimate["high"]), asked),
        )
        self._xcom_push(key="estimate", value=estimate)


def writer_timeout() -> float:
    """
    Return the seconds without a heartbeat after which another run over the same ledger counts as dead.

    :raises SegmindConfigError: the option is not a sensible time.
    """
    seconds: float = conf.getfloat("segmind", "writer_timeout", fallback=Settings().writer_timeout)
    if not SHORTEST_TIMEOUT <= seconds < math.inf:
        raise SegmindConfigError(
            f"[segmind] writer_timeout is {seconds!r}; it must be at least {SHORTEST_TIMEOUT:g} seconds. "
            "Nothing was sent."
        )
    return seconds
