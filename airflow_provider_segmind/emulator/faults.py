"""Scripted trouble: on which calls, how often, before or after the request was accepted, and what goes wrong."""

from __future__ import annotations

import dataclasses
import json
import random
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_segmind.emulator.wire import Answer, Call, html

ROUTES = (
    "submit", "v1", "status", "result", "credits", "history", "upload", "models", "files",
    "unknown",
)  # fmt: skip


@dataclass(kw_only=True)
class Fault:
    """One kind of trouble; the fields down to ``when`` say on which calls, the rest what goes wrong.

    ``delay`` and ``slow`` are wall-clock seconds: they are meant for the client's timeouts.
    """

    #: a name of ROUTES, several joined by ``|``, or ``*``
    route: str
    #: how many calls it hits; None: no end
    times: int | None = 1
    #: how many calls pass first
    skip: int = 0
    #: it ends that many emulated seconds after it was added
    seconds: float | None = None
    probability: float = 1.0
    seed: int = 0
    model: str | None = None
    #: substring of the raw body or the path
    match: str | None = None
    #: ``before``: the service does not see the call; ``after``: it has done its work, only the answer suffers
    when: str = "before"

    #: answer with this code instead
    status: int | None = None
    #: a string is sent as it is, anything else as JSON
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str | None = None
    #: a web server's error page
    html: bool = False
    #: no body at all
    empty: bool = False
    #: drop the connection with a TCP reset
    reset: bool = False
    #: end the connection in an orderly way, without an answer
    close: bool = False
    delay: float = 0.0
    slow: float = 0.0
    #: ``json``: half the JSON under a fitting length; ``connection``: half the promised bytes, then a reset
    truncate: str | None = None
    #: 307 to this URL; ``{path}`` is replaced
    redirect: str | None = None
    #: keys taken out of the genuine JSON answer
    drop: list[str] = field(default_factory=list)
    #: keys changed in the genuine JSON answer
    patch: dict[str, Any] = field(default_factory=dict)
    #: emulated seconds from the call to the moment the reset header names, and its form
    reset_in: float | None = None
    reset_format: str | None = None

    added: float = 0.0
    seen: int = 0
    used: int = 0
    id: str = ""

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Fault:
        """Check and build a fault from keyword arguments.

        :raises ValueError: naming the field that is wrong.
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
        """Tell whether this fault falls on a call, and count it."""
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
    def needs_answer(self) -> bool:
        """Tell whether the call has to be handled although trouble comes first: a delay, a changed or slow answer."""
        if self.when == "after":
            return True
        replaced = self.status is not None or self.redirect or self.html or self.empty or self.body is not None
        return not (replaced or self.reset or self.close)

    def spoil(self, genuine: Answer | None, call: Call, reset_headers: dict[str, str]) -> Answer:
        """Return what is sent instead of the genuine answer (None when the service did not see the call)."""
        answer = genuine or Answer(200)
        if self.redirect is not None:
            return Answer(307, b"", None, {"location": self.redirect.replace("{path}", call.path)})
        status = self.status if self.status is not None else answer.status
        if self.html:
            answer = html(status, "Bad Gateway" if status == 502 else "Error")
        elif self.empty:
            answer = Answer(status, b"", None)
        elif self.body is not None:
            raw = self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()
            answer = Answer(status, raw)
        elif self.status is not None and not (self.drop or self.patch):
            words = "rate_limit_exceeded" if status == 429 else f"emulated trouble {status}"
            answer = Answer(status, json.dumps({"error": words}).encode())
        if self.drop or self.patch:
            answer = _edited(answer, self.drop, self.patch)
            answer.status = status
        if self.truncate == "json":
            answer = Answer(answer.status, answer.body[: len(answer.body) // 2], answer.content_type, answer.headers)
        if self.content_type is not None:
            answer.content_type = self.content_type
        answer.headers = {**answer.headers, **reset_headers, **self.headers}
        return answer

    def describe(self) -> dict[str, Any]:
        """Return the fault as JSON-able fields, without what is unset."""
        shown = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {key: value for key, value in shown.items() if value not in (None, [], {}, False)}


def _edited(answer: Answer, drop: list[str], patch: dict[str, Any]) -> Answer:
    value = json.loads(answer.body or b"{}")
    if not isinstance(value, dict):
        return answer
    edited = {**{key: item for key, item in value.items() if key not in drop}, **patch}
    return Answer(answer.status, json.dumps(edited).encode(), answer.content_type, answer.headers)


class FaultBook:
    """The faults in force; the oldest one that hits is used, so that several lined up come one after the other."""

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
        """Forget one fault, or all of them."""
        self._faults = [fault for fault in self._faults if fault_id is not None and fault.id != fault_id]

    def choose(self, call: Call, model: str, now: float) -> Fault | None:
        """Return the fault that falls on a call, if any."""
        return next((fault for fault in self._faults if fault.hits(call, model, now)), None) if self._faults else None

    def describe(self) -> list[dict[str, Any]]:
        """Return all faults, the oldest first."""
        return [fault.describe() for fault in self._faults]
