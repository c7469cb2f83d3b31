"""A table of a model that takes minutes, two rows at a time."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

with DAG("e2e_table", schedule=None, params={"folder": ""}):
    SegmindEnrichFileOperator(
        task_id="ask",
        # The name implies the usual latency of such models.
        model="slow-video",
        api_format="gemini",
        source=[{"id": number, "thing": f"thing {number}"} for number in range(3)],
        key="id",
        prompt="Film {thing}.",
        output_path="{{ params.folder }}/out.jsonl",
        concurrency=2,
        deferrable=True,
    )
