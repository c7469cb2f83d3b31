"""The example of shards runs unchanged: four mapped tasks, whose files become one."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_segmind.bulk.sources import open_source
from airflow_provider_segmind.emulator import SegmindEmulator
from tests.running import run_dags

pytestmark = pytest.mark.airflow

NAME = "example_segmind_sharded"
TRIAGE = {"team": "delivery", "urgent": False, "summary": "A question."}


def test_four_shards_become_one_file_in_the_order_of_the_source(
    airflow_database: Path, segmind_emulator: SegmindEmulator, tmp_path: Path
) -> None:
    segmind_emulator.script(json=TRIAGE)

    dags = [(f"dags_examples/{NAME}.py", NAME)]
    ended = run_dags(*dags, connection=segmind_emulator.connection_json, SEGMIND_EXAMPLE_OUTPUT=tmp_path.as_uri())[NAME]

    assert ended["state"] == "success", ended["log"]
    assert ended["values"]["report"].startswith("40 of 40 tickets sorted")
    shards, whole = ended["values"]["triage"], ended["values"]["merge"]
    assert [shard["shard_index"] for shard in shards] == [0, 1, 2, 3]
    assert sum(shard["rows_read"] for shard in shards) == whole["rows_read"] == 40
    assert len(segmind_emulator.bill) == whole["posts"] == whole["distinct_rows"] == 30
    folder = tmp_path / "tickets_in_shards"
    rows = list(open_source(folder / "triage_of_all_shards.parquet"))
    assert [row["ticket_id"] for row in rows] == list(range(40))
    assert {row["team"] for row in rows} == {"delivery"}
    assert (folder / "triage_of_all_shards.report.html").stat().st_size > 1000
