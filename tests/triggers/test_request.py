"""The trigger: one event, plain JSON, never a blocked loop."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindStateError
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.triggers import request as triggers
from airflow_provider_segmind.triggers.events import RequestEvent
from airflow_provider_segmind.triggers.request import (
    SegmindBudgetTrigger,
    SegmindInFlightTrigger,
    SegmindRequestTrigger,
)
from tests.support.airflow_fakes import CANARY, INPUTS, KEY, Clock, hook_by

MODEL = "gemini-3.1-flash-lite"


@pytest.fixture
def strict() -> Iterator[None]:
    """Forbid blocking calls that our package makes on a running loop."""
    guard = BlockBuster("airflow_provider_segmind")
    guard.activate()
    yield
    guard.deactivate()


def make(clock: Clock, model: str = MODEL, **fields: Any) -> SegmindRequestTrigger:
    request = hook_by(clock).submit(model, INPUTS)
    given = {"submitted_at": time.time(), "end_time": time.time() + 60, "poll_interval": 0.05, "model": model}
    return SegmindRequestTrigger(request_id=request.request_id, **{**given, **fields})


async def fire(trigger: SegmindRequestTrigger) -> dict[str, Any]:
    events = [event async for event in trigger.run()]
    assert len(events) == 1
    payload: dict[str, Any] = json.loads(json.dumps(events[0].payload))
    assert KEY not in str(payload)
    return payload


async def test_a_stored_result_comes_as_one_event(
    emulator: SegmindEmulator, clock: Clock, tmp_path: Path, strict: None
) -> None:
    trigger = await asyncio.to_thread(make, clock, "seedream-4.5", fetch=True, output_path=tmp_path.as_uri())
    event = RequestEvent.read(await fire(trigger))
    assert event.status == "success"
    assert event.result.manifest.size > 0
    assert emulator.leaks == []


async def test_a_trigger_that_only_waits_reports_metrics_and_no_body(emulator: SegmindEmulator, clock: Clock) -> None:
    event = await fire(make(clock))
    assert set(event["value"]) == {"metrics"}


async def test_a_result_too_large_for_a_triggerer_is_left_to_the_task(emulator: SegmindEmulator, clock: Clock) -> None:
    large = "x" * (5 << 20)
    emulator.script(text=large, match=CANARY, times=1)
    trigger = make(clock, fetch=True)

    event = RequestEvent.read(await fire(trigger))

    assert (event.status, event.result) == ("success", None)
    hook = hook_by(clock)
    assert large in hook.get_result(trigger.request_id).output
    hook.close()


async def test_an_event_is_held_back_until_it_is_harmless(emulator: SegmindEmulator, clock: Clock) -> None:
    started = time.time()
    await fire(make(clock, not_before=started + 0.4))
    assert time.time() - started >= 0.4


async def test_a_trigger_of_a_further_attempt_polls_after_a_pause_but_not_after_its_deadline(
    emulator: SegmindEmulator, clock: Clock
) -> None:
    started = time.time()
    assert (await fire(make(clock, poll_from=started + 0.4)))["status"] == "success"
    assert time.time() - started >= 0.4
    emulator.settings(latency=50.0)
    assert (await fire(make(clock, poll_from=time.time() + 600, end_time=time.time() + 0.3)))["status"] == "timeout"


async def test_failed_deadline_and_bugs_each_have_an_event(
    emulator: SegmindEmulator, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.script(fail="blocked", match=CANARY, times=1)
    assert (await fire(make(clock)))["status"] == "failed"
    emulator.settings(latency=50.0)
    assert (await fire(make(clock, end_time=time.time())))["status"] == "timeout"

    async def broken(self: SegmindHook) -> Any:
        raise KeyError("a bug")

    trigger = make(clock, segmind_conn_id="not_looked_up_yet")
    monkeypatch.setattr(SegmindHook, "get_async_config", broken)
    event = await fire(trigger)
    assert (event["status"], event["error_class"]) == ("error", "KeyError")
    assert event["submitted_at"] == trigger.submitted_at


async def test_a_cancelled_trigger_sends_no_event(emulator: SegmindEmulator, clock: Clock) -> None:
    emulator.settings(latency=50.0)
    task = asyncio.create_task(fire(make(clock)))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_trigger_is_rebuilt_from_what_it_serialises_and_from_newer_arguments(
    emulator: SegmindEmulator, clock: Clock
) -> None:
    path, kwargs = make(clock, fetch=True, output_path="memory://x").serialize()
    assert path == "airflow_provider_segmind.triggers.request.SegmindRequestTrigger"
    again = SegmindRequestTrigger(**json.loads(json.dumps(kwargs)), of_tomorrow=1)
    assert again.serialize() == (path, kwargs)


# Places in flight.


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the store says next; the last answer is repeated."""
    found: list[Any] = [0]

    def free_places(_: str) -> float:
        answer = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    monkeypatch.setattr(triggers, "_places", {})
    monkeypatch.setattr(triggers, "PLACE_INTERVAL", 0.05)
    monkeypatch.setattr(triggers, "_free_places", free_places)
    return found


