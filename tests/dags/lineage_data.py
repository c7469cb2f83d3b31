"""A table task that fails after it has written its output."""

from __future__ import annotations

import os

from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow import DAG

with DAG("lineage_data", schedule=None):
    SegmindEnrichFileOperator(
        task_id="ask",
        model="gemini-3.1-flash-lite",
        source=[{"id": 1, "text": "easy"}, {"id": 2, "text": "unanswerable"}],
        key="id",
        prompt="{text}",
        output_path=os.environ.get("SEGMIND_EXAMPLE_OUTPUT", "file:///tmp/segmind") + "/answers.jsonl",
        max_failed_rows=0,
    )
