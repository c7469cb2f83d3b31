"""
DAGs whose processes are killed. The conf of each run says what to submit and where to stop.

``conf``: ``model``, ``prompt``; ``connection`` (default ``segmind_default``); ``output`` (default none); ``stop``, the
task and point at which the first try waits to be killed (``"ask:start"``, ``"ask:end"``), and ``marker``, the file that
is created when it gets there.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from airflow.sdk import DAG

from airflow_provider_segmind.operators.request import (
    SegmindResultOperator,
    SegmindRunOperator,
    SegmindSubmitOperator,
)
from airflow_provider_segmind.sensors.request import SegmindRequestSensor

POLICIES: dict[str, dict[str, Any]] = {
    "safe": {},
    # Waits so long inline that the worker polls, not the triggerer.
    "patient": {"sync_wait": 20},
    "hurried": {"timeout": 60, "retries": 0},
    "unknown_resubmit": {"on_unknown": "resubmit"},
    "expired_fail": {"on_expired": "fail"},
    "expired_resubmit": {"on_expired": "resubmit"},
}
TASK: dict[str, Any] = {"retries": 2, "retry_delay": 1.0}
CONNECTION = "{{ dag_run.conf.get('connection', 'segmind_default') }}"
REQUEST: dict[str, Any] = {
    "model": "{{ dag_run.conf['model'] }}",
    "inputs": {"prompt": "{{ dag_run.conf['prompt'] }}", "seed": 7},
    "segmind_conn_id": CONNECTION,
}
OUTPUT = "{{ dag_run.conf.get('output', '') }}"


def _stop(context: Any, point: str) -> None:
    conf, instance = context["dag_run"].conf, context["ti"]
    if conf.get("stop") == f"{instance.task_id}:{point}" and instance.try_number == 1:
        Path(conf["marker"]).touch()
        time.sleep(300)


def at_start(context: Any) -> None:
    """Wait to be killed before anything is done."""
    _stop(context, "start")


def at_end(context: Any, result: Any = None) -> None:
    """Wait to be killed after the result is complete and before it is in XCom."""
    _stop(context, "end")


for mode in ("sync", "deferrable"):
    for policy, arguments in POLICIES.items():
        with DAG(f"crash_{mode}_{policy}", schedule=None):
            SegmindRunOperator(
                task_id="ask",
                **REQUEST,
                output_path=OUTPUT,
                deferrable=mode == "deferrable",
                pre_execute=at_start,
                post_execute=at_end,
                **{"sync_wait": 2, **TASK, **arguments},
            )
    for name, sync_wait in (("steps", 2), ("patient_steps", 20)):
        with DAG(f"crash_{mode}_{name}", schedule=None):
            submit = SegmindSubmitOperator(
                task_id="submit", **REQUEST, pre_execute=at_start, post_execute=at_end, **TASK
            )
            wait = SegmindRequestSensor(
                task_id="wait",
                request_id=submit.output,
                segmind_conn_id=CONNECTION,
                deferrable=mode == "deferrable",
                poll_interval=2,
                sync_wait=sync_wait,
                pre_execute=at_start,
                post_execute=at_end,
                **TASK,
            )
            result = SegmindResultOperator(
                task_id="result",
                request_id=submit.output,
                segmind_conn_id=CONNECTION,
                output_path=OUTPUT,
                pre_execute=at_start,
                post_execute=at_end,
                **TASK,
            )
            submit >> wait >> result
