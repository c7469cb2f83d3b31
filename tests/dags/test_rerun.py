"""A parameter of a DAG chooses which rows without an answer are asked again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.dag_runs import run_dags

pytestmark = pytest.mark.airflow
DAGS = """
from airflow.sdk import DAG, Param
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

for name, rerun in (("first", "unbilled"), ("again", ["blocked", "truncated"])):
    with DAG(name, schedule=None, params={"rerun": Param(rerun)}):
        SegmindEnrichFileOperator(
            task_id="ask", model="gemini-3.1-flash-lite", key="id", prompt="Name {thing}.",
            source=[{"id": number, "thing": thing} for number, thing in enumerate(("sky", "rose", "blood", "leaf"))],
            output_path="FOLDER/out.jsonl", max_failed_rows=None, rerun="{{ params.rerun }}",
        )
"""


def test_a_parameter_chooses_the_rows_that_are_asked_again(
    airflow_database: Path, segmind_emulator: SegmindEmulator, tmp_path: Path
) -> None:
    folder = tmp_path / "dags"
    folder.mkdir()
    path = folder / "rerun.py"
    path.write_text(DAGS.replace("FOLDER", str(tmp_path)))
    bundle = {
        "name": "dags-folder",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(folder)},
    }
    segmind_emulator.script(match="blood", block="SAFETY", times=1)
    segmind_emulator.script(match="rose", fail="the model is overloaded")
    ended = run_dags(
        (str(path), "first"),
        (str(path), "again"),
        connection=segmind_emulator.connection_json,
        AIRFLOW__CORE__DAGS_FOLDER=str(folder),
        AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST=json.dumps([bundle]),
    )

    manifests = [ended[name]["values"]["ask"] for name in ("first", "again")]
    assert [run["state"] for run in ended.values()] == ["success", "success"], str(ended)
    assert [manifest["posts"] for manifest in manifests] == [4, 1]
    assert [manifest["outcomes"]["success"] for manifest in manifests] == [2, 3]
    assert manifests[1]["reasons"] == {"failed": {"the model is overloaded": 1}}
    assert "rerun: blocked, truncated" in ended["again"]["log"]
