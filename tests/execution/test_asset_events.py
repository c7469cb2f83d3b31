"""The figures in the event of an outlet, for tables, merges and requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator, SegmindMergeOperator
from airflow_provider_segmind.operators.request import SegmindRunOperator
from tests.support.airflow_fakes import Run

ASSET = Asset("x-segmind-test://answers")
MODEL = "gemini-3.1-flash-lite"


def extra_after(task: Any, **extra: Any) -> dict[str, Any]:
    """What the event of the asset has after the task."""
    events = OutletEventAccessors()
    events[ASSET].extra = extra
    task.outlets = [ASSET, AssetAlias("an-alias")]
    task.execute({**Run().context(), "outlet_events": events})
    if hasattr(task, "hook"):
        task.hook.close()
    return events[ASSET].extra


@pytest.mark.parametrize("merged", [False, True])
def test_a_table_reports_its_rows_cost_and_manifest(
    tmp_path: Path, segmind_emulator: SegmindEmulator, merged: bool
) -> None:
    segmind_emulator.script(match="two", fail="no")

    def shard(index: int, count: int) -> Any:
        return SegmindEnrichFileOperator(
            task_id="ask",
            model=MODEL,
            source=[{"id": 1, "text": "one"}, {"id": 2, "text": "two"}],
            key="id",
            prompt="{text}",
            output_path=str(tmp_path / "answers.jsonl"),
            shard_index=index,
            shard_count=count,
            max_failed_rows=None,
        )

    task, name = shard(0, 1), "answers"
    if merged:
        manifests = [shard(index, 2).execute(Run().context()) for index in range(2)]
        task = SegmindMergeOperator(task_id="merge", manifests=manifests, output_path=str(tmp_path / "all.jsonl"))
        name = "all"

    extra = extra_after(task, given="by the user")

    assert extra.pop("prompt_hash")
    assert extra == {
        "given": "by the user",
        "rows": 2,
        "answered": 1,
        "cost_usd": pytest.approx(sum(entry.cost for entry in segmind_emulator.bill)),
        "model": MODEL,
        "manifest": (tmp_path / f"{name}.manifest.json").as_uri(),
    }


@pytest.mark.parametrize("kind", [SegmindChatOperator, SegmindRunOperator])
def test_a_single_request_reports_its_cost_and_id(kind: type[Any], segmind_emulator: SegmindEmulator) -> None:
    asked = {"prompt": "Hello"} if kind is SegmindChatOperator else {"inputs": {"prompt": "Hello"}}

    extra = extra_after(kind(task_id="ask", model=MODEL, sync_wait=30, **asked))

    (entry,) = segmind_emulator.bill
    assert extra == {"cost_usd": pytest.approx(entry.cost), "model": MODEL, "request_id": entry.request_id}
