"""Classify a large file of support tickets in four parallel tasks: JSONL in, one Parquet file out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator, SegmindMergeOperator

try:
    from airflow.sdk import DAG, ObjectStoragePath, task
except ImportError:  # Airflow 2.11
    from airflow import DAG
    from airflow.decorators import task
    from airflow.io.path import ObjectStoragePath

# Any ObjectStoragePath URI, such as "s3://aws_default@my-bucket/segmind"; without one a folder of this Airflow.
HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
FOLDER = os.environ.get("SEGMIND_EXAMPLE_OUTPUT", (HOME / "segmind").as_uri()) + "/tickets_in_shards"
# Each run writes into its own.
RUN = FOLDER + "/{{ run_id }}"
COMPLAINTS = ["I was charged twice for order {}.", "Where is parcel {}?", "The lid of {} does not close."]
SHARDS = 4


class Triage(BaseModel):
    team: Literal["billing", "delivery", "product"]
    urgent: bool
    summary: str = Field(description="One sentence, in English.")


with DAG("example_segmind_sharded", schedule=None, tags=["segmind", "example"]):

    @task
    def export_tickets(count: int = 40, run_id: str | None = None) -> str:
        folder = ObjectStoragePath(FOLDER) / str(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "tickets.jsonl"
        texts = [COMPLAINTS[number % 3].format(number % 30) for number in range(count)]
        path.write_text("".join(json.dumps({"ticket_id": n, "text": text}) + "\n" for n, text in enumerate(texts)))
        return str(path)

    shards = SegmindEnrichFileOperator.partial(
        task_id="triage",
        model="gemini-3.1-flash-lite",
        source=export_tickets(),
        key="ticket_id",
        system="You classify support tickets of a shop.",
        prompt="Classify this ticket:\n\n{text}",
        output_type=Triage,
        ledger_path=f"{FOLDER}/ledger",
        # Each shard writes its own file: triage.0-of-4.parquet and so on.
        output_path=f"{RUN}/triage.parquet",
        shard_count=SHARDS,
        retries=2,
    ).expand(shard_index=list(range(SHARDS)))

    merge = SegmindMergeOperator(
        task_id="merge", manifests=shards.output, output_path=f"{RUN}/triage_of_all_shards.parquet"
    )

    @task
    def report(manifest: dict[str, Any]) -> str:
        classified = manifest["outcomes"]["success"]
        return f"{classified} of {manifest['rows_read']} tickets classified for {format_usd(manifest['cost'])}"

    report(merge.output)