async def test_a_task_waits_until_a_place_in_flight_is_free(places: list[Any]) -> None:
    places[:] = [0, 0, 1]
    trigger = SegmindInFlightTrigger(resume_state={"posts": 3}, a_later_argument=1)

    [event] = [event async for event in trigger.run()]

    assert event.payload == {"resume_state": {"posts": 3}}
    assert places == [1]


async def test_as_many_tasks_are_resumed_as_there_are_places(places: list[Any]) -> None:
    places[:] = [3]
    waiting = [asyncio.ensure_future(anext(aiter(SegmindInFlightTrigger().run()))) for _ in range(50)]  # type: ignore[call-overload]
    await asyncio.sleep(0.5)
    resumed = sum(one.done() for one in waiting)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)

    assert resumed == 3


async def test_a_store_that_does_not_answer_is_asked_again_and_warned_of_once(
    places: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SegmindInFlightTrigger, "log", logging.getLogger("a_trigger"), raising=False)
    places[:] = [SegmindStateError("silent"), SegmindStateError("silent"), RuntimeError("no Connection"), 1]

    [_] = [event async for event in SegmindInFlightTrigger().run()]

    assert caplog.text.count("The budget store could not be reached") == 1


async def test_a_task_is_resumed_to_say_what_is_wrong_with_a_limit(places: list[Any]) -> None:
    places[:] = [SegmindConfigError("the limit cannot be read")]

    assert [event async for event in SegmindInFlightTrigger().run()]


async def test_a_task_is_resumed_at_its_deadline_without_a_place(places: list[Any]) -> None:
    began = time.time()

    [_] = [event async for event in SegmindInFlightTrigger(until=began + 0.3).run()]

    assert 0.3 <= time.time() - began < 30


async def test_one_task_is_resumed_now_and_then_to_return_the_places_of_dead_ones(
    places: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "SETTLE_INTERVAL", 0.2)
    waiting = [asyncio.ensure_future(anext(aiter(SegmindInFlightTrigger().run()))) for _ in range(50)]  # type: ignore[call-overload]
    await asyncio.sleep(1.0)
    resumed = sum(one.done() for one in waiting)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)

    assert 1 <= resumed <= 5


def test_a_trigger_for_a_place_keeps_its_arguments() -> None:
    trigger = SegmindInFlightTrigger(segmind_conn_id="c", until=5.0, resume_state={"a": 1}, not_before=2.0)

    path, arguments = trigger.serialize()

    assert path == "airflow_provider_segmind.triggers.request.SegmindInFlightTrigger"
    assert SegmindInFlightTrigger(**arguments).serialize() == (path, arguments)


async def test_a_window_that_turned_while_no_triggerer_ran_resumes_its_task_at_once() -> None:
    began = time.time()

    [event] = [event async for event in SegmindBudgetTrigger(until=began - 7200, not_before=0.0).run()]

    assert event.payload == {}
    assert time.time() - began < 5
