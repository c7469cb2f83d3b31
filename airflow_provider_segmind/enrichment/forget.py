"""
Find every trace of some rows of a table, and remove it: answers, ledger, reports, dead letters and outputs.

Rows have no names in a ledger, only fingerprints. A key is found in the outputs and the dead letters, which have
request ids and fingerprints; those lead to the events of the ledger. So the fingerprints are written to a file in the
ledger before the first thing is removed, and deleted after the last: whatever kills the process, a second call
finishes.

Segments are never changed: one that has the rows is written again without them under a new name, then deleted. Both
may be there for a while, which reads the same. Nothing is removed while a run works on the ledger: it would write
again what it has in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from markupsafe import escape

from airflow_provider_segmind.enrichment.files.readers import open_source
from airflow_provider_segmind.enrichment.files.removal import Drop, count_rows, remove_rows
from airflow_provider_segmind.enrichment.ledger.events import Event, from_line, marks_of
from airflow_provider_segmind.enrichment.ledger.ledger import LIVE, Ledger
from airflow_provider_segmind.enrichment.ledger.run_liveness import Heartbeat, Membership, Moment, list_live
from airflow_provider_segmind.enrichment.ledger.segments import (
    read_segment,
    segment_name,
    segment_names,
    write_segment,
)
from airflow_provider_segmind.enrichment.progress_file import PROGRESS_FOLDER
from airflow_provider_segmind.enrichment.report.history import shown_key
from airflow_provider_segmind.enrichment.settings import Shard
from airflow_provider_segmind.enrichment.storage import StorePath, make_folder, names_if_any, read_now, write_whole
from airflow_provider_segmind.exceptions import SegmindEnrichmentError

FORGETTING = "forgetting"
"""The folder in a ledger with what is being removed."""
WAIT_FACTOR = 2.0
"""How long to wait for killed writers, as a multiple of the time after which a silent writer counts as dead."""


class KeyedRows(Protocol):
    """The rows with the key in an output that is not a file."""

    name: str
    """Where the rows are, for messages."""

    def marks(self) -> list[tuple[str | None, str | None]]:
        """Return fingerprint in hex and request id of each row."""

    def delete(self) -> None:
        """Delete them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """
    Where the rows of a table may be.

    :param ledgers: folders.
    :param outputs: table files.
    :param dead_letters: JSONL files.
    :param reports: HTML files.
    :param keyed: the rows in outputs that are not files.
    :param answer_path: returns where the answer cache has the answer of a fingerprint; None without an answer cache.
    """

    ledgers: Sequence[StorePath] = ()
    outputs: Sequence[StorePath] = ()
    dead_letters: Sequence[StorePath] = ()
    reports: Sequence[StorePath] = ()
    keyed: Sequence[KeyedRows] = ()
    answer_path: Callable[[bytes], StorePath] | None = None


@dataclass(frozen=True, slots=True)
class Marks:
    """
    The identifiers of the rows.

    :param fingerprints: in hex.
    :param keys: as a report shows them.
    """

    fingerprints: frozenset[str] = frozenset()
    request_ids: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()

    def of(self, event: Event) -> bool:
        """Return whether an event is about one of the rows."""
        return event.fingerprint.hex() in self.fingerprints


@dataclass(frozen=True, slots=True)
class Trace:
    """
    What was found in one place.

    :param what: answer, ledger, report, progress, dead letters, output.
    :param count: lines, rows or files.
    """

    place: str
    what: str
    count: int


