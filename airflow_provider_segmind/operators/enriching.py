"""
One try of a table task: the engine on a loop of its own, what it finished written, and what to make of the rest.

The loop runs in a second thread. Airflow stops a task by an exception in the main thread (execution_timeout, SIGTERM
before Airflow 3) or by a call of ``on_kill`` there; inside a loop the exception would tear paid requests apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.api.client import AsyncSegmindClient
from airflow_provider_segmind.api.pricing import PRICES
from airflow_provider_segmind.bulk.budget import Limits
from airflow_provider_segmind.bulk.engine import Engine
from airflow_provider_segmind.bulk.manifest import Manifest
from airflow_provider_segmind.bulk.plan import Client, KeyedTarget, OnUnknown, Rerun, Settings, Shard
from airflow_provider_segmind.bulk.verdicts import Outcome
from airflow_provider_segmind.compat import conf
from airflow_provider_segmind.exceptions import SegmindBulkError, SegmindConfigError, SegmindError
from airflow_provider_segmind.failures import skip
from airflow_provider_segmind.operators.reporting import add_report
from airflow_provider_segmind.operators.resting import REST_AFTER, rest_in_triggerer
from airflow_provider_segmind.operators.row_question import row_question
from airflow_provider_segmind.operators.telling import LOOK_INTERVAL, Telling

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.operators.ends import Ends
    from airflow_provider_segmind.operators.enrich_rows import SegmindEnrichOperator

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
            raise SegmindBulkError("The task was told to stop before this try began. Nothing was sent.", retryable=True)
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
            raise SegmindBulkError(
                f"Stopped because {self._stop_reason}: {summary(manifest)}. A retry goes on where this try was.",
                retryable=True,
            )
        limits = Limits(max_failed_rows=task.max_failed_rows)
        too_many = limits.too_many_failed(
            manifest.failed_rows, manifest.rows_read - manifest.rows_unchanged, final=True
        )
        if too_many is not None:
            raise SegmindBulkError(
                f"{too_many}: {summary(manifest)}. See {', '.join(manifest.dead_letters)}; what was answered is in the "
                "output and is not paid again.",
                # Rows that Segmind did not bill are asked again by themselves; of others the outcome stands.
                retryable=task.rerun != "nothing" and manifest.outcomes[Outcome.FAILED] > 0,
            )
        if task.sample is not None:
            self._extrapolate()
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
        raise SegmindBulkError(
            f"The table is not complete: {told}. What was answered is in the output and is not paid again.",
            # A lost request may be found by the next try; a limit has no fresh budget in it.
            retryable=manifest.outcomes[Outcome.UNKNOWN] > 0,
        )

    def _extrapolate(self) -> None:
        """Say what the whole table would cost, from what the sample's rows cost."""
        asked = len(self._costs)
        if not asked:
            return
        try:
            total = self._ends.count(asked)
        except (SegmindError, OSError) as error:
            self._task.log.warning("What all rows would cost is unknown, because they cannot be counted: %s", error)
            return
        mean = statistics.fmean(self._costs)
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
