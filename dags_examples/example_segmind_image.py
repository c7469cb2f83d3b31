"""Generate an image and store it in object storage; its URI, status and cost go to XCom."""

from __future__ import annotations

import os
from pathlib import Path

from airflow import DAG

from airflow_provider_segmind.operators.request import SegmindRunOperator

# Any ObjectStoragePath URI: "s3://aws_default@my-bucket/segmind", "gs://…", or a local folder.
HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
OUTPUT = os.environ.get("SEGMIND_EXAMPLE_OUTPUT", (HOME / "segmind").as_uri())

with DAG("example_segmind_image", schedule=None, tags=["segmind", "example"]):
    SegmindRunOperator(
        task_id="draw",
        model="seedream-4.5",
        inputs={"prompt": "a lighthouse at dusk, watercolour", "aspect_ratio": "1:1", "seed": 7},
        output_path=OUTPUT + "/{{ run_id }}",
        deferrable=True,
        retries=2,
    )
