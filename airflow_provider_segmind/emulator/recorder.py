"""Records of all requests and responses, for tests in the same process and over the control routes."""

from __future__ import annotations

import base64
import json
from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import Any, Self
from urllib.parse import parse_qsl

from airflow_provider_segmind.emulator.settings import Settings
from airflow_provider_segmind.emulator.wire import Call


@dataclass(frozen=True, slots=True)
class Entry:
    """A record that the control routes send as JSON."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            key: {"base64": base64.b64encode(v).decode()} if isinstance(v, bytes) else v
            for key, v in asdict(self).items()
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        """Build a record from the output of :meth:`to_json`."""
        return cls(
            **{
                k: base64.b64decode(v["base64"]) if isinstance(v, dict) and set(v) == {"base64"} else v
                for k, v in row.items()
            }
        )


@dataclass(frozen=True, slots=True)
class RecordedRequest(Entry):
    """One HTTP request as it reached the emulator.

    :param time: emulated epoch seconds.
    :param headers: names in lower case.
    :param route: its route: submit, v1, status, result, credits, history, upload, ...
    :param model: slug of a paid submission, else empty.
    :param status: status code of the response; 0 if the connection was dropped, None if there is no response yet.
    """

    number: int
    time: float
    method: str
    path: str
    query_string: str
    headers: dict[str, str]
    body: bytes
    route: str
    model: str
    status: int | None

    @property
    def query(self) -> dict[str, str]:
        """Query parameters, the last of each name."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    @property
    def json(self) -> Any:
        """The decoded body; None when it is empty."""
        return json.loads(self.body) if self.body else None


@dataclass(frozen=True, slots=True)
class CallEntry(Entry):
    """One answered call: emulated time of arrival, route and status; kept even if requests are not recorded."""

    time: float
    route: str
    status: int
    model: str


@dataclass(frozen=True, slots=True)
class BillEntry(Entry):
    """One charge in USD, at the emulated moment the request completed."""

    request_id: str
    model: str
    cost: float
    time: float


@dataclass(frozen=True, slots=True)
class JobEntry(Entry):
    """One accepted request; ``cost`` is its price if it completes, ``polls`` how often its state was read."""

    request_id: str
    model: str
    via: str
    status: str
    submitted: float
    ended: float | None
    cost: float
    error: str | None
    polls: int


PAID_ROUTES = frozenset({"submit", "v1"})


class Recorder:
    """Keeps requests (bounded or switched off by the settings) and a short line for each answered call."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.clear()

    def clear(self) -> None:
        """Remove all records."""
        self._requests: deque[RecordedRequest] = deque()
        self._by_number: dict[int, int] = {}
        self._calls: list[tuple[float, str, int, str]] = []
        self._number = 0

    def record_request(self, call: Call, model: str) -> int:
        """Record a request and return its number."""
        self._number += 1
        if self._settings.record_requests:
            body = call.body if self._settings.record_bodies else b""
            headers = call.headers if self._settings.record_headers else {}
            row = RecordedRequest(
                self._number,
                call.time,
                call.method,
                call.path,
                call.query_string,
                headers,
                body,
                call.route,
                model,
                None,
            )
            self._requests.append(row)
            limit = self._settings.record_limit
            while limit is not None and len(self._requests) > limit:
                self._by_number.pop(self._requests.popleft().number, None)
        return self._number

    def record_response(self, number: int, call: Call, model: str, status: int) -> None:
        """Record the response to a request; ``status`` 0 is a dropped connection."""
        self._calls.append((call.time, call.route, status, model))
        if self._settings.record_requests:
            self._by_number[number] = status

    def requests(self) -> list[RecordedRequest]:
        """Return the recorded requests in the order of arrival."""
        return [replace(row, status=self._by_number.get(row.number)) for row in self._requests]

    def posts(self, model: str | None) -> list[RecordedRequest]:
        """Return the paid submissions received, of one model or all."""
        paid = (row for row in self._requests if row.route in PAID_ROUTES and row.method == "POST")
        return [replace(row, status=self._by_number.get(row.number)) for row in paid if model in (None, row.model)]

    def calls(self, route: str | None) -> list[CallEntry]:
        """Return an entry for each answered call, of one route or all."""
        return [CallEntry(*line) for line in self._calls if route in (None, line[1])]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return answered calls by route and status."""
        counted: dict[str, dict[str, int]] = {}
        for _, route, status, _ in self._calls:
            row = counted.setdefault(route, {})
            row[str(status)] = row.get(str(status), 0) + 1
        return counted

    def most_accepted(self, seconds: float, route: str | None) -> int:
        """Return the largest number of calls answered below 400, or 422, within any window of ``seconds``."""
        times = sorted(
            when
            for when, name, status, _ in self._calls
            if route in (None, name) and (0 < status < 400 or status == 422)
        )
        most = start = 0
        for end, moment in enumerate(times):
            while times[start] <= moment - seconds:
                start += 1
            most = max(most, end - start + 1)
        return most
