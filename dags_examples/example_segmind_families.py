"""Send one prompt to models of three vendors: only ``model`` changes, and it determines the format of the request."""

from __future__ import annotations

from airflow import DAG

from airflow_provider_segmind.operators.chat import SegmindChatOperator

with DAG("example_segmind_families", schedule=None, tags=["segmind", "example"]):
    SegmindChatOperator.partial(
        task_id="ask",
        system="You are a poet.",
        prompt="Write a haiku about a data pipeline.",
        options={"max_tokens": 500},
        retries=2,
    ).expand(model=["gemini-3.1-flash-lite", "gpt-5.4-mini", "claude-4.5-sonnet"])
