"""The trigger: one event, plain JSON, never a blocked loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.triggers.events import RequestEvent
from tests.support.airflow_fakes import CANARY, Clock, hook_by
from tests.support.request_triggers import fire, make


@pytest.fixture
def strict() -> Iterator[None]:
    """Forbid blocking calls that our package makes on a running loop."""
    guard = BlockBuster("airflow_provider_segmind")
    guard.activate()
    yield
    guard.deactivate()


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
