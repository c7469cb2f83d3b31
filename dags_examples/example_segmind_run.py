"""Submit, wait and fetch in one task that gives its worker slot back while it waits."""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG  # on Airflow 3 also: from airflow.sdk import DAG

from airflow_provider_segmind.operators.request import SegmindRunOperator

with DAG(
    "example_segmind_run", schedule=None, params={"question": "Why is the sky blue?"}, tags=["segmind", "example"]
):
    SegmindRunOperator(
        task_id="ask",
        model="gemini-3.1-flash-lite",
        inputs={"messages": {"contents": [{"role": "user", "parts": [{"text": "{{ params.question }}"}]}]}},
        deferrable=True,
        retries=2,
    )