class Forgetting:
    """
    The rows of a table that are to be forgotten.

    :param is_key: whether columns are those of such a row.
    :param given: request ids or fingerprints in hex, named instead of a key.
    """

    def __init__(self, places: Places, is_key: Drop, *, given: frozenset[str] = frozenset()) -> None:
        self._places = places
        self._is_key = is_key
        self._noted: dict[str, float] = {}
        self._named: frozenset[str] = given
        self.marks = self._find(given)

    def search(self) -> list[Trace]:
        """Return every place where one of the rows is, with what is there; nothing is changed."""
        places = self._places
        found = [Trace(str(path), "answer", int(path.exists())) for path in self._answers()]
        for ledger in places.ledgers:
            count = sum(self.marks.of(_event(name, line)) for _, name, lines in _segments(ledger) for line in lines)
            found.append(Trace(str(ledger), "ledger", count))
            found += [Trace(str(path), "progress", int(self._is_named(path))) for path in _progress(ledger)]
            found.append(Trace(str(ledger / FORGETTING), "ledger", len(names_if_any(ledger / FORGETTING))))
        found += [Trace(str(path), "report", int(self._is_named(path))) for path in places.reports]
        found += [Trace(str(path), "dead letters", count_rows(path, self._is_letter)) for path in places.dead_letters]
        found += [Trace(str(path), "output", count_rows(path, self._is_row)) for path in places.outputs]
        found += [Trace(rows.name, "output", len(rows.marks())) for rows in places.keyed]
        return [trace for trace in found if trace.count]

    def remove(
        self,
        *,
        writer_timeout: float,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Remove the rows from every place; may be killed and called again.

        :param writer_timeout: seconds without a heartbeat after which a run over a ledger counts as dead.
        :raises SegmindEnrichmentError: a run works on a ledger, or one of the rows has a request whose answer is not
            known; nothing was removed.
        """
        with contextlib.ExitStack() as alone:
            for ledger in self._places.ledgers:
                alone.enter_context(_alone(ledger, writer_timeout, monotonic, sleep))
                self._check_answered(ledger)
            for ledger in self._places.ledgers:
                self._note(ledger, time.time())
            self._remove()
            for ledger in self._places.ledgers:
                for name in names_if_any(ledger / FORGETTING):
                    (ledger / FORGETTING / name).unlink(missing_ok=True)

    def _remove(self) -> None:
        places = self._places
        for path in self._answers():
            path.unlink(missing_ok=True)
        for ledger in places.ledgers:
            self._rewrite(ledger)
        files = [*places.reports, *(path for ledger in places.ledgers for path in _progress(ledger))]
        for path in files:
            if self._is_named(path):
                path.unlink(missing_ok=True)
        # Last, because a repeated call finds the key in them.
        for path in places.dead_letters:
            remove_rows(path, self._is_letter)
        for path in places.outputs:
            remove_rows(path, self._is_row)
        for rows in places.keyed:
            rows.delete()

    def _rewrite(self, ledger: StorePath) -> None:
        writer = f"forget-{uuid.uuid4().hex[:12]}"
        for number, (folder, name, lines) in enumerate(_segments(ledger)):
            kept = [line for line in lines if not self.marks.of(_event(name, line))]
            if len(kept) == len(lines):
                continue
            if kept:
                write_segment(ledger, segment_name(time.time(), writer, number), kept)
            (folder / name).unlink(missing_ok=True)

    def _check_answered(self, ledger_folder: StorePath) -> None:
        ledger = Ledger(ledger_folder, run="", writer="reader")
        try:
            ledger.replay()
            waiting = sum(
                mark.hex() in self.marks.fingerprints
                # What a killed call has removed in part looks as if its answer were still awaited.
                and any(event.at > self._noted.get(mark.hex(), -math.inf) for event in row.events())
                for mark, row in ledger.open_rows()
            )
        finally:
            ledger.close()
        if waiting:
            raise SegmindEnrichmentError(
                f"{waiting} of the rows in the ledger {str(ledger_folder)!r} have a request that may be in flight or "
                "billed, and the ledger is its only record. Let the task end first (a retry looks the request up), "
                "then forget the row. Nothing was removed."
            )

    def _note(self, ledger: StorePath, at: float) -> None:
        """Record in the ledger what is being removed, so that another call can finish it if this process is killed."""
        marks = {"fingerprints": sorted(self.marks.fingerprints), "request_ids": sorted(self.marks.request_ids)}
        text = json.dumps({**marks, "at": at}).encode()
        path = ledger / FORGETTING / f"{hashlib.sha256(text).hexdigest()[:32]}.json"
        make_folder(path.parent)
        with write_whole(path) as file:
            file.write(text)

    # Find.

    def _find(self, given: frozenset[str]) -> Marks:
        fingerprints, ids, keys = set[str](), set[str](), set[str]()
        for path in self._places.dead_letters:
            for letter in _rows(path):
                marks_of_letter = {letter.get("fingerprint"), *(letter.get("request_ids") or ())}
                if self._is_key(letter.get("key") or {}) or not given.isdisjoint(marks_of_letter):
                    fingerprints |= _present(letter.get("fingerprint"))
                    ids |= set(letter.get("request_ids") or ())
                    keys.add(shown_key(letter["key"]))
        for path in self._places.outputs:
            for row in _rows(path):
                if self._is_row(row):
                    ids |= _present(row.get("_segmind_request_id"))
        for rows in self._places.keyed:
            for fingerprint, request_id in rows.marks():
                fingerprints |= _present(fingerprint)
                ids |= _present(request_id)
        for ledger in self._places.ledgers:
            for name in names_if_any(ledger / FORGETTING):
                noted = _json(ledger / FORGETTING / name)
                fingerprints |= set(noted.get("fingerprints", ()))
                self._noted |= dict.fromkeys(noted.get("fingerprints", ()), noted.get("at", 0.0))
                ids |= set(noted.get("request_ids", ()))
        return self._completed(given, fingerprints, ids, keys)

    def _completed(self, given: frozenset[str], fingerprints: set[str], ids: set[str], keys: set[str]) -> Marks:
        """Add the fingerprints that requests have in the ledgers, and then all requests of those."""
        requests: dict[str, set[str]] = {}
        named: set[str] = set()
        wanted = given | fingerprints | ids
        for ledger in self._places.ledgers:
            for _, name, lines in _segments(ledger):
                for line in lines:
                    fingerprint, *of_row = marks_of(_event(name, line))
                    if fingerprint in wanted or not wanted.isdisjoint(of_row):
                        requests.setdefault(fingerprint, set()).update(of_row)
                    if not given.isdisjoint((fingerprint, *of_row)):
                        named.add(fingerprint)
        self._named = given.union(*(requests[fingerprint] for fingerprint in named))
        for found in requests.values():
            ids |= found
        return Marks(frozenset(fingerprints | requests.keys()), frozenset(ids), frozenset(keys))

    def _is_row(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row of an output has the key, or its answer came from a request that was named instead."""
        return self._is_key(row) or row.get("_segmind_request_id") in self._named

    def _is_letter(self, letter: Mapping[str, Any]) -> bool:
        return self._is_key(letter.get("key") or {}) or letter.get("fingerprint") in self.marks.fingerprints

    def _is_named(self, path: StorePath) -> bool:
        """Return whether a report or a progress file names one of the rows."""
        try:
            text = read_now(path).decode("utf-8", "replace")
        except FileNotFoundError:
            return False
        shown = [f"<code>{escape(key)}</code>" for key in self.marks.keys]
        return any(mark in text for mark in (*shown, *self.marks.fingerprints, *self.marks.request_ids))

    def _answers(self) -> Iterator[StorePath]:
        if self._places.answer_path is not None:
            for mark in sorted(self.marks.fingerprints):
                yield self._places.answer_path(bytes.fromhex(mark))


def rows_unchanged_since(ledger_folder: StorePath, before: float) -> frozenset[str]:
    """
    Return the fingerprints, in hex, of rows whose last event is older; not of those with an open request.

    :param before: epoch seconds.
    :raises SegmindEnrichmentError: the ledger cannot be read.
    """
    latest: dict[bytes, float] = {}
    for _, name, lines in _segments(ledger_folder):
        for line in lines:
            event = _event(name, line)
            latest[event.fingerprint] = max(event.at, latest.get(event.fingerprint, -math.inf))
    ledger = Ledger(ledger_folder, run="", writer="reader")
    try:
        ledger.replay()
        waiting = {mark for mark, _ in ledger.open_rows()}
    finally:
        ledger.close()
    return frozenset(mark.hex() for mark, at in latest.items() if at < before and mark not in waiting)


@contextlib.contextmanager
def _alone(
    ledger: StorePath,
    writer_timeout: float,
    monotonic: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterator[None]:
    """
    Register as a writer of a ledger, and wait for those that were killed until they count as dead.

    What they left in the folder of live segments is moved to the ledger's own.

    :raises SegmindEnrichmentError: a run works on the ledger.
    """
    member = Membership(
        ledger,
        writer=f"forget-{uuid.uuid4().hex[:12]}",
        shard=Shard(),
        writer_timeout=writer_timeout,
        clock=time.time,
        monotonic=monotonic,
    )
    heartbeat = Heartbeat(member)
    member.register()
    heartbeat.start()
    try:
        _wait_for_others(member, WAIT_FACTOR * writer_timeout, monotonic, sleep)
        yield
        if _others(member):
            raise SegmindEnrichmentError(
                f"A run over the ledger {str(ledger)!r} has since started and may write the rows again: repeat this "
                "when it has ended."
            )
    finally:
        heartbeat.stop()
        member.unregister()


def _wait_for_others(
    member: Membership, longest: float, monotonic: Callable[[], float], sleep: Callable[[float], None]
) -> None:
    until = monotonic() + longest
    first: Mapping[str, bytes] | None = None
    while True:
        member.observe()
        if not member.has_others():
            member.fold([])
        beats = _others(member)
        if not beats and not list_live(member.folder, Moment(0.0, 0.0)).segments:
            return
        first = beats if first is None else first
        if any(first.get(writer, content) != content for writer, content in beats.items()) or monotonic() > until:
            raise SegmindEnrichmentError(
                f"A run is using the ledger under {str(member.folder)!r}. Nothing was removed: repeat this when "
                "it has ended."
            )
        sleep(1.0)


def _others(member: Membership) -> dict[str, bytes]:
    """Return the heartbeats of the other writers that may be at work."""
    listing = list_live(member.folder, Moment(0.0, 0.0))
    found = {}
    for writer in listing.active - {member.writer}:
        try:
            found[writer] = read_now(member.folder / f"{writer}.beat")
        except FileNotFoundError:
            found[writer] = b""
    return found


def _segments(ledger: StorePath) -> Iterator[tuple[StorePath, str, list[bytes]]]:
    for folder in (ledger / LIVE, ledger):
        for name in segment_names(folder):
            lines = read_segment(folder, name)
            if lines is not None:
                yield folder, name, lines


def _event(name: str, line: bytes) -> Event:
    try:
        return from_line(line)
    except ValueError as error:
        raise SegmindEnrichmentError(
            f"The ledger segment {name!r} contains a line that this version cannot read ({error}): use the version "
            "that wrote it. Nothing was removed."
        ) from error


def _progress(ledger: StorePath) -> list[StorePath]:
    folder = ledger / PROGRESS_FOLDER
    return [folder / name for name in names_if_any(folder) if name[0] != "."]


def _present(mark: Any) -> set[str]:
    return {str(mark)} if mark else set()


def _rows(path: StorePath) -> Iterator[Mapping[str, Any]]:
    return iter(open_source(path)) if path.exists() else iter(())


def _json(path: StorePath) -> dict[str, Any]:
    try:
        found = json.loads(read_now(path))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
