"""Describe an image from object storage."""

from __future__ import annotations

import os
from pathlib import Path

from airflow import DAG

from airflow_provider_segmind.operators.chat import SegmindChatOperator

# Any ObjectStoragePath URI: "s3://aws_default@my-bucket/cat.png", "gs://…", or a local file.
HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
IMAGE = os.environ.get("SEGMIND_EXAMPLE_IMAGE", (HOME / "segmind" / "cat.png").as_uri())

with DAG("example_segmind_caption", schedule=None, tags=["segmind", "example"]):
    SegmindChatOperator(
        task_id="describe",
        model="gemini-3.1-flash-lite",
        prompt="Describe this image in one sentence, for someone who cannot see it.",
        files=[IMAGE],
        deferrable=True,
        retries=2,
    )
