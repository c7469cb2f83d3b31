"""
The engine: one asyncio loop that sends every distinct row of a table once.

Rows stream in, answers stream into the ledger; only rows in flight, and a few bytes per finished row, are in memory.
The engine ends when every row has an outcome or is skipped with a reason. Writing the output is a step of its own
(:mod:`~airflow_provider_segmind.enrichment.output`), from what the ledger then contains.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from airflow_provider_segmind.chat.cost_estimate import CostBound
from airflow_provider_segmind.enrichment.ledger.events import Submitted
from airflow_provider_segmind.enrichment.ledger.group_commit import GroupCommit
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.prompts import keep_prompt
from airflow_provider_segmind.enrichment.ledger.run_liveness import BEATS, Heartbeat, Membership
from airflow_provider_segmind.enrichment.question import LostRow, Prepared, Question
from airflow_provider_segmind.enrichment.recovery import recover_earlier, resolve_lost
from airflow_provider_segmind.enrichment.row_reader import RowReader
from airflow_provider_segmind.enrichment.row_request import RowRequester
from airflow_provider_segmind.enrichment.run_limits import LONGEST_FLIGHT, Limits, RunUsage
from airflow_provider_segmind.enrichment.settings import Client, KeyedTarget, RunFigures, Settings, Shard, TableBudget
from airflow_provider_segmind.enrichment.stats import MOST_LISTED, Meter, Progress, ResumeState, Tally, outcomes_of
from airflow_provider_segmind.enrichment.storage import StorePath
from airflow_provider_segmind.enrichment.work_queue import (
    Deferral,
    FinishedRows,
    InFlightBytes,
    RowTracker,
    deferral_of,
)
from airflow_provider_segmind.exceptions import (
    SegmindBudgetError,
    SegmindConfigError,
    SegmindEnrichmentError,
    SegmindError,
    after_sending,
)
from airflow_provider_segmind.wording import counted

T = TypeVar("T")
POSTPONED = 4
"""Maximum number of rows per worker that are set aside until the end of the table; their bodies stay in memory."""
log = logging.getLogger(__name__)
COMMIT_DELAY = 0.25
"""Seconds an event may wait to become durable together with others."""
FOLD_AT = 256
"""How many small segments are folded into one."""
BYTES_IN_FLIGHT = 64 << 20
"""Bytes of bodies that wait for a worker or an answer, above which no row joins them."""
CONTEST_PAUSE = 1.0
"""Approximate seconds before a row that another run claimed at the same moment is tried again."""
GRACE = 3.0
"""
Seconds that requests in flight have to end after a kill: Airflow 3's supervisor sends SIGKILL five seconds after
SIGTERM.
"""
PROGRESS_INTERVAL = 1.0
"""Seconds between progress reports."""
BUDGET_INTERVAL = 0.5
"""Seconds between two exchanges with the store of the budgets."""
DEFER_AFTER = 60.0
"""
Seconds for which there must be nothing to do but wait before a run defers, because that costs the start of a task and
another reading of the table.
"""
RECOVERY_ROUNDS = 3
"""How many times lost requests are searched for at the end of a try; a row that is sent again may be lost again."""


@dataclass(slots=True)
class Stop:
    """
    Why nothing more is submitted.

    :param hurry: whether what is in flight has only the grace period left.
    :param error: the error of Segmind or the ledger, when that is the reason.
    :param refusal: the refusal of a budget, when that is the reason.
    """

    reason: str
    hurry: bool = False
    error: SegmindError | None = None
    refusal: SegmindBudgetError | None = None


class Engine:
    """
    One try of one run over one table (or one shard of it).

    :param rows: the table; read once, in another thread.
    :param rows_total: how many rows it has, None when that is unknown before it was read.
    :param ledger_folder: where the ledger lives.
    :param run_id: names the run whose limits count; a retry has the same.
    :param target: where the answers go, if that affects which rows are sent.
    :param resume_state: what :meth:`resume_state` of the same try before returned, when it deferred.
    :param progress: called every :data:`PROGRESS_INTERVAL` seconds and at the end.
    :param clock: epoch seconds.
    :param monotonic: by which the heartbeats of other runs are timed.
    """

    def __init__(
        self,
        *,
        question: Question,
        rows: Iterable[Mapping[str, Any]],
        rows_total: int | None = None,
        ledger_folder: StorePath,
        client: Client,
        run_id: str,
        limits: Limits | None = None,
        settings: Settings | None = None,
        shard: Shard | None = None,
        target: KeyedTarget | None = None,
        progress: Callable[[Progress], None] | None = None,
        resume_state: ResumeState | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.question = question
        self.settings = settings or Settings()
        self.limits = limits or Limits()
        self.shard = shard or Shard()
        self.reader = RowReader(rows, question, self.shard, target)
        writer = uuid.uuid4().hex[:12]
        self.member = Membership(
            ledger_folder,
            writer=writer,
            shard=self.shard,
            writer_timeout=self.settings.writer_timeout,
            clock=clock,
            monotonic=monotonic,
        )
        self.heartbeat = Heartbeat(self.member)
        self.ledger = Ledger(ledger_folder, run=run_id, writer=writer, clock=clock, live=self.member)
        self.usage = RunUsage(self.limits)
        self.tally = Tally(clock)
        earlier = resume_state or ResumeState()
        self.tally.take_over(earlier)
        self._seconds_before = earlier.seconds
        self._began = clock() if earlier.began is None else earlier.began
        client.count_calls(self.tally.called)
        self.stopped: Stop | None = None
        self.deferral: Deferral | None = None
        self.waiting: dict[str, Submitted] = {}
        self.waiting_for_permit = 0
        self.paused = False
        self._short: dict[bytes, float] = {}
        self._asking = 0
        self._all_read = False
        self._postponing = True
        self.commits: GroupCommit
        self.finished_rows = FinishedRows(
            appended=lambda: self.commits.appended, durable=lambda: self.commits.durable, monotonic=monotonic
        )
        """Finished rows that may be written to a keyed target during the run; empty without one."""
        self._is_keyed = target is not None
        self.clock = clock
        self.client = client
        self._sleep = sleep
        self._monotonic = monotonic
        self._rng = rng or random.Random()
        self._report = progress
        self._rows_total = rows_total
        self._meter = Meter()
        self._unseen = 0
        self._counted = (0, 0)
        # One thread to read rows, one to write the ledger, one to list it, and one for the rest; no more, because each
        # thread that touches many rows keeps some memory for itself.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="segmind-enrichment")
        self._queue: asyncio.Queue[Prepared | None]
        self._bytes: InFlightBytes
        self._source_error: SegmindError | OSError | None = None
        self.seconds = 0.0
        self._started = clock()
        self._alone_since = self._started
        self._rows = self._new_tracker()
        self._changed = asyncio.Event()
        self._stop_signal = asyncio.Event()

    @property
    def stopping(self) -> bool:
        """Whether no more rows may be started."""
        return self.stopped is not None

    @property
    def halted(self) -> bool:
        """Whether even calls that already have a permit must not be submitted."""
        return self.stopped is not None and (self.stopped.hurry or self.stopped.error is not None)

    def stop(
        self, reason: str, *, hurry: bool = False, error: SegmindError | None = None,
        refusal: SegmindBudgetError | None = None,
    ) -> None:  # fmt: skip
        """
        Submit nothing more; call it from the loop's own thread.

        :param hurry: give what is in flight only the grace period, because the process is about to be killed.
        """
        if self.stopped is None:
            self.stopped = Stop(reason, hurry, error, refusal)
        else:
            self.stopped.hurry |= hurry
            self.stopped.error = self.stopped.error or error
        self._changed.set()
        if hurry:
            self._stop_signal.set()

    def pause(self, reason: str | None) -> None:
        """Send no paid call while there is a ``reason``; call it from the loop's own thread."""
        self.paused = reason is not None
        self._changed.set()

    def in_budget(self, mark: bytes, bound: CostBound) -> bool:
        """Return whether the budgets allow one more paid call; if not, more is requested."""
        budget = self.settings.budget
        cost = self.usage.expected(bound)
        if budget is None or budget.admits(self._figures(), cost):
            self._short.pop(mark, None)
            return True
        self._short[mark] = cost
        return False

    def waits_for_unread(self) -> bool:
        """
        Return whether the budgets may have room only once the rows with open requests of earlier tries have been read.
        """
        budget = self.settings.budget
        if budget is None or self.usage.in_flight or not self.usage.unread:
            return False
        return budget.refused is not None or budget.windows_changed() or self.without_slot() is not None

    def without_slot(self) -> SegmindError | None:
        """Return the error of a run in which such rows use every slot, so that waiting frees none."""
        budget = self.settings.budget
        if budget is None or self.usage.in_flight:
            return None
        return budget.without_slot(self._figures())

    def no_longer_short(self, mark: bytes) -> None:
        """Record that a row no longer waits for the budgets."""
        self._short.pop(mark, None)

    def may_still_send(self) -> bool:
        """Return whether a call that the budgets have allowed may be sent now."""
        return self.settings.budget is None or self.settings.budget.is_usable()

    def skip(self, prepared: Prepared, reason: str, *, lost: LostRow | None = None) -> None:
        """Skip a row without an outcome; see :meth:`RowTracker.skip`."""
        self._rows.skip(prepared, reason, lost=lost)

    def postpone(self, prepared: Prepared, reason: str) -> bool:
        """Set a row aside until the end of the table, unless too many are already; return whether it was."""
        if not self._postponing or len(self._rows.postponed) >= POSTPONED * self.settings.concurrency:
            return False
        self._rows.postpone(prepared, reason)
        return True

    def contend(self, prepared: Prepared, *, collided: bool) -> None:
        """Retry later a row that another run is processing; see :meth:`RowTracker.contend`."""
        self._rows.contend(prepared, collided=collided)

    def skip_reason(self, fingerprint: bytes) -> str | None:
        """Return why a row was set aside, None when it was not."""
        return self._rows.skipped.get(fingerprint)

    async def usage_changed(self) -> None:
        """Wait until what is in flight has been billed, a pause begins or ends, or the run stops."""
        self._changed.clear()
        if not self.stopping:
            await self._changed.wait()

    async def run(self) -> None:
        """
        Send every distinct row.

        A stop is not an error here: see :attr:`stopped`, and :attr:`deferral` for one after which the run continues.

        :raises SegmindEnrichmentError: the ledger cannot be read or written. What was accepted is fetched by a retry.
            The source breaks off: the rows read before have been processed.
        :raises SegmindConfigError: not even the first row can be read or sent, and nothing was sent.
        """
        self._started = self.clock()
        try:
            if self.settings.budget is not None:
                await self._sleep(await self._in_thread(self.settings.budget.claim_earlier))
            await self._in_thread(self._replay)
            await self._ask()
        finally:
            # The heartbeat continues until nothing more is sent; waiting for its thread takes no longer than a write.
            await asyncio.shield(self._in_thread(self._unregister))
        self.seconds = self._seconds_before + self.clock() - self._started
        self._report_progress()
        for error in (self.commits.error, self.commits.refusal, self._source_error, self._source_failure()):
            if error is not None:
                raise error

    async def _ask(self) -> None:
        # Every writer that had ended when the ledger was read has ended by now.
        self._alone_since = self.clock()
        self.usage = RunUsage(self.limits, self.ledger.totals())
        self._reserve_open_requests()
        self._rows = self._new_tracker()
        self.commits = GroupCommit(
            self.ledger,
            self.member,
            delay=COMMIT_DELAY,
            # Small groups: while one is listed for, the next one is written.
            urgent=max(1, self.settings.concurrency // 8),
            fold_at=FOLD_AT,
            failed=lambda error: self.stop(str(error), error=error),
            threads=self._threads,
        )
        background = [
            asyncio.create_task(self._reports(), name="segmind-progress"),
            asyncio.create_task(self._observe(), name="segmind-observe"),
        ]
        try:
            self.commits.take_in()
            if self.settings.budget is not None:
                await self._in_thread(partial(self.settings.budget.take_over, self._figures()))
                background.append(asyncio.create_task(self._keep_budget(self.settings.budget), name="segmind-budget"))
            await recover_earlier(self, until=self._alone_since)
            await self._process(self._enqueue_rows())
            self._postponing = False
            await self._process(self._enqueue_again(self._rows.take_up_postponed()))
            for _ in range(RECOVERY_ROUNDS):
                again = await self._lost_to_retry()
                if not again:
                    break
                await self._process(self._enqueue_again(again))
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await self.commits.close()
            self._rows.skip_contested()
            if self.settings.budget is not None:
                await asyncio.shield(self._in_thread(partial(self._close_budget, self.settings.budget)))

    def _figures(self) -> RunFigures:
        usage = self.usage
        return RunFigures(
            # What is charged without a bill counts at once, and so in the window in which it was sent.
            spent=usage.spent + usage.charged,
            held=usage.held,
            in_flight=usage.in_flight + usage.unread_in_flight,
            unread=usage.unread_in_flight,
            waiting=() if self.stopping or self.paused else tuple(self._short.values()),
        )

    async def _keep_budget(self, budget: TableBudget) -> None:
        """Exchange with the store of the budgets, in a thread, until the run ends."""
        while True:
            order = budget.plan(self._figures())
            if order is not None:
                budget.apply(await self._in_thread(partial(budget.execute_order, order)))
                if budget.error is not None and not self.stopping:
                    if isinstance(budget.error, SegmindBudgetError):
                        self.stop(str(budget.error), refusal=budget.error)
                    else:
                        self.stop(str(budget.error), error=budget.error)
                self._changed.set()
            await asyncio.sleep(BUDGET_INTERVAL)

    def _close_budget(self, budget: TableBudget) -> None:
        open_requests = list(self._open_requests())
        held = sum(bound.usd for _, bound, _ in open_requests) * self.usage.excess
        in_flight = sum(flies for _, _, flies in open_requests)
        # Includes what was billed meanwhile to another try of this run, if one did not end at once.
        spent = max(self.usage.spent, self.ledger.totals().cost) + self.usage.charged
        try:
            budget.close(RunFigures(spent=spent, held=held, in_flight=in_flight))
        except SegmindError as error:
            log.warning("%s The next try, or another task, settles the reservation from the ledger.", error)

    def _source_failure(self) -> SegmindError | None:
        """Return the error of a source that broke, unless something else ended the run, which a retry must continue."""
        broken, rows = self.reader.broken, self.reader.rows_seen
        if broken is None or self.halted:
            return None
        sent = max(self.tally.posts, self.usage.rows)
        if sent:
            after_sending(broken, f"this run had sent {counted(sent, 'request')} before")
        # A retry is needed to fetch what was accepted and not answered yet, even if it cannot read on.
        retryable = broken.retryable or (bool(self._rows.skipped) and self.stopped is None)
        self.stop(f"reading the source failed after {counted(rows, 'row')}: {broken}")
        if rows:
            advice = "A retry reads it again" if broken.retryable else "Fix it and run the task again"
            error: SegmindError = SegmindEnrichmentError(
                f"Reading the source failed after {counted(rows, 'row')}. {broken} The earlier rows were sent and are "
                f"in the output. {advice}: what was answered is not paid for again.",
                retryable=retryable,
            )
        elif sent or "Nothing was sent" in str(broken):
            return broken
        elif broken.retryable:
            error = SegmindEnrichmentError(f"{broken} Nothing was sent.", retryable=True)
        else:
            error = SegmindConfigError(f"{broken} Nothing was sent.")
        error.__cause__ = broken
        return error

    def resume_state(self) -> ResumeState:
        """Return what the run continues with after a deferral."""
        tally = self.tally
        return ResumeState(
            began=self._began,
            seconds=round(self.seconds, 3),
            posts=tally.posts,
            polls=tally.polls,
            resumed=tally.resumed,
            timeline=tally.timeline.to_json(),
        )

    def close(self) -> None:
        """Drop the local working copies; the ledger stays."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.ledger.close()
        self.reader.close()

    def _reserve_open_requests(self) -> None:
        """Reserve what earlier tries of the run may still be billed, including for rows that come late in the table."""
        for mark, bound, flies in self._open_requests():
            self.usage.reserve_open(mark, bound, in_flight=flies)

    def _open_requests(self) -> Iterator[tuple[bytes, CostBound, bool]]:
        """
        Yield the open requests of this run: fingerprint, bound, and whether Segmind may still be working on it.

        Requests of rows that are no longer in the source stay open, but do not count as in flight.
        """
        oldest = self.clock() - LONGEST_FLIGHT
        for mark, row in self.ledger.open_rows():
            claim = row.claim_for(self.ledger.run)
            if claim is not None and claim.run == self.ledger.run and self.shard.owns(mark):
                sent_at = claim.at if row.submitted is None else max(claim.at, row.submitted.at)
                yield mark, claim.bound, sent_at > oldest

    def _new_tracker(self) -> RowTracker:
        return RowTracker(
            self.ledger,
            self.usage,
            self.member,
            rerun=self.settings.rerun,
            began=self._began,
            started=self._alone_since,
            pause=CONTEST_PAUSE,
            rng=self._rng,
            monotonic=self._monotonic,
            finished=self.finished_rows.add if self._is_keyed else None,
        )

    def _replay(self) -> None:
        # Reading what others have written can take longer than the time after which a silent writer counts as dead.
        self.heartbeat.start()
        # Registers first: from then on no file that this run has not read is moved away.
        self.member.register()
        self.ledger.replay()
        self._keep_prompt()
        totals = self.ledger.totals()
        if not totals.rows:
            return
        self.reader.add_answered(self.ledger.answered_in_run())
        if self.settings.spend is not None:
            self.settings.spend.ended_before(self.ledger.requests_of_run(), since=totals.since)

    def _keep_prompt(self) -> None:
        ledger, question = self.ledger, self.question
        if question.template is None or not self.settings.keep_prompt:
            return
        try:
            keep_prompt(ledger.folder, question.prompt, run=ledger.run, at=self.clock())
        except Exception as error:  # noqa: BLE001 - stores raise errors of their own, and no answer depends on this file
            log.warning("The prompt could not be stored in the ledger: %s: %s", type(error).__name__, error)

    def _unregister(self) -> None:
        self.heartbeat.stop()
        try:
            self.member.unregister()
        except (SegmindError, OSError) as error:
            log.warning(
                "This run could not remove its registration from the ledger: %s. Other runs wait until its heartbeat "
                "is too old; nothing is lost.",
                error,
            )

    async def _observe(self) -> None:
        """Check the heartbeats of other runs now and then, and let others move what this run has read."""
        while True:
            await asyncio.sleep(self.settings.writer_timeout / BEATS)
            try:
                await self._in_thread(self.member.observe)
                self.commits.take_in()
            except Exception as error:  # noqa: BLE001
                # Libraries of stores raise errors of their own. Each claim lists for itself and stops the run where it
                # cannot, but if this loop ended, this run would wait for the rows of a dead run forever.
                log.warning("Cannot check for other runs on the ledger at the moment: %s", error)
            self._changed.set()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _process(self, enqueuing: Coroutine[Any, Any, None]) -> None:
        """Pass rows to the workers and return when they are finished or the grace period is over."""
        requester = RowRequester(
            self, self.question, self.client, self.settings, clock=self.clock, sleep=self._sleep, rng=self._rng
        )
        queue: asyncio.Queue[Prepared | None] = asyncio.Queue(self.settings.concurrency)
        self._queue, self._bytes = queue, InFlightBytes(BYTES_IN_FLIGHT)
        tasks = {asyncio.create_task(self._work(requester, queue)) for _ in range(self.settings.concurrency)}
        tasks.add(asyncio.create_task(self._enqueue_all(enqueuing)))
        signal = asyncio.create_task(self._stop_signal.wait())
        try:
            pending: set[asyncio.Task[Any]] = {*tasks, signal}
            while pending - {signal} and not signal.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                _raise_first(done)
            if pending - {signal}:
                grace = GRACE if self.deferral is None else 0.0
                done, _ = await asyncio.wait(pending - {signal}, timeout=grace)
                _raise_first(done)
        finally:
            for task in {*tasks, signal}:
                task.cancel()
            await asyncio.gather(*tasks, signal, return_exceptions=True)

    async def _enqueue_rows(self) -> None:
        reader = self.reader
        while not reader.exhausted and reader.broken is None and not self._stop_signal.is_set():
            block = await self._in_thread(self.reader.next_block)
            # Copied here and not read while the other thread counts: its rows are neither waiting nor finished yet.
            self._counted = (self.reader.rows_seen, self.reader.rows_read)
            await self._enqueue(block)
        await self._wait_for_contested()

    async def _enqueue_again(self, rows: Iterable[Prepared]) -> None:
        await self._enqueue(rows)
        await self._wait_for_contested()

    async def _wait_for_contested(self) -> None:
        """Wait until every row with a worker is finished, and every row that another run is processing."""
        self._all_read = True
        while (self._rows.contested or self._rows.busy) and not self.halted and not self._stop_signal.is_set():
            if not self._rows.contested:
                await self._row_finished(None)
                continue
            await self._row_finished(CONTEST_PAUSE * (0.5 + self._rng.random()))
            try:
                await self.commits.commit(None)
            except SegmindError:
                # The run has stopped.
                return
            await self._enqueue(self._rows.due(), eager=True)

    async def _row_finished(self, timeout: float | None) -> None:
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout)

    async def _enqueue_all(self, enqueuing: Coroutine[Any, Any, None]) -> None:
        """Enqueue to the end, or to where the source breaks; what is in flight then still finishes."""
        self._all_read = False
        try:
            await enqueuing
        except (SegmindError, OSError) as error:
            self._source_error = error
            self.stop(f"the rest of the source could not be read: {error}")
        self._all_read = True
        for _ in range(self.settings.concurrency):
            await self._queue.put(None)

    async def _enqueue(self, block: Iterable[Prepared], *, eager: bool = False) -> None:
        waiting = [*self._rows.due(), *block]
        self.ledger.look_up([prepared.fingerprint for prepared in waiting])
        if self.member.has_others():
            # Two runs that claim the same rows in the same order collide on every row.
            self._rng.shuffle(waiting)
            # Theirs first, so that one of ours can be postponed; see RowTracker.postpone_as_evidence.
            waiting.sort(key=lambda prepared: not self._rows.is_claimed_elsewhere(prepared.fingerprint))
        for number, prepared in enumerate(waiting, 1):
            self._unseen = len(waiting) - number
            if self._rows.must_ask(prepared, stopping=self.stopping, eager=eager):
                if self._postponing and self._rows.postpone_as_evidence(prepared):
                    continue
                await self._bytes.acquire(prepared.size)
                await self._queue.put(prepared)

    async def _work(self, requester: RowRequester, queue: asyncio.Queue[Prepared | None]) -> None:
        while (prepared := await queue.get()) is not None:
            self._asking += 1
            try:
                await requester.request(prepared)
            finally:
                self._asking -= 1
            self._rows.asked(prepared)
            if self.ledger.trouble is not None and not self.stopping:
                self.stop(str(self.ledger.trouble), error=self.ledger.trouble)
            self._bytes.release(prepared.size)
            self._changed.set()

    async def _lost_to_retry(self) -> list[Prepared]:
        """Look up lost requests once more, and return the rows that can continue."""
        lost = self._rows.lost
        if not lost or self._stop_signal.is_set():
            return []
        return [self._rows.take_up(mark) for mark in await resolve_lost(self, lost)]

    async def _reports(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL)
            self._report_progress()
            self._consider_deferral()

    def _consider_deferral(self) -> None:
        """End the run for now, when all its workers would only wait for minutes, or for the end of a pause."""
        if (
            not self.settings.deferrable
            or self.stopping
            or self._asking == 0
            or self._asking != len(self.waiting) + self.waiting_for_permit
        ):
            return
        if self.paused:
            if not self.waiting:
                self.deferral = Deferral((), 0, math.inf)
                self.stop("spending is paused", hurry=True)
            return
        more = not self._all_read or self._rows.busy > self._asking
        if more and self._asking < self.settings.concurrency:
            return
        deferral = deferral_of(
            self.waiting.values(),
            more=more,
            waiting_for_permit=self.waiting_for_permit > 0,
            typical=self.client.typical_seconds(self.question.model),
            until_submit=self.client.seconds_until_submit(),
            now=self.clock(),
            at_least=DEFER_AFTER,
        )
        if deferral is not None:
            self.deferral = deferral
            self.stop("there is nothing to do but wait", hurry=True)

    def _report_progress(self) -> None:
        if self._report is not None:
            self._report(self._progress())

    def _progress(self) -> Progress:
        reader, seconds = self.reader, self.clock() - self._started
        rows_seen, rows_read = self._counted
        unfinished = self._unseen + self._rows.busy + len(self._rows.contested)
        total = reader.rows_seen if reader.exhausted else self._rows_total
        passed, done = max(0, rows_seen - unfinished), max(0, rows_read - unfinished)
        self._meter.show(seconds, passed=passed, done=done)
        alone = reader.exhausted or self.shard.count == 1
        return Progress(
            rows_read=rows_read,
            rows_done=done,
            rows_total=None if total is None or not alone else total - reader.rows_elsewhere,
            share=min(1.0, passed / total) if total else None,
            rate=self._meter.rate,
            eta=None if self.stopping else self._meter.left(total),
            outcomes=outcomes_of(self.tally.outcomes),
            reasons=self.tally.reasons.to_json(),
            in_flight=self.usage.in_flight,
            lost=len(self._rows.lost),
            cost=self.usage.spent,
            seconds=seconds,
            # In the order of submission; limited, so that the reports of a large run do not grow with what is in
            # flight.
            requests=tuple((one.request_id, one.at) for one in islice(self.waiting.values(), MOST_LISTED)),
        )


def _raise_first(done: Iterable[asyncio.Task[Any]]) -> None:
    for task in done:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
