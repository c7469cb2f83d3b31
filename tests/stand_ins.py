"""What stands in for Airflow where a test calls ``execute`` by hand: a context, a task instance, a state store."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from airflow_provider_segmind.api import client as client_module

KEY = "SG_5ecretKeyOfATest"
CANARY = "canary-prompt-6f1c"
INPUTS = {"prompt": CANARY}


class StateStore:
    """Airflow's task state store: JSON values by key, None is no value."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.written: list[Any] = []
        self.on_write: Callable[[Any], None] = lambda value: None
        self.on_read: Callable[[], None] = lambda: None

    def get(self, key: str, default: Any = None) -> Any:
        self.on_read()
        return copy.deepcopy(self.values.get(key, default))

    def set(self, key: str, value: Any, **_: Any) -> None:
        self.on_write(value)
        assert value is not None
        # What JSON cannot hold, the real store refuses too.
        self.values[key] = json.loads(json.dumps(value))
        self.written.append(self.values[key])

    @property
    def note(self) -> dict[str, Any]:
        return self.values["segmind_request"]


class TaskInstance:
    """As much of a task instance as an operator looks at."""

    def __init__(self, **fields: Any) -> None:
        self.dag_id, self.run_id, self.task_id = "a_dag", "manual__1", "a_task"
        self.map_index, self.try_number = -1, 1
        self.start_date = datetime.now(UTC)
        self.pushed: dict[str, Any] = {}
        self.__dict__.update(fields)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


class Run:
    """One task instance: its tries share a store, and each has a context of its own."""

    def __init__(self, **fields: Any) -> None:
        self.store = StateStore()
        self.fields = fields
        self.ti = TaskInstance(**fields)

    def context(self) -> Any:
        self.ti = TaskInstance(**self.fields)
        return {"ti": self.ti, "task_state_store": self.store}


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make every client of the hook sleep by moving its own clock; returns what was slept."""
    slept: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", slept.append)
    return slept


def answers(*replies: Any) -> httpx.MockTransport:
    """Answer with the replies in turn, the last one for ever; an exception is raised."""
    left = list(replies)

    def handle(request: httpx.Request) -> httpx.Response:
        reply = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(reply, Exception):
            raise reply
        return reply(request) if callable(reply) else reply

    return httpx.MockTransport(handle)
