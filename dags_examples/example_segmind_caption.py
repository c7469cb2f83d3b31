"""Describe an image from object storage."""

from __future__ import annotations

import os

from airflow_provider_segmind.operators.chat import SegmindChatOperator

try:
    from airflow.sdk import DAG
except ImportError:  # Airflow 2.11
    from airflow import DAG

# Any ObjectStoragePath URI: "s3://aws_default@my-bucket/cat.png", "gs://…", or a local file.
IMAGE = os.environ.get("SEGMIND_EXAMPLE_IMAGE", "file:///tmp/segmind-example/cat.png")

with DAG("example_segmind_caption", schedule=None, tags=["segmind", "example"]):
    SegmindChatOperator(
        task_id="describe",
        model="gemini-3.1-flash-lite",
        prompt="Describe this image in one sentence, for someone who cannot see it.",
        files=[IMAGE],
        deferrable=True,
        retries=2,
    )
