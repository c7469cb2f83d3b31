"""Every kind of task, for the runs on every supported Airflow."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.request import (
    SegmindResultOperator,
    SegmindRunOperator,
    SegmindSubmitOperator,
)
from airflow_provider_segmind.sensors.request import SegmindRequestSensor

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2.11
    from airflow import DAG
    from airflow.decorators import task

MODEL = "gemini-3.1-flash-lite"
STATE = os.environ.get("SEGMIND_TESTS_STATE", "file:///tmp/segmind-state")


def say(text: str) -> dict[str, Any]:
    return {"messages": {"contents": [{"role": "user", "parts": [{"text": text}]}]}}


def break_off_the_first_try(context: Any, result: Any = None) -> None:
    if context["ti"].try_number == 1:
        raise ConnectionError("The worker was lost after the work was done.")


AGAIN: dict[str, Any] = {"retries": 1, "retry_delay": timedelta(0), "post_execute": break_off_the_first_try}

with DAG("matrix_three_steps", schedule=None):
    submit = SegmindSubmitOperator(task_id="submit", model=MODEL, inputs=say("three steps"))
    wait = SegmindRequestSensor(
        task_id="wait", request_id=submit.output, deferrable=True, sync_wait=0, poll_interval=0.2
    )
    result = SegmindResultOperator(task_id="result", request_id=submit.output)
    rescheduled = SegmindRequestSensor(
        task_id="rescheduled", request_id=submit.output, deferrable=False, mode="reschedule", poll_interval=1
    )
    submit >> wait >> result >> rescheduled

with DAG("matrix_deferred", schedule=None):
    SegmindRunOperator(task_id="run", model=MODEL, inputs=say("run"), deferrable=True, sync_wait=0, poll_interval=0.2)
    SegmindRunOperator.partial(task_id="mapped", model=MODEL, deferrable=True, sync_wait=0, poll_interval=0.2).expand(
        inputs=[say("first"), say("second")]
    )
    SegmindChatOperator(task_id="chat", model=MODEL, prompt="chat", deferrable=True, sync_wait=0, poll_interval=0.2)

    @task.segmind(model=MODEL, deferrable=True, sync_wait=0, poll_interval=0.2)
    def decorated(text: str) -> str:
        return text

    decorated("decorated")

with DAG("matrix_tried_again", schedule=None):
    SegmindSubmitOperator(task_id="submitted", model=MODEL, inputs=say("submitted"), state_path=STATE, **AGAIN)
    SegmindRunOperator(
        task_id="inline", model=MODEL, inputs=say("inline"), deferrable=False, poll_interval=0.2, **AGAIN
    )
    SegmindRunOperator(
        task_id="deferred",
        model=MODEL,
        inputs=say("deferred"),
        deferrable=True,
        sync_wait=0,
        poll_interval=0.2,
        state_path=STATE,
        **AGAIN,
    )
    SegmindRunOperator.partial(task_id="mapped", model=MODEL, deferrable=False, poll_interval=0.2, **AGAIN).expand(
        inputs=[say("first again"), say("second again")]
    )
