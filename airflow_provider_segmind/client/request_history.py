"""
Pure: find the request of a lost POST in Segmind's request history.

The history is the only evidence of a POST whose response was lost. Its rows appear late (up to two hours), its
envelope and the name of its time field are undocumented, and a request with several outputs has several rows. Its times
are those of Segmind's clock, and the worker's may be minutes ahead or behind: rows of known requests show the
difference; what remains unknown is covered by a margin, within which a row is neither taken for the lost request nor
ruled out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from functools import lru_cache
from itertools import accumulate, count
from typing import Any

from airflow_provider_segmind.client.endpoints import Wire
from airflow_provider_segmind.client.models import RecordPage, RequestRecord
from airflow_provider_segmind.client.polling import Pause, Step
from airflow_provider_segmind.client.submission import SubmissionRecord, fill_in, json_digest
from airflow_provider_segmind.exceptions import SegmindBadRequestError, SegmindError, SegmindSubmissionUnknownError
from airflow_provider_segmind.wording import counted

HISTORY_WAITS = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds before each search of the request history."""
LONGEST_WAIT = 300.0
"""Seconds between searches when a task waits for the history."""
HISTORY_PAGES = 300
"""Pages that are read at most; a longer history does not prove that a request is missing."""
HISTORY_DAYS = 30
"""Maximum number of days of one query; the history accepts 31."""
HISTORY_COMPLETE_AFTER = 3 * 3600.0
"""
Seconds after its POST from which a request that the history does not contain is taken never to have existed.

The history shows it within two hours, and clocks may differ by one.
"""
CLOCK_SKEW = 120.0
"""Seconds by which Segmind's clock may lag ours, while the difference is unknown, for a row to be taken."""
LARGEST_SKEW = 3600.0
"""Seconds by which clocks may differ, while the difference is unknown, for a row not to be another request."""
LARGEST_OFFSET = 15 * 3600.0
"""Seconds by which they may differ where something shows that it is more than that: time zones are up to 14 h apart."""
SLACK = 5.0
"""Seconds allowed for rounding where the difference of the clocks is known."""
POST_DURATION = 600.0
"""Seconds after the intent within which a lost POST can have arrived."""


