"""For each seed a DAG of four tables and four chats that share one budget of a dollar a day."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, get_parsing_context

from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

SEEDS = int(os.environ["BUDGET_SEEDS"])
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
        os.environ.update(STORES[int(context["dag"].dag_id.rpartition("_")[2]) % 2])
        return super().execute(context)  # type: ignore[misc]


class Chat(Stored, SegmindChatOperator):
    pass


class Table(Stored, SegmindEnrichFileOperator):
    pass


ONLY = get_parsing_context().dag_id
"""The DAG whose task this process runs; None where all are parsed."""

for seed in range(SEEDS):
    if ONLY not in (None, f"crash_budget_{seed}"):
        continue
    name = f"budget-{seed}"
    common: dict[str, Any] = {
        "model": name,
        "api_format": "openai",
        "options": {"max_tokens": 40},
        "budget": name,
        "retries": 12,
        "retry_delay": timedelta(seconds=1),
        "deferrable": False,
    }
    with DAG(f"crash_budget_{seed}", schedule=None):
        for number in range(4):
            Chat(task_id=f"chat_{number}", prompt=f"What is chat {number}?", **common)
            Table(
                task_id=f"table_{number}",
                source=[{"id": row, "thing": f"thing {number} {row} {'x' * (row * 7 % 60)}"} for row in range(ROWS)],
                key="id",
                prompt="Describe {thing}.",
                output_path=f"{FOLDER}/{name}/{number}/out.jsonl",
                concurrency=4,
                max_failed_rows=None,
                **common,
            )
