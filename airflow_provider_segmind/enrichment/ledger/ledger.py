"""
The ledger: what was sent, what was paid for and what was answered, so that a crash never makes anything paid twice.

It is content-addressed (:func:`~airflow_provider_segmind.enrichment.rows.fingerprint`) and can be shared by runs and
DAGs. Only open rows are in memory; finished ones are in a
:class:`~airflow_provider_segmind.enrichment.ledger.local_index.LocalIndex` on the worker's disk.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count
from operator import itemgetter
from typing import NamedTuple, Protocol, TypeAlias

from airflow_provider_segmind.client.request_history import POST_DURATION
from airflow_provider_segmind.enrichment.ledger.events import (
    Claimed,
    Event,
    Finished,
    FinishedHead,
    Submitted,
    ends_of,
    from_line,
    request_ids_of,
    requests_of,
    step_of,
    to_line,
)
from airflow_provider_segmind.enrichment.ledger.local_index import FinishedRow, LoadedRow, LoadedStep, LocalIndex
from airflow_provider_segmind.enrichment.ledger.row_state import (
    KNOWN_REQUESTS,
    KnownRequest,
    OpenRow,
    RowState,
    RunTotals,
)
from airflow_provider_segmind.enrichment.ledger.segments import read_segment, segment_name, segment_names, write_segment
from airflow_provider_segmind.enrichment.outcomes import FinishedRequest, Outcome
from airflow_provider_segmind.enrichment.storage import StorePath, for_each, make_folder
from airflow_provider_segmind.exceptions import SegmindEnrichmentError

ReadLines: TypeAlias = Callable[[str, list[bytes]], None]
"""Reads the lines of a segment; the first argument is its name."""
_SUCCESS = Outcome.SUCCESS.encode()
LIVE = "live"
"""The folder of segments that writers at work, or other readers, still need."""


class Batch(NamedTuple):
    """
    Events appended to a ledger that are not durable yet.

    :param lines: of a segment.
    :param claims: the claims among them: fingerprint and key.
    """

    lines: list[bytes]
    claims: tuple[tuple[bytes, str], ...] = ()


class Segments(Protocol):
    """Where a writer puts the segments that concurrent writers must see."""

    def write(self, name: str, number: int, lines: list[bytes], claims: tuple[tuple[bytes, str], ...]) -> None:
        """Write a segment durably."""


class Ledger:
    """
    One writer's view of a ledger folder.

    :param folder: where the segments are; created when absent.
    :param run: the run whose totals are kept.
    :param writer: a unique name, part of the names of its segments.
    :param clock: epoch seconds.
    :param live: where the segments of this writer go while it is at work; None for the folder itself.
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
        self._replayed: set[str] = set()
        # The latest requests that ended: when they were accepted, their ids and bodies. A heap, because events may be
        # read in any order.
        self._recent: list[tuple[float, str, str]] = []

    def close(self) -> None:
        """Drop the local working copy; the segments stay."""
        self._index.close()

    def replay(self, names: list[str] | None = None, *, source: StorePath | None = None) -> None:
        """
        Read the named segments, or all there are.

        :param source: the folder of the named segments, the ledger's own when None.
        :raises SegmindEnrichmentError: a segment cannot be read; a retry may help.
        """
        load = None
        if not self._open and self._index.is_empty():
            load = _Load(self._index, self.run, self._totals, remember=self._remember)
        read = self._replay_lines if load is None else load.add
        if names is not None:
            self._replay_segments(source or self.folder, names, read)
        else:
            make_folder(self.folder)
            # A segment that leaves the folder "live" has been copied to the other one before, so that one is listed
            # last.
            self._replay_folder(self.folder / LIVE, read)
            self._replay_folder(self.folder, read)
        for event, line in load.end() if load is not None else ():
            self._apply(event, line)

    @property
    def trouble(self) -> SegmindEnrichmentError | None:
        """Why no more rows should be started: the disk of the local index is full. The segments are elsewhere."""
        return self._index.trouble

    def _replay_folder(self, folder: StorePath, read: ReadLines) -> None:
        known: set[str] = set()
        # Another writer may be compacting the folder, and one listing, which takes a while, need not show the new
        # names: so list until nothing new appears.
        while wanted := [name for name in segment_names(folder) if name not in known]:
            self._replay_segments(folder, wanted[::-1], read)
            known.update(wanted)

    def _replay_segments(self, folder: StorePath, names: Sequence[str], read: ReadLines) -> None:
        segments = for_each([folder / name for name in names], lambda path: read_segment(folder, path.name))
        for name, lines in zip(names, segments, strict=True):
            read(name, lines or [])
            if lines is not None:
                self._replayed.add(name)
            if self._index.trouble is not None:
                # Nothing is in flight yet, so nothing is lost.
                raise self._index.trouble

    def absorb(self, name: str, lines: list[bytes]) -> None:
        """
        Add a segment that another writer has written meanwhile; nothing if it was replayed, as it never changes.

        :raises SegmindEnrichmentError: it contains a line that this version cannot read.
        """
        if name not in self._replayed:
            self._replay_lines(name, lines)

    def claim_id(self) -> str:
        """Return a unique id for a claim."""
        return f"{self.writer}.{next(self._claim_numbers)}"

    def append(self, event: Event) -> None:
        """Apply an event at once; it becomes durable with the next :meth:`commit`."""
        line = to_line(event)
        self._lines.append(line)
        if isinstance(event, Claimed):
            self._claims.append((event.fingerprint, event.id))
        self._apply(event, line)

    def take(self) -> Batch:
        """Return the events appended since the last call, for :meth:`write`."""
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

    def look_up(self, fingerprints: Sequence[bytes]) -> None:
        """Look up the states of some rows together, which is faster than one by one."""
        self._index.look_up(fingerprints)

    def has_answer(self, fingerprint: bytes) -> bool:
        """Return whether the outcome of a row is an answer; such a row is not open."""
        found = None if fingerprint in self._open else self._index.state(fingerprint)
        return found is not None and found[1]

    def row_state(self, fingerprint: bytes) -> RowState:
        """Return the state of a row, even of one that the ledger does not contain."""
        row = self._open.get(fingerprint)
        attempt, success = self._finished_state(fingerprint, row) or (0, False)
        return RowState(
            open=row if self.is_open(fingerprint) else None,
            claim=row.claim_for(self.run) if row else None,
            finished=attempt > 0,
            success=success,
            attempt=max(attempt, row.attempt if row else 0),
        )

    def is_open(self, fingerprint: bytes) -> bool:
        """Return whether a row has an attempt that is neither finished nor freed."""
        row = self._open.get(fingerprint)
        return row is not None and not row.is_free

    def blocks(self, claim: Claimed) -> bool:
        """Return whether the request of a claim must not be sent, judging by everything read so far."""
        row = self._open.get(claim.fingerprint)
        # Without its own claim in the view, nothing is known about other claims.
        return row is None or row.blocks(claim)

    def is_live(self, fingerprint: bytes, claim: str) -> bool:
        """Return whether a claim has not ended: its request may be sent, or its answer is still awaited."""
        row = self._open.get(fingerprint)
        if row is None or claim not in row.claims:
            return False
        waited = row.submitted
        return any(one.id == claim for one in row.unresolved) or (waited is not None and waited.claim == claim)

    def finished(self, fingerprint: bytes) -> Finished | None:
        """Return the latest outcome of a row, None when it has none."""
        line = self._index.line(fingerprint)
        # Of most lines only the ends were read when the ledger was.
        event = line and _event(f"of row {fingerprint.hex()}", line)
        return event if isinstance(event, Finished) else None

    def open_rows(self) -> Iterator[tuple[bytes, OpenRow]]:
        """Yield the rows that are claimed or submitted but not finished."""
        return ((fingerprint, row) for fingerprint, row in list(self._open.items()) if not row.is_free)

    def known_requests(self) -> list[KnownRequest]:
        """Return requests whose body and submission are known: those still open, and the latest that ended."""
        waiting = [
            KnownRequest(waited.request_id, claim.body, claim.at, waited.at, claim.writer)
            for _, row in self.open_rows()
            if (waited := row.submitted) is not None and (claim := row.claim_for(self.run)) is not None
        ]
        ended = (KnownRequest(name, body, at - POST_DURATION, at) for at, name, body in self._recent)
        return [*waiting, *ended]

    def index_requests(self) -> None:
        """Prepare :meth:`owned_requests`; blocks, so call it in a thread."""
        self._index.index_requests()

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
        """Return the totals of the run, including rows that are still open."""
        totals = replace(self._totals, outcomes=self._totals.outcomes.copy())
        for mark, row in self._open.items():
            claim = row.claim_for(self.run)
            charged = row.charged(self.run)
            # A freed attempt cost nothing, but the one that it followed up may have.
            asked = claim is not None and claim.run == self.run and bool(claim.request_ids or not row.is_free)
            if claim is None or not (asked or charged):
                continue
            # Its claim includes what the row has cost so far.
            earlier = self._finished_in_run(mark)
            totals.charged += max(0.0, (charged or 0.0) - (0.0 if earlier is None else earlier.charged))
            if asked:
                totals.rows += earlier is None
                totals.cost += claim.cost - (0.0 if earlier is None else earlier.cost or 0.0)
        return totals

    def charged(self, fingerprint: bytes) -> float:
        """Return the USD that the run is charged for a row without a bill."""
        row = self._open.get(fingerprint)
        since_outcome = None if row is None else row.charged(self.run)
        if since_outcome is not None:
            # A claim includes what was charged before it.
            return since_outcome
        earlier = self._finished_in_run(fingerprint)
        return 0.0 if earlier is None else earlier.charged

    def _finished_in_run(self, fingerprint: bytes) -> Finished | None:
        event = self.finished(fingerprint)
        return event if event is not None and event.run == self.run else None

    def answered_in_run(self) -> Iterator[bytes]:
        """Yield the fingerprints of the rows whose latest outcome the run has paid for."""
        return self._index.rows_of_run()

    def requests_of_run(self) -> Iterator[FinishedRequest]:
        """Yield the ended requests of the run that belong to the latest outcome of a row."""
        for mark in self._index.rows_of_run():
            if (event := self.finished(mark)) is not None:
                yield from requests_of(event)
        for row in list(self._open.values()):
            claim = row.claim_for(self.run)
            if claim is not None and claim.run == self.run:
                yield from requests_of(claim)

    def dump(self) -> Iterator[bytes]:
        """Yield the lines that are equivalent to everything read, without those that later events made void."""
        yield from self._index.lines()
        for row in list(self._open.values()):
            yield from (to_line(event) for event in row.events())

    def _replay_lines(self, name: str, lines: list[bytes]) -> None:
        # Outcomes come after the steps that led to them, which need not be read once the outcome is known.
        for line in reversed(lines):
            if self._is_void(line):
                continue
            event = _event(name, line)
            self._apply(event, line)

    def _is_void(self, line: bytes) -> bool:
        """Return whether a line is of an attempt that an outcome has made void."""
        if (step := step_of(line)) is None:
            return False
        attempt, success = self._finished_state(step[0], self._open.get(step[0])) or (0, False)
        return success or step[1] <= attempt

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
        self._remember(event)
        success = event.outcome is Outcome.SUCCESS
        self._index.put(FinishedRow(mark, event.attempt, success, event.run == self.run, line, event.request_ids))
        if row is not None and (success or row.drop_through(event.attempt)):
            del self._open[mark]

    def _remember(self, event: Finished | FinishedHead) -> float:
        """
        Add an outcome to the latest requests that ended, if it is one of them.

        :returns: the epoch seconds up to which outcomes are certainly none of them.
        """
        recent = self._recent
        latest = recent[0][0] if len(recent) == KNOWN_REQUESTS else -math.inf
        if event.at <= latest or event.seconds is None or not event.request_ids:
            return latest
        # It was accepted shortly before its submission was recorded.
        accepted = event.at - event.seconds
        if accepted > latest:
            heappush(recent, (accepted, event.request_ids[-1], event.body))
            if len(recent) > KNOWN_REQUESTS:
                heappop(recent)
        return recent[0][0] if len(recent) == KNOWN_REQUESTS else -math.inf

    def _finished_state(self, fingerprint: bytes, row: OpenRow | None) -> tuple[int, bool] | None:
        """Return the attempt of a row's outcome and whether that is an answer, None when it has none."""
        if row is None:
            return self._index.state(fingerprint)
        # A row with an answer is no longer open.
        return (row.finished_attempt, False) if row.finished_attempt else None


