"""Sort tickets into data of a type: one mapped task instance, and one paid request, for each ticket."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

try:
    from airflow.sdk import DAG, task
except ImportError:  # Airflow 2.11
    from airflow import DAG
    from airflow.decorators import task


class Triage(BaseModel):
    team: Literal["billing", "delivery", "product"]
    urgent: bool
    summary: str = Field(description="One sentence, in English.")


with DAG("example_segmind_triage", schedule=None, tags=["segmind", "example"]):

    @task
    def tickets() -> list[str]:
        return ["I was charged twice! {{ order }}", "Where is my parcel?", "The lid does not close."]

    @task.segmind(model="gemini-3.1-flash-lite", system="You sort tickets of a shop.", output_type=Triage, retries=2)
    def triage(ticket: str) -> str:
        return f"Sort this ticket:\n\n{ticket}"

    @task
    def count(sorted_tickets: list[dict[str, object]]) -> dict[str, int]:
        # Data of a pydantic model arrives as a plain dict.
        teams = [str(ticket["team"]) for ticket in sorted_tickets]
        return {team: teams.count(team) for team in teams}

    count(triage.expand(ticket=tickets()))
