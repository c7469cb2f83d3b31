"""
The ledger: what was asked, what was paid for, and what came back, so that a crash costs nothing twice.

It is content-addressed (:func:`~airflow_provider_segmind.enrichment.rows.fingerprint`) and may be shared by runs and
DAGs. In memory stand the open rows and some 40 bytes for each finished one; answers are read back from a spool on the
local disk.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, count
from typing import NamedTuple, Protocol

from airflow_provider_segmind.client.request_history import POST_DURATION
from airflow_provider_segmind.enrichment.ledger.events import Claimed, Event, Finished, Submitted, from_line, to_line
from airflow_provider_segmind.enrichment.ledger.local_index import CompactIndex, Spool
from airflow_provider_segmind.enrichment.ledger.row_state import WITNESSES, OpenRow, RunTotals, Standing, Witness
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
_SUCCESS = 1
_ATTEMPT_BITS = 15
_FLUSH_LINES = 1000
FEW_ROWS = 1 << 10
MANY_ROWS = 1 << 19
"""Slots of the index: room for 360,000 finished rows in 12 MiB before it must grow."""


class Batch(NamedTuple):
    """
    What was appended to a ledger and is to become durable.

    :param lines: of a segment.
    :param answers: those to keep on the local disk, by their place there.
    :param claims: the claims among the lines, with the rows they are about.
    """

    lines: list[bytes]
    answers: dict[int, bytes]
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
    :param slots: how large the index starts.
    :param live: where the segments of this writer go while it lives; straight into the folder when there is none.
    """

    def __init__(
        self, folder: StorePath, *, run: str, writer: str, clock: Callable[[], float] = time.time,
        slots: int = FEW_ROWS, live: Segments | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.run = run
        self.writer = writer
        self._live = live
        self._claim_numbers = count()
        self._claims: list[tuple[bytes, str]] = []
        self._clock = clock
        self._open: dict[bytes, OpenRow] = {}
        self._index = CompactIndex(slots)
        self._spool = Spool()
        self._totals = RunTotals()
        self._lines: list[bytes] = []
        self._answers: dict[int, bytes] = {}
        self._writing: dict[int, bytes] = {}
        self._number = 0
        self._recent: deque[Witness] = deque(maxlen=WITNESSES)

    def close(self) -> None:
        """Drop the local working copy; the segments stay."""
        self._spool.close()

    def replay(self, names: list[str] | None = None, *, source: StorePath | None = None) -> None:
        """
        Read the segments, those named or all that are there.

        :param source: the folder that those named are in, the ledger's own when None.
        :raises SegmindEnrichmentError: one cannot be read; a retry may.
        """
        if names is not None:
            for name in names:
                self._replay_lines(name, read_segment(source or self.folder, name) or [])
            self._write_answers()
            return
        make_folder(self.folder)
        # What leaves the folder of the living is in the other one before: so that is listed after it.
        self._replay_folder(self.folder / LIVE)
        self._replay_folder(self.folder)
        self._write_answers()

    @property
    def trouble(self) -> SegmindEnrichmentError | None:
        """Why no more rows should be taken on: the local working copy is on a full disk. The segments are not."""
        return self._spool.trouble

    def _replay_folder(self, folder: StorePath) -> None:
        known: set[str] = set()
        # Another writer may be compacting the folder, so that content moves to a name that one listing, which takes a
        # while, need not show: the folder is read when a listing shows nothing new.
        while wanted := [name for name in segment_names(folder) if name not in known]:
            for name in wanted:
                self._replay_lines(name, read_segment(folder, name) or [])
                known.add(name)

    def absorb(self, name: str, lines: list[bytes]) -> None:
        """
        Take in a segment that another writer has written meanwhile.

        :raises SegmindEnrichmentError: it holds a line this version cannot read.
        """
        self._replay_lines(name, lines, flush=False)

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
        lines, self._lines = self._lines, []
        claims, self._claims = tuple(self._claims), []
        self._writing, self._answers = self._answers, {}
        return Batch(lines, self._writing, claims)

    def write(self, batch: Batch) -> None:
        """Make a batch durable; may run in another thread, one batch at a time and in order."""
        if batch.answers:
            self._spool.write(list(batch.answers.values()))
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

    def standing(self, fingerprint: bytes) -> Standing:
        """Return where a row stands."""
        entry = self._index.get(fingerprint)
        row = self._open.get(fingerprint)
        attempt = max(_attempt(entry), row.attempt if row else 0)
        unfinished = row if row and not row.is_free else None
        claim = row.claim_for(self.run) if row else None
        if not entry:
            return Standing(open=unfinished, claim=claim, attempt=attempt)
        return Standing(
            open=unfinished, claim=claim, place=_place(entry), success=bool(entry & _SUCCESS), attempt=attempt
        )

    def bars(self, claim: Claimed) -> bool:
        """Say whether the row of a claim must not be sent for, by all that was read so far."""
        entry = self._index.get(claim.fingerprint)
        row = self._open.get(claim.fingerprint)
        # Without its own claim in the view nothing can be said of the others.
        return bool(entry & _SUCCESS) or _attempt(entry) >= claim.attempt or row is None or row.bars(claim)

    def is_live(self, fingerprint: bytes, claim: str) -> bool:
        """Tell whether a claim is one that is not ended: its request may be sent, or its answer is waited for."""
        row = self._open.get(fingerprint)
        if row is None or claim not in row.claims:
            return False
        waited = row.submitted
        return any(one.key == claim for one in row.unresolved) or (waited is not None and waited.claim == claim)

    def finished(self, fingerprint: bytes) -> Finished | None:
        """Return the latest outcome of a row, None when it has none."""
        entry = self._index.get(fingerprint)
        return self._read(_place(entry)) if entry else None

    def open_rows(self) -> Iterator[tuple[bytes, OpenRow]]:
        """Yield the rows that are claimed or submitted and not finished."""
        return ((fingerprint, row) for fingerprint, row in list(self._open.items()) if not row.is_free)

    def first_sights(self) -> Callable[[bytes], bool]:
        """Return a function that tells of each finished row whether it is met for the first time."""
        seen = self._index.no_sights()
        return lambda fingerprint: self._index.first_sight(fingerprint, seen)

    def witnesses(self) -> list[Witness]:
        """Return requests whose body and submission are known: those still open, and the latest that ended."""
        waiting = [
            Witness(waited.request_id, claim.body, claim.at, waited.at, claim.writer)
            for _, row in self.open_rows()
            if (waited := row.submitted) is not None and (claim := row.claim_for(self.run)) is not None
        ]
        return [*waiting, *self._recent]

    def known_requests(self, request_ids: set[str]) -> set[str]:
        """Return those of some requests that a row is known to have had; reads everything that was finished."""
        if not request_ids:
            return set()
        pattern = re.compile(b"|".join(re.escape(request_id.encode()) for request_id in request_ids))
        finished = (line for _, line in self._spool.lines())
        found: set[str] = set()
        for line in chain(self._answers.values(), self._writing.values(), finished):
            found.update(match.decode() for match in pattern.findall(line))
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
        for _, line in self._spool.lines():
            event = from_line(line)
            if isinstance(event, Finished) and event.run == self.run:
                yield event.fingerprint

    def dump(self) -> Iterator[bytes]:
        """Yield the lines that say the same as everything read, without what later events made void."""
        for place, line in self._spool.lines():
            event = from_line(line)
            if _place(self._index.get(event.fingerprint)) == place:
                yield line
        for row in list(self._open.values()):
            yield from (to_line(event) for event in row.events())

    def _replay_lines(self, name: str, lines: list[bytes], *, flush: bool = True) -> None:
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
            if flush and len(self._answers) >= _FLUSH_LINES:
                self._write_answers()

    def _apply(self, event: Event, line: bytes) -> None:
        if isinstance(event, Finished):
            self._apply_finished(event, line)
            return
        entry = self._index.get(event.fingerprint)
        if entry & _SUCCESS or event.attempt <= _attempt(entry):
            return
        row = self._open.get(event.fingerprint)
        if row is None:
            row = self._open[event.fingerprint] = OpenRow()
        row.add(event)

    def _apply_finished(self, event: Finished, line: bytes) -> None:
        entry = self._index.get(event.fingerprint)
        if entry:
            old = self._read(_place(entry))
            if _precedence(event) <= _precedence(old):
                return
            if old.run == self.run:
                self._totals.add(old, sign=-1)
        if event.run == self.run:
            self._totals.add(event)
        if event.seconds is not None and event.request_ids:
            # It was accepted some time before its submission was noted.
            accepted = event.at - event.seconds
            self._recent.append(Witness(event.request_ids[-1], event.body, accepted - POST_DURATION, accepted))
        success = event.outcome is Outcome.SUCCESS
        place = self._spool.reserve(line)
        self._answers[place] = line
        self._index.put(event.fingerprint, _entry(place, event.attempt, success=success))
        row = self._open.get(event.fingerprint)
        if row is not None and (success or row.drop_through(event.attempt)):
            del self._open[event.fingerprint]

    def _write_answers(self) -> None:
        self._spool.write(list(self._answers.values()))
        self._answers = {}
        if self._spool.trouble is not None:
            # Nothing is in flight yet, so nothing is lost.
            raise self._spool.trouble

    def _read(self, place: int) -> Finished:
        event = from_line(self._answers.get(place) or self._writing.get(place) or self._spool.read(place))
        if not isinstance(event, Finished):
            raise TypeError(f"the spool holds a {event.kind} line at {place}")
        return event


def _precedence(event: Finished) -> tuple[bool, int, float, tuple[str, ...], str]:
    """Order outcomes of one row so that every reader, in whatever order it reads, keeps the same one."""
    success = event.outcome is Outcome.SUCCESS
    return (success, -event.attempt if success else event.attempt, -event.at, event.request_ids, event.outcome)


def _entry(place: int, attempt: int, *, success: bool) -> int:
    capped = min(attempt, (1 << _ATTEMPT_BITS) - 1)
    return ((place + 1) << (_ATTEMPT_BITS + 1)) | (capped << 1) | (_SUCCESS if success else 0)


def _attempt(entry: int) -> int:
    return (entry >> 1) & ((1 << _ATTEMPT_BITS) - 1)


def _place(entry: int) -> int:
    return (entry >> (_ATTEMPT_BITS + 1)) - 1
