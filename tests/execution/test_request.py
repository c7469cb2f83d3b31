"""One task from submit to result: inline, deferred, resumed, cleared, and by policy."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.compat import AirflowFailException, ObjectStoragePath, TaskDeferred
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.exceptions import (
    SegmindConfigError,
    SegmindRequestExpiredError,
    SegmindRequestTimeoutError,
    SegmindStateError,
)
from airflow_provider_segmind.operators.request import SegmindResultOperator, SegmindSubmitOperator
from airflow_provider_segmind.task_state import PathTaskState
from airflow_provider_segmind.triggers.events import RequestEvent
from tests.support.airflow_fakes import CANARY, INPUTS, KEY, Clock, Run, by_hand
from tests.support.request_tasks import MODEL, deferred, make


def test_a_request_that_ends_within_sync_wait_is_never_deferred(
    emulator: SegmindEmulator, clock: Clock, run: Run
) -> None:
    emulator.settings(latency=4.0)
    assert make(clock, deferrable=True).execute(run.context())["status"] == "COMPLETED"
    assert run.ti.pushed["request_id"] == emulator.jobs[0].request_id


def test_what_a_deferral_stores_is_plain_json_without_key_or_prompt(
    emulator: SegmindEmulator, clock: Clock, run: Run
) -> None:
    emulator.settings(latency=500.0)
    left = deferred(make(clock, deferrable=True, output_path="memory://out"), run)
    _, kwargs = left.trigger.serialize()
    text = json.dumps(kwargs)
    assert KEY not in text
    assert CANARY not in text
    assert kwargs["end_time"] == pytest.approx(kwargs["submitted_at"] + 3600)
    assert left.timeout > timedelta(seconds=3500)


@pytest.mark.parametrize("timeout", [sys.maxsize, 1e15, 1e200])
def test_a_timeout_without_end_still_defers_a_paid_request(
    emulator: SegmindEmulator, clock: Clock, run: Run, timeout: float
) -> None:
    emulator.settings(latency=500.0)
    left = deferred(make(clock, deferrable=True, timeout=timeout), run)
    assert datetime.now(UTC) + left.timeout > datetime.now(UTC) + timedelta(days=365)
    assert len(emulator.jobs) == 1


RETRYABLE = ["AirflowRuntimeError", "TimeoutError", "SegmindConnectionError", "SegmindServerError", "SegmindStateError"]


def refused(left: TaskDeferred, kind: str, **fields: Any) -> dict[str, Any]:
    """Return the event of a triggerer that could not poll."""
    trigger = left.trigger
    known = {"request_id": trigger.request_id, "submitted_at": trigger.submitted_at}
    return {**known, "status": "error", "message": "a look-up", "error_class": kind, **fields}


def again(task: Any, run: Run, event: dict[str, Any]) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        task.execute_complete(run.context(), event)
    return caught.value


@pytest.mark.parametrize("kind", ["KeyError", "TypeError", "SegmindConfigError", "SegmindAuthenticationError"])
def test_an_error_that_another_attempt_cannot_resolve_is_waited_out_by_the_worker(
    kind: str, emulator: SegmindEmulator, clock: Clock, run: Run
) -> None:
    emulator.settings(latency=500.0)
    task = make(clock, deferrable=True)
    left = deferred(task, run)

    assert task.execute_complete(run.context(), refused(left, kind))["status"] == "COMPLETED"
    assert len(emulator.posts()) == 1


@pytest.mark.parametrize("kind", RETRYABLE)
def test_a_task_whose_triggerer_could_not_poll_defers_again_after_one_poll(
    kind: str, emulator: SegmindEmulator, clock: Clock, run: Run
) -> None:
    emulator.settings(latency=500.0)
    task = make(clock, deferrable=True)
    left = deferred(task, run)
    slept = sum(clock.slept)

    deferral = again(task, run, refused(left, kind))

    assert 26 < deferral.trigger.poll_from - clock() < 34
    assert (deferral.trigger.request_id, deferral.trigger.end_time) == (left.trigger.request_id, left.trigger.end_time)
    assert sum(clock.slept) == slept
    assert len(emulator.posts()) == 1


@pytest.mark.parametrize("kind", RETRYABLE)
def test_a_worker_that_finds_the_request_completed_does_not_defer_again(
    kind: str, emulator: SegmindEmulator, clock: Clock, run: Run
) -> None:
    emulator.settings(latency=500.0)
    task = make(clock, deferrable=True)
    left = deferred(task, run)
    clock.ahead += 600

    assert task.execute_complete(run.context(), refused(left, kind))["status"] == "COMPLETED"


def test_pauses_grow_so_that_a_task_is_resumed_some_20_times_before_its_worker_fetches_the_result(
    emulator: SegmindEmulator, clock: Clock, run: Run
) -> None:
    emulator.settings(latency=3400.0)
    task = make(clock, deferrable=True)
    left = deferred(task, run)
    resumed = 0
    for _ in range(200):
        try:
            value = task.execute_complete(run.context(), refused(left, "OSError"))
            break
        except TaskDeferred as deferral:
            resumed += 1
            clock.ahead = max(clock.ahead, deferral.trigger.poll_from - time.time())
    assert value["status"] == "COMPLETED"
    assert 15 <= resumed <= 30
    assert len(emulator.posts()) == 1


@pytest.mark.parametrize(
    "limits", [{"timeout": 300}, {"execution_timeout": timedelta(seconds=300)}, {"timeout": 300, "poll_interval": 1}]
)
def test_the_deadline_ends_a_task_whose_triggerer_never_works(
    limits: dict[str, Any], emulator: SegmindEmulator, clock: Clock, run: Run
) -> None:
    emulator.settings(latency=3400.0)
    task = make(clock, deferrable=True, **limits)
    left = deferred(task, run)
    started = run.ti.start_date

    ends = []

    def resume_often() -> None:
        for _ in range(20):
            context = run.context()
            context["ti"].start_date = started
            try:
                task.execute_complete(context, refused(left, "OSError"))
            except TaskDeferred as deferral:
                ends.append(deferral.trigger.end_time)
                clock.ahead = deferral.trigger.poll_from - time.time()

    with pytest.raises(SegmindRequestTimeoutError, match="continues"):
        resume_often()
    assert ends == pytest.approx([left.trigger.end_time] * len(ends))
    assert len(ends) > 3


@pytest.mark.parametrize("kind", RETRYABLE)
def test_a_worker_that_cannot_read_the_connection_either_defers_again(
    kind: str, emulator: SegmindEmulator, clock: Clock, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.settings(latency=500.0)
    task = make(clock, deferrable=True, output_path="memory://out/answer.json")
    left = deferred(task, run)

    def broken(self: Any, **_: Any) -> None:
        raise RuntimeError("the API server is away")

    monkeypatch.setattr(type(task.hook), "find_connection", broken)
    deferral = again(task, run, refused(left, kind))

    assert deferral.trigger.poll_from > time.time() + 20
    assert deferral.trigger.end_time == left.trigger.end_time
    # The worker fetches the result, because what the Connection says about its destination is not known here.
    assert (deferral.trigger.fetch, deferral.trigger.output_path, deferral.trigger.max_xcom_bytes) == (True, None, 0)
    for event in (refused(left, "KeyError"), refused(left, kind, submitted_at=time.time() - 4000), None):
        with pytest.raises(RuntimeError, match="away"):
            task.execute_complete(run.context(), event)


def test_an_event_of_another_request_is_ignored(emulator: SegmindEmulator, clock: Clock, run: Run) -> None:
    emulator.settings(latency=500.0)
    task = make(clock, deferrable=True)
    deferred(task, run)
    clock.ahead += 600
    event = {"request_id": "r-other", "status": "success", "value": {"output": "not ours"}}
    assert task.execute_complete(run.context(), event)["request_id"] == emulator.jobs[0].request_id


@pytest.mark.parametrize("with_event", [True, False])
def test_a_record_that_is_gone_while_deferred_costs_nothing(
    with_event: bool, emulator: SegmindEmulator, clock: Clock, run: Run
) -> None:
    emulator.settings(latency=500.0)
    task = make(clock, deferrable=True)
    left = deferred(task, run)
    run.store.values.clear()
    clock.ahead += 600
    if with_event:
        event = {"request_id": left.trigger.request_id, "status": "success"}
        assert task.execute_complete(run.context(), event)["status"] == "COMPLETED"
        assert run.store.record["request_id"] == left.trigger.request_id
    else:
        with pytest.raises(SegmindStateError, match="nothing was submitted again"):
            task.execute_complete(run.context(), None)
    assert len(emulator.posts()) == 1


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("kept_under", ["output_path", "state_path", "configured state_path", "a file"])
def test_a_task_whose_state_airflow_has_emptied_is_paid_once_where_a_record_is_kept(
    kept_under: str,
    deferrable: bool,
    emulator: SegmindEmulator,
    clock: Clock,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AIRFLOW__STATE_STORE__CLEAR_ON_SUCCESS", "True")
    path = f"{tmp_path.as_uri()}/answer.json" if kept_under == "a file" else tmp_path.as_uri()
    given = {"output_path" if kept_under in ("output_path", "a file") else "state_path": path}
    if kept_under == "configured state_path":
        monkeypatch.setenv("AIRFLOW__SEGMIND__STATE_PATH", path)
        given = {}
    bodies = []
    for _ in range(3):
        bodies.append(make(clock, deferrable=deferrable, **given).execute(run.context()))
        run.store.values.clear()
    assert len(emulator.posts()) == 1
    assert bodies[0] == bodies[1] == bodies[2]
    assert "pays again" not in caplog.text


def test_a_submit_whose_state_airflow_empties_says_so_once_and_what_it_costs(
    emulator: SegmindEmulator,
    clock: Clock,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AIRFLOW__STATE_STORE__CLEAR_ON_SUCCESS", "True")
    make(clock).execute(run.context())
    make(clock).execute(run.context())
    assert caplog.text.count("submits and pays again") == 1
    assert len(emulator.posts()) == 1


def test_a_cleared_task_returns_the_result_it_paid_for(emulator: SegmindEmulator, clock: Clock, run: Run) -> None:
    first = make(clock).execute(run.context())
    assert make(clock).execute(run.context()) == first
    assert len(emulator.posts()) == 1


def test_a_task_cleared_after_failed_submits_anew(emulator: SegmindEmulator, clock: Clock, run: Run) -> None:
    emulator.script(fail="the model broke", times=1)
    with pytest.raises(AirflowFailException, match="the model broke"):
        make(clock).execute(run.context())
    assert make(clock).execute(run.context())["status"] == "COMPLETED"
    assert (len(emulator.posts()), len(emulator.bill)) == (2, 1)


def test_failed_is_submitted_again_twice(emulator: SegmindEmulator, clock: Clock, run: Run) -> None:
    emulator.script(fail="the model broke")
    with pytest.raises(AirflowFailException, match="the model broke"):
        make(clock, on_failed="resubmit").execute(run.context())
    assert (len(emulator.posts()), len(emulator.bill)) == (3, 0)


@pytest.mark.parametrize(("policy", "posts"), [("fail", 1), ("recover", 1), ("resubmit", 2)])
def test_an_expired_result_follows_its_policy(
    policy: str, posts: int, emulator: SegmindEmulator, clock: Clock, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    make(clock).execute(run.context())
    clock.ahead += 4000
    task = make(clock, on_expired=policy)
    if policy == "resubmit":
        assert task.execute(run.context())["status"] == "COMPLETED"
        assert "pays a second time" in caplog.text
    else:
        with pytest.raises(AirflowFailException, match=emulator.jobs[0].request_id):
            task.execute(run.context())
    assert len(emulator.posts()) == posts


def test_an_expired_picture_is_recovered_from_the_history(
    emulator: SegmindEmulator, clock: Clock, run: Run, tmp_path: Path
) -> None:
    make(clock, model="seedream-4.5").execute(run.context())
    clock.ahead += 4000
    task = make(clock, model="seedream-4.5", output_path=tmp_path.as_uri())
    manifest = task.execute(run.context())
    assert Path(manifest["uri"].removeprefix("file://")).stat().st_size == manifest["bytes"] > 0
    assert manifest["metrics"]["cost"] > 0
    assert len(emulator.posts()) == 1
    assert emulator.leaks == []


def test_a_picture_whose_history_cannot_be_read_is_recovered_by_the_retry(
    emulator: SegmindEmulator, clock: Clock, run: Run, tmp_path: Path
) -> None:
    make(clock, model="seedream-4.5").execute(run.context())
    clock.ahead += 4000
    fields: dict[str, Any] = {"model": "seedream-4.5", "output_path": tmp_path.as_uri()}
    fault = emulator.fault("history", status=500, times=None)
    with pytest.raises(SegmindRequestExpiredError, match="does not have it either") as caught:
        make(clock, **fields).execute(run.context())
    assert not isinstance(caught.value, AirflowFailException)
    emulator.unfault(fault)
    assert make(clock, **fields).execute(run.context())["bytes"] > 0
    assert len(emulator.posts()) == 1


def test_a_passed_deadline_says_that_the_request_continues(emulator: SegmindEmulator, clock: Clock, run: Run) -> None:
    emulator.settings(latency=500.0)
    with pytest.raises(SegmindRequestTimeoutError, match="no cancel call"):
        make(clock, timeout=60).execute(run.context())
    assert make(clock).execute(run.context())["status"] == "COMPLETED"
    assert len(emulator.posts()) == 1


def test_the_intent_is_stored_before_the_post_and_the_id_right_after(
    emulator: SegmindEmulator, clock: Clock, run: Run
) -> None:
    seen: list[tuple[str | None, int, int]] = []
    run.store.on_write = lambda record: seen.append(
        (record["request_id"], len(emulator.posts()), len(emulator.requests))
    )
    make(clock).execute(run.context())
    request_id = emulator.jobs[0].request_id
    assert seen[0] == (None, 0, 0)
    assert seen[1] == (request_id, 1, 1)
    assert CANARY not in json.dumps(run.store.written)


def unwritable(kind: str, folder: Path) -> str:
    """Return an output_path that cannot be written, in one of several ways."""
    if kind == "below a file":
        (folder / "taken").write_text("")
        return f"{(folder / 'taken').as_uri()}/answers/"
    if kind == "a folder in place of the file":
        (folder / "answer.json").mkdir()
        return f"{folder.as_uri()}/answer.json"
    if kind == "a name that is too long":
        return f"{folder.as_uri()}/{'x' * 300}/"
    assert kind == "an unknown store"
    return "nostore://bucket/answers/"


UNWRITABLE = ["below a file", "a folder in place of the file", "a name that is too long", "an unknown store"]


@pytest.mark.parametrize("named", ["output_path", "[segmind] output_path"])
@pytest.mark.parametrize("state", ["state_path", "[segmind] state_path", "none"])
@pytest.mark.parametrize("kind", UNWRITABLE)
def test_an_output_path_that_cannot_be_written_is_refused_before_anything_is_paid(
    kind: str,
    state: str,
    named: str,
    emulator: SegmindEmulator,
    clock: Clock,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, fields = unwritable(kind, tmp_path), {}
    if named == "output_path":
        fields["output_path"] = path
    else:
        if kind == "a folder in place of the file":
            pytest.skip("a folder for all tasks is never a file")
        monkeypatch.setenv("AIRFLOW__SEGMIND__OUTPUT_PATH", path)
    if state == "state_path":
        fields["state_path"] = (tmp_path / "state").as_uri()
    elif state == "[segmind] state_path":
        monkeypatch.setenv("AIRFLOW__SEGMIND__STATE_PATH", (tmp_path / "state").as_uri())

    with pytest.raises(SegmindConfigError, match=re.escape(repr(named))):
        make(clock, **fields).execute(run.context())
    assert emulator.posts() == []


@pytest.mark.parametrize("kind", ["file", "folder", "the folder for all tasks"])
def test_trying_the_output_path_leaves_nothing_but_the_result(
    kind: str, emulator: SegmindEmulator, clock: Clock, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, fields = tmp_path / "new" / "answers", {"state_path": (tmp_path / "state").as_uri()}
    if kind == "the folder for all tasks":
        monkeypatch.setenv("AIRFLOW__SEGMIND__OUTPUT_PATH", output.as_uri())
    else:
        fields["output_path"] = f"{output.as_uri()}/" + ("answer.json" if kind == "file" else "")
    make(clock, **fields).execute(run.context())
    found = [path.name for path in output.iterdir()]
    request_id = emulator.jobs[0].request_id
    assert found == {"file": ["answer.json"], "folder": [f"{request_id}.json"], "the folder for all tasks": []}[kind]


def test_a_store_that_has_failed_before_the_post_is_tried_again_by_a_retry(
    emulator: SegmindEmulator, clock: Clock, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"output_path": f"{tmp_path.as_uri()}/answers/", "state_path": (tmp_path / "state").as_uri()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(ObjectStoragePath, "mkdir", full)
        with pytest.raises(SegmindConfigError, match=r"'output_path'.*No space left") as caught:
            make(clock, **fields).execute(run.context())
        assert caught.value.retryable
        assert not isinstance(caught.value, AirflowFailException)
    assert emulator.posts() == []
    assert make(clock, **fields).execute(run.context())["status"] == "COMPLETED"


def test_a_file_that_cannot_be_overwritten_is_refused_before_anything_is_paid(
    emulator: SegmindEmulator, clock: Clock, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "answer.json").write_text("of somebody else")
    opened = Path.open

    def denied(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if self.name == "answer.json" and mode == "ab":
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(AirflowFailException, match=r"'output_path'.*Permission denied"):
        make(clock, output_path=f"{tmp_path.as_uri()}/answer.json").execute(run.context())
    assert emulator.posts() == []


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("place", ["output_path", "configured", "nowhere"])
def test_a_result_too_large_for_xcom_is_never_a_failure(
    place: str,
    deferrable: bool,
    emulator: SegmindEmulator,
    clock: Clock,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    emulator.script(text="x" * 5000, latency=30.0)
    fields: dict[str, Any] = {"max_xcom_bytes": 1000, "deferrable": deferrable, "sync_wait": 0}
    if place == "output_path":
        fields["output_path"] = tmp_path.as_uri()
    elif place == "configured":
        monkeypatch.setenv("AIRFLOW__SEGMIND__OUTPUT_PATH", tmp_path.as_uri())
    task = make(clock, **fields)
    if deferrable:
        left = deferred(task, run)
        clock.ahead += 40
        [event] = asyncio.run(events(left.trigger))
        assert len(json.dumps(event)) < 1000
        value = make(clock, **fields).execute_complete(run.context(), event)
    else:
        value = task.execute(run.context())
    if place == "nowhere":
        assert "x" * 5000 in value["output"]
        assert caplog.text.count("it goes into XCom in full") == 1
    else:
        assert json.loads(Path(value["uri"].removeprefix("file://")).read_text())["status"] == "COMPLETED"
        assert "in full" not in caplog.text
    assert len(emulator.posts()) == 1


async def events(trigger: Any) -> list[Any]:
    trigger.not_before = 0.0
    return [event.payload async for event in trigger.run()]


DEEP = json.loads("[" * 400 + "]" * 400)


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize(
    ("odd", "kept"),
    [
        ({"odd": 10**400}, "1" + "0" * 400),
        ({"odd": DEEP}, "[" * 400),
        ({"odd": "a\x00b"}, "a\ufffdb"),
        ({"odd\x00": "a"}, "odd\ufffd"),
        ({"metrics": {"cost": 1, "odd": DEEP, "b": "\x00", "c": 10**30}}, "1" + "0" * 30),
    ],
    ids=range(5),
)
def test_what_xcom_cannot_carry_is_still_delivered(
    odd: dict[str, Any], kept: str, deferrable: bool, emulator: SegmindEmulator, clock: Clock, run: Run
) -> None:
    emulator.script(result=odd, latency=30.0)
    fields: dict[str, Any] = {"deferrable": deferrable, "sync_wait": 0}
    task = make(clock, **fields)
    if deferrable:
        left = deferred(task, run)
        clock.ahead += 40
        [event] = asyncio.run(events(left.trigger))
        assert "\x00" not in json.dumps(event, ensure_ascii=False)
        value = make(clock, **fields).execute_complete(run.context(), event)
    else:
        value = task.execute(run.context())
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    assert kept in text.replace(" ", "")
    assert "\x00" not in text
    fetched = by_hand(SegmindResultOperator(task_id="r", request_id=emulator.jobs[0].request_id), clock)
    assert fetched.execute(run.context()) == value
    assert len(emulator.posts()) == 1


def test_a_trigger_that_failed_costs_a_poll_from_the_worker(emulator: SegmindEmulator, clock: Clock, run: Run) -> None:
    emulator.settings(latency=500.0)
    task = make(clock, deferrable=True)
    left = deferred(task, run)
    clock.ahead += 600
    event = RequestEvent.of_error(left.trigger.request_id, SegmindConfigError("no API key here")).to_json()
    assert task.execute_complete(run.context(), event)["status"] == "COMPLETED"


def test_a_cleared_submit_task_replaces_a_request_that_failed(
    emulator: SegmindEmulator, clock: Clock, run: Run
) -> None:
    emulator.script(fail="the model broke", times=1)

    def submit() -> Any:
        task = by_hand(SegmindSubmitOperator(task_id="s", model=MODEL, inputs=INPUTS), clock)
        return task.execute(run.context())["request_id"]

    first = submit()
    second = submit()
    assert first != second
    assert submit() == second
    assert (len(emulator.posts()), len(emulator.bill)) == (2, 1)


def test_no_canary_is_logged_at_info(
    emulator: SegmindEmulator, clock: Clock, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    make(clock).execute(run.context())
    assert "completed: " in caplog.text
    assert CANARY not in caplog.text


def test_an_intent_in_only_one_store_does_not_make_the_request_unknown_to_the_retry(
    emulator: SegmindEmulator, clock: Clock, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: PathTaskState, record: Any) -> None:
        raise OSError("No space left on device")

    fields = {"output_path": f"{tmp_path.as_uri()}/"}
    with monkeypatch.context() as patched:
        patched.setattr(PathTaskState, "write", full)
        with pytest.raises(OSError, match="No space left"):
            make(clock, **fields).execute(run.context())
    assert emulator.jobs == []
    assert make(clock, **fields).execute(run.context())["status"] == "COMPLETED"
    assert len(emulator.jobs) == 1


def test_inputs_with_a_lone_surrogate_are_refused_before_anything_is_recorded_or_sent(
    emulator: SegmindEmulator, clock: Clock, run: Run
) -> None:
    with pytest.raises(AirflowFailException, match="cannot be written as JSON"):
        make(clock, inputs={**INPUTS, "prompt": "half of a smiley: \ud83d"}).execute(run.context())
    assert emulator.jobs == []
    assert make(clock).execute(run.context())["status"] == "COMPLETED"
    assert len(emulator.jobs) == 1