class _Load:
    """
    Reads a whole ledger: outcomes first, whatever order they come in, then the events that none of them makes void.

    Only what must be known of every row is decoded; a million rows take seconds instead of a minute.
    """

    def __init__(
        self, index: LocalIndex, run: str, totals: RunTotals, *, remember: Callable[[Finished | FinishedHead], float]
    ) -> None:
        self._index = index
        self._run = run
        self._totals = totals
        self._remember = remember
        self._latest = -math.inf
        self._names: list[tuple[int, str]] = []
        self._index.begin_load(request_ids_of)

    def add(self, name: str, lines: list[bytes]) -> None:
        """Add a segment."""
        rows: list[LoadedRow] = []
        steps: list[LoadedStep] = []
        place = self._index.keep(lines)
        self._names.append((place, name))
        run, latest = self._run.encode("utf-8", "surrogatepass"), self._latest
        for line in lines:
            size = len(line)
            if (ends := ends_of(line)) is not None:
                _, attempt, at, of, outcome, _ = ends[1].groups()
                success, of_run = 1 if outcome == _SUCCESS else 0, 1 if of == run else 0
                rows.append((bytearray(ends[0]), int(attempt), success, of_run, place, size))
                if of_run:
                    self._totals.add(FinishedHead(ends))
                if float(at) > latest:
                    latest = self._remember(FinishedHead(ends))
            elif (step := step_of(line)) is not None:
                steps.append((*step, place, size))
            elif isinstance(event := _event(name, line), Finished):
                success, of_run = int(event.outcome is Outcome.SUCCESS), int(event.run == self._run)
                rows.append((bytearray(event.fingerprint), event.attempt, success, of_run, place, size))
                if of_run:
                    self._totals.add(event)
                latest = self._remember(event)
            else:
                steps.append((event.fingerprint, event.attempt, place, size))
            place += size + 1
        self._latest = latest
        self._index.load(rows, steps)

    def end(self) -> Iterator[tuple[Event, bytes]]:
        """Keep one outcome of each row, and yield what goes beyond it, with its line."""
        for place, line in self._index.end_load(self._void):
            _, name = self._names[bisect_right(self._names, place, key=itemgetter(0)) - 1]
            yield _event(name, line), line

    def _void(self, lines: list[bytes]) -> list[int]:
        """Return which of several outcomes of one row later readers must not see."""
        outcomes = [event for line in lines if isinstance(event := from_line(line), Finished)]
        kept = max(range(len(outcomes)), key=lambda number: (_precedence(outcomes[number]), -number))
        void = [number for number in range(len(outcomes)) if number != kept]
        for number in void:
            if outcomes[number].run == self._run:
                self._totals.add(outcomes[number], sign=-1)
        return void


