"""A table in shards, all of one account."""

from __future__ import annotations

import os

from airflow.sdk import DAG

from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

FOLDER, SHARDS = os.environ["SEGMIND_BENCH_FOLDER"], int(os.environ["SEGMIND_BENCH_SHARDS"])

with DAG("shards", schedule=None):
    SegmindEnrichFileOperator.partial(
        task_id="ask",
        model="gemini-3.1-flash-lite",
        source=f"{FOLDER}/source.jsonl",
        key="id",
        prompt="Describe {name} in one sentence. What the maker says of it: {words}",
        output_path=f"{FOLDER}/output.jsonl",
        shard_count=SHARDS,
    ).expand(shard_index=list(range(SHARDS)))
