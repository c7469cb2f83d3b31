"""Routes, the entry point that every call passes, and the verbs a test steers the emulator with."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from starlette.routing import Route, Router

from airflow_provider_segmind.emulator import gateway
from airflow_provider_segmind.emulator import services as side
from airflow_provider_segmind.emulator.faults import Fault
from airflow_provider_segmind.emulator.recorder import PAID_ROUTES, Entry
from airflow_provider_segmind.emulator.state import EmulatorState, reset_headers
from airflow_provider_segmind.emulator.wire import (
    Answer,
    Call,
    Receive,
    Scope,
    Send,
    error,
    html,
    read_body,
    reply,
    reset,
    send_answer,
    send_slowly,
)

_RESETS = ("requests", "scripts", "faults", "records", "rate")


class Desk:
    """Carries out verbs; each takes the fields of a JSON object and returns rows or JSON-able values."""

    def __init__(self, state: EmulatorState) -> None:
        self._state = state
        self._verbs: dict[str, Callable[..., Any]] = {
            "settings": self._settings,
            "script": lambda **fields: state.scripts.add(fields),
            "scripts": state.scripts.describe,
            "unscript": lambda script_id=None: state.scripts.remove(script_id),
            "fault": lambda **fields: state.faults.add(fields, state.clock.now()),
            "faults": state.faults.describe,
            "unfault": lambda fault_id=None: state.faults.remove(fault_id),
            "advance": self._advance,
            "scale": lambda scale: state.clock.rescale(float(scale)),
            "now": state.clock.now,
            "set_balance": self._set_balance,
            "balance": self._balance,
            "bill": self._bill,
            "jobs": state.entries,
            "requests": state.recorder.requests,
            "posts": lambda model=None: state.recorder.posts(model),
            "calls": lambda route=None: state.recorder.calls(route),
            "counts": state.recorder.counts,
            "most_accepted": lambda seconds=60.0, route=None: state.recorder.most_accepted(seconds, route),
            "leaks": lambda: list(state.leaks),
            "reset": self._reset,
        }

    def handle(self, verb: str, fields: dict[str, Any]) -> Any:
        """Carry out one verb.

        :raises ValueError: for an unknown verb or wrong fields.
        """
        action = self._verbs.get(verb)
        if action is None:
            raise ValueError(f"unknown emulator verb {verb!r}; known: {sorted(self._verbs)}")
        with self._state.lock:
            try:
                return action(**fields)
            except TypeError as problem:
                raise ValueError(f"emulator verb {verb!r}: {problem}") from problem

    def _settings(self, **values: Any) -> dict[str, Any]:
        if values.get("prefix", self._state.settings.prefix) != self._state.settings.prefix:
            raise ValueError("prefix is fixed when the emulator starts")
        self._state.settings.change(values)
        return dataclasses.asdict(self._state.settings)

    def _advance(self, seconds: float) -> float:
        self._state.clock.advance(seconds)
        return self._state.settle()

    def _set_balance(self, credits: float | None, free: float = 0.0, key: str | None = None) -> None:
        account = self._state.account(key or self._state.settings.api_keys[0])
        account.credits, account.free = credits, free

    def _balance(self, key: str | None = None) -> float:
        self._state.settle()
        return self._state.account(key or self._state.settings.api_keys[0]).total

    def _bill(self) -> list[Any]:
        self._state.settle()
        return list(self._state.bill)

    def _reset(self, what: str | None = None) -> None:
        if what not in (None, *_RESETS):
            raise ValueError(f"reset({what!r}) is not one of {list(_RESETS)} or nothing for all")
        state = self._state
        actions: dict[str, Callable[[], None]] = {
            "requests": state.clear,
            "scripts": lambda: state.scripts.remove(None),
            "faults": lambda: state.faults.remove(None),
            "records": state.recorder.clear,
            "rate": state.limiter.forget,
        }
        for name in _RESETS if what is None else (what,):
            actions[name]()


class ControlDoor:
    """POST /_emulator/{verb} with a JSON object; GET is a POST of ``{}``."""

    def __init__(self, state: EmulatorState) -> None:
        self._desk = Desk(state)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer ``{"value": ...}``, or 400 with the reason."""
        body = await read_body(receive) or b""
        try:
            fields = json.loads(body) if body else {}
            if not isinstance(fields, dict):
                raise ValueError("the body of a control route is a JSON object")
            value = self._desk.handle(scope["path_params"]["verb"], fields)
        except ValueError as problem:
            await send_answer(send, error(400, str(problem)))
            return
        if isinstance(value, list):
            value = [row.to_json() if isinstance(row, Entry) else row for row in value]
        await send_answer(send, reply({"value": value}))


Handler = Callable[[EmulatorState, Call, str], Answer]
NO_KEY = "Missing Authorization or x-api-key in header"
BAD_KEY = "Unauthorized. API key is invalid or may have expired. Please check your API key and try again."
#: routes anybody may call
_OPEN = frozenset({"models", "files", "unknown"})
#: a blocked v1 call looks at the clock at least that often (wall seconds), for the sake of advance()
_TICK = 0.02


