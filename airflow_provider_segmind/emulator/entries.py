"""Rows the emulator shows to tests; the same classes in process and over the control routes."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from typing import Any, Self
from urllib.parse import parse_qsl


@dataclass(frozen=True, slots=True)
class Entry:
    """A row that crosses the control routes as JSON."""

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able fields."""
        return {
            key: {"base64": base64.b64encode(v).decode()} if isinstance(v, bytes) else v
            for key, v in asdict(self).items()
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        """Build a row from what :meth:`to_json` returned."""
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
    :param route: which route it met: submit, v1, status, result, credits, history, upload, ...
    :param model: slug of a paid submit, else empty.
    :param status: the answer's code; 0 when the connection was dropped, None while it is on its way.
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
    """One answered call: emulated time of arrival, route and status; kept even when requests are not recorded."""

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
    """One submitted request as the emulator knows it; ``cost`` is what it costs if it completes."""

    request_id: str
    model: str
    via: str
    status: str
    submitted: float
    ended: float | None
    cost: float
    error: str | None
    looks: int
