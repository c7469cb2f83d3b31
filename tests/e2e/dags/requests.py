"""
Requests of every kind; the conf of a run says what to send.

``conf``: ``model`` and ``prompt``; ``connection`` (default ``segmind_default``) and ``output`` (default none).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from airflow_provider_segmind.operators.request import (
    SegmindResultOperator,
    SegmindRunOperator,
    SegmindSubmitOperator,
)
from airflow_provider_segmind.sensors.request import SegmindRequestSensor

RETRIES: dict[str, Any] = {"retries": 2, "retry_delay": 1.0}
REQUEST: dict[str, Any] = {
    "model": "{{ dag_run.conf['model'] }}",
    "inputs": {"prompt": "{{ dag_run.conf['prompt'] }}", "seed": 7},
    "segmind_conn_id": "{{ dag_run.conf.get('connection', 'segmind_default') }}",
}
RUNS: dict[str, dict[str, Any]] = {
    "sync": {},
    "deferrable": {"deferrable": True, "sync_wait": 1},
    # Long enough for a busy machine to import, submit and poll once.
    "limited": {"execution_timeout": timedelta(seconds=40), "retries": 0},
    "limited_deferrable": {
        "deferrable": True,
        "sync_wait": 1,
        "execution_timeout": timedelta(seconds=40),
        "retries": 0,
    },
}

for name, arguments in RUNS.items():
    with DAG(f"e2e_{name}", schedule=None):
        SegmindRunOperator(
            task_id="ask", **REQUEST, output_path="{{ dag_run.conf.get('output', '') }}", **{**RETRIES, **arguments}
        )

with DAG("e2e_steps", schedule=None):
    submit = SegmindSubmitOperator(task_id="submit", **REQUEST, **RETRIES)
    wait = SegmindRequestSensor(task_id="wait", request_id=submit.output, deferrable=True, sync_wait=1, **RETRIES)
    result = SegmindResultOperator(task_id="result", request_id=submit.output, **RETRIES)
    submit >> wait >> result

# Fast requests end while the task still polls inline; brisk ones end right after it has deferred.
for name, count, sync_wait in (("fast", 100, 10), ("brisk", 12, 1)):
    with DAG(f"e2e_{name}", schedule=None, max_active_tasks=64):
        SegmindRunOperator.partial(
            task_id="ask", model="{{ dag_run.conf['model'] }}", deferrable=True, sync_wait=sync_wait, **RETRIES
        ).expand(inputs=[{"prompt": f"question {number}"} for number in range(count)])
