"""
Pure: find the request of a lost POST in Segmind's request history.

The history is the only witness of a POST whose answer nobody saw. Its rows appear late (up to two hours), its
envelope and the name of its time field are undocumented, and a request with several outputs stands there several
times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from typing import Any

from airflow_provider_segmind.api.models import RequestRecord
from airflow_provider_segmind.api.polling import Pause, Step
from airflow_provider_segmind.api.protocol import MAX_RECORDS_PER_PAGE, Wire
from airflow_provider_segmind.api.submission import Note, digest
from airflow_provider_segmind.exceptions import SegmindError

HISTORY_WAITS = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds before each look into the request history."""
LONGEST_WAIT = 300.0
"""Seconds between looks when a task is told to wait for the history."""
HISTORY_PAGES = 3
CLOCK_SKEW = 120.0
"""Seconds by which Segmind's clock may lag ours before a row is taken for an older request."""
POST_DURATION = 600.0
"""Seconds after the intent within which a lost POST can have arrived."""


def search(
    wire: Wire, note: Note, inputs: Mapping[str, Any], *, waits: tuple[float, ...] = HISTORY_WAITS
) -> Generator[Step, Any, RequestRecord | None]:
    """
    Look for the request of a lost POST in the request history.

    History lags by up to two hours, so it is looked at several times with growing waits; trouble on the way counts as
    "not there yet".

    :param waits: seconds before each look; the tuple bounds how often.
    :returns: the row that fits best, None when the history does not show it.
    :raises SegmindError: the last look got no answer: that is not the same as an answer without the row.
    """
    trouble: SegmindError | None = None
    for wait in waits:
        if wait:
            yield Pause(wait)
        try:
            found = yield from _search_once(wire, note, inputs)
        except SegmindError as error:
            trouble = error
            continue
        if found is not None:
            return found
        trouble = None
    if trouble is not None:
        raise trouble
    return None


def _search_once(wire: Wire, note: Note, inputs: Mapping[str, Any]) -> Generator[Step, Any, RequestRecord | None]:
    first = datetime.fromtimestamp(note.intent_at - CLOCK_SKEW, UTC).date()
    last = datetime.fromtimestamp(note.intent_at + POST_DURATION, UTC).date()
    candidates: list[tuple[float, RequestRecord]] = []
    for page in range(1, HISTORY_PAGES + 1):
        try:
            rows = yield wire.request_records(
                model=note.fingerprint.model, from_date=first, to_date=last, page=page, per_page=MAX_RECORDS_PER_PAGE
            )
        except SegmindError:
            if candidates:
                break
            raise
        for row in rows:
            distance = fit(row, note, inputs)
            if distance is not None:
                candidates.append((distance, row))
        if len(rows) < MAX_RECORDS_PER_PAGE:
            break
    return min(candidates, key=lambda pair: pair[0])[1] if candidates else None


def fit(row: RequestRecord, note: Note, inputs: Mapping[str, Any]) -> float | None:
    """
    Say how well a history row fits a lost POST: the seconds between them, or None when it is another request.

    It must be of the same model, be no request this task instance had before, hold the same body (the server may have
    added defaults to it) and carry a moment inside the window of the POST. The name of the row's time field is
    undocumented, so every field is tried.
    """
    if row.model_name is not None and row.model_name != note.fingerprint.model:
        return None
    if row.request_id in note.former:
        return None
    body = row.request_body
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            return None
    if not isinstance(body, dict):
        return None
    if digest(body) != note.fingerprint.inputs and any(
        name not in body or digest(body[name]) != digest(value) for name, value in inputs.items()
    ):
        return None
    distances = [moment - note.intent_at for moment in row_moments(row)]
    fitting = [abs(distance) for distance in distances if -CLOCK_SKEW <= distance <= POST_DURATION]
    return min(fitting) if fitting else None


def row_moments(row: RequestRecord) -> list[float]:
    """Return every moment (epoch seconds) that a history row carries, whatever its fields are called."""
    moments = []
    for name, value in (row.model_extra or {}).items():
        moment = _moment(value)
        if moment is not None and not re.search(r"latency|cost|credit", name):
            moments.append(moment)
    return moments


def recover(
    wire: Wire, request_id: str, *, waits: tuple[float, ...] = HISTORY_WAITS
) -> Generator[Step, Any, RequestRecord]:
    """
    Look up the record of a request whose result is gone; several times, because the record may lag.

    :raises SegmindError: the history does not know it, or cannot be asked.
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


def _moment(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        seconds = value / 1000 if value > 1e11 else value
        return seconds if 1e9 < seconds < 1e10 else None
    if not isinstance(value, str) or not re.match(r"\d{4}-\d\d-\d\d[T ]", value):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def submission_moment(row: RequestRecord, note: Note) -> float:
    """Return when an adopted request was submitted, at the earliest, so that its expiry is never overestimated."""
    fitting = [moment for moment in row_moments(row) if -CLOCK_SKEW <= moment - note.intent_at <= POST_DURATION]
    return min([note.intent_at, *fitting])
