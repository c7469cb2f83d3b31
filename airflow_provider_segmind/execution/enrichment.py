"""
One try of an enrichment task: the engine in its thread, progress, deferral, the output, and the task's outcome.

The engine's loop runs in a second thread. Airflow stops a task by an exception in the main thread (execution_timeout,
SIGTERM before Airflow 3) or by a call of ``on_kill`` there; inside a loop the exception would tear paid requests apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
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
from airflow_provider_segmind.enrichment.report.page import write_report
from airflow_provider_segmind.enrichment.run_limits import Limits
from airflow_provider_segmind.enrichment.settings import Client, KeyedTarget, Settings, Shard
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindEnrichmentError, SegmindError
from airflow_provider_segmind.failures import skip
from airflow_provider_segmind.triggers.request import SegmindRequestsTrigger

if TYPE_CHECKING:
    from airflow_provider_segmind.defaults import OnPartial, OnUnknown, Rerun
    from airflow_provider_segmind.enrichment.settings import Question
    from airflow_provider_segmind.enrichment.stats import Progress
    from airflow_provider_segmind.enrichment.storage import StorePath
    from airflow_provider_segmind.execution.file_table import TableIO
    from airflow_provider_segmind.hooks.segmind import SegmindHook


PROGRESS_KEY = "segmind_progress"
"""Key of the progress in the task state store (Airflow 3.3), where other tasks keep their submission records."""
REFRESH_INTERVAL = 1.0
STATE_INTERVAL = 3.0
LOG_INTERVAL = 30.0
SHORTEST_TIMEOUT = 5.0
"""Seconds; a heartbeat comes six times in them, and a busy machine may be late."""
CONFIDENCE = 2.0
"""Standard errors to either side of an extrapolated cost, which covers about 95 %."""
_MANIFEST, _REPORT = ".manifest.json", ".report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrichmentSettings:
    """
    The operator's arguments of the same names, rendered and checked; and what Airflow knows about the task.

    :param run_id: the same in every try of a task instance, so that a retry does not start with a fresh budget.
    :param deadline: epoch second at which the task must have ended, infinity without an ``execution_timeout``.
    """

    run_id: str
    segmind_conn_id: str
    deadline: float
    max_cost: float | None
    max_rows: int | None
    max_failed_rows: int | float | None
    max_repairs: int
    on_partial: OnPartial
    on_unknown: OnUnknown
    rerun: Rerun
    concurrency: int
    timeout: float
    poll_interval: float | None
    shard: Shard
    sample: int | None
    deferrable: bool
    report: bool


class ProgressReporter:
    """
    Writes a run's progress to the log and to the task state store, from the task's main thread.

    Only that thread may call Airflow; the engine's thread only stores its latest figures here.

    :param store: the task state store, None before Airflow 3.3.
    :param clock: monotonic seconds.
    """

    def __init__(self, store: Any, *, try_number: int, log: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._try_number = try_number
        self._log = log
        self._clock = clock
        self._latest: Progress | None = None
        self._reported: Progress | None = None
        self._state_due = self._log_due = clock()

    def update(self, progress: Progress) -> None:
        """Set the latest figures; from any thread."""
        self._latest = progress

    def until_done(self, running: Future[None]) -> None:
        """Wait until the engine has finished, and report progress at intervals meanwhile."""
        self._log_due = self._clock() + LOG_INTERVAL
        while wait([running], timeout=REFRESH_INTERVAL).not_done:
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
            self._set_state(progress)

    def _set_state(self, progress: Progress) -> None:
        if self._store is None:
            return
        state = {**progress.to_json(), "try_number": self._try_number, "at": round(time.time(), 1)}
        try:
            self._store.set(PROGRESS_KEY, state)
        except Exception as error:  # noqa: BLE001 - a display that does not work must not disturb what is paid for
            self._store = None
            self._log.info("Progress is reported in this log only: %s", type(error).__name__)


class EnrichmentRun:
    """
    One try of one task instance: prepare the table, run the engine, defer or store the answers, decide the outcome.

    :param question: what is asked of each row.
    :param table: reader of the rows and writer of the answers.
    :param hook: of the account.
    :param progress: reports to Airflow while the engine runs.
    :param defer: Airflow's ``defer`` of the operator.
    :param xcom_push: pushes ``value`` under ``key``; a no-op where the task pushes no XCom.
    :param resume_state: counts of this try before it was deferred, None at its start.
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
        resume_state: dict[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self.output_uri: str | None = None
        """Where the answers are; None until they are written."""
        self._question = question
        self._table = table
        self._hook = hook
        self._progress = progress
        self._defer = defer
        self._xcom_push = xcom_push
        self._log = log
        self._resume_state = resume_state
        self._engine: Engine | None = None
        self._target: KeyedTarget | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_reason: str | None = None
        self._costs: list[float] = []
        self._rows_total: int | None = None

    @property
    def requests_sent(self) -> int:
        """Requests sent in this run, including those of earlier tries as far as the ledger has been read."""
        return 0 if self._engine is None else max(self._engine.tally.posts, self._engine.budget.rows)

    def execute(self) -> dict[str, Any]:
        """
        Ask about the rows, write what has finished, and return the manifest.

        :raises TaskDeferred: there is nothing to do but wait; nothing is written yet.
        :raises SegmindError: the run stopped for a reason; everything that finished is written.
        """
        self._warn_of_balance()
        try:
            self._target = self._table.prepare(dry=False)
            self._rows_total = self._count_total()
            running = self._run_engine()
            self._defer_if_idle(running)
            manifest = self._store_answers(running)
            if (error := running.exception()) is not None:
                raise error
            if manifest is None:
                raise SegmindEnrichmentError(
                    "The task was stopped before this try began. Nothing was sent.", retryable=True
                )
            return self._decide_outcome(manifest)
        finally:
            self._table.close()

    def stop(self, reason: str) -> None:
        """Submit nothing more and finish within the grace period; from any thread, or a signal handler."""
        self._stop_reason = reason
        if self._loop is not None:
            # The loop may have ended by itself, which is as good.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop_engine)

    def _warn_of_balance(self) -> None:
        balance, max_cost = self._hook.get_balance(), self.settings.max_cost
        if balance is None:
            self._log.warning("Segmind has no balance record for this account: add credits before the first row")
        elif balance <= 0 or (max_cost is not None and balance < max_cost):
            self._log.warning("The balance of %.6f USD may not cover this table", balance)

    def _count_total(self) -> int | None:
        total, sample = self._table.total(), self.settings.sample
        return total if sample is None or total is None else min(total, sample)

    def _run_engine(self) -> Future[None]:
        """Run the engine in its thread until it ends; an exception of Airflow's stops it and stores the answers."""
        with ThreadPoolExecutor(1, thread_name_prefix="segmind-engine") as thread:
            running = thread.submit(asyncio.run, self._engine_loop())
            try:
                self._progress.until_done(running)
            except BaseException:
                # Whatever Airflow raises here to end the task; what finishes within the grace period is kept.
                self.stop("the task was interrupted")
                wait([running])
                self._store_answers(running)
                raise
        return running

    async def _engine_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with await AsyncSegmindClient.create(self._hook.config) as client:
            self._engine = self._new_engine(client)
            self._stop_engine()
            await self._engine.run()

    def _stop_engine(self) -> None:
        if self._engine is not None and self._stop_reason is not None:
            self._engine.stop(self._stop_reason, hurry=True)

    def _new_engine(self, client: Client) -> Engine:
        settings, price = self.settings, PRICES.get(self._question.model)
        return Engine(
            question=self._question,
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
                request_timeout=settings.timeout,
                poll_interval=settings.poll_interval,
                on_unknown=settings.on_unknown,
                rerun=settings.rerun,
                deferrable=settings.deferrable,
                writer_timeout=writer_timeout(),
            ),
            shard=settings.shard,
            target=self._target,
            progress=self._progress.update,
            resume_state=self._resume_state,
        )

    def _defer_if_idle(self, running: Future[None]) -> None:
        """Defer until enough requests have ended, when the engine ended because it can do nothing but wait."""
        engine = self._engine
        if (
            engine is None
            or engine.deferral is None
            or self._stop_reason is not None
            or running.exception() is not None
        ):
            return
        resume_state, deferral, now = engine.resume_state(), engine.deferral, time.time()
        engine.close()
        until = min(deferral.until, self.settings.deadline)
        self._log.info(
            "%d requests are in progress and there is nothing else to do; deferring until %d of them have ended, for "
            "at most %d s",
            *(len(deferral.requests), deferral.enough, max(0, until - now)),
        )
        trigger = partial(
            SegmindRequestsTrigger,
            requests=[list(one) for one in deferral.requests],
            enough=deferral.enough,
            until=until,
            segmind_conn_id=self.settings.segmind_conn_id,
            model=self._question.model,
            poll_interval=self.settings.poll_interval,
            resume_state=resume_state,
        )
        defer_until(until, self._defer, trigger)

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
        finally:
            engine.close()
        self.output_uri = self._table.address
        self._log.info("%s", summarize(manifest))
        if self._stop_reason is None and self.settings.report:
            # A task that is being stopped has no time for charts; a retry draws them.
            add_report(manifest, self._table.manifest_path, log=self._log)
        self._table.check_refused()
        return manifest

    def _add_cost(self, values: Mapping[str, Any]) -> None:
        self._costs.append(values["_segmind_cost"] or 0.0)

    def _decide_outcome(self, manifest: Manifest) -> dict[str, Any]:
        """Return the manifest, or raise when the task must fail or be skipped."""
        engine = self._engine
        stopped = engine.stopped if engine is not None else None
        if stopped is not None and stopped.error is not None:
            raise stopped.error
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

    def _check_failed_rows(self, manifest: Manifest) -> None:
        limits = Limits(max_failed_rows=self.settings.max_failed_rows)
        too_many = limits.too_many_failed(
            manifest.failed_rows, manifest.rows_read - manifest.rows_unchanged, final=True
        )
        if too_many is not None:
            raise SegmindEnrichmentError(
                f"{too_many}: {summarize(manifest)}. See {', '.join(manifest.dead_letters)}; the answers received are "
                "in the output and are not paid for again.",
                # Rows that Segmind did not bill are asked again on a retry; the outcome of others is final.
                retryable=self.settings.rerun != "nothing" and manifest.outcomes[Outcome.FAILED] > 0,
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
            # A lost request may be found by the next try; a limit has no fresh budget in it.
            retryable=manifest.outcomes[Outcome.UNKNOWN] > 0,
        )

    def _extrapolate(self, rows_read: int) -> None:
        """
        Estimate the cost of the whole table from the cost of the sample's rows.

        :param rows_read: rows of the source that were read, including those of other shards.
        """
        asked = len(self._costs)
        if not asked:
            return
        mean = statistics.fmean(self._costs)
        try:
            total = self._table.count(rows_read)
        except (SegmindError, OSError) as error:
            self._log.warning(
                "A row of the sample cost %.6f USD on average. The cost of all rows is unknown, because they cannot be "
                "counted: %s",
                *(mean, error),
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
            "All %d rows would cost about %.4f USD (%.4f to %.4f), from a sample of %d",
            *(total, estimate["cost"], estimate["low"], estimate["high"], asked),
        )
        self._xcom_push(key="estimate", value=estimate)


def add_report(manifest: Manifest, path: StorePath, *, log: Any) -> None:
    """
    Write the report of a run beside its manifest, and the manifest again with the report's path in it.

    A report that cannot be drawn or written is only warned of: the answers are paid for, and their outcomes are in the
    manifest.

    :param path: of the manifest, which has been written.
    """
    report_path = path.parent / (path.name.removesuffix(_MANIFEST) + _REPORT)
    manifest.report = str(report_path)
    try:
        write_report(manifest, report_path)
        manifest.write(path)
    except Exception as error:  # noqa: BLE001 - an error here does not change the outcome of the run
        manifest.report = None
        log.warning("The report could not be written to %s: %s: %s", report_path, type(error).__name__, error)


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


def summarize(manifest: Manifest) -> str:
    """Return the outcome of a run in one line."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in manifest.outcomes.items() if count)
    return (
        f"{manifest.rows_read} rows read ({counts or 'none'}), {manifest.posts} POSTs in this try, "
        f"{manifest.cost:.6f} USD billed in this run"
    )
