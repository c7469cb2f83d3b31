"""
One try of a table task: the engine in its thread, progress, deferral, the output, and the task's outcome.

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
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.chat.cost_estimate import PRICES
from airflow_provider_segmind.client.client import AsyncSegmindClient
from airflow_provider_segmind.compat import conf
from airflow_provider_segmind.deferral import backstop, deadline_of_task
from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.report.page import write_report
from airflow_provider_segmind.enrichment.run_limits import Limits
from airflow_provider_segmind.enrichment.settings import Client, KeyedTarget, OnUnknown, Rerun, Settings, Shard
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindEnrichmentError, SegmindError
from airflow_provider_segmind.execution.row_prompt import row_question
from airflow_provider_segmind.failures import skip
from airflow_provider_segmind.triggers.request import SegmindRequestsTrigger, earliest_event

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.enrichment.stats import Progress
    from airflow_provider_segmind.enrichment.storage import StorePath
    from airflow_provider_segmind.enrichment.work_queue import Rest
    from airflow_provider_segmind.execution.file_table import Ends
    from airflow_provider_segmind.operators.enrich import SegmindEnrichOperator


STATE_KEY = "segmind_progress"
"""Under which the progress stands in the task state store (Airflow 3.3), beside the notes of other tasks."""
LOOK_INTERVAL = 1.0
STATE_INTERVAL = 3.0
LOG_INTERVAL = 30.0


class Telling:
    """
    Tells how far a run has come, from the task's main thread, which has nothing else to do meanwhile.

    Only there may a task speak to Airflow; the engine's loop just leaves its latest figures here.

    :param clock: seconds that never go back.
    """

    def __init__(
        self, task: SegmindEnrichOperator, context: Context, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._task = task
        self._clock = clock
        # Missing before Airflow 3.3.
        self._store: Any = context.get("task_state_store")
        self._try_number = context["ti"].try_number
        self._latest: Progress | None = None
        self._told: Progress | None = None
        self._state_due = self._log_due = clock()

    def note(self, progress: Progress) -> None:
        """Leave the latest figures; from any thread."""
        self._latest = progress

    def until_done(self, running: Future[None]) -> None:
        """Wait for the engine's end, and tell meanwhile what is due."""
        self._log_due = self._clock() + LOG_INTERVAL
        while wait([running], timeout=LOOK_INTERVAL).not_done:
            self._tell()
        self._state_due = 0.0
        self._tell()

    def _tell(self) -> None:
        progress, now = self._latest, self._clock()
        if progress is None or progress is self._told:
            return
        if now >= self._log_due:
            self._log_due = now + LOG_INTERVAL
            self._task.log.info("%s", progress)
        if now >= self._state_due:
            self._state_due = now + STATE_INTERVAL
            self._told = progress
            self._set_state(progress)

    def _set_state(self, progress: Progress) -> None:
        if self._store is None:
            return
        state = {**progress.to_json(), "try_number": self._try_number, "at": round(time.time(), 1)}
        try:
            self._store.set(STATE_KEY, state)
        except Exception as error:  # noqa: BLE001 - a display that does not work must not disturb what is paid for
            self._store = None
            self._task.log.info("The progress can be seen in this log only: %s", type(error).__name__)


REST_AFTER = 60.0
"""Seconds for which there must be nothing to do; a rest costs the start of a task and another look at the table."""


def rest_in_triggerer(
    task: SegmindEnrichOperator, context: Context, rest: Rest, *, model: str, carried: dict[str, Any]
) -> None:
    """
    Defer until enough requests have ended.

    :param carried: counts of the try so far.
    """
    now = time.time()
    until = min(rest.until, deadline_of_task(context, task.execution_timeout))
    task.log.info(
        "%d requests are under way and nothing else can be done; waiting in the triggerer until %d of them have "
        "ended, %d s at the most",
        *(len(rest.requests), rest.enough, max(0, until - now)),
    )
    task.defer(
        trigger=SegmindRequestsTrigger(
            requests=[list(one) for one in rest.requests],
            enough=rest.enough,
            until=until,
            segmind_conn_id=task.segmind_conn_id,
            model=model,
            poll_interval=task.poll_interval,
            carried=carried,
            not_before=earliest_event(now),
        ),
        method_name="execute_complete",
        timeout=backstop(until, now),
    )


_MANIFEST, _REPORT = ".manifest.json", ".report.html"


def add_report(manifest: Manifest, path: StorePath, *, wanted: bool, log: Any) -> None:
    """
    Draw the report of a run beside its manifest, and write the manifest again with the report's place in it.

    A report that cannot be drawn or written is only warned of: the answers are paid for, and what became of them stands
    in the manifest.

    :param path: where the manifest stands already.
    :param wanted: False to draw none.
    """
    if not wanted:
        return
    place = path.parent / (path.name.removesuffix(_MANIFEST) + _REPORT)
    manifest.report = str(place)
    try:
        write_report(manifest, place)
        manifest.write(path)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong here, the run has its outcome
        manifest.report = None
        log.warning("The report could not be written to %s: %s: %s", place, type(error).__name__, error)


