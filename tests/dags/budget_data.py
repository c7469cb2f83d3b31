"""Mapped chats, each under a budget of its own, and a table in mapped shards under one budget."""

from __future__ import annotations

import os

from airflow.sdk import DAG

from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

MODEL = "gemini-3.1-flash-lite"

with DAG("budget_data", schedule=None):
    SegmindChatOperator.partial(
        task_id="chat", model=MODEL, options={"max_tokens": 1000}, on_budget="skip_downstream", deferrable=False
    ).expand_kwargs([{"prompt": f"Question {number}", "budget": f"team-{number}"} for number in range(3)])
    SegmindEnrichFileOperator.partial(
        task_id="table",
        model=MODEL,
        source=[{"id": number, "thing": f"thing {number}"} for number in range(12)],
        key="id",
        prompt="Describe {thing}.",
        options={"max_tokens": 1000},
        budget="tables",
        output_path=os.environ["BUDGET_OUTPUT"] + "/out.jsonl",
        shard_count=2,
        deferrable=False,
    ).expand(shard_index=[0, 1])
