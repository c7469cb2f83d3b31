"""Classify a file of support tickets: JSONL in, JSONL out, and each distinct ticket is paid for once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

try:
    from airflow.sdk import DAG, ObjectStoragePath, task
except ImportError:  # Airflow 2.11
    from airflow import DAG
    from airflow.decorators import task
    from airflow.io.path import ObjectStoragePath

# Any ObjectStoragePath URI, such as "s3://aws_default@my-bucket/segmind"; without one a folder of this Airflow.
HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
FOLDER = os.environ.get("SEGMIND_EXAMPLE_OUTPUT", (HOME / "segmind").as_uri()) + "/tickets"
# Each run writes into its own.
RUN = FOLDER + "/{{ run_id }}"
TICKETS = ["I was charged twice!", "Where is my parcel?", "The lid does not close.", "Where is my parcel?"]


class Triage(BaseModel):
    team: Literal["billing", "delivery", "product"]
    urgent: bool
    summary: str = Field(description="One sentence, in English.")


with DAG("example_segmind_enrich_file", schedule=None, tags=["segmind", "example"]):

    @task
    def export_tickets(run_id: str | None = None) -> str:
        folder = ObjectStoragePath(FOLDER) / str(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "tickets.jsonl"
        rows = [{"ticket_id": number, "text": text} for number, text in enumerate(TICKETS, 1)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    triage = SegmindEnrichFileOperator(
        task_id="triage",
        model="gemini-3.1-flash-lite",
        source=export_tickets(),
        key="ticket_id",
        system="You classify support tickets of a shop.",
        prompt="Classify this ticket:\n\n{text}",
        output_type=Triage,
        # The ledger keeps the results: the next run submits only new tickets.
        ledger_path=f"{FOLDER}/ledger",
        output_path=f"{RUN}/triage.jsonl",
        max_cost=1.0,
        retries=2,
    )

    @task
    def report(manifest: dict[str, Any]) -> str:
        classified = manifest["outcomes"]["success"]
        return f"{classified} of {manifest['rows_read']} tickets classified for {format_usd(manifest['cost'])}"

    report(triage.output)
