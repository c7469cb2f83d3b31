"""The example of table enrichment runs unchanged, on a real task runner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.running import run_dags

pytestmark = pytest.mark.airflow

NAME = "example_segmind_enrich_file"
TRIAGE = {"team": "delivery", "urgent": False, "summary": "A question."}


def test_tickets_are_sorted_into_a_file_and_equal_ones_paid_once(
    airflow_database: Path, segmind_emulator: SegmindEmulator, tmp_path: Path
) -> None:
    segmind_emulator.script(json=TRIAGE)

    dags = [(f"dags_examples/{NAME}.py", NAME)]
    ended = run_dags(*dags, connection=segmind_emulator.connection_json, SEGMIND_EXAMPLE_OUTPUT=tmp_path.as_uri())[NAME]

    assert ended["state"] == "success", ended["log"]
    assert ended["values"]["report"].startswith("4 of 4 tickets sorted")
    assert len(segmind_emulator.posts()) == len(segmind_emulator.bill) == 3
    rows = [json.loads(line) for line in (tmp_path / "tickets" / "triage.jsonl").read_text().splitlines()]
    assert [row["ticket_id"] for row in rows] == [1, 2, 3, 4]
    assert {row["team"] for row in rows} == {"delivery"}
    assert ended["values"]["triage"]["duplicates_saved"] == 1
    assert "I was charged twice" not in ended["log"]
