"""Submit, wait and fetch in one task that occupies no worker slot while it waits."""

from __future__ import annotations

from airflow import DAG

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
