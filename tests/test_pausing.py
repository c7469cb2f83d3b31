"""The switch that stops all spending: nothing is sent while it is on, and nothing that was paid for is lost."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind import pausing
from airflow_provider_segmind.client.client import AsyncSegmindClient
from airflow_provider_segmind.compat import TaskDeferred
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.exceptions import SegmindPausedError
from airflow_provider_segmind.execution import enrichment as execution
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator
from airflow_provider_segmind.operators.request import SegmindRunOperator, SegmindSubmitOperator
from airflow_provider_segmind.pausing import PauseWatch, pause_reason
from airflow_provider_segmind.triggers import spending as triggers
from airflow_provider_segmind.triggers.spending import SegmindPauseTrigger
from tests.support.airflow_fakes import INPUTS, Clock, Run, by_hand
from tests.support.chat_tasks import NUMBER, Chat
from tests.support.tasks import chat, clock, emulator, run

__all__ = ["chat", "clock", "emulator", "run"]
MODEL = "gemini-3.1-flash-lite"
SWITCH = "AIRFLOW_VAR_SEGMIND_PAUSED"


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Pause spending; the function sets the switch to another value."""

    def switch(value: str) -> None:
        monkeypatch.setenv(SWITCH, value)

    switch("budget of the month is spent")
    return switch


def task(clock: Clock, kind: type[SegmindSubmitOperator] = SegmindRunOperator, **fields: Any) -> Any:
    return by_hand(kind(task_id="a_task", model=MODEL, inputs=INPUTS, **fields), clock)


def resume_after(clock: Clock, seconds: float, resume: Callable[[], None]) -> None:
    """Call ``resume`` when the task has slept for so long."""
    sleep = clock.sleep

    def sleeping(given: float) -> None:
        sleep(given)
        if sum(clock.slept) >= seconds:
            resume()

    clock.sleep = sleeping  # type: ignore[method-assign]


# The switch.


@pytest.mark.parametrize("value", ["", "0", "false", "False", "no", " off ", "null"])
def test_a_value_that_says_no_does_not_pause(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, value)
    assert pause_reason() is None


def test_without_the_variable_spending_is_allowed() -> None:
    assert pause_reason() is None


def test_any_other_value_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "ask Finance first")
    assert pause_reason() == "ask Finance first"


def test_a_switch_that_cannot_be_read_stops_spending(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: Any) -> None:
        raise ConnectionError("the database is gone")

    monkeypatch.setattr(pausing, "read_variable", unreadable)
    assert "cannot be read (ConnectionError)" in str(pause_reason())


def test_a_variable_reported_missing_by_an_api_that_is_down_stops_spending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_segmind.variables.variable_is_missing", lambda key: False)
    assert "cannot be read" in str(pause_reason())


def test_a_table_reads_the_switch_at_most_every_ten_seconds() -> None:
    now, read = [0.0], [0]

    def reason() -> str | None:
        read[0] += 1
        return "stop" if now[0] >= 20 else None

    watch = PauseWatch(reason, clock=lambda: now[0])
    changes = []
    for second in range(60):
        now[0] = float(second)
        if watch.changed():
            changes.append((second, watch.reason))
    assert read == [6]
    assert changes == [(20, "stop")]


def test_a_switch_that_was_not_read_for_twenty_seconds_pauses_a_table() -> None:
    now = [0.0]
    watch = PauseWatch(lambda: None, clock=lambda: now[0])
    watch.changed()
    shown = []
    for second in (0.0, 19.0, 21.0):
        now[0] = second
        shown.append(watch.current())
    assert shown[:2] == [None, None]
    assert "could not be read for 21 seconds" in str(shown[2])
    watch.changed()
    assert watch.current() is None


# Single requests.


def test_the_hook_sends_nothing_while_paused(
    emulator: SegmindEmulator, paused: Callable[[str], None], clock: Clock
) -> None:
    with SegmindHook().get_conn() as client, pytest.raises(SegmindPausedError, match="budget of the month") as caught:
        client.submit(MODEL, INPUTS)
    assert caught.value.billed is False
    assert emulator.posts() == []
    with pytest.raises(SegmindPausedError):
        SegmindHook().run_sync(MODEL, INPUTS)
    assert emulator.posts() == []


async def test_the_async_client_of_the_hook_sends_nothing_while_paused(
    emulator: SegmindEmulator, paused: Callable[[str], None]
) -> None:
    async with await SegmindHook().get_async_conn() as client:
        with pytest.raises(SegmindPausedError):
            await client.submit(MODEL, INPUTS)
        assert (await client.get_credits()).total
    assert emulator.posts() == []