class HistoryPages:
    """
    The pages of the request history between two times, the newest first.

    Iterating yields the filters of each page; :meth:`take` receives the page. Only a page without any row marks the end
    of the history: Segmind's pages may be smaller than what was asked for, and a row without a usable id is a row.

    :param earliest: epoch seconds; without both times, Segmind chooses the days.
    :param latest: epoch seconds.
    :param model: whose rows are returned.
    :param status: Segmind's filter.
    :param most: pages to read at most, None for all.
    """

    def __init__(
        self,
        earliest: float | None = None,
        latest: float | None = None,
        *,
        model: str | None = None,
        status: str | None = None,
        most: int | None = HISTORY_PAGES,
    ) -> None:
        self._days = [{}] if earliest is None or latest is None else _queries(_day(earliest, -1), _day(latest, 1))
        self._model = model
        self._filters = {name: value for name, value in (("model", model), ("status", status)) if value is not None}
        self._most = most
        self._page = RecordPage()
        self.read = 0
        """How many rows were read."""
        self.complete = False
        """Whether all of them were."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        pages = 0
        for days in self._days:
            before: RecordPage | None = None
            for number in count(1):
                if pages == self._most:
                    return
                yield {**days, **self._filters, "page": number}
                pages += 1
                if not self._page.rows:
                    break
                if before is not None and _are_equal(self._page, before):
                    # The service has ignored the page number.
                    return
                before = self._page
        self.complete = True

    def take(self, page: RecordPage) -> list[RequestRecord]:
        """
        Return the rows of a page that are of the model and have an id: Segmind's filter also matches parts of names.
        """
        self._page = page
        self.read += page.rows
        return self._of_model(page)

    @property
    def without_id(self) -> list[RequestRecord]:
        """The rows of the page last taken that are of the model and have no usable id."""
        return self._of_model(self._page.without_id)

    def _of_model(self, rows: Iterable[RequestRecord]) -> list[RequestRecord]:
        model = self._model
        return [row for row in rows if None in (model, row.model_name) or _spelled(row.model_name) == _spelled(model)]


@lru_cache(maxsize=256)
def _spelled(model: str) -> str:
    """Return the name of a model in a form without case and punctuation: the history may have its title."""
    return re.sub(r"[^a-z0-9.]+", "-", model.lower())


def _are_equal(one: RecordPage, other: RecordPage) -> bool:
    return (one.rows, one.without_id, one) == (other.rows, other.without_id, other)


def _day(moment: float, margin: int) -> date:
    """Return the day in UTC plus a margin in days: it is undocumented in which time zone the history counts days."""
    return datetime.fromtimestamp(moment, UTC).date() + timedelta(days=margin)


def _queries(first: date, last: date) -> list[dict[str, date]]:
    """Return the days of each query, the newest first."""
    found = []
    while first <= last:
        start = max(first, last - timedelta(days=HISTORY_DAYS))
        found.append({"from_date": start, "to_date": last})
        last = start - timedelta(days=1)
    return found


@dataclass(frozen=True, slots=True)
class ClockOffset:
    """
    The seconds by which Segmind's clock is ahead of ours, as bounds.

    :param known: whether they come from requests of known submission time; otherwise they are a guess.
    :param doubtful: whether something shows that it may be more than :data:`LARGEST_SKEW`, either way.
    """

    low: float = 0.0
    high: float = 0.0
    known: bool = False
    doubtful: bool = False

    @classmethod
    def of(
        cls, known: Iterable[tuple[float, float]], *, at_least: float = float("-inf"), hint: float | None = None
    ) -> ClockOffset:
        """
        Combine what is known.

        :param known: bounds from each of our own requests, which may be of workers whose clocks differ.
        :param at_least: from the newest row: Segmind's clock is not behind it.
        :param hint: from a Date header, which is undocumented and may come from a proxy.
        """
        bounds = list(known)
        if bounds:
            return cls(min(low for low, _ in bounds), max(high for _, high in bounds), known=True)
        stated = [guess for guess in (hint, max(0.0, at_least)) if guess is not None and abs(guess) <= LARGEST_OFFSET]
        guesses = [guess for guess in stated if abs(guess) <= LARGEST_SKEW]
        return cls(min([0.0, *guesses]), max([0.0, *guesses]), doubtful=len(guesses) < len(stated))


class TimeMatch(Enum):
    """Whether the time of a row is that of a lost POST: it is, it may be, or it is not."""

    INSIDE = "inside"
    NEAR = "near"
    OUTSIDE = "outside"


def time_match(row: RequestRecord, earliest: float, latest: float, offset: ClockOffset) -> tuple[TimeMatch, float]:
    """
    Return whether the time of a row is that of a lost POST, and the seconds between it and ``earliest``.

    :param earliest: epoch seconds of our clock before which the POST was certainly not sent.
    :param latest: epoch seconds of our clock after which it certainly did not arrive.
    """
    times = row_times(row)
    lag = SLACK if offset.known else CLOCK_SKEW
    margin = SLACK if offset.known else LARGEST_OFFSET if offset.doubtful else LARGEST_SKEW
    if not times:
        return TimeMatch.NEAR, 0.0
    distances = [abs(time - earliest - (offset.low + offset.high) / 2) for time in times]
    first, last = earliest + offset.low, latest + offset.high
    inside = [gap for time, gap in zip(times, distances, strict=True) if first - lag <= time <= last + SLACK]
    if inside:
        return TimeMatch.INSIDE, min(inside)
    if any(first - margin <= time <= last + margin for time in times):
        return TimeMatch.NEAR, min(distances)
    return TimeMatch.OUTSIDE, 0.0


def body_of(row: RequestRecord) -> Mapping[str, Any] | None:
    """Return the body in a history row, an object or a string of JSON; None when there is none."""
    body = row.request_body
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return None
    return body if isinstance(body, Mapping) else None


def can_be_compared(row: RequestRecord, names: Collection[str]) -> bool:
    """
    Return whether a row has a body that can be compared with one that was sent.

    :param names: of its fields. A body without any of them may have what was sent in another form, such as in a field
        of its own.
    """
    body = body_of(row)
    return body is not None and not (names and body.keys().isdisjoint(names))


def is_sent_body(
    theirs: Mapping[str, Any] | None,
    *,
    digest_sent: str,
    sent: Mapping[str, Any] | None,
    form: Mapping[str, Any] | None = None,
) -> bool:
    """
    Return whether a body in the history is one that we sent.

    :param digest_sent: SHA-256 in hex of the canonical JSON of what was sent.
    :param sent: what was sent, None where only its digest is known.
    :param form: a body with the fields of what was sent, and other strings. Without ``sent`` and ``form``, a body
        matches only if the server has added nothing.
    """
    if theirs is None:
        return False
    if json_digest(theirs) == digest_sent or (sent is not None and contains(theirs, sent)):
        return True
    return form is not None and json_digest(only_ours(theirs, form)) == digest_sent


def contains(theirs: Any, ours: Any) -> bool:
    """
    Return whether a JSON value contains all of ours; the server may have added fields at any depth.

    Each of our fields must be there with an equal value, lists must have the same length, numbers are compared as
    numbers, and true is not 1.
    """
    if isinstance(ours, Mapping):
        return isinstance(theirs, Mapping) and all(
            name in theirs and contains(theirs[name], value) for name, value in ours.items()
        )
    if isinstance(ours, (list, tuple)):
        return (
            isinstance(theirs, (list, tuple))
            and len(theirs) == len(ours)
            and all(contains(one, other) for one, other in zip(theirs, ours, strict=True))
        )
    if isinstance(ours, bool) or isinstance(theirs, bool) or ours is None or theirs is None:
        return ours is theirs
    if isinstance(ours, str) or isinstance(theirs, str):
        return isinstance(ours, str) and isinstance(theirs, str) and ours == theirs
    return bool(ours == theirs)


def only_ours(theirs: Any, ours: Any) -> Any:
    """Return a JSON value without the fields that our body does not have."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return {name: only_ours(theirs[name], value) for name, value in ours.items() if name in theirs}
    if isinstance(ours, (list, tuple)) and isinstance(theirs, list) and len(theirs) == len(ours):
        return [only_ours(one, other) for one, other in zip(theirs, ours, strict=True)]
    # An equal number keeps our spelling.
    return ours if contains(theirs, ours) and not isinstance(ours, (Mapping, list, tuple)) else theirs