def _event(name: str, line: bytes) -> Event:
    """
    Read a line of a segment.

    :raises SegmindEnrichmentError: this version cannot.
    """
    try:
        return from_line(line)
    except ValueError as error:
        raise SegmindEnrichmentError(
            f"The ledger segment {name!r} contains a line that this version cannot read ({error}). Nothing is "
            "sent until it is known what has been paid for: use the version that wrote it, or a new ledger.",
            retryable=True,
        ) from error


@dataclass(frozen=True, slots=True)
class RunBill:
    """
    What a run has cost according to its ledger.

    :param cost: USD billed; for requests without a reported bill, the most that they may have cost.
    :param held: USD that its open requests may still be billed.
    :param open: how many those are.
    """

    cost: float
    held: float
    open: int


def bill_of_run(folder: StorePath, run: str) -> RunBill | None:
    """
    Return the cost of a run that no process is working on, None if there is no ledger. Blocks.

    :raises SegmindEnrichmentError: the ledger cannot be read.
    """
    if not (segment_names(folder) or segment_names(folder / LIVE)):
        return None
    ledger = Ledger(folder, run=run, writer="")
    try:
        ledger.replay()
        claims = [row.claim_for(run) for _, row in ledger.open_rows()]
        bounds = [claim.bound.usd for claim in claims if claim is not None and claim.run == run]
        totals = ledger.totals()
        return RunBill(totals.cost + totals.charged, sum(bounds), len(bounds))
    finally:
        ledger.close()


def _precedence(event: Finished) -> tuple[bool, int, float, tuple[str, ...], str, float]:
    """Order the outcomes of one row so that every reader keeps the same one, whatever order it reads them in."""
    success = event.outcome is Outcome.SUCCESS
    return (
        success,
        -event.attempt if success else event.attempt,
        -event.at,
        event.request_ids,
        event.outcome,
        event.charged,
    )
