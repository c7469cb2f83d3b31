"""Triggers that wait until spending may go on."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import pytest

from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindStateError
from airflow_provider_segmind.triggers import spending as triggers
from airflow_provider_segmind.triggers.spending import SegmindBudgetTrigger, SegmindInFlightTrigger


@pytest.fixture
def slots(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the store says next; the last answer is repeated."""
    found: list[Any] = [0]

    def free_slots(_: str) -> float:
        answer = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    monkeypatch.setattr(triggers, "_slots", {})
    monkeypatch.setattr(triggers, "SLOT_INTERVAL", 0.05)
    monkeypatch.setattr(triggers, "_free_slots", free_slots)
    return found


async def test_a_task_waits_until_a_slot_is_free(slots: list[Any]) -> None:
    slots[:] = [0, 0, 1]
    trigger = SegmindInFlightTrigger(resume_state={"posts": 3}, a_later_argument=1)

    [event] = [event async for event in trigger.run()]

    assert event.payload == {"resume_state": {"posts": 3}}
    assert slots == [1]


async def test_as_many_tasks_are_resumed_as_there_are_slots(slots: list[Any]) -> None:
    slots[:] = [3]
    waiting = [asyncio.ensure_future(anext(aiter(SegmindInFlightTrigger().run()))) for _ in range(50)]  # type: ignore[call-overload]
    await asyncio.sleep(0.5)
    resumed = sum(one.done() for one in waiting)
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)

    assert resumed == 3


async def test_a_store_that_does_not_answer_is_asked_again_and_warned_of_once(
    slots: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SegmindInFlightTrigger, "log", logging.getLogger("a_trigger"), raising=False)
    slots[:] = [SegmindStateError("silent"), SegmindStateError("silent"), RuntimeError("no Connection"), 1]

    [_] = [event async for event in SegmindInFlightTrigger().run()]

    assert caplog.text.count("The budget store could not be reached") == 1


async def test_a_task_is_resumed_to_say_what_is_wrong_with_a_limit(slots: list[Any]) -> None:
    slots[:] = [SegmindConfigError("the limit cannot be read")]

    assert [event async for event in SegmindInFlightTrigger().run()]


async def test_a_task_is_resumed_at_its_deadline_without_a_slot(slots: list[Any]) -> None:
    began = time.time()

    [_] = [event async for event in SegmindInFlightTrigger(until=began + 0.3).run()]

    assert 0.3 <= time.time() - began < 30


async def test_one_task_is_resumed_now_and_then_to_return_the_slots_of_dead_ones(
    slots: list[Any], monkeypatch: pytest.MonkeyPatch
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

    assert path == "airflow_provider_segmind.triggers.spending.SegmindInFlightTrigger"
    assert SegmindInFlightTrigger(**arguments).serialize() == (path, arguments)


async def test_a_window_that_turned_while_no_triggerer_ran_resumes_its_task_at_once() -> None:
    began = time.time()

    [event] = [event async for event in SegmindBudgetTrigger(until=began - 7200, not_before=0.0).run()]

    assert event.payload == {}
    assert time.time() - began < 5
