"""
Write answers into their table while other rows are still being sent: which, when, and when a table error stops the run.

What is written here is written once more when the run has ended, which changes nothing. So whatever happens here costs
no answer and no count, and rows that somebody deletes meanwhile are in the table at the end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.local_database import LocalDatabase
from airflow_provider_segmind.enrichment.output import Output, OutputRow
from airflow_provider_segmind.enrichment.sql.answer_table import KEPT, MOST_IN_VAIN, TableWriter, Target
from airflow_provider_segmind.enrichment.work_queue import FinishedMark
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from airflow_provider_segmind.wording import counted

LONGEST_UNWRITTEN = 300.0
"""Seconds after which finished rows are written although they are fewer than a batch."""
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
"""Seconds from a failed attempt to the next; doubled each time."""
TARGET_PATIENCE = 900.0
"""Seconds without an accepted row after which no more rows are sent; the same time as for an outage of Segmind."""
LAST_TRANSACTION = 60.0
"""Seconds to wait for a transaction under way when the run ends or defers."""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Batch:
    """
    Rows for one transaction.

    :param last: the number of the last row seen of each fingerprint.
    :param complete: the marks all of whose rows are seen.
    """

    rows: list[OutputRow] = field(default_factory=list)
    last: dict[bytes, int] = field(default_factory=dict)
    complete: list[FinishedMark] = field(default_factory=list)


class BatchLoader:
    """
    Writes finished rows in transactions of ``batch_rows``, in a thread and over connections of its own.

    A connection is opened for the batches that are ready and closed after them, because hours may pass until the next.

    :param output: the rows of ``engine`` with their outcomes.
    :param batch_rows: rows in a transaction.
    :param columns: returns the columns of a row by name.
    :param has_answer: whether the table had the answer to a row when the run began; that row is not written here.
    :param clock: monotonic seconds.
    """

    def __init__(
        self, target: Target, engine: Engine, output: Output, *, batch_rows: int,
        columns: Callable[[OutputRow], Mapping[str, Any]], has_answer: Callable[[Mapping[str, Any], bytes], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._target = target
        self._finished = engine.finished_rows
        self._output = output
        self._batch_rows = batch_rows
        self._columns = columns
        self._has_answer = has_answer
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segmind-load")
        self._local = LocalDatabase("CREATE TABLE loaded (fingerprint BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID")
        self._loading: Future[None] | None = None
        self._stopping = False
        self._error: SegmindEnrichmentError | None = None
        self._waiting_since: float | None = None
        """When the current transaction began, or the first of those that failed one after another."""
        self._pause = _FIRST_PAUSE
        self._not_before = 0.0
        self._in_vain = 0
        self._announced = False

    def load_if_due(self) -> SegmindEnrichmentError | None:
        """
        Begin to write the batches that are ready; call it every second. It waits for a connection at most.

        :returns: why no more rows should be sent, None while they should.
        """
        if self._loading is not None and self._loading.done():
            self._end()
        if self._loading is None and self._clock() >= self._not_before and self._is_due():
            self._begin(flush=self._finished.seconds_waited() >= LONGEST_UNWRITTEN)
        return self._trouble()

    def flush(self) -> None:
        """
        Write all rows that have their outcome, and wait for that.

        :raises SegmindEnrichmentError: the database failed, or does not answer; the outcomes are in the ledger.
        """
        self._wait()
        if len(self._finished):
            self._begin(flush=True)
            self._wait()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """
        Begin no other transaction, and wait for the one under way. May be called again.

        :raises SegmindEnrichmentError: it does not end.
        """
        self._stopping = True
        self._thread.shutdown(wait=False)
        self._wait()
        self._local.close()

    def _is_due(self) -> bool:
        waiting = len(self._finished) if self._in_vain < MOST_IN_VAIN else 0
        return waiting >= self._batch_rows or (waiting > 0 and self._finished.seconds_waited() >= LONGEST_UNWRITTEN)

    def _begin(self, *, flush: bool) -> None:
        if self._waiting_since is None:
            self._waiting_since = self._clock()
        opened = threading.Event()
        self._loading = self._thread.submit(self._load, opened, flush=flush)
        # A hook may ask Airflow for the Connection, which on some versions only one thread at a time may do. SQLite's
        # connections belong to the thread that opened them.
        opened.wait()

    def _wait(self) -> None:
        if self._loading is None:
            return
        if wait([self._loading], timeout=LAST_TRANSACTION).not_done:
            raise SegmindEnrichmentError(
                f"Writing to {self._target.title} has not finished: the database has not responded for "
                f"{LAST_TRANSACTION:g} seconds. {KEPT}",
                retryable=True,
            )
        self._end()

    def _end(self) -> None:
        loading, self._loading = self._loading, None
        try:
            if loading is not None:
                loading.result()
        except SegmindEnrichmentError as error:
            self._error = error
            self._not_before = self._clock() + self._pause
            _log.warning(
                "Answers could not be written during the run; trying again in %d s, and at the end of the run: %s",
                *(self._pause, error),
            )
            self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
        else:
            self._error, self._waiting_since, self._pause = None, None, _FIRST_PAUSE

    def _trouble(self) -> SegmindEnrichmentError | None:
        title, since = self._target.title, self._waiting_since
        if self._in_vain >= MOST_IN_VAIN:
            return SegmindEnrichmentError(
                f"{title} has refused {self._in_vain:,} consecutive rows. Nothing more is sent. The answers so far "
                "are in the ledger: change the table so that it accepts them and clear the task; nothing is paid "
                "for again."
            )
        if since is not None and self._clock() - since >= TARGET_PATIENCE:
            return SegmindEnrichmentError(
                f"{title} has accepted no rows for {TARGET_PATIENCE / 60:g} minutes: "
                f"{self._error or 'a transaction has not finished'}. Nothing more is sent. {KEPT}",
                retryable=True,
            )
        return None

    def _load(self, opened: threading.Event, *, flush: bool) -> None:
        """Write batches until none is ready; runs in the thread."""
        try:
            with self._target.writing() as writer:
                opened.set()
                while not self._stopping and self._load_batch(writer, flush=flush):
                    # The database works; the time of the next transaction counts from here.
                    self._error, self._waiting_since = None, self._clock()
        finally:
            opened.set()

    def _load_batch(self, writer: TableWriter[OutputRow], *, flush: bool) -> bool:
        """Write one transaction; return whether there was anything to do."""
        batch = self._next_batch()
        if batch.rows and (flush or len(batch.rows) >= self._batch_rows):
            tried = [pair for row in batch.rows for pair in writer.put(self._columns(row), row)]
            self._count([*tried, *writer.flush()])
            self._note(batch, later=frozenset())
            return True
        # These rows wait for more; of the others, the table has the answers already.
        later = frozenset(row.source.fingerprint for row in batch.rows)
        self._note(batch, later=later)
        return len(batch.complete) > len(later)

    def _next_batch(self) -> _Batch:
        batch = _Batch()
        for mark in self._finished.first(self._batch_rows):
            last = self._last(mark.fingerprint)
            while room := self._batch_rows - len(batch.rows):
                found = self._output.finished_rows(mark.fingerprint, after=last, most=room)
                batch.rows += [row for row in found if not self._has_answer(row.source.key, mark.fingerprint)]
                last = found[-1].source.number if found else last
                if len(found) < room:
                    batch.complete.append(mark)
                    break
            batch.last[mark.fingerprint] = last
            if len(batch.rows) >= self._batch_rows:
                break
        return batch

    def _last(self, fingerprint: bytes) -> int:
        found = self._local.first("SELECT number FROM loaded WHERE fingerprint = ?", fingerprint)
        return -1 if found is None else int(found[0])

    def _note(self, batch: _Batch, *, later: frozenset[bytes | None]) -> None:
        seen = [(mark, number) for mark, number in batch.last.items() if mark not in later]
        self._local.write(("INSERT OR REPLACE INTO loaded VALUES (?, ?)", seen))
        self._finished.remove(mark for mark in batch.complete if mark.fingerprint not in later)

    def _count(self, tried: list[tuple[OutputRow, str]]) -> None:
        refused = [refusal for _, refusal in tried if refusal]
        for _, refusal in tried:
            self._in_vain = self._in_vain + 1 if refusal else 0
        if refused:
            _log.warning(
                "%s refused %s: %s. Refused rows are tried again at the end of the run",
                *(self._target.title, counted(len(refused), "row"), refused[0]),
            )
        if not self._announced and len(refused) < len(tried):
            self._announced = True
            _log.info("The first answers are in %s; the others follow while the table runs", self._target.title)
