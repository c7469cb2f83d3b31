"""Faults: on which calls, how often, before or after the service handles them, and what goes wrong."""

from __future__ import annotations

import dataclasses
import json
import random
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_segmind.emulator.wire import Call, Response, html

ROUTES = (
    "submit", "v1", "status", "result", "credits", "history", "upload", "models", "files",
    "unknown",
)  # fmt: skip


@dataclass(kw_only=True)
class Fault:
    """One fault; the fields up to ``when`` say on which calls, the others what goes wrong.

    ``delay`` and ``slow`` are wall-clock seconds: they are meant for the client's timeouts.
    """

    #: a name of ROUTES, several joined by ``|``, or ``*``
    route: str
    #: how many calls it hits; None: no limit
    times: int | None = 1
    #: how many matching calls it lets pass first
    skip: int = 0
    #: how many emulated seconds it lasts
    seconds: float | None = None
    probability: float = 1.0
    seed: int = 0
    model: str | None = None
    #: substring of the raw body or the path
    match: str | None = None
    #: ``before``: the service does not see the call; ``after``: it handles the call, only the response is affected
    when: str = "before"

    #: respond with this status code instead
    status: int | None = None
    #: a string is sent unchanged, anything else as JSON
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str | None = None
    #: the HTML error page of a web server
    html: bool = False
    #: no body at all
    empty: bool = False
    #: drop the connection with a TCP reset
    reset: bool = False
    #: close the connection normally, without a response
    close: bool = False
    delay: float = 0.0
    slow: float = 0.0
    #: ``json``: half of the JSON, with its length; ``connection``: half of the announced bytes, then a reset
    truncate: str | None = None
    #: 307 to this URL; ``{path}`` is replaced
    redirect: str | None = None
    #: keys removed from the genuine JSON response; in a page of the request history from each row
    drop: list[str] = field(default_factory=list)
    #: keys changed there
    patch: dict[str, Any] = field(default_factory=dict)
    #: emulated seconds from the call to the time in the reset header, and the format of that header
    reset_in: float | None = None
    reset_format: str | None = None

    added: float = 0.0
    seen: int = 0
    used: int = 0
    id: str = ""

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Fault:
        """Check keyword arguments and build a fault.

        :raises ValueError: names the invalid field.
        """
        known = {item.name for item in dataclasses.fields(cls)} - {"added", "seen", "used", "id"}
        unknown = sorted(set(fields) - known)
        if unknown:
            raise ValueError(f"unknown fault fields {unknown}; known: {sorted(known)}")
        fault = cls(**fields)
        strange = [name for name in fault.route.split("|") if name != "*" and name not in ROUTES]
        if strange:
            raise ValueError(f"unknown fault routes {strange}; known: {[*ROUTES, '*']}")
        if fault.when not in ("before", "after"):
            raise ValueError(f"fault when={fault.when!r} is neither 'before' nor 'after'")
        if fault.truncate not in (None, "json", "connection"):
            raise ValueError(f"fault truncate={fault.truncate!r} is neither 'json' nor 'connection'")
        if fault.seconds is not None and "times" not in fields:
            fault.times = None
        return fault

    def hits(self, call: Call, model: str, now: float) -> bool:
        """Return whether this fault hits a call, and count it."""
        if self.route != "*" and call.route not in self.route.split("|"):
            return False
        if self.times is not None and self.used >= self.times:
            return False
        if self.seconds is not None and now >= self.added + self.seconds:
            return False
        if self.model is not None and self.model != model:
            return False
        if self.match is not None and self.match not in call.path and self.match.encode() not in call.body:
            return False
        self.seen += 1
        if self.seen <= self.skip:
            return False
        if self.probability < 1.0 and random.Random(f"{self.seed}/{self.seen}").random() >= self.probability:
            return False
        self.used += 1
        return True

    @property
    def needs_response(self) -> bool:
        """Whether the service must still handle the call: the response is delayed or changed, but not replaced."""
        if self.when == "after":
            return True
        replaced = self.status is not None or self.redirect or self.html or self.empty or self.body is not None
        return not (replaced or self.reset or self.close)

    def apply(self, genuine: Response | None, call: Call, reset_headers: dict[str, str]) -> Response:
        """Return the response to send instead of the genuine one (None if the service did not see the call)."""
        response = genuine or Response(200)
        if self.redirect is not None:
            return Response(307, b"", None, {"location": self.redirect.replace("{path}", call.path)})
        status = self.status if self.status is not None else response.status
        if self.html:
            response = html(status, "Bad Gateway" if status == 502 else "Error")
        elif self.empty:
            response = Response(status, b"", None)
        elif self.body is not None:
            raw = self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()
            response = Response(status, raw)
        elif self.status is not None and not (self.drop or self.patch):
            message = "rate_limit_exceeded" if status == 429 else f"emulated fault {status}"
            response = Response(status, json.dumps({"error": message}).encode())
        if self.drop or self.patch:
            response = _edited(response, self.drop, self.patch)
            response.status = status
        if self.truncate == "json":
            response = Response(
                response.status, response.body[: len(response.body) // 2], response.content_type, response.headers
            )
        if self.content_type is not None:
            response.content_type = self.content_type
        response.headers = {**response.headers, **reset_headers, **self.headers}
        return response

    def describe(self) -> dict[str, Any]:
        """Return the fields that are set, as JSON values."""
        shown = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {key: value for key, value in shown.items() if value not in (None, [], {}, False)}


def _edited(response: Response, drop: list[str], patch: dict[str, Any]) -> Response:
    def edit(item: Any) -> Any:
        return {**{key: value for key, value in item.items() if key not in drop}, **patch}

    body = json.loads(response.body or b"{}")
    rows = _history_rows(body)
    if rows is not None:
        rows[:] = map(edit, rows)
    elif isinstance(body, dict):
        body = edit(body)
    else:
        return response
    return Response(response.status, json.dumps(body).encode(), response.content_type, response.headers)


def _history_rows(body: Any) -> list[Any] | None:
    """Return the rows of a page of the request history, which may be in an envelope; None for other bodies."""
    lists = body.values() if isinstance(body, dict) else [body]
    return next(
        (
            found
            for found in lists
            if isinstance(found, list)
            and found
            and all(isinstance(row, dict) and "model_created" in row for row in found)
        ),
        None,
    )


class FaultList:
    """The current faults; the oldest one that hits is used, so that several take effect one after the other."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._made = 0

    def add(self, fields: dict[str, Any], now: float) -> str:
        """Add a fault and return its id."""
        fault = Fault.parse(fields)
        self._made += 1
        fault.id, fault.added = f"fault-{self._made}", now
        self._faults.append(fault)
        return fault.id

    def remove(self, fault_id: str | None) -> None:
        """Remove one fault, or all."""
        self._faults = [fault for fault in self._faults if fault_id is not None and fault.id != fault_id]

    def choose(self, call: Call, model: str, now: float) -> Fault | None:
        """Return the fault that hits a call, if any."""
        return next((fault for fault in self._faults if fault.hits(call, model, now)), None) if self._faults else None

    def describe(self) -> list[dict[str, Any]]:
        """Return all faults, the oldest first."""
        return [fault.describe() for fault in self._faults]
