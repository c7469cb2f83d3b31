"""Fakes for tests that call ``execute`` directly: a context, a task instance, a state store."""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from airflow_provider_segmind.client.client import SegmindClient
from airflow_provider_segmind.client.http_library import httpx
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.pausing import check_not_paused

KEY = "SG_5ecretKeyOfATest"
CANARY = "canary-prompt-6f1c"
INPUTS = {"prompt": CANARY}


class StateStore:
    """Airflow's task state store: JSON values by key; None means no value."""

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
        # Like the real store, refuse what JSON cannot represent.
        self.values[key] = json.loads(json.dumps(value))
        self.written.append(self.values[key])

    @property
    def record(self) -> dict[str, Any]:
        return self.values["segmind_request"]


class TaskInstance:
    """The attributes of a task instance that operators use."""

    def __init__(self, **fields: Any) -> None:
        self.dag_id, self.run_id, self.task_id = "a_dag", "manual__1", "a_task"
        self.map_index, self.try_number = -1, 1
        self.start_date = datetime.now(UTC)
        self.pushed: dict[str, Any] = {}
        self.__dict__.update(fields)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


class Run:
    """One task instance: its tries share a state store, and each has its own context."""

    def __init__(self, **fields: Any) -> None:
        self.store = StateStore()
        self.fields = fields
        self.ti = TaskInstance(**fields)

    def context(self) -> Any:
        self.ti = TaskInstance(**self.fields)
        return {"ti": self.ti, "task_state_store": self.store}


def answers(*replies: Any) -> httpx.MockTransport:
    """Respond with the replies in turn, repeating the last one; an exception is raised."""
    left = list(replies)

    def handle(request: httpx.Request) -> httpx.Response:
        reply = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(reply, Exception):
            raise reply
        return reply(request) if callable(reply) else reply

    return httpx.MockTransport(handle)


class Clock:
    """A wall clock that also advances when ``sleep`` is called."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.slept: list[float] = []
        self.hooks: list[SegmindHook] = []

    def __call__(self) -> float:
        return time.time() + self.ahead

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self.ahead += seconds


def hook_by(clock: Clock, *, transport: httpx.BaseTransport | None = None) -> SegmindHook:
    """Return a hook of ``segmind_default`` whose client never really sleeps."""
    hook = SegmindHook()
    hook._client = SegmindClient(
        hook.config, clock=clock, sleep=clock.sleep, transport=transport, may_spend=check_not_paused
    )
    clock.hooks.append(hook)
    return hook


def by_hand(task: Any, clock: Clock, *, transport: httpx.BaseTransport | None = None) -> Any:
    """Prepare a task to run in this process, with the test's clock and a logger that ``caplog`` captures."""
    task.hook = hook_by(clock, transport=transport)
    # Airflow 3 logs through structlog, 2.11 through a logger under the other name.
    task._cached_logger = task._log = logging.getLogger("a_task")
    if hasattr(task, "_request_execution"):
        make = task._request_execution

        def request_execution(context: Any) -> Any:
            made = make(context)
            made._clock, made._sleep = clock, clock.sleep
            return made

        task._request_execution = request_execution
    return task
