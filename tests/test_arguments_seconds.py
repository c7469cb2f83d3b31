"""Seconds may be given as a number or as a timedelta, wherever an argument is in seconds."""

from __future__ import annotations

import inspect
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_segmind.arguments import SECONDS
from airflow_provider_segmind.decorators.chat import segmind_task
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.request import SegmindRunOperator
from airflow_provider_segmind.sensors.request import SegmindRequestSensor

MINUTE_AND_A_HALF = timedelta(minutes=1, seconds=30)
LEAST: dict[type[Any], dict[str, Any]] = {
    SegmindRunOperator: {"inputs": {}},
    SegmindChatOperator: {"prompt": "x"},
    SegmindRequestSensor: {"request_id": "r"},
}
ALL = [(kind, name) for kind in LEAST for name in inspect.signature(kind).parameters if name in SECONDS]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_a_timedelta_is_taken_when_parsed_and_when_rendered(kind: type[Any], name: str) -> None:
    least: dict[str, Any] = {"task_id": "a_task", **LEAST[kind]}

    assert getattr(kind(**least, **{name: MINUTE_AND_A_HALF}), name) == 90.0
    for value, native in (("{{ params.wait }}", True), ("{{ params.wait.total_seconds() }}", False)):
        with DAG("a_dag", schedule=None, render_template_as_native_obj=native):
            task = kind(**least, **{name: value})
        task.render_template_fields({"params": {"wait": MINUTE_AND_A_HALF}})
        assert getattr(task, name) == 90.0


@pytest.mark.parametrize(("kind", "name"), ALL)
@pytest.mark.parametrize("wrong", [timedelta(seconds=-1), "soon", -1, True])
def test_an_error_names_the_argument_and_its_unit(kind: type[Any], name: str, wrong: Any) -> None:
    with pytest.raises(SegmindConfigError, match=f"'{name}' is .*; it must be a number of seconds or a timedelta"):
        kind(task_id="a_task", **LEAST[kind], **{name: wrong})


def test_the_decorator_takes_a_timedelta_too() -> None:
    with DAG("a_dag", schedule=None):
        task = segmind_task(timeout=MINUTE_AND_A_HALF, task_id="greet")(lambda: "hello")().operator

    assert task.timeout == 90.0


def test_the_hook_takes_a_timedelta_too(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []

    class Client:
        def run_sync(self, model: str, inputs: Any, *, timeout: float) -> Any:
            waited.append(timeout)
            return SimpleNamespace(request_id="r", cost=0.0)

    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", '{"conn_type": "segmind", "password": "SG_1"}')
    monkeypatch.setattr(SegmindHook, "get_conn", lambda _: Client())

    SegmindHook().run_sync("a-model", {}, timeout=MINUTE_AND_A_HALF)

    assert waited == [90.0]