def search(
    wire: Wire,
    record: SubmissionRecord,
    inputs: Mapping[str, Any],
    *,
    now: float,
    waits: tuple[float, ...] = HISTORY_WAITS,
) -> Generator[Step, Any, RequestRecord | None]:
    """
    Search the request history for the request of a lost POST.

    History lags by up to two hours, so it is searched several times with growing waits; an error on the way counts as
    "not there yet".

    :param now: epoch seconds.
    :param waits: seconds before each search.
    :returns: the row that fits best, None when the history does not show it.
    :raises SegmindSubmissionUnknownError: it shows an equal request that may be the lost one, if the clocks differ.
    :raises SegmindError: the last search failed; see :func:`leaves_open`.
    """
    failure: SegmindError | None = None
    for wait in waits:
        if wait:
            yield Pause(wait)
        try:
            found = yield from _search_once(wire, record, inputs, now)
        except SegmindError as error:
            failure = error
            continue
        if found is not None:
            return found
        failure = None
    if failure is not None:
        raise failure
    return None


def leaves_open(failure: SegmindError) -> bool:
    """
    Return whether the history may still show a lost request after an error of a search.

    A history that cannot be read at the moment, or not with this key, does not prove that the request is missing. Nor
    does one that shows an equal request, if the clocks differ. Only a history that does not exist will never show it.
    """
    return not (isinstance(failure, SegmindBadRequestError) and failure.status_code in (404, 405, 410))


def _search_once(
    wire: Wire, record: SubmissionRecord, inputs: Mapping[str, Any], now: float
) -> Generator[Step, Any, RequestRecord | None]:
    earliest = record.intent_at - LARGEST_SKEW
    latest = record.intent_at + POST_DURATION + LARGEST_SKEW
    pages = HistoryPages(earliest, latest, model=record.fingerprint.model)
    equal: list[RequestRecord] = []
    unreadable: list[RequestRecord] = []
    reached = False
    order: list[float] = []
    newest, hint = float("-inf"), None
    for filters in pages:
        try:
            rows = pages.take((yield wire.request_records(**filters)))
        except SegmindError as error:
            # A history with a first page exists, whatever a later one is answered.
            if equal or (pages.read and not leaves_open(error)):
                break
            raise
        times = [time for row in rows for time in row_times(row)]
        newest = max([newest, *times])
        hint = next((row.clock_offset for row in rows if row.clock_offset is not None), hint)
        equal += [row for row in (*rows, *pages.without_id) if may_be(row, record, inputs)]
        unreadable += [row for row in (*rows, *pages.without_id) if not can_be_compared(row, inputs.keys())]
        order += [max(each) for row in rows if (each := row_times(row))]
        # If the Date header shows that Segmind's clock is hours behind, the times of all rows are earlier by as much.
        is_older = bool(times) and max(times) < earliest + min(0.0, hint or 0.0)
        reached = is_older and _is_newest_first(order)
        if reached:
            break
    offset = ClockOffset.of([], at_least=newest - now, hint=hint)
    found = _best(equal, record, offset)
    if found is None:
        _check_readable(unreadable, record, offset)
    if found is None and not (reached or pages.complete):
        raise SegmindSubmissionUnknownError(
            f"The request history was not read to its end, only the newest {counted(pages.read, 'row')} of it."
        )
    return found


def _is_newest_first(times: list[float]) -> bool:
    """
    Return whether rows come newest first, as they were asked for, so that none after them is of a later time.

    :param times: of the rows, which may differ a little from those by which they are ordered.
    """
    return times[0] > times[-1] and all(
        time <= oldest + LARGEST_SKEW for time, oldest in zip(times, accumulate(times, min), strict=True)
    )


