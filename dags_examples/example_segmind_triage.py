"""Classify support tickets into typed data: one mapped task instance and one paid request per ticket."""

from __future__ import annotations

from typing import Literal

from airflow import DAG
from pydantic import BaseModel, Field

from airflow_provider_segmind.decorators.chat import task


class Triage(BaseModel):
    team: Literal["billing", "delivery", "product"]
    urgent: bool
    summary: str = Field(description="One sentence, in English.")


with DAG("example_segmind_triage", schedule=None, tags=["segmind", "example"]):

    @task
    def tickets() -> list[str]:
        return ["I was charged twice! {{ order }}", "Where is my parcel?", "The lid does not close."]

    @task.segmind(
        model="gemini-3.1-flash-lite", system="You classify tickets of a shop.", output_type=Triage, retries=2
    )
    def triage(ticket: str) -> str:
        return f"Classify this ticket:\n\n{ticket}"

    @task
    def count(classified: list[dict[str, object]]) -> dict[str, int]:
        # The data of a pydantic model is a plain dict.
        teams = [str(ticket["team"]) for ticket in classified]
        return {team: teams.count(team) for team in teams}

    count(triage.expand(ticket=tickets()))
