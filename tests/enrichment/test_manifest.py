"""A manifest adds up, also over shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.manifest import Manifest, merge
from airflow_provider_segmind.enrichment.settings import Shard
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from tests.support.enrichment import PRICE, table
from tests.support.enrichment_output import landed


async def test_the_manifests_of_all_shards_add_up(tmp_path: Path) -> None:
    rows = table(*[str(number % 30) for number in range(50)], "bad")
    shards = [
        await landed(tmp_path, rows, f"part-{index}.jsonl", shard=Shard(index=index, count=3)) for index in range(3)
    ]
    whole = merge(shards)
    assert (whole.rows_read, whole.rows_in_source, whole.distinct_rows, whole.duplicates_saved) == (51, 51, 31, 20)
    assert whole.outcomes["failed"] == 1
    assert whole.cost == pytest.approx(30 * PRICE)
    assert len(whole.outputs) == 3
    assert sum(whole.latency_counts.values()) == 31
    assert (whole.calls, whole.posts) == (62, 31)
    assert [sum(whole.timeline[name]) for name in ("posts", "polls", "answered", "unanswered")] == [31, 31, 30, 1]
    assert sum(whole.timeline["cost"]) == pytest.approx(whole.cost)
    assert whole.reasons == {"failed": {"bad words": 1}}
    with pytest.raises(SegmindEnrichmentError, match=r"Shards \[0, 2\] were given"):
        merge([shards[0], shards[2]])
    with pytest.raises(SegmindEnrichmentError, match="differ in run:"):
        merge([shards[0], shards[1], replace(shards[2], run_id="other")])
    with pytest.raises(SegmindEnrichmentError, match="differ in prompt_hash:"):
        merge([shards[0], shards[1], replace(shards[2], prompt_hash="other")])
    fewer = replace(shards[2], rows_read=shards[2].rows_read - 1)
    with pytest.raises(SegmindEnrichmentError, match="source changed"):
        merge([shards[0], shards[1], fewer])


def test_counts_that_do_not_add_up_are_an_error() -> None:
    with pytest.raises(SegmindEnrichmentError, match="add up to 0, 0 of them with a reason, but it read 1 row"):
        Manifest(run_id="r", model="m", rows_read=1).check()
    unexplained = Manifest(run_id="r", model="m", rows_read=1)
    unexplained.outcomes["failed"] = 1
    with pytest.raises(SegmindEnrichmentError, match="add up to 1, 0 of them with a reason"):
        unexplained.check()


def test_shards_of_one_run_may_differ_in_the_last_part_of_its_name() -> None:
    def shard(index: int, run_id: str) -> Manifest:
        return Manifest(run_id=run_id, model="m", shard_index=index, shard_count=2)

    assert merge([shard(1, "dag/monday/task/1"), shard(0, "dag/monday/task/0")]).run_id == "dag/monday/task"
    with pytest.raises(SegmindEnrichmentError, match="differ in run:"):
        merge([shard(0, "dag/monday/task/0"), shard(1, "dag/sunday/task/1")])


def test_the_notes_of_all_shards_are_kept() -> None:
    shards = [
        Manifest(run_id="r", model="m", shard_index=index, shard_count=2, notes={"by": "Ada", f"part {index}": "x"})
        for index in range(2)
    ]

    assert merge(shards).notes == {"by": "Ada", "part 0": "x", "part 1": "x"}


def test_a_manifest_of_another_version_is_refused() -> None:
    with pytest.raises(SegmindEnrichmentError, match="version 99"):
        Manifest.from_json({"version": 99})


@pytest.mark.parametrize(
    "changes", [{"run_id": None}, {"outcomes": {}}, {"outcomes": None}, {"rows_read": "x"}, {"timeline": []}]
)
def test_a_manifest_with_an_odd_field_is_refused_by_name(changes: dict[str, Any]) -> None:
    value = Manifest(run_id="r", model="m").to_json()
    assert Manifest.from_json(value).to_json() == value

    with pytest.raises(SegmindEnrichmentError, match="A manifest cannot be read"):
        Manifest.from_json({**value, **changes})


@pytest.mark.parametrize("value", [[], "x", None, {}])
def test_what_is_not_a_manifest_is_refused(value: Any) -> None:
    with pytest.raises(SegmindEnrichmentError, match="version None"):
        Manifest.from_json(value)
