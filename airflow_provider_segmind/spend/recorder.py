"""
A task records what its requests cost.

Nothing here raises: a request that was paid for is worth more than its entry. What could not be written is written by a
retry of the task, or completed from Segmind's history.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from airflow_provider_segmind.client.models import Metrics
from airflow_provider_segmind.enrichment.outcomes import FinishedRequest, Outcome
from airflow_provider_segmind.exceptions import SegmindRequestExpiredError, SegmindRequestFailedError
from airflow_provider_segmind.money import exact_micros
from airflow_provider_segmind.spend.entries import INSTANCE, SpendEntry, SpendOutcome, reuse_id
from airflow_provider_segmind.spend.store import SpendStore, configured_store

if TYPE_CHECKING:
    from airflow_provider_segmind.budget.guard import BudgetGuard
    from airflow_provider_segmind.compat import Context


FLUSH_INTERVAL = 5.0
"""Seconds between the writes of a table."""
MOST_ENTRIES = 10_000
"""Entries in one write."""
ONE_DAY = 86_400.0
TIDY_DAYS = 7
"""Days whose files a table compacts at its end."""


class SpendRecorder:
    """
    Records the finished requests of one task instance.

    :param connection: id of the Connection.
    :param task: the names of the task instance, as fields of an entry.
    :param budget: settled by what the requests cost, None where nothing was reserved for them.
    """

    def __init__(
        self,
        connection: str,
        task: Mapping[str, Any],
        *,
        log: Any,
        budget: BudgetGuard | None = None,
        store: Callable[[], SpendStore | None] = configured_store,
    ) -> None:
        self.task = task
        self._budget = budget
        self._connection = connection
        self._log = log
        self._open_store = store

    def record(
        self,
        request_id: str,
        outcome: Outcome,
        *,
        model: str | None,
        metrics: Any = None,
        cost: float | None = None,
        tokens: int | None = None,
        submitted_at: float | None = None,
        submitted_by: Mapping[str, Any] | None = None,
        reused: bool = False,
    ) -> None:
        """
        Record one request.

        :param metrics: as Segmind reported them, or as XCom carries them; their cost precedes ``cost``.
        :param submitted_at: epoch seconds; with the time that Segmind reports, when the request finished.
        :param submitted_by: the names of the task that submitted it, if that is another one.
        :param reused: its answer was paid for before, so that it cost nothing here.
        """
        read = Metrics.model_validate(metrics if isinstance(metrics, Mapping) else {})
        known = submitted_at is not None and read.total_time is not None
        request = FinishedRequest(
            request_id=request_id,
            model=model or "",
            at=cast(float, submitted_at) + cast(float, read.total_time) if known else time.time(),
            outcome=outcome,
            cost=cost if read.cost is None else read.cost,
            tokens=tokens,
            reused=reused,
        )
        if self._budget is not None:
            self._budget.settled(request_id, request.cost)
        self.write([self.entry(request, submitted_by)])

    @contextmanager
    def ends(self, request_id: str, **about: Any) -> Iterator[None]:
        """Record a request whose failure or expiry the block raises, as :meth:`record`."""
        try:
            yield
        except (SegmindRequestFailedError, SegmindRequestExpiredError) as error:
            if not error.retryable:
                self.record(request_id, Outcome.FAILED, cost=error.cost, **about)
            raise

    def entry(self, request: FinishedRequest, submitted_by: Mapping[str, Any] | None = None) -> SpendEntry:
        """Return the entry of a request."""
        task = self.task if submitted_by is None or self._is_own(submitted_by) else submitted_by
        return SpendEntry(
            at=request.at,
            connection=self._connection,
            model=request.model,
            request_id=reuse_id(request.request_id, task) if request.reused else request.request_id,
            outcome=cast(SpendOutcome, str(request.outcome)),
            tokens=0 if request.reused else request.tokens,
            cost_micros=0.0 if request.reused else exact_micros(request.cost),
            reused=request.reused,
            **task,
        )

    def is_of_task(self, entry: SpendEntry) -> bool:
        """Return whether an entry is of a try of this task instance."""
        return all(getattr(entry, name) == self.task[name] for name in INSTANCE)

    def _is_own(self, task: Mapping[str, Any]) -> bool:
        return all(task[name] == self.task[name] for name in INSTANCE)

    def write(self, entries: Sequence[SpendEntry], *, warn: bool = True) -> bool:
        """Write entries; return whether that worked."""
        try:
            if self.store is not None:
                self.store.write(entries)
        except Exception as error:  # noqa: BLE001 - stores raise errors of their own; the requests are paid for
            if warn:
                self.warn_of(error)
            return False
        return True

    def warn_of(self, error: Exception) -> None:
        """Log that the record is incomplete for now."""
        self._log.warning(
            "The spend record cannot be written: %s: %s. A retry of this task, or spend --reconcile, adds what is "
            "missing",
            *(type(error).__name__, error),
        )

    @cached_property
    def store(self) -> SpendStore | None:
        """The store, opened at its first use."""
        return self._open_store()


class SpendBuffer:
    """
    Records the requests of a table, many with one write.

    They are added in the engine's loop, and written by the task's main thread, which may call Airflow.

    :param complete: whether all that earlier tries have finished is recorded, as they said when they deferred.
    """

    def __init__(
        self, recorder: SpendRecorder, *, complete: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._recorder = recorder
        self._complete = complete
        self._clock = clock
        self._due = clock() + FLUSH_INTERVAL
        self._waiting: deque[FinishedRequest] = deque()
        self._failed = False

    def open(self) -> None:
        """Look up what the store needs from Airflow, for other threads."""
        try:
            self._recorder.store  # noqa: B018
        except Exception:  # noqa: BLE001 - the first write says what is wrong
            return

    def ended(self, request: FinishedRequest) -> None:
        """Record a request with the next write."""
        self._waiting.append(request)

    def ended_before(self, requests: Iterable[FinishedRequest], *, since: float) -> None:
        """Record those requests of earlier tries that the spend record lacks."""
        if self._complete:
            return
        if math.isinf(since):
            # No row has finished, but replies may have led to follow-ups.
            requests = list(requests)
            since = min((one.at for one in requests), default=since)
            if not requests:
                return
        try:
            store = self._recorder.store
            if store is None:
                return
            # Hashes, because a table may have millions of requests; a day more, because clocks of workers differ.
            entries = store.read(since=since - ONE_DAY)
            recorded = {hash(one.request_id) for one in entries if self._recorder.is_of_task(one)}
        except Exception as error:  # noqa: BLE001 - stores raise errors of their own; the requests are paid for
            self._recorder.warn_of(error)
            return
        self._waiting.extend(one for one in requests if hash(one.request_id) not in recorded)

    def tidy(self) -> None:
        """Compact the files of the last days, where the record consists of files."""
        now = time.time()
        try:
            if self._recorder.store is not None:
                self._recorder.store.tidy(since=now - TIDY_DAYS * ONE_DAY, now=now)
        except Exception as error:  # noqa: BLE001 - stores raise errors of their own; nothing is lost
            self._recorder.warn_of(error)

    def flush_if_due(self) -> None:
        """Write what has been added, every few seconds."""
        if self._waiting and self._clock() >= self._due:
            self.flush()

    def flush(self) -> bool:
        """Write what has been added; return whether everything is recorded."""
        while self._waiting:
            batch: list[FinishedRequest] = []
            try:
                while self._waiting and len(batch) < MOST_ENTRIES:
                    batch.append(self._waiting.popleft())
                entries = [self._recorder.entry(one, _submitter_of(one)) for one in batch]
                written = self._recorder.write(entries, warn=not self._failed)
            except BaseException:
                # Airflow ends a task by an exception in this thread.
                self._waiting.extend(batch)
                raise
            self._due = self._clock() + FLUSH_INTERVAL
            if not written:
                self._failed = True
                self._waiting.extend(batch)
                return False
        return True


def _submitter_of(request: FinishedRequest) -> Mapping[str, Any] | None:
    """Return the DAG, run and task that sent a request of a table, None if they are not known."""
    parts = request.run.split("/")
    if len(parts) != 4 or not parts[3].lstrip("-").isdecimal():
        return None
    dag_id, run_id, task_id, index = parts
    return {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": int(index)}


def recorder_for(
    context: Context, connection: str, *, log: Any, budget: BudgetGuard | None = None
) -> SpendRecorder | None:
    """
    Return the recorder of a task instance, None without a spend record and budgets.

    :param context: the context Airflow gives to ``execute``.
    :param budget: settled by what the requests cost.
    """
    if not _is_configured() and budget is None:
        return None
    return SpendRecorder(connection, _names_of(context), log=log, budget=budget)


def recorder_here(connection: str, *, log: Any, store: Callable[[], SpendStore | None]) -> SpendRecorder | None:
    """
    Return the recorder of the task that runs in this process, or of no task; None without a spend record.

    For calls of the hook, which has no context of its own.

    :param store: opens the spend record, once for many results.
    """
    from airflow_provider_segmind.compat import get_current_context

    if not _is_configured():
        return None
    try:
        task = _names_of(get_current_context())
    except Exception:  # noqa: BLE001 - Airflow's versions raise different errors where no task runs
        task = {}
    return SpendRecorder(connection, task, log=log, store=store)


def _is_configured() -> bool:
    from airflow_provider_segmind.compat import conf

    return any(conf.get("segmind", name, fallback="") for name in ("spend_path", "spend_conn_id"))


def _names_of(context: Context) -> dict[str, Any]:
    ti = context["ti"]
    index = getattr(ti, "map_index", -1)
    return {
        "dag_id": ti.dag_id,
        "task_id": ti.task_id,
        "run_id": ti.run_id,
        "map_index": -1 if index is None else index,
        "try_number": ti.try_number,
    }
