"""
Ask a person before a table is paid for: an estimate and ten answers, then an approval, then the whole table.

The approval is Airflow's own operator, which needs Airflow 3.1; before that, this file contains no DAG. On Airflow 3.3,
a task that waits for a person takes no slot of a worker or a triggerer.
"""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

# Any ObjectStoragePath URI, such as "s3://aws_default@my-bucket/segmind"; without one a folder of this Airflow.
HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
FOLDER = os.environ.get("SEGMIND_EXAMPLE_OUTPUT", (HOME / "segmind").as_uri()) + "/approval"
ROWS = 40
SAMPLE = 10


class Triage(BaseModel):
    team: Literal["billing", "delivery", "product"]
    summary: str = Field(description="One sentence, in English.")


# The same in all three tasks: whatever differs would be another question, and paid for again.
TABLE: dict[str, Any] = {
    "model": "gemini-3.1-flash-lite",
    "source": "{{ params.folder }}/tickets.jsonl",
    "key": "ticket_id",
    "prompt": "Which team should read this ticket?\n\n{text}",
    # With an output cap, the most that the table may cost is known.
    "options": {"max_tokens": 300},
    "output_type": Triage,
    "ledger_path": "{{ params.folder }}/ledger",
    "output_path": "{{ params.folder }}/{{ run_id }}/triage.jsonl",
}

if tuple(map(int, version("apache-airflow").split(".")[:2])) >= (3, 1):
    from airflow.providers.standard.operators.hitl import ApprovalOperator
    from airflow.sdk import DAG, ObjectStoragePath, task

    with DAG("example_segmind_approval", schedule=None, params={"folder": FOLDER}, tags=["segmind", "example"]):

        @task
        def export_tickets(params: dict[str, Any] | None = None) -> None:
            folder = ObjectStoragePath((params or {})["folder"])
            folder.mkdir(parents=True, exist_ok=True)
            rows = [{"ticket_id": number, "text": f"Parcel {number} is late."} for number in range(1, ROWS + 1)]
            (folder / "tickets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

        estimate = SegmindEnrichFileOperator(task_id="estimate", dry_run=True, **TABLE)
        sample = SegmindEnrichFileOperator(task_id="sample", sample=SAMPLE, retries=2, **TABLE)

        @task(multiple_outputs=True)
        def summarize(estimate: dict[str, Any], sample: dict[str, Any], extrapolated: dict[str, Any]) -> dict[str, Any]:
            """Write what the person sees, in Markdown, and the most that it says."""
            answers = ObjectStoragePath(sample["outputs"][0]).read_text().splitlines()
            rows = estimate["rows"] - estimate["answered_rows"]
            budget = "has no limit" if estimate["budget_left"] is None else format_usd(estimate["budget_left"])
            extrapolated_cost = format_usd(extrapolated["cost"])
            paragraphs = [
                f"**{rows} rows** would cost **{format_usd(estimate['low'])} to {format_usd(estimate['high'])}**.",
                f"By the sample they would cost about {extrapolated_cost}; it cost {format_usd(sample['cost'])}.",
                f"The account has {format_usd(estimate['balance'])} left, and its budget {budget}.",
                f"The answers to the first {len(answers)} rows:",
                # Four spaces make it text: nothing that a model answers is formatted.
                "\n".join(f"    {answer}" for answer in answers),
            ]
            return {"body": "\n\n".join(paragraphs), "max_cost": estimate["high"]}

        summary = summarize(estimate.output, sample.output, sample.output["estimate"])  # type: ignore[arg-type]

        approve = ApprovalOperator(
            task_id="approve",
            subject="Ask about all tickets?",
            body="{{ ti.xcom_pull('summarize', key='body') }}",
        )
        table = SegmindEnrichFileOperator(
            task_id="table",
            # No more than the person has seen.
            max_cost=summary["max_cost"],
            notes={
                "approved_by": "{{ ti.xcom_pull('approve')['responded_by_user']['name'] }}",
                "approved_at": "{{ ti.xcom_pull('approve')['responded_at'] }}",
            },
            retries=2,
            **TABLE,
        )

        export_tickets() >> estimate >> sample >> summary >> approve >> table
