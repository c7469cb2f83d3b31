"""The verbs a test steers the emulator with, on the emulator's side; in process and under /_emulator/ alike."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from airflow_provider_segmind.emulator.entries import Entry
from airflow_provider_segmind.emulator.state import EmulatorState
from airflow_provider_segmind.emulator.wire import Receive, Scope, Send, error, read_body, reply, send_answer

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
