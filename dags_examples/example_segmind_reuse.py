"""Answers that outlive the run: equal letters are paid for once, and a run with the same letters pays nothing."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from airflow import DAG

from airflow_provider_segmind.decorators.chat import task

HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
STORE = os.environ.get("SEGMIND_EXAMPLE_OUTPUT", (HOME / "segmind").as_uri())
LETTERS = ["Where is my order?", "I was charged twice.", "The lamp is broken.", "Where is my order?"]

with DAG("example_segmind_reuse", schedule=None, tags=["segmind", "example"]):

    @task
    def letters() -> list[str]:
        return LETTERS

    @task.segmind(
        model="gemini-3.1-flash-lite",
        system="Answer with one word: delivery, billing or returns.",
        reuse_answers=timedelta(days=30),
        answers_path=f"{STORE}/answers",
    )
    def triage(letter: str) -> str:
        return letter

    @task
    def count_reused(_: list[str], ti=None) -> int:
        reused = ti.xcom_pull(task_ids="triage", key="reused", map_indexes=list(range(len(LETTERS))))
        return sum(map(bool, reused or []))

    count_reused(triage.expand(letter=letters()))
