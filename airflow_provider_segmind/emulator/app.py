"""The routes, the endpoint behind each of them, and the commands with which a test controls the emulator."""

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
    Call,
    Receive,
    Response,
    Scope,
    Send,
    error,
    html,
    read_body,
    reply,
    reset,
    send_response,
    send_slowly,
)

_RESETS = ("requests", "scripts", "faults", "records", "rate")


class ControlCommands:
    """Runs commands; each takes the fields of a JSON object and returns entries or JSON values."""

    def __init__(self, state: EmulatorState) -> None:
        self._state = state
        self._commands: dict[str, Callable[..., Any]] = {
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
            "jobs": state.job_entries,
            "requests": state.recorder.requests,
            "posts": lambda model=None: state.recorder.posts(model),
            "calls": lambda route=None: state.recorder.calls(route),
            "counts": state.recorder.counts,
            "most_accepted": lambda seconds=60.0, route=None: state.recorder.most_accepted(seconds, route),
            "leaks": lambda: list(state.leaks),
            "reset": self._reset,
        }

    def handle(self, command: str, fields: dict[str, Any]) -> Any:
        """Run one command.

        :raises ValueError: the command is unknown, or its fields are invalid.
        """
        action = self._commands.get(command)
        if action is None:
            raise ValueError(f"unknown emulator command {command!r}; known: {sorted(self._commands)}")
        with self._state.lock:
            try:
                return action(**fields)
            except TypeError as problem:
                raise ValueError(f"emulator command {command!r}: {problem}") from problem

    def _settings(self, **values: Any) -> dict[str, Any]:
        if values.get("prefix", self._state.settings.prefix) != self._state.settings.prefix:
            raise ValueError("prefix is fixed when the emulator starts")
        self._state.settings.change(values)
        return dataclasses.asdict(self._state.settings)

    def _advance(self, seconds: float) -> float:
        self._state.clock.advance(seconds)
        return self._state.complete_due()

    def _set_balance(self, credits: float | None, free: float = 0.0, key: str | None = None) -> None:
        account = self._state.account(key or self._state.settings.api_keys[0])
        account.credits, account.free = credits, free

    def _balance(self, key: str | None = None) -> float:
        self._state.complete_due()
        return self._state.account(key or self._state.settings.api_keys[0]).total

    def _bill(self) -> list[Any]:
        self._state.complete_due()
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


class ControlEndpoint:
    """POST /_emulator/{command} with a JSON object; GET is a POST of ``{}``."""

    def __init__(self, state: EmulatorState) -> None:
        self._commands = ControlCommands(state)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with ``{"value": ...}``, or with 400 and the reason."""
        body = await read_body(receive) or b""
        try:
            fields = json.loads(body) if body else {}
            if not isinstance(fields, dict):
                raise ValueError("the body of a control route must be a JSON object")
            value = self._commands.handle(scope["path_params"]["command"], fields)
        except ValueError as problem:
            await send_response(send, error(400, str(problem)))
            return
        if isinstance(value, list):
            value = [row.to_json() if isinstance(row, Entry) else row for row in value]
        await send_response(send, reply({"value": value}))


Handler = Callable[[EmulatorState, Call, str], Response]
NO_KEY = "Missing Authorization or x-api-key in header"
BAD_KEY = "Unauthorized. API key is invalid or may have expired. Please check your API key and try again."
#: routes that need no API key
_OPEN = frozenset({"models", "files", "unknown"})
#: how often, in wall-clock seconds, a blocking v1 call checks the clock, which advance() may have moved
_TICK = 0.02


class EmulatorApp:
    """The ASGI application of one emulator."""

    def __init__(self, state: EmulatorState) -> None:
        self.state = state
        self._stopping: asyncio.Event | None = None
        prefix = state.settings.prefix
        self._router = Router(
            [
                Route(prefix + "/v2/requests/{id}/status", Endpoint(self, "status", gateway.status, "GET")),
                Route(prefix + "/v2/requests/{id}", Endpoint(self, "result", gateway.result, "GET")),
                Route(prefix + "/v2/{slug}", Endpoint(self, "submit", gateway.submit, "POST")),
                Route(prefix + "/v1/get-user-credits", Endpoint(self, "credits", gateway.credits_left, "GET")),
                Route(prefix + "/v1/{slug}", Endpoint(self, "v1", gateway.run_v1, "POST")),
                Route("/inference-request/request-history/{id}", Endpoint(self, "history", side.history_record, "GET")),
                Route("/inference-request/request-history", Endpoint(self, "history", side.history, "GET")),
                Route("/inference-model-information/list", Endpoint(self, "models", side.models, "GET")),
                Route("/upload-asset", Endpoint(self, "upload", side.upload, "POST")),
                Route("/files/{name:path}", Endpoint(self, "files", side.files, "GET", "HEAD")),
                Route("/_emulator/{command:str}", ControlEndpoint(state)),
            ],
            redirect_slashes=False,
            default=Endpoint(self, "unknown", _unknown),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one call."""
        if scope["type"] == "http":
            await self._router(scope, receive, send)

    async def sleep(self, seconds: float) -> None:
        """Wait for wall-clock seconds, or until the emulator stops."""
        if self._stopping is None:
            self._stopping = asyncio.Event()
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    def stop(self) -> None:
        """End all waits; to be called on the server's event loop."""
        if self._stopping is None:
            self._stopping = asyncio.Event()
        self._stopping.set()


