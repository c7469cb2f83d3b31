"""A PostgreSQL table enriched by four shards of one account, with a short minute."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG

from airflow_provider_segmind.operators.enrich import SegmindEnrichSqlOperator, SegmindMergeOperator

if TYPE_CHECKING:
    from airflow_provider_segmind.hooks.segmind import SegmindHook

MINUTE = 6.0
"""Seconds of the minute in which the account's calls are counted; the emulator's clock is as much faster."""


def short_minute(config: Any) -> Any:
    """Return the client's settings with a short rate window."""
    from airflow_provider_segmind.client.config import ClientConfig
    from airflow_provider_segmind.client.rate_limiter import RateSettings

    @dataclass(frozen=True)
    class ShortMinute(ClientConfig):
        @property
        def rate(self) -> RateSettings:
            return replace(config.rate, window=MINUTE)

    return ShortMinute(**{field.name: getattr(config, field.name) for field in fields(config)})


class EnrichOperator(SegmindEnrichSqlOperator):
    @cached_property
    def hook(self) -> SegmindHook:
        from airflow_provider_segmind.hooks.segmind import SegmindHook

        class Hook(SegmindHook):
            @cached_property
            def config(self) -> Any:
                return short_minute(super().config)

        made = Hook(self.segmind_conn_id)
        made.sharing_tasks = 4
        return made


with DAG("crash_table", schedule=None, params={"ledger": ""}):
    shards = EnrichOperator.partial(
        task_id="ask",
        model="gemini-3.1-flash-lite",
        sql_conn_id="warehouse",
        sql="products",
        target_table="described",
        key="sku",
        prompt="Describe {name}.",
        ledger_path="{{ params.ledger }}",
        concurrency=32,
        # On a busy machine the scheduler may take a running task for lost.
        retries=4,
        retry_delay=timedelta(seconds=1),
        shard_count=4,
    ).expand(shard_index=[0, 1, 2, 3])
    SegmindMergeOperator(task_id="merge", manifests=shards.output)
