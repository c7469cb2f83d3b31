"""What tasks of one request, and of a chain of requests, add to the spend record."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.compat import AirflowFailException, TaskDeferred
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.operators.request import (
    SegmindResultOperator,
    SegmindRunOperator,
    SegmindSubmitOperator,
)
from airflow_provider_segmind.sensors.request import SegmindRequestSensor
from airflow_provider_segmind.spend.entries import SpendEntry
from airflow_provider_segmind.spend.files import FileStore
from airflow_provider_segmind.spend.store import SpendStore
from airflow_provider_segmind.triggers.events import RequestEvent
from tests.support.airflow_fakes import INPUTS, Clock, Run, by_hand
from tests.support.chat_tasks import NUMBER, Chat

MODEL = "gemini-3.1-flash-lite"


class Killed(BaseException):
    """The worker died."""


def make(clock: Clock, **fields: Any) -> Any:
    given = {"task_id": "a_task", "model": MODEL, "inputs": INPUTS, "deferrable": False, **fields}
    return by_hand(SegmindRunOperator(**given), clock)


def outcomes(record: SpendStore) -> list[tuple[str, str, float | None]]:
    """Return request, outcome and cost of all entries, in the order in which the requests finished."""
    entries = sorted(record.read(), key=lambda entry: entry.at)
    return [(entry.request_id, entry.outcome, entry.cost_micros) for entry in entries]


def billed(emulator: SegmindEmulator) -> list[tuple[str, str, float]]:
    return [(entry.request_id, "success", round(entry.cost * 1e6, 6)) for entry in emulator.bill]


def test_a_completed_request_is_recorded_with_its_task(
    emulator: SegmindEmulator, clock: Clock, run: Run, record: SpendStore
) -> None:
    make(clock).execute(run.context())
    [entry] = record.read()
    [bill] = emulator.bill
    assert entry == SpendEntry(
        at=pytest.approx(bill.time, abs=5.0),
        connection="segmind_default",
        dag_id="a_dag",
        task_id="a_task",
        run_id="manual__1",
        map_index=-1,
        try_number=1,
        model=MODEL,
        request_id=bill.request_id,
        outcome="success",
        tokens=entry.tokens,
        cost_micros=round(bill.cost * 1e6, 6),
    )
    assert entry.tokens


def test_without_a_setting_nothing_is_written(
    emulator: SegmindEmulator, clock: Clock, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileStore, "write", lambda *_: pytest.fail("written"))
    make(clock).execute(run.context())
    assert list(tmp_path.iterdir()) == []


def test_a_failed_request_cost_nothing_and_the_one_that_replaced_it_what_was_billed(
    emulator: SegmindEmulator, clock: Clock, run: Run, record: SpendStore
) -> None:
    emulator.script(fail="no capacity", times=1)
    make(clock, on_failed="resubmit").execute(run.context())
    failed = next(job.request_id for job in emulator.jobs if job.error)
    assert sorted(outcomes(record)) == sorted([(failed, "failed", 0.0), *billed(emulator)])


def test_a_result_that_is_lost_cost_what_the_history_says(
    emulator: SegmindEmulator, clock: Clock, run: Run, record: SpendStore
) -> None:
    emulator.settings(ttl=0.0)
    with pytest.raises(AirflowFailException, match="the result is lost"):
        make(clock).execute(run.context())
    assert outcomes(record) == [(request, "failed", cost) for request, _, cost in billed(emulator)]


def test_a_task_that_was_deferred_records_its_request_when_it_resumes(
    emulator: SegmindEmulator, clock: Clock, run: Run, record: SpendStore
) -> None:
    emulator.settings(latency=500.0)
    task = make(clock, deferrable=True)
    with pytest.raises(TaskDeferred):
        task.execute(run.context())
    assert list(record.read()) == []
    clock.ahead += 500
    task.execute_complete(run.context(), RequestEvent(emulator.jobs[0].request_id, "success").to_json())
    assert outcomes(record) == billed(emulator)


def test_three_tasks_of_one_request_record_it_once_for_the_task_that_submitted_it(
    emulator: SegmindEmulator, clock: Clock, record: SpendStore
) -> None:
    def run_of(task_id: str) -> Any:
        return Run(task_id=task_id).context()

    submit = by_hand(SegmindSubmitOperator(task_id="submit", model=MODEL, inputs=INPUTS), clock)
    handed = submit.execute(run_of("submit"))
    sensor = by_hand(SegmindRequestSensor(task_id="wait", request_id=handed, deferrable=False), clock)
    clock.ahead += 60
    waited = sensor.poke(run_of("wait")).xcom_value
    result = by_hand(SegmindResultOperator(task_id="fetch", request_id=waited), clock)
    result.execute(run_of("fetch"))
    [entry] = record.read()
    assert (entry.task_id, entry.outcome, entry.tokens) == ("submit", "success", entry.tokens)
    assert entry.tokens
    assert outcomes(record) == billed(emulator)


def test_a_request_without_a_known_task_is_recorded_for_the_task_that_waits_for_it(
    emulator: SegmindEmulator, clock: Clock, record: SpendStore
) -> None:
    emulator.script(fail="no capacity")
    request = make(clock).hook.submit(MODEL, INPUTS).request_id
    sensor = by_hand(SegmindRequestSensor(task_id="wait", request_id=request, deferrable=False), clock)
    clock.ahead += 60
    with pytest.raises(AirflowFailException):
        sensor.poke(Run(task_id="wait").context())
    assert [(one.task_id, one.outcome, one.cost_micros) for one in record.read()] == [("wait", "failed", 0.0)]


def test_a_worker_killed_before_the_entry_is_written_leaves_it_to_the_retry(
    emulator: SegmindEmulator, clock: Clock, run: Run, record: SpendStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(FileStore, "write", killed)
        with pytest.raises(Killed):
            make(clock).execute(run.context())
    assert list(record.read()) == []
    for _ in range(2):
        make(clock).execute(run.context())
        assert outcomes(record) == billed(emulator)
    assert len(emulator.posts()) == 1


def test_a_record_that_cannot_be_written_fails_no_task(
    emulator: SegmindEmulator,
    clock: Clock,
    run: Run,
    record: SpendStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "spend").write_text("a file in the way")
    with caplog.at_level(logging.WARNING):
        assert make(clock).execute(run.context())["status"] == "COMPLETED"
    [line] = [one for one in caplog.records if "spend record" in one.getMessage()]
    assert line.levelno == logging.WARNING
    (tmp_path / "spend").unlink()
    make(clock).execute(run.context())
    assert outcomes(record) == billed(emulator)


def test_each_request_of_a_chat_is_recorded_with_its_own_outcome_and_cost(chat: Chat, record: SpendStore) -> None:
    # The newest script answers first.
    chat.emulator.script(json={"x": 1})
    chat.emulator.script(text="no data", times=1)
    chat.emulator.script(text='{"x": ', finish_reason="length", times=1)
    chat.ask(output_type=NUMBER, max_repairs=2)
    entries = {entry.request_id: entry for entry in record.read()}
    mine = [entries[bill.request_id] for bill in chat.emulator.bill]
    assert [entry.outcome for entry in mine] == ["truncated", "invalid", "success"]
    assert [entry.cost_micros for entry in mine] == [round(bill.cost * 1e6, 6) for bill in chat.emulator.bill]


def test_a_blocked_reply_is_recorded_although_the_task_fails(chat: Chat, record: SpendStore) -> None:
    chat.emulator.script(block="SAFETY")
    with pytest.raises(AirflowFailException):
        chat.ask()
    assert [entry.outcome for entry in record.read()] == ["blocked"]
    assert [entry.cost_micros for entry in record.read()] == [round(chat.emulator.bill[0].cost * 1e6, 6)]


def test_a_retry_records_what_the_chain_before_it_has_cost(
    chat: Chat, record: SpendStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat.emulator.script(json={"x": 1})
    chat.emulator.script(text="no data", times=1)
    with monkeypatch.context() as patched:
        patched.setattr(FileStore, "write", lambda *_: (_ for _ in ()).throw(OSError("full")))
        chat.ask(output_type=NUMBER)
    chat.ask(output_type=NUMBER)
    assert sum(entry.cost_micros or 0.0 for entry in record.read()) == pytest.approx(
        1e6 * sum(bill.cost for bill in chat.emulator.bill), abs=1e-6
    )
    assert sorted(entry.outcome for entry in record.read()) == ["invalid", "success"]
    assert len(chat.emulator.bill) == 2
