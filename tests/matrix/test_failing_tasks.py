"""What the log of a failing task shows, on every supported Airflow."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.dag_runs import run_dags

pytestmark = [pytest.mark.matrix, pytest.mark.airflow]

AIRFLOW = Version(version("apache-airflow"))
DAG_FILE = """
try:
    from airflow.sdk import DAG
except ImportError:
    from airflow import DAG
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

with DAG("fails", schedule=None):
    SegmindChatOperator(task_id="request_that_fails", model="gpt-5", prompt="hello")
    SegmindEnrichFileOperator(
        task_id="no_source", model="gpt-5", source="FOLDER/none-*.jsonl", key="id", prompt="{a}", retries=0,
        output_path="FOLDER/out.jsonl",
    )
    SegmindEnrichFileOperator(
        task_id="rate_limited", model="gpt-5", source=[{"a": 1, "id": 1}], key="id", prompt="Say {a}", retries=0,
        output_path="FOLDER/limited.jsonl", on_partial="fail", max_rows=1, max_cost=0.0,
    )
"""


def test_a_failing_task_logs_its_sentence_once_in_one_record(
    airflow_database: Path, segmind_emulator: SegmindEmulator, tmp_path: Path
) -> None:
    folder = tmp_path / "dags"
    folder.mkdir()
    path = folder / "fails.py"
    path.write_text(DAG_FILE.replace("FOLDER", str(tmp_path)))
    segmind_emulator.script(match="hello", fail="out of order")
    bundle = {
        "name": "dags-folder",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(folder)},
    }
    ended = run_dags(
        (str(path), "fails"),
        connection=segmind_emulator.connection_json,
        AIRFLOW__CORE__DAGS_FOLDER=str(folder),
        AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST=json.dumps([bundle]),
    )["fails"]

    log = re.sub(r"\x1b\[[0-9;]*m", "", ended["log"])
    assert ended["state"] == "failed"
    assert "direct cause" not in log
    assert "During handling" not in log
    sentences = ("as FAILED: 'out of order'.", "There is no table at ", "max_cost=$0.00 is used up")
    if Version("3") > AIRFLOW:
        # Text in the order of the log: the sentence, then frames outside of Airflow only. dag.test() prints each record
        # of a task twice.
        ours = r"ERROR - (Task failed with exception: .*\nTraceback .*\n(?: .*\n)+[\w.]+Error)$"
        records = set(re.findall(ours, log, re.MULTILINE))
        assert [sum(sentence in record for record in records) for sentence in sentences] == [1, 1, 1], log
        assert all(record.count("  File ") <= 5 and "/airflow/" not in record for record in records)
        return
    records = [line.partition("Task failed with exception: ")[2] for line in log.splitlines()]
    assert [sum(sentence in record for record in records) for sentence in sentences] == [1, 1, 1], log
    if Version("3.1") <= AIRFLOW:
        # In 3.0 dag.test() logs the error twice more, which no worker does.
        assert log.count("Task failed with exception") == 3
        assert log.count("as FAILED: 'out of order'") == log.count("There is no table at ") == 1
