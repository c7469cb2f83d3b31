"""The sensor: poke, reschedule and deferrable, deadlines, and what it hands on."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.compat import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.sensors.request import SegmindRequestSensor
from tests.support.airflow_fakes import INPUTS, Clock, Run, by_hand, hook_by

MODEL = "gemini-3.1-flash-lite"


@pytest.fixture
def handed(emulator: SegmindEmulator, clock: Clock) -> dict[str, Any]:
    emulator.settings(latency=100.0)
    request = hook_by(clock).submit(MODEL, INPUTS)
    return {"request_id": request.request_id, "model": MODEL, "submitted_at": time.time()}


def make(clock: Clock, request_id: Any, **fields: Any) -> Any:
    given = {"task_id": "a_sensor", "request_id": request_id, "deferrable": False, **fields}
    return by_hand(SegmindRequestSensor(**given), clock)


def test_a_poke_polls_once_and_returns_what_the_result_task_accepts(
    clock: Clock, run: Run, handed: dict[str, Any]
) -> None:
    sensor = make(clock, handed)
    assert sensor.poke(run.context()) is False
    clock.ahead += 120
    value = sensor.poke(run.context()).xcom_value
    assert value["status"] == "COMPLETED"
    assert value["metrics"]["cost"] > 0
    assert value["request_id"] == handed["request_id"]


def test_a_deadline_is_measured_from_the_submission(clock: Clock, run: Run, handed: dict[str, Any]) -> None:
    with pytest.raises(AirflowSensorTimeout, match="continues and may be billed"):
        make(clock, {**handed, "submitted_at": time.time() - 90}, timeout=60).poke(run.context())


@pytest.mark.parametrize(
    ("fields", "poked", "polled"),
    [({}, 10.0, None), ({"poll_interval": 0.5}, 0.5, 0.5), ({"poke_interval": 9}, 9, None)],
)
def test_a_poll_interval_holds_in_every_mode_and_without_one_deferred_polls_adapt(
    clock: Clock, run: Run, handed: dict[str, Any], fields: dict[str, Any], poked: float, polled: float | None
) -> None:
    assert make(clock, handed, **fields).poke_interval == poked

    with pytest.raises(TaskDeferred) as deferred:
        make(clock, handed, deferrable=True, sync_wait=0, **fields).execute(run.context())

    assert vars(deferred.value.trigger)["poll_interval"] == polled


@pytest.mark.parametrize("flag", ["soft_fail", "never_fail"])
def test_a_sensor_that_may_not_fail_is_skipped(flag: str, clock: Clock, run: Run, handed: dict[str, Any]) -> None:
    late = {**handed, "submitted_at": time.time() - 90}
    with pytest.raises(AirflowSkipException, match=f"because of {flag}"):
        make(clock, late, timeout=60, **{flag: True}).poke(run.context())


def test_failed_is_final(emulator: SegmindEmulator, clock: Clock, run: Run) -> None:
    emulator.script(fail="blocked by policy")
    request = hook_by(clock).submit(MODEL, INPUTS)
    with pytest.raises(AirflowFailException, match="blocked by policy"):
        make(clock, request.request_id, deferrable=True).execute(run.context())


def test_both_ways_of_waiting_return_the_same(clock: Clock, run: Run, handed: dict[str, Any]) -> None:
    sensor = make(clock, handed, deferrable=True)
    with pytest.raises(TaskDeferred):
        sensor.execute(run.context())
    event = {"request_id": handed["request_id"], "status": "success", "value": {"metrics": {"cost": 0.1}}}
    woken = sensor.execute_complete(run.context(), event)
    clock.ahead += 120
    assert woken.keys() == make(clock, handed, deferrable=True).execute(run.context()).keys()


def refused(trigger: Any, kind: str) -> dict[str, Any]:
    """Return the event of a triggerer that could not poll."""
    known = {"request_id": trigger.request_id, "submitted_at": trigger.submitted_at}
    return {**known, "status": "error", "message": "a look-up", "error_class": kind}


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("kind", ["AirflowRuntimeError", "OSError", "SegmindConnectionError", "SegmindRateLimitError"])
def test_a_sensor_whose_triggerer_could_not_poll_defers_again_to_the_same_deadline(
    kind: str, bare: bool, clock: Clock, run: Run, handed: dict[str, Any]
) -> None:
    request_id = handed["request_id"] if bare else handed
    with pytest.raises(TaskDeferred) as first:
        make(clock, request_id, deferrable=True, sync_wait=0).execute(run.context())
    trigger: Any = first.value.trigger
    # The task is resumed in another process.
    sensor = make(clock, request_id, deferrable=True, sync_wait=0)
    polls = len(clock.slept)
    with pytest.raises(TaskDeferred) as second:
        sensor.execute_complete(run.context(), refused(trigger, kind))
    again: Any = second.value.trigger
    assert again.poll_from > time.time() + 20
    assert (again.submitted_at, again.end_time) == (trigger.submitted_at, trigger.end_time)
    assert len(clock.slept) == polls
    clock.ahead += 120
    assert sensor.execute_complete(run.context(), refused(trigger, kind))["status"] == "COMPLETED"


@pytest.mark.parametrize("kind", ["KeyError", "SegmindConfigError"])
def test_a_sensor_waits_on_its_worker_where_another_attempt_cannot_help(
    kind: str, clock: Clock, run: Run, handed: dict[str, Any]
) -> None:
    sensor = make(clock, handed, deferrable=True, sync_wait=0)
    with pytest.raises(TaskDeferred) as first:
        sensor.execute(run.context())
    assert sensor.execute_complete(run.context(), refused(first.value.trigger, kind))["status"] == "COMPLETED"


def test_a_sensor_whose_deadline_has_passed_does_not_defer_again(
    clock: Clock, run: Run, handed: dict[str, Any]
) -> None:
    late = {**handed, "submitted_at": time.time() - 90}
    sensor = make(clock, late, deferrable=True, timeout=60)
    event = {**late, "status": "error", "message": "a look-up", "error_class": "OSError"}
    with pytest.raises(AirflowSensorTimeout, match="continues and may be billed"):
        sensor.execute_complete(run.context(), event)


def test_a_sensor_that_cannot_read_the_connection_either_defers_again(
    clock: Clock, run: Run, handed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = make(clock, handed["request_id"], deferrable=True, sync_wait=0)
    with pytest.raises(TaskDeferred) as first:
        sensor.execute(run.context())

    def broken(self: Any, **_: Any) -> None:
        raise RuntimeError("the API server is away")

    monkeypatch.setattr(type(sensor.hook), "find_connection", broken)
    trigger: Any = first.value.trigger
    with pytest.raises(TaskDeferred) as second:
        sensor.execute_complete(run.context(), refused(trigger, "OSError"))
    assert vars(second.value.trigger)["end_time"] == trigger.end_time
    with pytest.raises(RuntimeError, match="away"):
        sensor.execute_complete(run.context(), refused(trigger, "KeyError"))


def test_a_body_too_large_for_the_triggerer_is_stored_by_the_worker(
    emulator: SegmindEmulator, clock: Clock, run: Run, tmp_path: Path
) -> None:
    emulator.script(text="long " * 1_000_000, latency=100.0)
    request_id = hook_by(clock).submit(MODEL, INPUTS).request_id
    sensor = make(clock, request_id, deferrable=True, sync_wait=0, output_path=tmp_path.as_uri())
    with pytest.raises(TaskDeferred) as left:
        sensor.execute(run.context())
    clock.ahead += 120
    trigger: Any = left.value.trigger
    trigger.not_before = 0.0

    async def events() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    [event] = asyncio.run(events())
    assert event == {"request_id": request_id, "status": "success"}
    value = sensor.execute_complete(run.context(), event)
    assert value["status"] == "COMPLETED"
    assert (tmp_path / f"{request_id}.json").stat().st_size > 5_000_000
    assert value["uri"].endswith(f"{request_id}.json")


def test_an_expired_result_is_recovered_without_an_output_path(
    emulator: SegmindEmulator, clock: Clock, run: Run
) -> None:
    emulator.settings(models={**emulator.settings()["models"], "painter": "image"})
    request_id = hook_by(clock).submit("painter", INPUTS).request_id
    clock.ahead += 4000
    value = make(clock, request_id).poke(run.context()).xcom_value
    assert value["recovered"] is True
    assert value["output"].startswith("http")


@pytest.mark.parametrize("soft_fail", [False, True])
def test_a_deferral_that_timed_out_polls_once_more(
    soft_fail: bool, clock: Clock, run: Run, handed: dict[str, Any]
) -> None:
    sensor = make(clock, handed, deferrable=True, soft_fail=soft_fail)
    clock.ahead += 120
    value = sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, run.context())
    assert value["status"] == "COMPLETED"


def test_a_deferral_that_timed_out_fails_while_the_request_continues(
    clock: Clock, run: Run, handed: dict[str, Any]
) -> None:
    sensor = make(clock, handed, deferrable=True)
    with pytest.raises(AirflowSensorTimeout, match="continues and may be billed"):
        sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, run.context())


def test_the_body_is_stored_as_soon_as_it_is_complete(
    clock: Clock, run: Run, handed: dict[str, Any], tmp_path: Path
) -> None:
    clock.ahead += 120
    value = make(clock, handed, output_path=tmp_path.as_uri()).poke(run.context()).xcom_value
    assert Path(value["uri"].removeprefix("file://")).name == f"{handed['request_id']}.json"
    assert "output" not in value


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_request_id_fails_at_parse_time(empty: Any) -> None:
    with pytest.raises(Exception, match="'request_id'"):
        SegmindRequestSensor(task_id="a_sensor", request_id=empty)
