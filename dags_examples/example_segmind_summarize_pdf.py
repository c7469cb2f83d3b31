"""Summarise a PDF into a file in object storage; XCom contains the text if it is small, else the URI of the file."""

from __future__ import annotations

import os

from airflow_provider_segmind.operators.chat import SegmindChatOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow import DAG

DOCUMENT = os.environ.get("SEGMIND_EXAMPLE_DOCUMENT", "file:///tmp/segmind-example/report.pdf")
OUTPUT = os.environ.get("SEGMIND_EXAMPLE_OUTPUT", "file:///tmp/segmind-example")

with DAG("example_segmind_summarize_pdf", schedule=None, params={"sentences": 5}, tags=["segmind", "example"]):
    SegmindChatOperator(
        task_id="summarize",
        model="gemini-3.1-flash-lite",
        prompt="Summarise this document in {{ params.sentences }} sentences.",
        files=[DOCUMENT],
        options={"max_tokens": 2000},
        output_path=OUTPUT + "/{{ run_id }}/summary.md",
        retries=2,
    )
