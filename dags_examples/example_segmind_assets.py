"""Classify tickets into an asset, and act on it in a second DAG that reads what the run cost from the asset's event."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

try:
    from airflow.sdk import DAG, Asset, task
except ImportError:  # Airflow 2.11
    from airflow import DAG
    from airflow.datasets import Dataset as Asset
    from airflow.decorators import task

# Any ObjectStoragePath URI, such as "s3://aws_default@my-bucket/segmind"; without one a folder of this Airflow.
HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
FOLDER = os.environ.get("SEGMIND_EXAMPLE_OUTPUT", (HOME / "segmind").as_uri()) + "/assets"
# Each run writes into its own.
RUN = FOLDER + "/{{ run_id }}"
TRIAGE = Asset("x-segmind-example://tickets/triage")
TICKETS = ["I was charged twice!", "Where is my parcel?", "The lid does not close."]

with DAG("example_segmind_assets", schedule=None, tags=["segmind", "example"]):
    SegmindEnrichFileOperator(
        task_id="triage",
        model="gemini-3.1-flash-lite",
        source=[{"ticket_id": number, "text": text} for number, text in enumerate(TICKETS, 1)],
        key="ticket_id",
        prompt="In one word, which team answers this ticket?\n\n{text}",
        output_path=f"{RUN}/triage.jsonl",
        outlets=[TRIAGE],
    )

# Airflow 2.11 wants a start date of a DAG that has a schedule.
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
with DAG("example_segmind_assets_consumer", schedule=[TRIAGE], start_date=BEGAN, tags=["segmind", "example"]):

    @task(inlets=[TRIAGE])
    def report(*, inlet_events: Any = None) -> str:
        event = inlet_events[TRIAGE][-1]
        run = event.extra
        return f"{run['answered']} of {run['rows']} tickets for {format_usd(run['cost_usd'])}; see {run['manifest']}"

    report()
