"""
The ledger: what was asked, what was paid for, and what came back, so that a crash costs nothing twice.

It is content-addressed (:func:`~airflow_provider_segmind.enrichment.rows.fingerprint`) and may be shared by runs and
DAGs. Only the open rows are in memory; the finished ones are in a
:class:`~airflow_provider_segmind.enrichment.ledger.local_index.LocalIndex` on the worker's disk.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import NamedTuple, Protocol

from airflow_provider_segmind.client.request_history import POST_DURATION
from airflow_provider_segmind.enrichment.ledger.events import Claimed, Event, Finished, Submitted, from_line, to_line
from airflow_provider_segmind.enrichment.ledger.local_index import FinishedRow, LocalIndex
from airflow_provider_segmind.enrichment.ledger.row_state import (
    KNOWN_REQUESTS,
    KnownRequest,
    OpenRow,
    RowState,
    RunTotals,
)
from airflow_provider_segmind.enrichment.ledger.segments import (
    read_segment,
    segment_name,
    segment_names,
    write_segment,
)
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.storage import StorePath, make_folder
from airflow_provider_segmind.exceptions import SegmindEnrichmentError

LIVE = "live"
"""The folder of the segments whose writers are at work, or have left something that others have not seen."""


class Batch(NamedTuple):
    """
    What was appended to a ledger and is to become durable.

    :param lines: of a segment.
    :param claims: the claims among the lines, with the rows they are about.
    """

    lines: list[bytes]
    claims: tuple[tuple[bytes, str], ...] = ()


class Segments(Protocol):
    """Where a writer's segments go that others, who write at the same time, must see."""

    def write(self, name: str, number: int, lines: list[bytes], claims: tuple[tuple[bytes, str], ...]) -> None:
        """Write a segment durably."""