def _unknown(state: EmulatorState, call: Call, key: str) -> Response:
    return error(400, "Bad request")


class Endpoint:
    """One route of the service."""

    def __init__(self, app: EmulatorApp, route: str, handler: Handler, *methods: str) -> None:
        self._app = app
        self._state = app.state
        self._route = route
        self._handler = handler
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one call."""
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
            number = state.recorder.record_request(call, model)
            fault = state.faults.choose(call, model or self._model_asked_for(params), now)
            fault_first = fault is not None and fault.when == "before"
            response = None if fault_first else self._decide(call)
        if fault is None and response is not None and response.ready is None:
            state.recorder.record_response(number, call, model, response.status)
            await send_response(send, response)
            return
        await self._respond_with_fault(call, model, number, fault, response, send)

    def _model_asked_for(self, params: dict[str, str]) -> str:
        """Return the model whose request or file a free call is about, empty if it is about none."""
        if self._route == "files":
            stem = params["name"].rpartition("/")[2]
            job = self._state.jobs.get(stem.rpartition("-")[0])
        else:
            job = self._state.jobs.get(params.get("id", ""))
        return job.model if job is not None else ""

    async def _respond_with_fault(
        self, call: Call, model: str, number: int, fault: Fault | None, response: Response | None, send: Send
    ) -> None:
        state = self._state
        if fault is not None and fault.when == "before":
            if fault.delay:
                await self._app.sleep(fault.delay)
            if fault.needs_response:
                with state.lock:
                    response = self._decide(call)
        response = await self._when_ready(response)
        if fault is None:
            fault = Fault(route="*")
        if fault.when == "after" and fault.delay:
            await self._app.sleep(fault.delay)
        if fault.reset or fault.close:
            state.recorder.record_response(number, call, model, 0)
            await reset(send, abrupt=fault.reset)
            return
        response = fault.apply(response, call, self._reset_headers(fault, call))
        state.recorder.record_response(number, call, model, response.status)
        if fault.slow:
            await send_slowly(send, response, fault.slow, self._app.sleep)
        elif fault.truncate == "connection":
            await send_response(send, response, cut_at=len(response.body) // 2)
            await self._app.sleep(0.01)
            await reset(send)
        else:
            await send_response(send, response)

    async def _when_ready(self, response: Response | None) -> Response | None:
        while response is not None and response.ready is not None:
            with self._state.lock:
                found = response.ready()
            if isinstance(found, Response):
                return found
            await self._app.sleep(min(_TICK, self._state.clock.wall_seconds(found)))
        return response

    def _reset_headers(self, fault: Fault, call: Call) -> dict[str, str]:
        if fault.reset_in is None:
            return {}
        settings = self._state.settings
        form = fault.reset_format or settings.reset_format
        return reset_headers(call.time + fault.reset_in, form, self._state.clock, whose=settings.reset_clock)

    def _decide(self, call: Call) -> Response:
        """Handle a call as the service does: check method, key and rate limit, then call the handler."""
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
                headers = reset_headers(until, settings.reset_format, state.clock, whose=settings.reset_clock)
                return error(429, "rate_limit_exceeded", headers)
        return self._handler(state, call, key)
