"""Four tables and four chats that share one budget of a dollar a day; each run is a seed with a budget of its own."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

FOLDER = os.environ["BUDGET_FOLDER"]
ROWS = 70
STORES = (
    {"AIRFLOW__SEGMIND__SPEND_CONN_ID": "budgets"},
    {"AIRFLOW__SEGMIND__BUDGET_REDIS_URL": os.environ["BUDGET_REDIS"]},
)
"""PostgreSQL for even seeds, Redis for odd ones."""


class Stored:
    """Keeps its budget where its seed says; each task is a process of its own."""

    def execute(self, context: Any) -> Any:
        os.environ.update(STORES[context["params"]["seed"] % 2])
        return super().execute(context)  # type: ignore[misc]


class Chat(Stored, SegmindChatOperator):
    pass


class Table(Stored, SegmindEnrichFileOperator):
    pass


NAME = "budget-{{ params.seed }}"
COMMON: dict[str, Any] = {
    "model": NAME,
    "api_format": "openai",
    "options": {"max_tokens": 40},
    "budget": NAME,
    "retries": 12,
    "retry_delay": timedelta(seconds=1),
    "deferrable": False,
}

with DAG("crash_budget", schedule=None, params={"seed": 0}, max_active_runs=100):
    for number in range(4):
        Chat(task_id=f"chat_{number}", prompt=f"What is chat {number}?", **COMMON)
        Table(
            task_id=f"table_{number}",
            source=[{"id": row, "thing": f"thing {number} {row} {'x' * (row * 7 % 60)}"} for row in range(ROWS)],
            key="id",
            prompt="Describe {thing}.",
            output_path=f"{FOLDER}/{NAME}/{number}/out.jsonl",
            concurrency=4,
            max_failed_rows=None,
            **COMMON,
        )
