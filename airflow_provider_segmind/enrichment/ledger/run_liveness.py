"""
Runs that overlap on one ledger: who is writing to it now, and what was written since this run read it.

The rule: **write the claim, then list.** A row is sent only if a listing that began after its own claim was durable
shows no other claim of the row that has not ended. Of two writers the one that lists last sees the other; which claim
is older is never asked. What ensures this, in the ledger's folder ``live``:

=========================  =============================================================================================
``<time>-<writer>-<n>``    a segment; it stays until every writer at work whose rows may be the same has read it
``<writer>.writer``        the registration, written before the ledger is read, so that from then on nothing is moved
                           unseen; gone with its writer
``<writer>.beat``          the heartbeat, overwritten six times within the time after which a silent writer is dead; it
                           also says which segments of others its writer has read
``<writer>.ended``         the writer has ended and sends nothing more
``<writer>.dead``          an observer has seen no new heartbeat for long enough. A writer that was declared dead and is
                           alive finds this at its next listing, and sends nothing more
=========================  =============================================================================================

A listing is trusted for a quarter of that time, by the monotonic and by the wall clock, so a process that was frozen
lists again before it sends; and nothing is decided about the claims of a dead writer before that quarter has passed
since its ``.dead`` was written. A listing grows with the writers at work, not with the age of the ledger.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_segmind.enrichment.ledger.compaction import compact
from airflow_provider_segmind.enrichment.ledger.ledger import LIVE
from airflow_provider_segmind.enrichment.ledger.segments import (
    is_segment,
    read_segment,
    write_segment,
    writer_and_number,
)
from airflow_provider_segmind.enrichment.settings import Shard
from airflow_provider_segmind.enrichment.storage import (
    StorePath,
    caching_mount,
    list_names,
    make_folder,
    move,
    overwrite,
    read_now,
    write_whole,
)
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindEnrichmentError

log = logging.getLogger(__name__)
BEATS = 6
"""Heartbeats within the time after which a silent writer is dead."""
TRUST = 0.25
"""Fraction of that time for which a listing is trusted."""
LISTINGS = 5
"""How many times a listing is repeated if it took too long, or files were moved while it was read."""
DEAD_MARK_LIFETIME = 24 * 3600.0
"""
Seconds for which it is remembered that a writer was declared dead; no process is expected to continue after being
frozen for longer.
"""
_REGISTERED, _BEAT, _ENDED, _DEAD = ".writer", ".beat", ".ended", ".dead"


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time on both clocks: the monotonic one may stop while a machine sleeps, the wall clock may jump."""

    monotonic: float
    wall: float


@dataclass(frozen=True, slots=True)
class Listing:
    """
    What the folder ``live`` contains.

    :param began: before the store was listed.
    :param segments: their names, by writer and number.
    """

    began: Moment
    segments: Mapping[str, Mapping[int, str]]
    registered: frozenset[str]
    ended: frozenset[str]
    dead: frozenset[str]

    @property
    def active(self) -> frozenset[str]:
        """
        The writers that may still send.

        A writer counts as active unless a file says otherwise, whatever else of it a listing misses: only files that
        existed when the listing began, and still exist, are certain to be in it.
        """
        return (self.registered | self.segments.keys()) - self.ended - self.dead


def list_live(folder: StorePath, began: Moment) -> Listing:
    """
    List the folder ``live``.

    :raises OSError: the store is out of reach.
    :raises SegmindEnrichmentError: a file is named like a segment and is not one.
    """
    marks: dict[str, set[str]] = {_REGISTERED: set(), _ENDED: set(), _DEAD: set()}
    segments: dict[str, dict[int, str]] = {}
    for name in list_names(folder):
        if is_segment(name):
            writer, number = writer_and_number(name)
            segments.setdefault(writer, {})[number] = name
            continue
        stem, dot, ending = name.rpartition(".")
        if stem and f"{dot}{ending}" in marks:
            marks[f"{dot}{ending}"].add(stem)
    return Listing(began, segments, *(frozenset(marks[mark]) for mark in (_REGISTERED, _ENDED, _DEAD)))


