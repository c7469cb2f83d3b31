"""The example whose second DAG reads the figures of a run from the event of an asset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.money import format_usd
from tests.support.dag_runs import run_dags

pytestmark = pytest.mark.airflow

NAME = "example_segmind_assets"
DAGS = [(f"dags_examples/{NAME}.py", dag_id) for dag_id in (NAME, f"{NAME}_consumer")]


def test_a_dag_reads_rows_and_cost_of_a_run_from_the_event_of_its_asset(
    airflow_database: Path, segmind_emulator: SegmindEmulator, tmp_path: Path
) -> None:
    ended = run_dags(*DAGS, connection=segmind_emulator.connection_json, SEGMIND_EXAMPLE_OUTPUT=tmp_path.as_uri())

    assert [one["state"] for one in ended.values()] == ["success", "success"], str(ended)
    billed = sum(entry.cost for entry in segmind_emulator.bill)
    (manifest,) = (path.as_uri() for path in (tmp_path / "assets").glob("*/triage.manifest.json"))
    said: Any = ended[f"{NAME}_consumer"]["values"]["report"]
    assert said == f"3 of 3 tickets for {format_usd(billed)}; see {manifest}"
