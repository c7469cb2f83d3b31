"""Routes → handlers, and the door every call goes through: record, trouble, key, rate, handler, trouble, answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import unquote

from starlette.routing import Route, Router

from airflow_provider_segmind.emulator import desk, gateway, side
from airflow_provider_segmind.emulator.faults import Fault
from airflow_provider_segmind.emulator.limiter import reset_headers
from airflow_provider_segmind.emulator.recorder import PAID_ROUTES
from airflow_provider_segmind.emulator.state import EmulatorState
from airflow_provider_segmind.emulator.wire import (
    Answer,
    Call,
    Receive,
    Scope,
    Send,
    error,
    html,
    read_body,
    reset,
    send_answer,
    send_slowly,
)

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
                Route("/_emulator/{verb:str}", desk.ControlDoor(state)),
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
