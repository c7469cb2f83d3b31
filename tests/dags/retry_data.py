"""One task with retries, to test whether Airflow retries it."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_provider_segmind.operators.request import SegmindRunOperator

with DAG("retry_data", schedule=None):
    SegmindRunOperator(
        task_id="ask", model="gemini-3.1-flash-lite", inputs={"prompt": "hello"}, deferrable=False, retries=1
    )
