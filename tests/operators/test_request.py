"""The operators of one request: their events, deadlines and ends."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_segmind.compat import AirflowFailException
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindRequestTimeoutError, SegmindStateError
from tests.support.airflow_fakes import Clock, Run
from tests.support.request_tasks import deferred, make


def test_execution_timeout_shortens_the_wait_of_the_trigger(emulator: SegmindEmulator, clock: Clock, run: Run) -> None:
    emulator.settings(latency=500.0)
    left = deferred(make(clock, deferrable=True, execution_timeout=timedelta(seconds=90)), run)
    assert left.trigger.end_time == pytest.approx(run.ti.start_date.timestamp() + 90)


@pytest.mark.parametrize("payload", [None, "text", {}, {"status": "success"}, {"status": "odd", "request_id": "r"}, []])
def test_a_foreign_event_is_no_reason_to_submit(
    payload: Any, emulator: SegmindEmulator, clock: Clock, run: Run
) -> None:
    emulator.settings(latency=500.0)
    task = make(clock, deferrable=True)
    deferred(task, run)
    clock.ahead += 600
    if payload is None:
        assert task.execute_complete(run.context(), None)["status"] == "COMPLETED"
    else:
        with pytest.raises(SegmindStateError, match="not a Segmind event"):
            task.execute_complete(run.context(), payload)
    assert len(emulator.posts()) == 1


@pytest.mark.parametrize(
    ("status", "raised", "words"),
    [
        ("failed", AirflowFailException, "content policy"),
        ("timeout", SegmindRequestTimeoutError, "continues"),
    ],
)
def test_an_event_of_a_failure_becomes_its_error(
    status: str, raised: type[Exception], words: str, emulator: SegmindEmulator, clock: Clock, run: Run
) -> None:
    emulator.settings(latency=500.0)
    task = make(clock, deferrable=True)
    left = deferred(task, run)
    event = {"request_id": left.trigger.request_id, "status": status, "message": f"{words}", "error_class": "KeyError"}
    with pytest.raises(raised, match=words):
        task.execute_complete(run.context(), event)
    assert len(emulator.posts()) == 1


def test_a_deferral_that_timed_out_polls_once_more(emulator: SegmindEmulator, clock: Clock, run: Run) -> None:
    emulator.settings(latency=500.0)
    task = make(clock, deferrable=True)
    deferred(task, run)
    clock.ahead += 600
    value = task.resume_execution("__fail__", {"error": "Trigger timeout"}, run.context())
    assert value["status"] == "COMPLETED"
    assert len(emulator.posts()) == 1


def test_a_kill_warns_in_one_line_that_the_request_continues(
    emulator: SegmindEmulator, clock: Clock, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    task = make(clock)
    task.on_kill()
    assert caplog.text == ""
    task.execute(run.context())
    caplog.clear()
    task.on_kill()
    assert len(caplog.records) == 1
    assert emulator.jobs[0].request_id in caplog.text
    assert "may be billed" in caplog.text


def test_without_xcom_push_nothing_is_pushed(emulator: SegmindEmulator, clock: Clock, run: Run) -> None:
    make(clock, do_xcom_push=False).execute(run.context())
    assert run.ti.pushed == {}


def test_after_a_deferral_no_error_says_that_nothing_was_sent(
    emulator: SegmindEmulator, clock: Clock, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.settings(latency=600.0)
    deferred(make(clock, deferrable=True), run)
    assert len(emulator.jobs) == 1
    again = make(clock, deferrable=True)
    monkeypatch.setattr(again, "check_rendered", wrong)
    with pytest.raises(AirflowFailException, match="Nothing more was sent; a request had been submitted before"):
        again.execute_complete(run.context(), None)


def wrong() -> None:
    raise SegmindConfigError("'inputs' cannot work. Nothing was sent.")