@pytest.mark.parametrize("kind", [SegmindSubmitOperator, SegmindRunOperator])
def test_a_paused_task_waits_and_submits_once_when_spending_is_allowed_again(
    kind: type[SegmindSubmitOperator],
    emulator: SegmindEmulator,
    clock: Clock,
    run: Run,
    paused: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    resume_after(clock, 60, lambda: paused("false"))
    fields = {} if kind is SegmindSubmitOperator else {"deferrable": False}
    with caplog.at_level(logging.INFO):
        task(clock, kind, **fields).execute(run.context())

    assert len(emulator.posts()) == len(emulator.bill) == 1
    assert "Spending is paused: budget of the month is spent" in caplog.text
    # Airflow has a command of this package only from 3.2 on.
    assert "'python -m airflow_provider_segmind resume' does that" in caplog.text
    assert "Spending is allowed again" in caplog.text


def test_a_paused_task_that_is_deferrable_defers_and_begins_again(
    emulator: SegmindEmulator, clock: Clock, run: Run, paused: Callable[[str], None]
) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        task(clock, deferrable=True).execute(run.context())
    assert deferred.value.method_name == "execute_after_pause"
    path, arguments = deferred.value.trigger.serialize()
    assert path == "airflow_provider_segmind.triggers.spending.SegmindPauseTrigger"
    assert json.loads(json.dumps(arguments))["until"] is None
    assert deferred.value.timeout is None
    assert emulator.posts() == []

    paused("false")
    result = task(clock, deferrable=True).execute_after_pause(run.context(), {"resume_state": None})

    assert result["status"] == "COMPLETED"
    assert len(emulator.bill) == 1


def test_a_task_whose_time_is_up_while_paused_fails_with_the_reason(
    emulator: SegmindEmulator, clock: Clock, paused: Callable[[str], None]
) -> None:
    run = Run(start_date=datetime.now(UTC) - timedelta(hours=1))
    with pytest.raises(SegmindPausedError, match="budget of the month"):
        task(clock, deferrable=True, execution_timeout=timedelta(minutes=1)).execute(run.context())
    assert emulator.posts() == []


def test_a_follow_up_waits_as_well_and_the_first_answer_is_not_paid_again(
    chat: Chat, paused: Callable[[str], None], tmp_path: Path
) -> None:
    paused("false")
    chat.emulator.script(text="no data", times=1)
    chat.emulator.script(match="The validator says", json={"x": 1})
    fields = {"output_type": NUMBER, "deferrable": True, "output_path": str(tmp_path)}
    with pytest.raises(TaskDeferred) as deferred:
        pausing_after_the_first(chat, paused, fields)
    assert deferred.value.method_name == "execute_after_pause"
    assert len(chat.emulator.bill) == 1

    paused("")
    chat.emulator.advance(3700)
    assert chat.task(**fields).execute_after_pause(chat.run.context()) == {"x": 1}

    assert len(chat.emulator.bill) == 2


@pytest.mark.parametrize(("deferrable", "hours"), [(True, 2), (True, 0.1), (False, 2)])
def test_a_follow_up_whose_first_answer_is_not_stored_keeps_it_on_its_worker(
    chat: Chat, paused: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, deferrable: bool, hours: float
) -> None:
    paused("false")
    monkeypatch.setattr("airflow_provider_segmind.execution.request.CHECK_INTERVAL", 0.01)
    chat.emulator.script(text="no data", times=1)
    chat.emulator.script(match="The validator says", json={"x": 1})
    task = chat.task(output_type=NUMBER, deferrable=deferrable)
    client = task.hook.get_conn()
    check, asked = client.may_spend, [0]

    def may_spend() -> None:
        asked[0] += 1
        if asked[0] == 5:
            # Segmind has dropped the first reply by now.
            chat.emulator.advance(3600 * hours)
            paused("")
        check()
        if asked[0] == 1:
            paused("stop")

    client.may_spend = may_spend

    assert task.execute(chat.run.context()) == {"x": 1}
    assert len(chat.emulator.bill) == 2


def pausing_after_the_first(chat: Chat, paused: Callable[[str], None], fields: Any) -> None:
    task = chat.task(**fields)
    client = task.hook.get_conn()
    check = client.may_spend

    def once() -> None:
        check()
        paused("stop")

    client.may_spend = once
    task.execute(chat.run.context())


# Tables.


def table(folder: Path, rows: int, **fields: Any) -> Any:
    source = [{"id": number, "thing": f"thing {number}"} for number in range(rows)]
    made: Any = SegmindEnrichFileOperator(
        task_id="a_task",
        model=MODEL,
        key="id",
        prompt="{thing}?",
        source=source,
        output_path=str(folder / "out.jsonl"),
        **fields,
    )
    made._cached_logger = made._log = logging.getLogger("a_task")
    return made


def test_a_table_that_is_paused_at_its_start_defers_before_anything_is_read(
    emulator: SegmindEmulator, paused: Callable[[str], None], tmp_path: Path, run: Run
) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        table(tmp_path, 3, deferrable=True).execute(run.context())
    assert isinstance(deferred.value.trigger, SegmindPauseTrigger)
    assert emulator.posts() == []

    paused("false")
    manifest = table(tmp_path, 3, deferrable=True).execute_complete(run.context(), {"resume_state": None})

    assert manifest["outcomes"]["success"] == len(emulator.bill) == 3


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_table_that_is_paused_in_the_middle_sends_nothing_more_and_continues_later(
    deferrable: bool,
    emulator: SegmindEmulator,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Rows take 0.3 s in two slots; the switch is read ten times a second and is on from the fourth row to second 6."""
    emulator.settings(latency=0.3)
    monkeypatch.setattr(pausing, "CHECK_INTERVAL", 0.1)
    monkeypatch.setattr("airflow_provider_segmind.execution.enrichment.REFRESH_INTERVAL", 0.1)
    began: list[float] = []
    sent_while_paused: list[int] = []

    def reason() -> str | None:
        sent = len(emulator.posts())
        if sent >= 4 and not began:
            began.append(time.monotonic())
        if began and time.monotonic() - began[0] < 4:
            sent_while_paused.append(sent)
            return "stop"
        return None

    monkeypatch.setattr(pausing, "pause_reason", reason)
    fields = {"deferrable": deferrable, "concurrency": 2}
    event: dict[str, Any] | None = None
    with caplog.at_level(logging.INFO):
        try:
            manifest = table(tmp_path, 20, **fields).execute(run.context())
        except TaskDeferred as deferred:
            # Any other trigger has no resume_state of this form, and the table would not be complete below.
            event = {"resume_state": vars(deferred.trigger)["resume_state"]}
            time.sleep(max(0.0, began[0] + 4.1 - time.monotonic()))
            manifest = table(tmp_path, 20, **fields).execute_complete(run.context(), event)

    assert (event is not None) is deferrable
    assert "Spending is paused: stop" in caplog.text
    # What had its permit when the switch was read is still sent.
    assert sent_while_paused[-1] <= sent_while_paused[0] + 2
    assert manifest["outcomes"]["success"] == 20
    assert len(emulator.posts()) == len(emulator.bill) == 20


def test_a_pause_that_begins_before_the_engine_of_a_table_is_kept(
    emulator: SegmindEmulator,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    starting, passed_on = threading.Event(), threading.Event()
    create = AsyncSegmindClient.create

    async def slow_to_create(config: Any) -> AsyncSegmindClient:
        starting.set()
        # The engine comes after the client.
        while not passed_on.is_set():
            await asyncio.sleep(0.01)
        return await create(config)

    class Watch(PauseWatch):
        """Off until the engine's loop runs, then on; the second look after that says that the first was passed on."""

        def changed(self) -> bool:
            if not starting.is_set():
                return False
            if self.reason is not None:
                passed_on.set()
                return False
            self.reason = "stop"
            return True

    monkeypatch.setattr(execution, "REFRESH_INTERVAL", 0.05)
    monkeypatch.setattr(execution, "PauseWatch", Watch)
    monkeypatch.setattr(AsyncSegmindClient, "create", slow_to_create)
    with pytest.raises(TaskDeferred) as deferred:
        table(tmp_path, 3, deferrable=True).execute(run.context())

    assert isinstance(deferred.value.trigger, SegmindPauseTrigger)
    assert "Spending is paused: stop" in caplog.text
    assert emulator.posts() == []


def test_a_table_whose_switch_cannot_be_read_to_the_end_sends_nothing_more_until_it_is(
    emulator: SegmindEmulator, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows take 0.3 s in two slots; the read that begins after the fourth row takes 4 s, and 0.5 s are allowed."""
    emulator.settings(latency=0.3)
    monkeypatch.setattr(pausing, "CHECK_INTERVAL", 0.1)
    monkeypatch.setattr(pausing, "LONGEST_SILENCE", 0.5)
    monkeypatch.setattr("airflow_provider_segmind.execution.enrichment.REFRESH_INTERVAL", 0.1)
    sent: list[int] = []

    def hang() -> None:
        if len(emulator.posts()) >= 4 and not sent:
            for _ in range(2):
                time.sleep(2)
                sent.append(len(emulator.posts()))

    monkeypatch.setattr(pausing, "pause_reason", hang)
    manifest = table(tmp_path, 20, concurrency=2).execute(run.context())

    assert sent[0] == sent[1] < 20
    assert manifest["outcomes"]["success"] == len(emulator.bill) == 20


# The trigger.


async def test_the_trigger_fires_when_spending_is_allowed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons: list[str | None] = ["stop", "stop", None]
    monkeypatch.setattr(triggers, "CHECK_INTERVAL", 0.02)
    monkeypatch.setattr(triggers, "_pause_read", (float("-inf"), True))
    monkeypatch.setattr(triggers, "pause_reason", lambda: reasons.pop(0) if len(reasons) > 1 else reasons[0])
    trigger = SegmindPauseTrigger(resume_state={"posts": 3}, a_later_argument=1)

    [event] = [event async for event in trigger.run()]

    assert event.payload == {"resume_state": {"posts": 3}}
    assert reasons == [None]


async def test_a_thousand_paused_tasks_share_one_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[float] = []

    def reason() -> str:
        reads.append(time.monotonic())
        return "stop"

    monkeypatch.setattr(triggers, "_pause_read", (float("-inf"), True))
    monkeypatch.setattr(triggers, "pause_reason", reason)
    until = time.time() + 0.5
    fired = await asyncio.gather(
        *(anext(aiter(SegmindPauseTrigger(until=until).run())) for _ in range(1000))  # type: ignore[call-overload]
    )
    assert len(fired) == 1000
    assert len(reads) == 1