def _best(equal: list[RequestRecord], record: SubmissionRecord, offset: ClockOffset) -> RequestRecord | None:
    latest = record.intent_at + POST_DURATION
    placed = [(*time_match(row, record.intent_at, latest, offset), row) for row in equal]
    inside = [(gap, row) for match, gap, row in placed if match is TimeMatch.INSIDE and row.request_id]
    if inside:
        return min(inside, key=lambda pair: pair[0])[1]
    near = [(gap, row) for match, gap, row in placed if match is not TimeMatch.OUTSIDE]
    if any(not row.request_id for _, row in near):
        raise SegmindSubmissionUnknownError(
            "The request history shows a request without a readable id, with the same inputs, that may be the lost one."
        )
    if near:
        gap, row = min(near, key=lambda pair: pair[0])
        raise SegmindSubmissionUnknownError(
            f"The request history shows request {row.request_id!r} with the same inputs, {gap:.0f} s away from the "
            "time at which the lost one was sent by the worker's clock. If that clock is wrong, it may be the lost "
            "request; otherwise it is a different one: check the clock.",
            request_id=row.request_id,
        )
    return None


def _check_readable(unreadable: list[RequestRecord], record: SubmissionRecord, offset: ClockOffset) -> None:
    """
    Check that no row whose inputs cannot be compared has the time of a lost POST.

    :raises SegmindSubmissionUnknownError: one is, and may be the lost request.
    """
    latest = record.intent_at + POST_DURATION
    for row in unreadable:
        match, _ = time_match(row, record.intent_at, latest, offset)
        may_be_lost = match is TimeMatch.INSIDE or (match is TimeMatch.NEAR and not row_times(row))
        if may_be_lost and row.request_id not in record.previous_ids:
            name = f"request {row.request_id!r}" if row.request_id else "a request"
            raise SegmindSubmissionUnknownError(
                f"The request history shows {name} of this model and time, without inputs that can be compared: it may "
                "be the lost one."
            )


def may_be(row: RequestRecord, record: SubmissionRecord, inputs: Mapping[str, Any]) -> bool:
    """Return whether a row has the body of a lost POST and is not of an earlier request of this task."""
    body = body_of(row)
    sent = fill_in(inputs, body, record.filled_in) if record.filled_in else inputs
    return row.request_id not in record.previous_ids and is_sent_body(
        body, digest_sent=record.fingerprint.inputs, sent=sent
    )


def row_times(row: RequestRecord) -> list[float]:
    """
    Return the times (epoch seconds) at which a history row may have been created.

    The name of that field is undocumented: fields named like a creation or submission are taken, else all.
    """
    times = {
        name: time
        for name, value in (row.model_extra or {}).items()
        if not re.search(r"latency|cost|credit|expir", name, re.IGNORECASE) and (time := _time(value)) is not None
    }
    created = [time for name, time in times.items() if re.search(r"creat|submi|start|request", name, re.IGNORECASE)]
    return created or list(times.values())


def fetch_record(
    wire: Wire, request_id: str, *, waits: tuple[float, ...] = HISTORY_WAITS
) -> Generator[Step, Any, RequestRecord]:
    """
    Look up the record of a request whose result is gone; several times, because the record may lag.

    :raises SegmindError: it is not in the history, or the history cannot be read.
    """
    for wait in waits[:-1]:
        if wait:
            yield Pause(wait)
        try:
            record: RequestRecord = yield wire.request_record(request_id)
        except SegmindError:
            continue
        return record
    yield Pause(waits[-1])
    record = yield wire.request_record(request_id)
    return record


def _time(value: Any) -> float | None:
    """Read epoch seconds or milliseconds, a number or a string; ISO 8601, in UTC without a zone; or an HTTP date."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and re.fullmatch(r"\d{10}(?:\d{3})?(?:\.\d+)?", value):
        value = float(value)
    if isinstance(value, (int, float)):
        seconds = value / 1000 if value > 1e11 else value
        return seconds if 1e9 < seconds < 1e10 else None
    if not isinstance(value, str):
        return None
    try:
        if re.match(r"\d{4}-\d\d-\d\d[T ]", value):
            time = datetime.fromisoformat(re.sub(r"\s*(?:UTC|GMT)$", "", value))
        elif re.match(r"[A-Z][a-z]{2}, \d", value):
            time = parsedate_to_datetime(value)
        else:
            return None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def submission_time(row: RequestRecord, record: SubmissionRecord) -> float:
    """Return when an adopted request was submitted, at the earliest, so that its expiry is never overestimated."""
    return min([record.intent_at, *(time for time in row_times(row) if time > record.intent_at - LARGEST_SKEW)])
