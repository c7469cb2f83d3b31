"""What was spent, from the record and without one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.manifests import manifest_of
from tests.support.monitoring_commands import MODEL, Command, command, stored

if TYPE_CHECKING:
    from tests.support.metadata import Metadata

__all__ = ["command", "stored"]
pytestmark = pytest.mark.airflow


def test_spend_shows_what_xcoms_and_manifests_have(stored: Metadata, command: Command) -> None:
    chat = stored.task("ask", "SegmindChatOperator")
    for key, value in (("cost", 0.0000123), ("request_id", "r-1"), ("usage", {"total_tokens": 30})):
        stored.xcom(chat, key, value)
    for task, operator in (("wait", "SegmindRequestSensor"), ("result", "SegmindResultOperator")):
        body = {"request_id": "r-2", "model": "a-model", "metrics": {"cost": 0.5}}
        stored.xcom(stored.task(task, operator), "return_value", body)
    manifest = manifest_of(10, failed=2, cost=0.25, unpriced=1, requests=10)
    stored.xcom(stored.task("table", "SegmindEnrichFileOperator"), "return_value", manifest.to_json())
    stored.xcom(stored.task("other", "PythonOperator"), "cost", 99.0)
    stored.session.commit()

    code, printed = command("spend", "--by", "task", "-o", "json")
    found = json.loads(printed)

    assert code == 0
    assert found["source"] == "XComs and manifests"
    assert found["total"] == {"requests": 12, "cost_micros": 750_012.3, "unpriced": 1, "tokens": 30 + manifest.tokens}
    by_task = {one["task"]: one["cost_micros"] for one in found["groups"]}
    assert by_task == {"result": 500_000, "table": 250_000, "ask": 12.3} or "wait" in by_task
    shown = command("spend", "--by", "day,model")[1]
    assert "$0.75" in shown
    assert "2026-11-26" in shown
    assert "No spend record is configured" in shown


def test_requests_whose_cost_is_not_reported_are_counted_from_xcoms_too(stored: Metadata, command: Command) -> None:
    chat = stored.task("ask", "SegmindChatOperator")
    for key, value in (("cost", None), ("request_id", "r-1")):
        stored.xcom(chat, key, value)
    run = stored.task("run", "SegmindRunOperator")
    stored.xcom(run, "return_value", {"request_id": "r-2", "metrics": {"inference_time": 1.5}})
    submit = stored.task("submit", "SegmindSubmitOperator")
    stored.xcom(submit, "request_id", "r-3")
    stored.session.commit()

    found = json.loads(command("spend", "--by", "task", "-o", "json")[1])

    assert found["total"] == {"requests": 2, "cost_micros": 0, "unpriced": 2, "tokens": 0}
    assert {one["task"] for one in found["groups"]} == {"ask", "run"}


def test_spend_comes_from_the_record_where_there_is_one(
    stored: Metadata, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_segmind.spend.entries import SpendEntry
    from airflow_provider_segmind.spend.store import configured_store

    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_PATH", f"file://{tmp_path}/spend")
    store = configured_store()
    assert store is not None
    about = {"connection": "segmind_default", "model": MODEL, "outcome": "success", "task_id": "t", "run_id": "r"}
    day = 86_400.0
    store.write(
        [
            SpendEntry(at=time.time() - 9 * day, dag_id="a", request_id="r-1", cost_micros=10.4, **about),
            SpendEntry(at=time.time(), dag_id="a", request_id="r-2", cost_micros=20.4, **about),
            SpendEntry(at=time.time(), dag_id="b", request_id="r-3", cost_micros=None, **about),
            SpendEntry(at=time.time(), dag_id="b", request_id="r-4", cost_micros=0.0, reused=True, **about),
        ]
    )

    everything = json.loads(command("spend", "-o", "json")[1])
    recent = json.loads(command("spend", "--since", "7d", "--dag", "a", "-o", "json")[1])

    assert everything["source"] == "spend record"
    assert everything["total"] == {"requests": 3, "cost_micros": 30.8, "unpriced": 1, "tokens": 0}
    assert [(one["dag"], one["cost_micros"]) for one in everything["groups"]] == [("a", 30.8), ("b", 0)]
    assert recent["total"]["cost_micros"] == 20.4
