"""The state that Airflow gives a task after an error: ``failed`` at once, or another try."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.dag_runs import run_dags

pytestmark = pytest.mark.airflow


def test_an_error_that_no_retry_can_fix_fails_the_task_at_once(
    airflow_database: Path, segmind_emulator: SegmindEmulator
) -> None:
    segmind_emulator.fault("submit", status=400, body={"error": "Missing field"}, times=None)
    ended = run_dags(("tests/dags/retry_data.py", "retry_data"), connection=segmind_emulator.connection_json)
    assert ended["retry_data"]["state"] == "failed"
    assert "Missing field" in ended["retry_data"]["log"]
    assert len(segmind_emulator.posts()) == 1


def test_the_examples_run_unchanged(airflow_database: Path, segmind_emulator: SegmindEmulator, tmp_path: Path) -> None:
    names = ("example_segmind_run", "example_segmind_request", "example_segmind_image")
    dags = [(f"dags_examples/{name}.py", name) for name in names]
    ended = run_dags(*dags, connection=segmind_emulator.connection_json, SEGMIND_EXAMPLE_OUTPUT=tmp_path.as_uri())
    assert {name: one["state"] for name, one in ended.items()} == dict.fromkeys(names, "success")
    assert len(segmind_emulator.posts()) == len(segmind_emulator.bill) == 3
    assert segmind_emulator.api_key not in str(ended)
