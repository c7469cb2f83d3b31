"""Summarise a PDF into a file in object storage; XCom contains the text if it is small, else the URI of the file."""

from __future__ import annotations

import os
from pathlib import Path

from airflow import DAG

from airflow_provider_segmind.operators.chat import SegmindChatOperator

HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
DOCUMENT = os.environ.get("SEGMIND_EXAMPLE_DOCUMENT", (HOME / "segmind" / "report.pdf").as_uri())
OUTPUT = os.environ.get("SEGMIND_EXAMPLE_OUTPUT", (HOME / "segmind").as_uri())

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