@dataclass(slots=True)
class _Watched:
    """How long a heartbeat has not changed, in monotonic seconds during which it was checked."""

    content: bytes | None
    checked: float
    silent: float = 0.0


@dataclass(slots=True)
class _Own:
    """A segment of this writer: its name, and the claims in it with their rows."""

    name: str
    claims: tuple[tuple[bytes, str], ...] = ()


class Membership:
    """
    One writer among those that may be at work on a ledger. Its methods block; any thread may call them.

    :param folder: the ledger's.
    :param writer: a name no other writer has.
    :param shard: which rows it sends; writers of other shards of the same table never send them.
    :param writer_timeout: seconds without a new heartbeat after which a writer is considered dead.
    :param clock: epoch seconds, as the ledger's events have them.
    :param monotonic: of this process.
    :param wall: epoch seconds of this machine.
    :ivar inbox: segments of others that were read, to be taken into the ledger's view before anything is decided by it.
    """

    def __init__(
        self, folder: StorePath, *, writer: str, shard: Shard, writer_timeout: float, clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.folder = folder / LIVE
        self.writer = writer
        self.writer_timeout = writer_timeout
        self.inbox: deque[tuple[str, list[bytes]]] = deque()
        self._ledger_folder = folder
        self._shard = shard
        self._clock, self._monotonic, self._wall = clock, monotonic, wall
        self._lock = threading.RLock()
        self._listing: Listing | None = None
        self._own: dict[int, _Own] = {}
        self._read: set[str] = set()
        self._seen: dict[str, int] = {}
        self._shards: dict[str, Shard | None] = {}
        self._watched: dict[str, _Watched] = {}
        self._first_seen_dead: dict[str, float] = {}
        self._ended_at: dict[str, float] = {}
        self._beats = 0
        self._beaten_at = 0.0
        self._declared_dead: str | None = None
        self._has_others = False

    # -- this writer ---------------------------------------------------------------------------------------------------

    def register(self) -> None:
        """
        Register as an active writer; the ledger must be read after this call.

        :raises SegmindEnrichmentError: the folder cannot be written or listed.
        """
        try:
            make_folder(self.folder)
            shard = {"shard_index": self._shard.index, "shard_count": self._shard.count}
            with write_whole(self._file(_REGISTERED)) as file:
                file.write(json.dumps({**shard, "at": self._wall()}).encode())
            self.beat()
        except OSError as error:
            raise SegmindEnrichmentError(
                f"The ledger under {str(self._ledger_folder)!r} cannot be written: {error}. Nothing was sent; a retry "
                "tries again.",
                retryable=True,
            ) from error
        if (options := caching_mount(self.folder)) is not None:
            log.warning(
                "The ledger under %r is on NFS mounted with %r. A client that caches listings may miss what another "
                "machine has just written, and two runs that overlap may then pay for the same row. Mount it with "
                "'lookupcache=none,actimeo=0', or keep the ledger elsewhere.",
                *(str(self._ledger_folder), options),
            )
        with self._lock:
            self._listing = None
            self._refresh()
            self._drop_old_dead_marks()

    def beat(self) -> None:
        """
        Show that this writer is alive.

        :raises OSError: it cannot be written.
        """
        began = self._monotonic()
        self._beats += 1
        overwrite(self._file(_BEAT), json.dumps({"beat": self._beats, "seen": self._seen}).encode())
        self._beaten_at = began

    def write(self, name: str, number: int, lines: list[bytes], claims: tuple[tuple[bytes, str], ...]) -> None:
        """Write a segment durably to the folder that the others list."""
        write_segment(self.folder, name, lines)
        self._own[number] = _Own(name, claims)

    def trouble(self) -> SegmindEnrichmentError | None:
        """Return why this writer must not send any more, None if it may."""
        if self._declared_dead is not None:
            return SegmindEnrichmentError(self._declared_dead, retryable=True)
        if self._monotonic() - self._beaten_at > self.writer_timeout / 2:
            return SegmindEnrichmentError(
                f"The heartbeat of this run under {str(self.folder)!r} has not been written for "
                f"{self.writer_timeout / 2:g} s, and another run may soon consider it dead. Nothing more is sent; "
                "requests that were accepted are fetched by a retry, within an hour.",
                retryable=True,
            )
        return None

    def is_fresh(self) -> bool:
        """Return whether the latest listing may be trusted; not after a pause, or a jump of either clock."""
        return self._listing is not None and self._is_fresh(self._listing.began)

    # -- the others ----------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """
        List, and read what others have written since the last time, into :attr:`inbox`.

        :raises SegmindEnrichmentError: the folder cannot be listed, or not soon enough.
        """
        with self._lock:
            self._refresh()

    def observe(self) -> None:
        """
        Refresh, and declare writers dead that have no new heartbeat.

        :raises SegmindEnrichmentError: the folder cannot be listed.
        """
        with self._lock:
            listing = self._refresh()
            try:
                silent = [writer for writer in sorted(self._others(listing)) if self._is_silent(writer)]
                for writer in silent:
                    log.warning(
                        "The heartbeat of another run over this ledger (writer %s) has not changed for %g s. That run "
                        "is considered dead: its requests are looked up in Segmind's request history.",
                        writer,
                        self.writer_timeout,
                    )
                    self._mark(writer, _DEAD)
            except OSError as error:
                raise self.out_of_reach(error) from error
            if silent:
                self._refresh()

    def is_active(self, writer: str) -> bool:
        """Return whether a writer may still send for what it has claimed; this one does not count."""
        listing = self._listing
        if listing is None or writer == self.writer:
            return False
        if writer in listing.dead:
            seen = self._first_seen_dead.get(writer)
            return seen is None or listing.began.monotonic < seen + TRUST * self.writer_timeout
        return writer in listing.active

    def has_others(self) -> bool:
        """Return whether the latest listing shows other active writers that may send the same rows."""
        return self._has_others

    def ended_at(self, writer: str) -> float | None:
        """Return from when on a writer has certainly sent nothing, None when that was before this one began."""
        return self._ended_at.get(writer)

    # -- moving segments to the ledger's folder ------------------------------------------------------------------------

    @property
    def own_segments(self) -> int:
        """How many segments of this writer are here."""
        return len(self._own)

    def movable(self, is_live: Callable[[bytes, str], bool]) -> list[int]:
        """Return the numbers of own segments without a claim that is not ended."""
        return [
            number
            for number, own in list(self._own.items())
            if not any(is_live(mark, claim) for mark, claim in own.claims)
        ]

    def fold(self, numbers: Iterable[int]) -> None:
        """
        Compact segments that all have read into the ledger's own folder: these, and those of writers that ended.

        :param numbers: what :meth:`movable` gave.
        :raises SegmindEnrichmentError: one cannot be read; nothing is lost.
        """
        with self._lock:
            listing = self._refresh()
            if self._declared_dead is not None:
                return
            read = self._read_by(self.writer, listing)
            own = [number for number in numbers if number <= read and number in self._own]
            left = self._segments_of_ended_writers(listing)
            names = [*(self._own[number].name for number in own), *(name for names in left.values() for name in names)]
        # What is moved was read by all, and this takes seconds on an object store: claims need not wait for it.
        compact(self._ledger_folder, clock=self._clock, names=names, source=self.folder)
        with self._lock:
            for number in own:
                self._own.pop(number, None)
            self._forget(listing, left)

    def unregister(self) -> None:
        """
        End: nothing is sent or written after it. If this writer is the only one, it moves what is left to the ledger's
        folder; otherwise the last writer or the next one does.

        :raises SegmindEnrichmentError: the folder cannot be listed.
        :raises OSError: it cannot be written.
        """
        with self._lock:
            listing = self._refresh()
            if self._declared_dead is not None:
                return
            left = self._segments_of_ended_writers(listing)
            if any(self._overlap(other, self.writer) for other in listing.active - {self.writer}):
                self._mark(self.writer, _ENDED)
                self._file(_BEAT).unlink(missing_ok=True)
                return
            names = [own.name for own in self._own.values()]
            self._move([*names, *(name for names in left.values() for name in names)])
            self._own.clear()
            self._forget(listing, left)
            self._file(_BEAT).unlink(missing_ok=True)
            self._file(_REGISTERED).unlink(missing_ok=True)

    def _move(self, names: list[str]) -> None:
        # Another writer may do the same.
        rest = move(names, self.folder, self._ledger_folder)
        compact(self._ledger_folder, clock=self._clock, names=rest, source=self.folder)

    def _read_by(self, owner: str, listing: Listing) -> float:
        """Return up to which number the segments of a writer were read by all that may send the same rows."""
        others = (one for one in listing.active - {owner, self.writer} if self._overlap(one, owner))
        return min((self._acknowledged(one).get(owner, -1) for one in others), default=float("inf"))

    def _segments_of_ended_writers(self, listing: Listing) -> dict[str, list[str]]:
        found = {}
        for writer in (listing.segments.keys() | listing.ended | listing.dead) - listing.active:
            if not self.is_active(writer):
                read = self._read_by(writer, listing)
                found[writer] = [name for number, name in listing.segments.get(writer, {}).items() if number <= read]
        return found

    def _forget(self, listing: Listing, left: Mapping[str, list[str]]) -> None:
        for writer, names in left.items():
            if len(names) == len(listing.segments.get(writer, {})):
                # The mark that it is dead stays: it may only be frozen.
                for mark in (_BEAT, _REGISTERED, _ENDED):
                    (self.folder / f"{writer}{mark}").unlink(missing_ok=True)

    # -- listing -------------------------------------------------------------------------------------------------------

    def _refresh(self) -> Listing:
        whole = True
        for tries_left in reversed(range(LISTINGS)):
            try:
                listing = list_live(self.folder, self._now())
                whole = self._read_new_segments(listing)
                has_others = bool(self._others(listing))
            except OSError as error:
                if tries_left:
                    continue
                raise self.out_of_reach(error) from error
            self._notice_death_mark(listing)
            if whole:
                self._accept(listing)
                self._has_others = has_others
            if self._declared_dead is not None or (whole and self._is_fresh(listing.began)):
                return listing
        if not whole:
            raise SegmindEnrichmentError(
                f"Segments under {str(self.folder)!r} disappeared before this run read them, although no run "
                "removes such segments. Nothing more is sent; a retry reads the ledger again.",
                retryable=True,
            )
        raise SegmindEnrichmentError(
            f"Listing {str(self.folder)!r} takes longer than {TRUST * self.writer_timeout:g} s, so it is unknown what "
            "other runs have claimed in the meantime. Nothing more is sent; raise [segmind] writer_timeout for all "
            "runs that use this ledger.",
            retryable=True,
        )

    def _read_new_segments(self, listing: Listing) -> bool:
        """Read what is new; return whether this run has read everything that was moved since it registered."""
        for writer, segments in listing.segments.items():
            if writer == self.writer or not self._overlap(writer, self.writer):
                continue
            for _, name in sorted(segments.items()):
                if name not in self._read:
                    lines = read_segment(self.folder, name)
                    if lines is None and self._listing is None:
                        # Moved before others knew of this run, which reads the ledger's own folder after this.
                        continue
                    if lines is None:
                        return False
                    self.inbox.append((name, lines))
                    self._read.add(name)
        return True

    def _accept(self, listing: Listing) -> None:
        """Adopt a listing whose new segments have been read."""
        former, self._listing = self._listing, listing
        if former is None:
            former = listing
        else:
            # Everything that the previous listings showed is certain to be in this one.
            self._seen = {writer: max(segments) for writer, segments in former.segments.items() if segments}
        self._read.intersection_update(name for names in listing.segments.values() for name in names.values())
        for writer in listing.dead:
            self._first_seen_dead.setdefault(writer, self._monotonic())
        for writer in former.active - listing.active - listing.dead:
            self._ended_at.setdefault(writer, self._clock())
        for writer in listing.dead:
            if not self.is_active(writer):
                self._ended_at.setdefault(writer, self._clock())

    def _notice_death_mark(self, listing: Listing) -> None:
        if self.writer in listing.dead or self.writer not in listing.registered:
            self._declared_dead = (
                f"Another run over the ledger under {str(self._ledger_folder)!r} considered this run dead because its "
                "heartbeat had stopped. Nothing more is sent; requests that were accepted are fetched by that run or "
                "by a retry, within an hour."
            )

    def _others(self, listing: Listing) -> set[str]:
        return {one for one in listing.active - {self.writer} if self._overlap(one, self.writer)}

    def _is_silent(self, writer: str) -> bool:
        now, content = self._monotonic(), self._content(self.folder / f"{writer}{_BEAT}")
        watched = self._watched.get(writer)
        if watched is None or content != watched.content:
            self._watched[writer] = _Watched(content, now)
            return False
        # If this process paused, that does not mean that the other one was silent.
        watched.silent += min(now - watched.checked, self.writer_timeout / 3)
        watched.checked = now
        return watched.silent >= self.writer_timeout

    def _overlap(self, one: str, other: str) -> bool:
        first, second = self._shard_of(one), self._shard_of(other)
        return first is None or second is None or first.count != second.count or first.index == second.index

    def _shard_of(self, writer: str) -> Shard | None:
        if writer == self.writer:
            return self._shard
        if writer not in self._shards:
            registration = self._json(self.folder / f"{writer}{_REGISTERED}")
            try:
                self._shards[writer] = Shard(
                    index=int(registration["shard_index"]), count=int(registration["shard_count"])
                )
            except (KeyError, TypeError, ValueError, SegmindConfigError):
                return None
        return self._shards[writer]

    def _acknowledged(self, writer: str) -> dict[str, int]:
        seen = self._json(self.folder / f"{writer}{_BEAT}").get("seen")
        return {str(one): number for one, number in seen.items() if isinstance(number, int)} if seen else {}

    def _json(self, path: StorePath) -> dict[str, Any]:
        content = self._content(path)
        with contextlib.suppress(ValueError):
            found = json.loads(content or b"")
            if isinstance(found, dict):
                return found
        return {}

    def _content(self, path: StorePath) -> bytes | None:
        try:
            return read_now(path)
        except FileNotFoundError:
            return None

    def _drop_old_dead_marks(self) -> None:
        listing = self._listing
        for writer in listing.dead - listing.registered - listing.segments.keys() if listing else ():
            path = self.folder / f"{writer}{_DEAD}"
            if self._wall() - float(self._json(path).get("at", self._wall())) > DEAD_MARK_LIFETIME:
                path.unlink(missing_ok=True)

    def _mark(self, writer: str, mark: str) -> None:
        with write_whole(self.folder / f"{writer}{mark}") as file:
            file.write(json.dumps({"at": self._wall(), "by": self.writer}).encode())

    def _file(self, mark: str) -> StorePath:
        return self.folder / f"{self.writer}{mark}"

    def _now(self) -> Moment:
        return Moment(self._monotonic(), self._wall())

    def _is_fresh(self, began: Moment) -> bool:
        now, trust = self._now(), TRUST * self.writer_timeout
        return now.monotonic - began.monotonic <= trust and abs(now.wall - began.wall) <= trust

    def out_of_reach(self, error: Exception) -> SegmindEnrichmentError:
        """Return the error of a folder that cannot be listed."""
        return SegmindEnrichmentError(
            f"The folder {str(self.folder)!r}, through which runs on one ledger detect each other, is out of reach: "
            f"{error}. Nothing more is sent; a retry tries again.",
            retryable=True,
        )


@dataclass(slots=True)
class Heartbeat:
    """A thread that regularly shows that a writer is alive, however busy its event loop is."""

    member: Membership
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="segmind-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; nothing is written after it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.member.writer_timeout / BEATS):
            # Libraries of stores raise errors of their own; the member reports the error when it persists.
            with contextlib.suppress(Exception):
                self.member.beat()
