"""What the reader finds in a real metadata database, beside tasks and values that are not ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from airflow_provider_segmind.client.submission import Fingerprint, SubmissionRecord
from airflow_provider_segmind.compat import Trigger, XComModel
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.enrichment.progress_file import write_progress
from airflow_provider_segmind.monitoring.reader import Reader, TaskRef
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator
from airflow_provider_segmind.task_state import Identity, PathTaskState
from tests.support.manifests import manifest_of
from tests.support.metadata import NOON, Metadata

pytestmark = pytest.mark.airflow
MODEL = "gemini-3.1-flash-lite"
AT = NOON.timestamp()
TRIGGER = "airflow_provider_segmind.triggers.request.SegmindRequestTrigger"


def record(request_id: str | None, at: float = AT, **values: Any) -> dict[str, Any]:
    fingerprint = Fingerprint.of(model=MODEL, inputs={}, connection="segmind_default at https://api.segmind.com")
    made = SubmissionRecord(fingerprint, intent_at=at, submitted_at=at, request_id=request_id, **values)
    return made.to_json()


def test_a_request_is_in_flight_while_its_task_is_deferred_or_has_a_record_of_it(metadata: Metadata) -> None:
    waits = {"request_id": "r-deferred", "submitted_at": AT + 2, "model": MODEL, "segmind_conn_id": "other"}
    metadata.task("deferred", "SegmindRunOperator", "deferred", trigger_id=metadata.trigger(TRIGGER, waits))
    metadata.state(metadata.task("running", "SegmindChatOperator", "running"), "segmind_request_1", record("r-running"))
    mapped = metadata.task("old", "_SegmindDecoratedOperator", "up_for_retry", map_index=3)
    metadata.variable("segmind_request_abc", record("r-variable", AT + 1), "Segmind request of shop monday old[3]")

    found = Reader(metadata.session).in_flight()

    assert [one.request_id for one in found] == ["r-running", "r-variable", "r-deferred"]
    assert [one.connection for one in found] == ["segmind_default", "segmind_default", "other"]
    assert {one.model for one in found} == {MODEL}
    assert found[1].task is not None
    assert found[1].task.key == tuple(mapped.values())
    assert (found[2].submitted_at, found[2].expires_at) == (AT + 2, AT + 3602)


def test_a_trigger_that_cannot_be_decrypted_does_not_hide_the_others(metadata: Metadata) -> None:
    numbers = {}
    for name in ("good", "bad"):
        waits = {"request_id": f"r-{name}", "submitted_at": AT, "model": MODEL, "segmind_conn_id": "other"}
        numbers[name] = metadata.trigger(TRIGGER, waits)
        metadata.task(name, "SegmindRunOperator", "deferred", trigger_id=numbers[name])
    metadata.session.execute(
        update(Trigger).where(Trigger.id == numbers["bad"]).values(encrypted_kwargs="encrypted with another key")
    )
    metadata.session.expire_all()

    assert [one.request_id for one in Reader(metadata.session).in_flight()] == ["r-good"]


def test_records_under_the_state_path_are_read(
    metadata: Metadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__SEGMIND__STATE_PATH", f"file://{tmp_path}/state")
    for task_id, map_index, part in (("ask", -1, ""), ("ask", -1, "1"), ("ask", 2, ""), ("ask_more", -1, "")):
        if not part:
            metadata.task(task_id, "SegmindChatOperator", "running", map_index=map_index)
        own: Any = {"ti": TaskRef(dag_id="shop", run_id="monday", task_id=task_id, map_index=map_index)}
        made = record(f"r-{task_id}{map_index}{part}", AT + len(part), previous_ids=["r-ask-1"] if part else [])
        PathTaskState(f"file://{tmp_path}/state", Identity(own), part).write(SubmissionRecord.from_json(made))
    metadata.task("none", "SegmindChatOperator", "running")

    found = Reader(metadata.session).in_flight()

    assert {one.request_id for one in found} == {"r-ask-11", "r-ask2", "r-ask_more-1"}


def test_what_has_ended_or_is_of_another_operator_is_not_in_flight(metadata: Metadata) -> None:
    for number, (operator, state, value) in enumerate(
        [
            ("SegmindChatOperator", "success", record("r-1")),
            ("SegmindChatOperator", "running", record("r-2", outcome="failed")),
            ("SegmindChatOperator", "running", record(None)),
            ("PythonOperator", "running", record("r-3")),
            ("SegmindChatOperator", "running", {"not": "a record"}),
        ]
    ):
        metadata.state(metadata.task(f"task_{number}", operator, state), "segmind_request", value)

    assert Reader(metadata.session).in_flight() == []


def test_requests_of_a_deferred_table_are_in_flight_and_can_be_selected(metadata: Metadata) -> None:
    waits = {"requests": [["r-1", AT], ["r-2", AT + 1]], "model": "slow", "segmind_conn_id": "segmind_default"}
    number = metadata.trigger(TRIGGER.replace("Request", "Requests"), waits)
    metadata.task("table", "SegmindEnrichFileOperator", "deferred", trigger_id=number, dag_id="tables")
    reader = Reader(metadata.session)

    assert [one.request_id for one in reader.in_flight(model="slow")] == ["r-1", "r-2"]
    assert [one.request_id for one in reader.in_flight(dag_ids=["tables"])] == ["r-1", "r-2"]
    assert reader.in_flight(model="other") == reader.in_flight(dag_ids=["shop"]) == []


def test_requests_of_a_running_table_are_in_flight_as_far_as_its_progress_lists_them(
    metadata: Metadata, tmp_path: Path
) -> None:
    def progress(task_id: str, **values: Any) -> None:
        own = metadata.task(task_id, "SegmindEnrichFileOperator", "running")
        metadata.xcom(own, "segmind_table", {"ledger": str(tmp_path), "manifest": None})
        values = {"try_number": 1, "at": AT + 9, **values}
        write_progress(tmp_path, f"shop/monday/{task_id}/-1", values, model="slow", connection="mine")

    progress("many", requests=[["r-1", AT], ["r-2", AT + 1]], in_flight=64)
    progress("earlier_try", requests=[["r-3", AT]], in_flight=1, try_number=0)
    progress("nothing", in_flight=0)
    reader = Reader(metadata.session)

    found = reader.in_flight()

    assert [(one.request_id, one.submitted_at, one.more) for one in found] == [("r-1", AT, 0), ("r-2", AT + 1, 62)]
    assert {(one.task and one.task.task_id, one.model, one.connection) for one in found} == {("many", "slow", "mine")}
    assert Reader(metadata.session, lambda _: False).in_flight() == []


def test_tasks_of_subclasses_are_found_by_the_name_of_our_class(metadata: Metadata) -> None:
    class MyOperator(SegmindEnrichFileOperator):
        pass

    class Named(MyOperator):
        custom_operator_name = "named"

    class Again(MyOperator):
        pass

    assert MyOperator.custom_operator_name == "MyOperator (SegmindEnrichFileOperator)"
    assert Again.custom_operator_name == "Again (SegmindEnrichFileOperator)"
    assert Named.custom_operator_name == "named"
    made = MyOperator(task_id="t", model="gpt-5", key="id", prompt="{a}", source=[], output_path="/out.jsonl")
    assert made.operator_name == MyOperator.custom_operator_name
    for task_id, name in (("mine", MyOperator.custom_operator_name), ("other", "MyOperator (OtherOperator)")):
        own = metadata.task(task_id, "MyOperator", custom_operator_name=name)
        metadata.xcom(own, "return_value", manifest_of(20).to_json())

    assert [run.task.task_id for run in Reader(metadata.session).table_runs()] == ["mine"]


def test_table_runs_have_the_manifest_the_task_returned_and_the_progress_of_this_try(metadata: Metadata) -> None:
    manifest = manifest_of(20, failed=2)
    metadata.xcom(metadata.task("done", "SegmindEnrichFileOperator"), "return_value", manifest.to_json())
    running = metadata.task("running", "SegmindEnrichSqlOperator", "running", try_number=2)
    metadata.state(running, "segmind_progress", {"rows_done": 7, "try_number": 2, "at": AT + 9})
    again = metadata.task("again", "SegmindEnrichSqlOperator", "running", try_number=2)
    metadata.state(again, "segmind_progress", {"rows_done": 7, "try_number": 1, "at": AT + 9})

    runs = {run.task.task_id: run for run in Reader(metadata.session).table_runs()}

    assert runs["done"].manifest == manifest
    assert runs["running"].progress is not None
    assert (runs["running"].progress["rows_done"], runs["running"].updated_at) == (7, AT + 9)
    assert (runs["again"].progress, runs["again"].manifest) == (None, None)


def test_a_failed_table_has_its_manifest_and_a_running_one_its_progress_in_the_ledger(
    metadata: Metadata, tmp_path: Path
) -> None:
    manifest = manifest_of(20, failed=2)
    failed = metadata.task("failed", "SegmindEnrichFileOperator", "failed")
    metadata.xcom(failed, "segmind_table", {"ledger": str(tmp_path), "manifest": manifest.to_json()})
    for task_id, state in (("running", "deferred"), ("ended", "success"), ("away", "running")):
        ledger = tmp_path / "is a file" if task_id == "away" else tmp_path
        own = metadata.task(task_id, "SegmindEnrichFileOperator", state)
        metadata.xcom(own, "segmind_table", {"ledger": str(ledger), "manifest": None})
        progress = {"rows_done": 7, "try_number": 1, "at": AT + 9}
        write_progress(tmp_path, f"shop/monday/{task_id}/-1", progress)
    (tmp_path / "is a file").write_text("")

    runs = {run.task.task_id: run for run in Reader(metadata.session).table_runs()}

    assert (runs["failed"].manifest, runs["failed"].ledger) == (manifest, str(tmp_path))
    assert runs["running"].progress is not None
    assert (runs["running"].progress["rows_done"], runs["running"].updated_at) == (7, AT + 9)
    assert runs["ended"].progress is runs["away"].progress is None


def test_a_value_of_xcom_that_cannot_be_read_hides_no_other(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    for task_id, cost in (("bad", "pickled"), ("good", 0.5)):
        own = metadata.task(task_id, "SegmindChatOperator")
        metadata.xcom(own, "cost", cost)
        metadata.xcom(own, "request_id", task_id)
    decode = XComModel.deserialize_value

    def deserialize(row: Any) -> Any:
        if row.value == "pickled":
            raise UnicodeDecodeError("utf-8", b"\x80", 0, 1, "invalid start byte")
        return decode(row)

    monkeypatch.setattr(XComModel, "deserialize_value", staticmethod(deserialize))

    assert [(group.key, group.cost_micros) for group in Reader(metadata.session).spend(by=("task",)).groups] == [
        (("good",), 500_000)
    ]


def test_a_manifest_of_another_operator_or_shape_is_not_shown(metadata: Metadata) -> None:
    metadata.xcom(metadata.task("other", "PythonOperator"), "return_value", manifest_of(2).to_json())
    ours = metadata.task("dry_run", "SegmindEnrichFileOperator")
    metadata.xcom(ours, "return_value", {"low": 1, "high": 2})

    assert [(run.task.task_id, run.manifest) for run in Reader(metadata.session).table_runs()] == [("dry_run", None)]


def test_table_runs_are_limited_to_the_latest_and_to_given_dags(metadata: Metadata) -> None:
    for dag_id in ("a", "b"):
        for number in range(3):
            at = NOON.replace(hour=number)
            metadata.task(f"t{number}", "SegmindEnrichFileOperator", dag_id=dag_id, start_date=at)
    reader = Reader(metadata.session)

    assert [run.task.task_id for run in reader.table_runs(dag_ids=["a"], limit=2)] == ["t2", "t1"]
    assert reader.table_runs(dag_ids=[]) == []


def test_dead_letters_are_filtered_by_outcome_and_reason(metadata: Metadata, tmp_path: Path) -> None:
    file = tmp_path / "out.dead_letters.jsonl"
    letters = [
        {"row": 1, "key": {"id": 1}, "outcome": "failed", "reason": "Overloaded", "request_ids": ["r"], "cost": 0.1},
        {"row": 2, "key": {"id": 2}, "outcome": "truncated", "reason": "too long"},
        {"row": 3, "key": {"id": 3}, "outcome": "failed", "reason": "timeout", "of a later version": 1},
    ]
    file.write_text("".join(f"{json.dumps(letter)}\n" for letter in letters))
    manifest = manifest_of(5, dead_letters=[str(file)])
    reader = Reader(metadata.session)

    assert [letter.row for letter in reader.dead_letters(manifest)] == [1, 2, 3]
    assert [letter.row for letter in reader.dead_letters(manifest, outcome="failed", limit=1)] == [1]
    assert [letter.key for letter in reader.dead_letters(manifest, reason="overLOADED")] == [{"id": 1}]


def test_the_balance_is_that_of_the_account_of_a_connection(
    metadata: Metadata, segmind_emulator: SegmindEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_OTHER", segmind_emulator.connection_json)

    assert Reader(metadata.session).balance("segmind_other") == segmind_emulator.balance()