class EmulatorApp:
    """The ASGI application of one emulator."""

    def __init__(self, state: EmulatorState) -> None:
        self.state = state
        self._stopping: asyncio.Event | None = None
        prefix = state.settings.prefix
        self._router = Router(
            [
                Route(prefix + "/v2/requests/{id}/status", Door(self, "status", gateway.status, "GET")),
                Route(prefix + "/v2/requests/{id}", Door(self, "result", gateway.result, "GET")),
                Route(prefix + "/v2/{slug}", Door(self, "submit", gateway.submit, "POST")),
                Route(prefix + "/v1/get-user-credits", Door(self, "credits", gateway.credits_left, "GET")),
                Route(prefix + "/v1/{slug}", Door(self, "v1", gateway.run_v1, "POST")),
                Route("/inference-request/request-history/{id}", Door(self, "history", side.history_record, "GET")),
                Route("/inference-request/request-history", Door(self, "history", side.history, "GET")),
                Route("/inference-model-information/list", Door(self, "models", side.models, "GET")),
                Route("/upload-asset", Door(self, "upload", side.upload, "POST")),
                Route("/files/{name:path}", Door(self, "files", side.files, "GET", "HEAD")),
                Route("/_emulator/{verb:str}", ControlDoor(state)),
            ],
            redirect_slashes=False,
            default=Door(self, "unknown", _unknown),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] == "http":
            await self._router(scope, receive, send)

    async def sleep(self, seconds: float) -> None:
        """Wait wall-clock seconds, or less when the emulator stops."""
        if self._stopping is None:
            self._stopping = asyncio.Event()
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    def stop(self) -> None:
        """Wake everybody who waits; to be called on the server's loop."""
        if self._stopping is None:
            self._stopping = asyncio.Event()
        self._stopping.set()


def _unknown(state: EmulatorState, call: Call, key: str) -> Answer:
    return error(400, "Bad request")


class Door:
    """One route of the service."""

    def __init__(self, app: EmulatorApp, route: str, handler: Handler, *methods: str) -> None:
        self._app = app
        self._state = app.state
        self._route = route
        self._handler = handler
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one call through the door."""
        body = await read_body(receive)
        if body is None:
            return
        state = self._state
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        params = {name: str(value) for name, value in scope.get("path_params", {}).items()}
        path, query = unquote(scope["path"]), scope["query_string"].decode("latin-1")
        with state.lock:
            now = state.clock.now()
            call = Call(scope["method"], path, query, headers, body, now, self._route, params)
            model = params.get("slug", "") if self._route in PAID_ROUTES else ""
            number = state.recorder.arrived(call, model)
            fault = state.faults.choose(call, model, now)
            early = fault is not None and fault.when == "before"
            answer = None if early else self._decide(call)
        if fault is None and answer is not None and answer.ready is None:
            state.recorder.answered(number, call, model, answer.status)
            await send_answer(send, answer)
            return
        await self._long_way(call, model, number, fault, answer, send)

    async def _long_way(
        self, call: Call, model: str, number: int, fault: Fault | None, answer: Answer | None, send: Send
    ) -> None:
        state = self._state
        if fault is not None and fault.when == "before":
            if fault.delay:
                await self._app.sleep(fault.delay)
            if fault.needs_answer:
                with state.lock:
                    answer = self._decide(call)
        answer = await self._finished(answer)
        if fault is None:
            fault = Fault(route="*")
        if fault.when == "after" and fault.delay:
            await self._app.sleep(fault.delay)
        if fault.reset or fault.close:
            state.recorder.answered(number, call, model, 0)
            await reset(send, abrupt=fault.reset)
            return
        answer = fault.spoil(answer, call, self._reset_headers(fault, call))
        state.recorder.answered(number, call, model, answer.status)
        if fault.slow:
            await send_slowly(send, answer, fault.slow, self._app.sleep)
        elif fault.truncate == "connection":
            await send_answer(send, answer, cut_at=len(answer.body) // 2)
            await self._app.sleep(0.01)
            await reset(send)
        else:
            await send_answer(send, answer)

    async def _finished(self, answer: Answer | None) -> Answer | None:
        while answer is not None and answer.ready is not None:
            with self._state.lock:
                found = answer.ready()
            if isinstance(found, Answer):
                return found
            await self._app.sleep(min(_TICK, self._state.clock.wall_seconds(found)))
        return answer

    def _reset_headers(self, fault: Fault, call: Call) -> dict[str, str]:
        if fault.reset_in is None:
            return {}
        settings = self._state.settings
        form = fault.reset_format or settings.reset_format
        return reset_headers(call.time + fault.reset_in, form, self._state.clock, whose=settings.reset_clock)

    def _decide(self, call: Call) -> Answer:
        """Do the service's work for a call: verb, key, rate, handler."""
        state, settings = self._state, self._state.settings
        if self._methods and call.method not in self._methods:
            return html(405, "Method Not Allowed")
        key = call.headers.get("x-api-key", "")
        if self._route not in _OPEN:
            if key not in settings.api_keys:
                return error(401, BAD_KEY if key or "authorization" in call.headers else NO_KEY)
            paid = self._route in PAID_ROUTES
            until = state.limiter.refuse_until(key, call.time, paid=paid)
            if until is not None:
                told = reset_headers(until, settings.reset_format, state.clock, whose=settings.reset_clock)
                return error(429, "rate_limit_exceeded", told)
        return self._handler(state, call, key)
