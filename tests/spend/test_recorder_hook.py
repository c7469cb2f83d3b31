"""What calls of the hook add to the spend record."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind import stores
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.exceptions import SegmindRequestExpiredError, SegmindRequestFailedError
from airflow_provider_segmind.hooks import segmind
from airflow_provider_segmind.spend import recorder
from airflow_provider_segmind.spend.reconcile import missing_entries
from airflow_provider_segmind.spend.store import SpendStore, configured_store
from tests.support.airflow_fakes import Clock, Run, hook_by

MODEL = "gemini-3.1-flash-lite"
INPUTS = {"prompt": "question"}


@pytest.fixture(params=["in a task", "elsewhere"])
def names(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str, str]:
    """Run a task, or none; its names."""
    if request.param == "elsewhere":
        return ("", "", "")
    monkeypatch.setattr("airflow_provider_segmind.compat.get_current_context", Run().context, raising=False)
    return ("a_dag", "a_task", "manual__1")


def test_a_result_is_recorded_once_when_it_is_fetched(
    emulator: SegmindEmulator, clock: Clock, record: SpendStore, names: tuple[str, str, str]
) -> None:
    hook = hook_by(clock)
    request_id = hook.submit(MODEL, INPUTS).request_id
    assert list(record.read()) == []
    emulator.advance(60)

    for _ in range(2):
        hook.get_result(request_id)

    [bill] = emulator.bill
    [entry] = {entry.request_id: entry for entry in record.read()}.values()
    assert (entry.dag_id, entry.task_id, entry.run_id) == names
    assert (entry.request_id, entry.model, entry.outcome) == (request_id, MODEL, "success")
    assert entry.cost_micros == round(bill.cost * 1e6, 6)
    # The history adds nothing to it.
    rows = hook.list_request_records()
    assert list(missing_entries(record.read(), rows, since=0.0, until=4e9, connection="segmind_default")) == []


def test_a_request_of_somebody_else_is_recorded_without_a_model(
    emulator: SegmindEmulator, clock: Clock, record: SpendStore
) -> None:
    request_id = hook_by(clock).submit(MODEL, INPUTS).request_id
    emulator.advance(60)

    hook_by(clock).get_result(request_id)

    [entry] = record.read()
    assert (entry.request_id, entry.model) == (request_id, "")
    assert entry.cost_micros == round(emulator.bill[0].cost * 1e6, 6)


def test_a_hook_remembers_the_models_of_its_latest_requests_only(
    emulator: SegmindEmulator, clock: Clock, record: SpendStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmind, "REMEMBERED_SUBMISSIONS", 2)
    hook = hook_by(clock)
    ids = [hook.submit(MODEL, INPUTS).request_id for _ in range(3)]
    emulator.advance(60)
    for request_id in ids:
        hook.get_result(request_id)
    models = {entry.request_id: entry.model for entry in record.read()}
    assert [models[request_id] for request_id in ids] == ["", MODEL, MODEL]


def test_the_blocking_call_is_recorded(emulator: SegmindEmulator, clock: Clock, record: SpendStore) -> None:
    hook_by(clock).run_sync(MODEL, INPUTS)

    assert [(entry.model, entry.cost_micros) for entry in record.read()] == [
        (MODEL, round(bill.cost * 1e6, 6)) for bill in emulator.bill
    ]
    assert emulator.bill


def test_a_failed_request_cost_nothing_and_one_that_is_unknown_is_not_recorded(
    emulator: SegmindEmulator, clock: Clock, record: SpendStore
) -> None:
    emulator.script(model=MODEL, fail="blocked")
    hook = hook_by(clock)
    request_id = hook.submit(MODEL, INPUTS).request_id
    emulator.advance(60)

    with pytest.raises(SegmindRequestFailedError):
        hook.get_result(request_id)
    with pytest.raises(SegmindRequestExpiredError):
        hook.get_result("0" * 32)

    assert [(entry.request_id, entry.outcome, entry.cost_micros) for entry in record.read()] == [
        (request_id, "failed", 0.0)
    ]


def test_a_request_in_progress_is_not_recorded(emulator: SegmindEmulator, clock: Clock, record: SpendStore) -> None:
    emulator.script(model=MODEL, text="answer", latency=30)
    hook = hook_by(clock)

    hook.get_result(hook.submit(MODEL, INPUTS).request_id)

    assert list(record.read()) == []


def test_a_record_that_cannot_be_written_does_not_cost_the_answer(
    emulator: SegmindEmulator,
    clock: Clock,
    record: SpendStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "spend").write_text("a file")
    hook: Any = hook_by(clock)
    hook._cached_logger = hook._log = logging.getLogger("a_task")

    assert hook.run_sync(MODEL, INPUTS).json_body
    assert "spend record cannot be written" in caplog.text


@pytest.mark.parametrize("results", [1, 5])
def test_the_connection_of_the_record_is_looked_up_once_for_all_results(
    emulator: SegmindEmulator, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: int
) -> None:
    database = {"conn_type": "sqlite", "host": str(tmp_path / "spend.sqlite")}
    monkeypatch.setenv("AIRFLOW_CONN_A_DATABASE", json.dumps(database))
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_CONN_ID", "a_database")
    looked_up: list[str] = []
    find = stores.database
    monkeypatch.setattr(stores, "database", lambda conn_id, field: [looked_up.append(conn_id), find(conn_id, field)][1])
    hook = hook_by(clock)
    request_ids = [hook.submit(MODEL, INPUTS).request_id for _ in range(results)]
    emulator.advance(60)
    looked_up.clear()

    for request_id in request_ids:
        hook.get_result(request_id)
        hook.run_sync(MODEL, INPUTS)

    assert looked_up == ["a_database"]
    record = configured_store()
    assert record is not None
    assert len(list(record.read())) == 2 * results


def test_without_a_record_nothing_is_opened(
    emulator: SegmindEmulator, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "SpendRecorder", lambda *_, **__: pytest.fail("opened"))

    assert hook_by(clock).run_sync(MODEL, INPUTS).json_body