GRACE = 3.0
"""Seconds for what is in flight after a kill: Airflow 3's supervisor sends SIGKILL five seconds after SIGTERM."""
SHORTEST_TIMEOUT = 5.0
"""Seconds; a heartbeat comes six times in them, and a busy machine may be late."""
CONFIDENCE = 2.0
"""Standard errors to either side of an extrapolated cost, which covers about 95 %."""


class Enriching:
    """
    One try of one task instance.

    :param task: the operator, its fields rendered.
    :param carried: counts of the try before it rested, None when it begins.
    """

    def __init__(self, task: SegmindEnrichOperator, context: Context, carried: dict[str, Any] | None = None) -> None:
        self._task = task
        self._context = context
        self._carried = carried
        self._engine: Engine | None = None
        self._target: KeyedTarget | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_reason: str | None = None
        self._costs: list[float] = []
        self._rows_total: int | None = None
        self._telling = Telling(task, context)
        self._question = row_question(task)
        self._ends: Ends = task.ends(self._question)

    @property
    def requests(self) -> int:
        """How many requests were sent in this run, those of earlier tries included as far as the ledger was read."""
        return 0 if self._engine is None else max(self._engine.tally.posts, self._engine.budget.rows)

    def go(self) -> dict[str, Any]:
        """
        Ask about the rows, write what has finished, and return the manifest.

        :raises SegmindError: the run stopped for a reason; everything that finished is written.
        """
        self._task.model_used = self._question.model
        self._warn_of_balance()
        try:
            self._target = self._ends.prepare(dry=False)
            self._rows_total = self._total()
            return self._judge(self._ask())
        finally:
            self._ends.close()

    def _ask(self) -> Manifest:
        with ThreadPoolExecutor(1, thread_name_prefix="segmind-engine") as thread:
            running = thread.submit(asyncio.run, self._run())
            try:
                self._telling.until_done(running)
            except BaseException:
                # Whatever Airflow raises here to end the task; what finishes within the grace period is kept.
                self.stop("the task was interrupted")
                wait([running])
                self._land(running)
                raise
        self._rest(running)
        manifest = self._land(running)
        if (error := running.exception()) is not None:
            raise error
        if manifest is None:
            raise SegmindEnrichmentError(
                "The task was told to stop before this try began. Nothing was sent.", retryable=True
            )
        return manifest

    def _rest(self, running: Future[None]) -> None:
        """Give the worker back when the run rests; nothing is written until it has gone on."""
        engine = self._engine
        if engine is None or engine.rest is None or self._stop_reason is not None or running.exception() is not None:
            return
        carried, rest = engine.carried(), engine.rest
        engine.close()
        rest_in_triggerer(self._task, self._context, rest, model=self._question.model, carried=carried)

    def stop(self, reason: str) -> None:
        """Submit nothing more and finish within the grace period; from any thread, or a signal handler."""
        self._stop_reason = reason
        if self._loop is not None:
            # The loop may have ended by itself, which is as good.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop_engine)

    def _stop_engine(self) -> None:
        if self._engine is not None and self._stop_reason is not None:
            self._engine.stop(self._stop_reason, hurry=True)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with await AsyncSegmindClient.create(self._task.hook.config) as client:
            self._engine = self._new_engine(client)
            self._stop_engine()
            await self._engine.run()

    def _new_engine(self, client: Client) -> Engine:
        task, ti = self._task, self._context["ti"]
        model = self._question.model
        price = PRICES.get(model)
        return Engine(
            question=self._question,
            rows=islice(self._ends.rows(), task.sample),
            rows_total=self._rows_total,
            ledger_folder=self._ends.ledger,
            client=client,
            # The same in every try, so that a retry has no fresh budget.
            run_id=f"{ti.dag_id}/{ti.run_id}/{ti.task_id}/{ti.map_index}",
            limits=Limits(
                max_cost=task.max_cost,
                max_rows=task.max_rows,
                max_failed_rows=task.max_failed_rows,
                expected_cost=(price.average_request if price else None) or 0.0,
            ),
            settings=Settings(
                concurrency=task.concurrency,
                request_timeout=task.timeout,
                poll_interval=task.poll_interval,
                on_unknown=OnUnknown(task.on_unknown),
                rerun=Rerun(task.rerun),
                max_questions=1 + task.max_repairs,
                grace=GRACE,
                progress_interval=LOOK_INTERVAL,
                rest_after=REST_AFTER if task.deferrable else None,
                death_after=writer_timeout(),
            ),
            shard=Shard(index=task.shard_index, count=task.shard_count),
            target=self._target,
            progress=self._telling.note,
            carried=self._carried,
        )

    def _total(self) -> int | None:
        total, sample = self._ends.total(), self._task.sample
        return total if sample is None or total is None else min(total, sample)

    def _warn_of_balance(self) -> None:
        balance = self._task.hook.get_balance()
        if balance is None:
            self._task.log.warning("Segmind has no balance record for this account: add credits before the first row")
        elif balance <= 0 or (self._task.max_cost is not None and balance < self._task.max_cost):
            self._task.log.warning("The balance of %.6f USD may not cover this table", balance)

    def _land(self, running: Future[None]) -> Manifest | None:
        """Write what the ledger holds; nothing when not even the first row could be read."""
        engine = self._engine
        if engine is None:
            return None
        try:
            if running.exception() is not None and not engine.feeder.rows_seen:
                return None
            sampled = self._task.sample is not None
            manifest = self._ends.land(engine, self._note_cost if sampled else None)
        finally:
            engine.close()
        self._task.result_uri = self._ends.address
        self._task.log.info("%s", summary(manifest))
        if self._stop_reason is None:
            # Somebody who ends a task does not wait for drawings; a retry makes them.
            add_report(manifest, self._ends.manifest_path, wanted=self._task.report, log=self._task.log)
        self._ends.check_refused()
        return manifest

    def _note_cost(self, values: Mapping[str, Any]) -> None:
        self._costs.append(values["_segmind_cost"] or 0.0)

    def _judge(self, manifest: Manifest) -> dict[str, Any]:
        """Return the manifest, or raise what the rest of the rows calls for."""
        task, engine = self._task, self._engine
        stopped = engine.stopped if engine is not None else None
        value = manifest.to_json()
        if stopped is not None and stopped.error is not None:
            raise stopped.error
        if self._stop_reason is not None:
            raise SegmindEnrichmentError(
                f"Stopped because {self._stop_reason}: {summary(manifest)}. A retry goes on where this try was.",
                retryable=True,
            )
        limits = Limits(max_failed_rows=task.max_failed_rows)
        too_many = limits.too_many_failed(
            manifest.failed_rows, manifest.rows_read - manifest.rows_unchanged, final=True
        )
        if too_many is not None:
            raise SegmindEnrichmentError(
                f"{too_many}: {summary(manifest)}. See {', '.join(manifest.dead_letters)}; what was answered is in the "
                "output and is not paid again.",
                # Rows that Segmind did not bill are asked again by themselves; of others the outcome stands.
                retryable=task.rerun != "nothing" and manifest.outcomes[Outcome.FAILED] > 0,
            )
        if task.sample is not None:
            self._extrapolate(manifest.rows_in_source)
        if manifest.rows_left or not manifest.complete:
            self._left(manifest, value)
        return value

    def _left(self, manifest: Manifest, value: dict[str, Any]) -> None:
        """Do about rows that have no outcome what the user chose."""
        told = f"{summary(manifest)}. {manifest.stopped or 'See the dead letters for the reasons'}"
        if self._task.on_partial == "succeed":
            self._task.log.warning("The table is not complete: %s", told)
            return
        if self._task.on_partial == "skip_downstream":
            if self._task.do_xcom_push:
                self._context["ti"].xcom_push(key="return_value", value=value)
            skip(f"The table is not complete: {told}")
        raise SegmindEnrichmentError(
            f"The table is not complete: {told}. What was answered is in the output and is not paid again.",
            # A lost request may be found by the next try; a limit has no fresh budget in it.
            retryable=manifest.outcomes[Outcome.UNKNOWN] > 0,
        )

    def _extrapolate(self, rows_read: int) -> None:
        """
        Say what the whole table would cost, from what the sample's rows cost.

        :param rows_read: rows of the source that were read, those of other shards included.
        """
        asked = len(self._costs)
        if not asked:
            return
        mean = statistics.fmean(self._costs)
        try:
            total = self._ends.count(rows_read)
        except (SegmindError, OSError) as error:
            self._task.log.warning(
                "A row of the sample cost %.6f USD on average. What all rows would cost is unknown, because they "
                "cannot be counted: %s",
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
        self._task.log.info(
            "All %d rows would cost about %.4f USD (%.4f to %.4f), from a sample of %d",
            *(total, estimate["cost"], estimate["low"], estimate["high"], asked),
        )
        if self._task.do_xcom_push:
            self._context["ti"].xcom_push(key="estimate", value=estimate)


def writer_timeout() -> float:
    """
    Return the seconds of silence after which a run over the same ledger is dead.

    :raises SegmindConfigError: the option is no time that makes sense.
    """
    seconds: float = conf.getfloat("segmind", "writer_timeout", fallback=Settings().death_after)
    if not SHORTEST_TIMEOUT <= seconds < math.inf:
        raise SegmindConfigError(
            f"[segmind] writer_timeout is {seconds!r}; it must be at least {SHORTEST_TIMEOUT:g} seconds. "
            "Nothing was sent."
        )
    return seconds


def summary(manifest: Manifest) -> str:
    """Say in one line what became of a table."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in manifest.outcomes.items() if count)
    return (
        f"{manifest.rows_read} rows read ({counts or 'none'}), {manifest.posts} POSTs in this try, "
        f"{manifest.cost:.6f} USD billed in this run"
    )
