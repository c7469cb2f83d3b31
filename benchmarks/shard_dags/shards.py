"""A table in shards, all of one account, whose polls count towards its limit."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from typing import Any

from airflow.sdk import DAG

from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

FOLDER, SHARDS = os.environ["SEGMIND_BENCH_FOLDER"], int(os.environ["SEGMIND_BENCH_SHARDS"])


class Operator(SegmindEnrichFileOperator):
    """Does not find out whether polls count, which would take a refusal."""

    @cached_property
    def hook(self) -> Any:
        made = super().hook

        class Hook(type(made)):  # type: ignore[misc]
            @cached_property
            def config(self) -> Any:
                return replace(super().config, count_polls=True)

        made.__class__ = Hook
        return made


with DAG("shards", schedule=None):
    Operator.partial(
        task_id="ask",
        model="gemini-3.1-flash-lite",
        source=f"{FOLDER}/source.jsonl",
        key="id",
        prompt="Describe {name} in one sentence. What the maker says of it: {words}",
        output_path=f"{FOLDER}/output.jsonl",
        shard_count=SHARDS,
    ).expand(shard_index=list(range(SHARDS)))