class Ledger:
    """
    One writer's view of a ledger folder.

    :param folder: where the segments are; created when absent.
    :param run: the run whose spending is added up.
    :param writer: a name no other writer has, part of its segments' names.
    :param clock: epoch seconds.
    :param live: where the segments of this writer go while it lives; straight into the folder when there is none.
    """

    def __init__(
        self,
        folder: StorePath,
        *,
        run: str,
        writer: str,
        clock: Callable[[], float] = time.time,
        live: Segments | None = None,
    ) -> None:
        self.folder = folder
        self.run = run
        self.writer = writer
        self._live = live
        self._claim_numbers = count()
        self._claims: list[tuple[bytes, str]] = []
        self._clock = clock
        self._open: dict[bytes, OpenRow] = {}
        self._index = LocalIndex()
        self._totals = RunTotals()
        self._lines: list[bytes] = []
        self._number = 0
        self._recent: deque[KnownRequest] = deque(maxlen=KNOWN_REQUESTS)

    def close(self) -> None:
        """Drop the local working copy; the segments stay."""
        self._index.close()

    def replay(self, names: list[str] | None = None, *, source: StorePath | None = None) -> None:
        """
        Read the segments, those named or all that are there.

        :param source: the folder that those named are in, the ledger's own when None.
        :raises SegmindEnrichmentError: one cannot be read; a retry may.
        """
        if names is not None:
            for name in names:
                self._replay_segment(source or self.folder, name)
            return
        make_folder(self.folder)
        # What leaves the folder of the living is in the other one before: so that is listed after it.
        self._replay_folder(self.folder / LIVE)
        self._replay_folder(self.folder)

    @property
    def trouble(self) -> SegmindEnrichmentError | None:
        """Why no more rows should be taken on: the local working copy is on a full disk. The segments are not."""
        return self._index.trouble

    def _replay_folder(self, folder: StorePath) -> None:
        known: set[str] = set()
        # Another writer may be compacting the folder, so that content moves to a name that one listing, which takes a
        # while, need not show: the folder is read when a listing shows nothing new.
        while wanted := [name for name in segment_names(folder) if name not in known]:
            for name in wanted:
                self._replay_segment(folder, name)
                known.add(name)

    def _replay_segment(self, folder: StorePath, name: str) -> None:
        self._replay_lines(name, read_segment(folder, name) or [])
        if self._index.trouble is not None:
            # Nothing is in flight yet, so nothing is lost.
            raise self._index.trouble

    def absorb(self, name: str, lines: list[bytes]) -> None:
        """
        Take in a segment that another writer has written meanwhile.

        :raises SegmindEnrichmentError: it holds a line this version cannot read.
        """
        self._replay_lines(name, lines)

    def claim_id(self) -> str:
        """Return a name for a claim that no other has."""
        return f"{self.writer}.{next(self._claim_numbers)}"

    def append(self, event: Event) -> None:
        """Take an event into the view at once; it becomes durable with the next :meth:`commit`."""
        line = to_line(event)
        self._lines.append(line)
        if isinstance(event, Claimed):
            self._claims.append((event.fingerprint, event.key))
        self._apply(event, line)

    def take(self) -> Batch:
        """Hand over what was appended since the last time, for :meth:`write`."""
        batch = Batch(self._lines, tuple(self._claims))
        self._lines, self._claims = [], []
        return batch

    def write(self, batch: Batch) -> None:
        """Make a batch durable; may run in another thread, one batch at a time and in order."""
        if batch.lines:
            number = self._number
            name = segment_name(self._clock(), self.writer, number)
            self._number += 1
            if self._live is None:
                write_segment(self.folder, name, batch.lines)
            else:
                self._live.write(name, number, batch.lines, batch.claims)

    def commit(self) -> None:
        """Make everything appended durable."""
        self.write(self.take())

    def row_state(self, fingerprint: bytes) -> RowState:
        """Return where a row stands."""
        row = self._open.get(fingerprint)
        attempt, success = self._finished_state(fingerprint, row) or (0, False)
        return RowState(
            open=row if row and not row.is_free else None,
            claim=row.claim_for(self.run) if row else None,
            finished=attempt > 0,
            success=success,
            attempt=max(attempt, row.attempt if row else 0),
        )

    def bars(self, claim: Claimed) -> bool:
        """Say whether the row of a claim must not be sent for, by all that was read so far."""
        row = self._open.get(claim.fingerprint)
        # Without its own claim in the view nothing can be said of the others.
        return row is None or row.bars(claim)

    def is_live(self, fingerprint: bytes, claim: str) -> bool:
        """Tell whether a claim is one that is not ended: its request may be sent, or its answer is waited for."""
        row = self._open.get(fingerprint)
        if row is None or claim not in row.claims:
            return False
        waited = row.submitted
        return any(one.key == claim for one in row.unresolved) or (waited is not None and waited.claim == claim)

    def finished(self, fingerprint: bytes) -> Finished | None:
        """Return the latest outcome of a row, None when it has none."""
        line = self._index.line(fingerprint)
        event = line and from_line(line)
        return event if isinstance(event, Finished) else None

    def open_rows(self) -> Iterator[tuple[bytes, OpenRow]]:
        """Yield the rows that are claimed or submitted and not finished."""
        return ((fingerprint, row) for fingerprint, row in list(self._open.items()) if not row.is_free)

    def known_requests(self) -> list[KnownRequest]:
        """Return requests whose body and submission are known: those still open, and the latest that ended."""
        waiting = [
            KnownRequest(waited.request_id, claim.body, claim.at, waited.at, claim.writer)
            for _, row in self.open_rows()
            if (waited := row.submitted) is not None and (claim := row.claim_for(self.run)) is not None
        ]
        return [*waiting, *self._recent]

    def owned_requests(self, request_ids: set[str]) -> set[str]:
        """Return those of some requests that a row is known to have had."""
        found = set(filter(self._index.has_request, request_ids))
        for row in self._open.values():
            for event in row.events():
                if isinstance(event, Submitted):
                    found.add(event.request_id)
                elif isinstance(event, Claimed):
                    found.update(event.request_ids)
        return found & request_ids

    def totals(self) -> RunTotals:
        """Return what the run has used up, rows still open included."""
        totals = RunTotals(self._totals.rows, self._totals.cost, self._totals.unpriced, self._totals.outcomes.copy())
        for mark, row in self._open.items():
            claim = row.claim_for(self.run)
            # A freed attempt cost nothing, but what it followed may have.
            if claim is not None and claim.run == self.run and (claim.request_ids or not row.is_free):
                totals.rows += 1
                totals.cost += claim.cost
                earlier = self.finished(mark)
                if earlier is not None and earlier.run == self.run:
                    # Its claim carries what the row has cost so far.
                    totals.rows -= 1
                    totals.cost -= earlier.cost or 0.0
        return totals

    def answered_in_run(self) -> Iterator[bytes]:
        """Yield the rows that the run has an answer for, out of what was replayed."""
        return self._index.rows_of_run()

    def dump(self) -> Iterator[bytes]:
        """Yield the lines that say the same as everything read, without what later events made void."""
        yield from self._index.lines()
        for row in list(self._open.values()):
            yield from (to_line(event) for event in row.events())

    def _replay_lines(self, name: str, lines: list[bytes]) -> None:
        for line in lines:
            try:
                event = from_line(line)
            except ValueError as error:
                raise SegmindEnrichmentError(
                    f"The ledger segment {name!r} holds a line this version cannot read ({error}). Nothing is asked "
                    "while it is not known what was paid for already: use the version that wrote it, or a new ledger.",
                    retryable=True,
                ) from error
            self._apply(event, line)

    def _apply(self, event: Event, line: bytes) -> None:
        row = self._open.get(event.fingerprint)
        if isinstance(event, Finished):
            self._apply_finished(event, line, row)
            return
        attempt, success = self._finished_state(event.fingerprint, row) or (0, False)
        if success or event.attempt <= attempt:
            return
        if row is None:
            row = self._open[event.fingerprint] = OpenRow(finished_attempt=attempt)
        row.add(event)

    def _apply_finished(self, event: Finished, line: bytes, row: OpenRow | None) -> None:
        mark = event.fingerprint
        if self._finished_state(mark, row) is not None and (old := self.finished(mark)) is not None:
            if _precedence(event) <= _precedence(old):
                return
            if old.run == self.run:
                self._totals.add(old, sign=-1)
        if event.run == self.run:
            self._totals.add(event)
        if event.seconds is not None and event.request_ids:
            # It was accepted some time before its submission was noted.
            accepted = event.at - event.seconds
            self._recent.append(KnownRequest(event.request_ids[-1], event.body, accepted - POST_DURATION, accepted))
        success = event.outcome is Outcome.SUCCESS
        self._index.put(FinishedRow(mark, event.attempt, success, event.run == self.run, line, event.request_ids))
        if row is not None and (success or row.drop_through(event.attempt)):
            del self._open[mark]

    def _finished_state(self, fingerprint: bytes, row: OpenRow | None) -> tuple[int, bool] | None:
        """Return the attempt of a row's outcome and whether that is an answer, None when it has none."""
        if row is None:
            return self._index.state(fingerprint)
        # A row that has its answer is not open any more.
        return (row.finished_attempt, False) if row.finished_attempt else None


def _precedence(event: Finished) -> tuple[bool, int, float, tuple[str, ...], str]:
    """Order outcomes of one row so that every reader, in whatever order it reads, keeps the same one."""
    success = event.outcome is Outcome.SUCCESS
    return (success, -event.attempt if success else event.attempt, -event.at, event.request_ids, event.outcome)
