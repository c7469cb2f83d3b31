"""Answers that were paid for once are not paid for again by another task: the emulator's bill is the witness."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from airflow_provider_segmind.answer_cache import AnswerCache
from airflow_provider_segmind.compat import AirflowFailException, TaskDeferred
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.exceptions import (
    SegmindConfigError,
    SegmindStateError,
    SegmindSubmissionUnknownError,
)
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.request import SegmindRunOperator
from airflow_provider_segmind.spend.store import configured_store
from airflow_provider_segmind.triggers.events import RequestEvent
from tests.support.airflow_fakes import Clock, Run, by_hand
from tests.support.chat_tasks import NUMBER, Chat


class Tasks:
    """Task instances of several runs, which share an answer cache."""

    def __init__(self, chat: Chat, folder: Path) -> None:
        self.chat, self.folder = chat, folder
        self.runs: dict[tuple[str, int], Run] = {}

    def ask(self, prompt: str, *, run: str = "monday", index: int = -1, **fields: Any) -> Any:
        """Run a try of one task instance."""
        key = (run, index)
        self.chat.run = self.runs.setdefault(key, Run(run_id=run, map_index=index))
        given = {"reuse_answers": "always", "answers_path": str(self.folder), **fields}
        return self.chat.ask(prompt=prompt, **given)

    def defer(self, prompt: str) -> None:
        """Run a try whose request takes so long that it defers."""
        self.chat.emulator.script(latency=60.0, times=1)
        with pytest.raises(TaskDeferred):
            self.ask(prompt, deferrable=True, sync_wait=0.0)

    @property
    def posts(self) -> int:
        return self.chat.posts

    @property
    def xcoms(self) -> dict[str, Any]:
        return self.chat.xcoms


@pytest.fixture
def tasks(chat: Chat, tmp_path: Path) -> Tasks:
    return Tasks(chat, tmp_path / "answers")


Make = Callable[..., SegmindRunOperator]


@pytest.fixture
def make(emulator: SegmindEmulator, clock: Clock, tmp_path: Path) -> Make:
    def made(**fields: Any) -> SegmindRunOperator:
        given = {"model": "fast-flux-schnell", "inputs": {"prompt": "a cat"}, "reuse_answers": "always"}
        given |= {"answers_path": str(tmp_path / "answers"), "deferrable": False, **fields}
        task: SegmindRunOperator = by_hand(SegmindRunOperator(task_id="a_task", **given), clock)
        return task

    return made


def test_an_equal_prompt_of_another_run_is_answered_from_the_memory(tasks: Tasks) -> None:
    first = tasks.ask("Why?")
    paid = dict(tasks.xcoms)
    tasks.chat.clock.ahead += 3 * 3600

    assert tasks.ask("Why?", run="tuesday") == first
    assert tasks.posts == len(tasks.chat.emulator.bill) == 1
    assert "reused" not in paid
    assert tasks.xcoms["reused"] is True
    assert tasks.xcoms["cost"] == 0.0
    assert tasks.xcoms["request_id"] == paid["request_id"]
    assert set(tasks.xcoms["usage"].values()) == {0}
    assert tasks.xcoms["finish_reason"] == "stop"


def test_of_mapped_tasks_only_those_with_a_new_prompt_are_paid(tasks: Tasks) -> None:
    """With a thousand tasks in ``tests/crash``."""
    for index in range(30):
        # A tenth of the prompts repeats an earlier one.
        tasks.ask(f"question {index - 5 if index % 10 == 9 else index}", index=index)

    assert tasks.posts == len(tasks.chat.emulator.bill) == 27


def test_a_backfill_of_thirty_days_with_unchanged_inputs_pays_nothing(tasks: Tasks) -> None:
    first = [tasks.ask(prompt, index=index) for index, prompt in enumerate("abc")]
    for day in range(30):
        assert [tasks.ask(prompt, run=f"day {day}", index=index) for index, prompt in enumerate("abc")] == first

    assert tasks.posts == len(tasks.chat.emulator.bill) == 3


def test_a_hit_is_said_in_the_log_with_what_it_cost_then(tasks: Tasks, caplog: pytest.LogCaptureFixture) -> None:
    tasks.ask("Why?")
    with caplog.at_level(logging.INFO):
        task = by_hand(
            SegmindChatOperator(
                task_id="a_task",
                prompt="Why?",
                model="gemini-3.1-flash-lite",
                deferrable=False,
                reuse_answers="always",
                answers_path=str(tasks.folder),
            ),
            tasks.chat.clock,
        )
        task.execute(Run(run_id="tuesday").context())

    bill = tasks.chat.emulator.bill
    assert f"Reusing the answer to request {bill[0].request_id}" in caplog.text
    assert "nothing is submitted or paid" in caplog.text
    assert "Why?" not in caplog.text


def test_a_hit_makes_no_call_and_needs_neither_a_permit_nor_a_valid_key(
    tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tasks.ask("Why?")
    monkeypatch.setenv(
        "AIRFLOW_CONN_SEGMIND_DEFAULT", '{"conn_type": "segmind", "password": "revoked", "host": "http://127.0.0.1:9"}'
    )

    assert tasks.ask("Why?", run="tuesday") == first


@pytest.mark.parametrize(
    "change",
    [
        {"model": "gpt-5.4-mini"},
        {"options": {"temperature": 0.5}},
        {"system": "Be brief."},
        {"output_type": {"type": "array", "items": {}}, "max_repairs": 0},
        {"reuse_answers": "never"},
        {"reuse_answers": timedelta(0)},
        {"reuse_answers": timedelta(minutes=59)},
    ],
)
def test_another_question_or_too_old_an_answer_is_paid_for(
    change: dict[str, Any], tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.chat.emulator.script(text="[1]", times=None)
    tasks.ask("Why?")
    tasks.chat.clock.ahead += 3600
    now = tasks.chat.clock()
    monkeypatch.setitem(AnswerCache.__init__.__kwdefaults__, "clock", lambda: now)

    tasks.ask("Why?", run="tuesday", **change)
    assert tasks.posts == 2
    tasks.ask("Why?", run="wednesday", reuse_answers=timedelta(hours=2))
    assert tasks.posts == 2


def test_an_item_inserted_at_the_front_of_cleared_mapped_tasks_costs_one_request(tasks: Tasks) -> None:
    items = ["b", "c", "d", "e"]
    before = [tasks.ask(item, index=index) for index, item in enumerate(items)]
    assert tasks.posts == 4

    after = [tasks.ask(item, index=index) for index, item in enumerate(["a", *items])]

    assert tasks.posts == 5
    assert after[1:] == before
    again = [tasks.ask(item, index=index) for index, item in enumerate(["a", *items])]
    assert again == after
    assert tasks.posts == 5


def test_a_changed_task_whose_new_question_has_an_answer_stops_where_on_stale_is_fail(tasks: Tasks) -> None:
    tasks.ask("a", run="other")
    tasks.ask("b")

    with pytest.raises(AirflowFailException, match="on_stale"):
        tasks.ask("a", on_stale="fail")


def test_a_request_in_flight_of_an_earlier_try_is_continued_not_replaced_by_a_hit(tasks: Tasks) -> None:
    tasks.defer("Why?")
    waiting = tasks.chat.emulator.posts()
    assert len(waiting) == 1
    tasks.ask("Why?", run="tuesday")
    assert tasks.posts == 2

    tasks.ask("Why?")

    assert tasks.posts == 2
    assert "reused" not in tasks.xcoms
    assert tasks.xcoms["request_id"] == tasks.runs["monday", -1].store.record["request_id"]


def test_an_intent_of_unknown_fate_is_looked_up_whatever_the_memory_has(tasks: Tasks) -> None:
    tasks.ask("Why?", run="other")
    tasks.chat.emulator.fault("submit", when="after", drop=True)
    tasks.chat.emulator.fault("history", status=500, times=None)
    with pytest.raises(SegmindSubmissionUnknownError):
        tasks.ask("Why?", reuse_answers="never")
    assert tasks.posts == 2
    tasks.chat.emulator.unfault()

    tasks.ask("Why?")

    assert "reused" not in tasks.xcoms
    assert tasks.xcoms["request_id"] == tasks.chat.emulator.bill[1].request_id
    assert tasks.posts == 2


def _at_the_first_pause(clock: Clock, meanwhile: Callable[[], object]) -> None:
    """Do something the first time that a task waits."""
    sleep = clock.sleep

    def first(seconds: float) -> None:
        clock.sleep = sleep  # type: ignore[method-assign]
        meanwhile()
        sleep(seconds)

    clock.sleep = first  # type: ignore[method-assign]


@pytest.mark.parametrize("policy", ["on_failed", "on_expired"])
def test_what_another_task_has_been_answered_meanwhile_is_not_paid_again(tasks: Tasks, policy: str) -> None:
    emulator = tasks.chat.emulator
    emulator.script(latency=60.0, times=1, **({"fail": "overloaded"} if policy == "on_failed" else {}))
    with pytest.raises(TaskDeferred):
        tasks.ask("Why?", deferrable=True, sync_wait=0.0)
    waiting = tasks.runs["monday", -1].store.record["request_id"]
    emulator.advance(60.0)
    if policy == "on_expired":
        emulator.fault("result", match=waiting, status=404, body={"error": "Request r not found"}, times=None)
    answer = tasks.ask("Why?", run="tuesday")
    tasks.chat.run = tasks.runs["monday", -1]
    reuse = {"reuse_answers": "always", "answers_path": str(tasks.folder)}

    assert tasks.chat.wake(waiting, prompt="Why?", **{policy: "resubmit"}, **reuse) == answer

    assert tasks.posts == 2
    assert tasks.xcoms["reused"] is True
    assert tasks.xcoms["request_id"] == tasks.runs["tuesday", -1].store.record["request_id"]


def test_a_lost_post_is_not_sent_again_if_another_task_has_the_answer_by_then(tasks: Tasks) -> None:
    tasks.chat.emulator.fault("submit", reset=True)
    # Otherwise the other task's request would be taken for the lost one.
    tasks.chat.emulator.settings(history_delay=7200.0)
    _at_the_first_pause(tasks.chat.clock, lambda: tasks.ask("Why?", run="tuesday"))

    answer = tasks.ask("Why?", on_unknown="resubmit")

    assert tasks.posts == 2
    assert answer == tasks.ask("Why?", run="wednesday")
    lost = tasks.runs["monday", -1]
    assert lost.ti.pushed["reused"] is True
    assert lost.store.record["request_id"] is None


def test_a_failed_follow_up_is_sent_again_whatever_the_memory_has(tasks: Tasks) -> None:
    emulator = tasks.chat.emulator
    emulator.script(text="no data", times=1)
    emulator.script(match="The validator says", fail="overloaded", latency=60.0, times=1)
    typed = {"output_type": NUMBER}
    with pytest.raises(TaskDeferred):
        tasks.ask("How many?", deferrable=True, sync_wait=0.0, **typed)
    emulator.advance(60.0)
    emulator.script(json={"x": 1})
    tasks.ask("How many?", run="tuesday", **typed)
    tasks.chat.run = tasks.runs["monday", -1]

    assert tasks.ask("How many?", on_failed="resubmit", **typed) == {"x": 1}

    assert tasks.posts == 4
    assert "reused" not in tasks.xcoms


def test_a_memory_that_cannot_be_read_stops_the_task_before_it_pays_again(tasks: Tasks) -> None:
    emulator = tasks.chat.emulator
    emulator.script(fail="overloaded", latency=60.0, times=1)
    with pytest.raises(TaskDeferred):
        tasks.ask("Why?", deferrable=True, sync_wait=0.0)
    emulator.advance(60.0)
    tasks.ask("Why?", run="tuesday")
    kept = next(tasks.folder.glob("*/*.json"))
    kept.unlink()
    kept.mkdir()

    with pytest.raises(SegmindStateError, match="nothing was sent"):
        tasks.ask("Why?", on_failed="resubmit")

    assert tasks.posts == 2
    kept.rmdir()
    assert tasks.ask("Why?", on_failed="resubmit")
    assert tasks.posts == 3


def test_the_final_answer_is_kept_under_the_first_question_with_what_all_requests_cost(tasks: Tasks) -> None:
    tasks.chat.emulator.script(text="no data")
    tasks.chat.emulator.script(match="The validator says", json={"x": 1})
    typed = {"output_type": NUMBER}
    assert tasks.ask("How many?", **typed) == {"x": 1}
    bill = tasks.chat.emulator.bill
    assert len(bill) == 2

    assert tasks.ask("How many?", run="tuesday", max_repairs=0, **typed) == {"x": 1}

    assert tasks.posts == 2
    assert tasks.xcoms["request_id"] == bill[1].request_id
    kept = next(tasks.folder.glob("*/*.json")).read_text()
    assert '"requests":2' in kept
    assert f'"cost":{bill[0].cost + bill[1].cost}' in kept


@pytest.mark.parametrize(
    "script", [{"text": "half", "finish_reason": "length"}, {"block": "SAFETY"}, {"text": "not json"}]
)
def test_an_answer_that_cannot_be_used_is_not_kept(script: dict[str, Any], tasks: Tasks) -> None:
    tasks.chat.emulator.script(**script)
    with pytest.raises(AirflowFailException):
        tasks.ask("How many?", output_type=NUMBER, max_repairs=0)
    assert not tasks.folder.exists()


def test_a_reply_that_this_task_cannot_use_is_asked_for_again(tasks: Tasks) -> None:
    class Number(BaseModel):
        x: int

    class EvenNumber(BaseModel):
        x: int

        @field_validator("x")
        @classmethod
        def even(cls, value: int) -> int:
            if value % 2:
                raise ValueError("odd")
            return value

    EvenNumber.__name__ = EvenNumber.__qualname__ = "Number"
    tasks.chat.emulator.script(json={"x": 1})
    assert tasks.ask("How many?", output_type=Number) == {"x": 1}
    tasks.chat.emulator.script(json={"x": 2})

    assert tasks.ask("How many?", run="tuesday", output_type=EvenNumber) == {"x": 2}
    assert tasks.posts == 2


def test_a_deferred_task_keeps_its_answer_where_it_is_finished(tasks: Tasks) -> None:
    tasks.defer("Why?")
    assert not tasks.folder.exists()
    record = tasks.runs["monday", -1].store.record
    tasks.chat.clock.ahead += 60

    reuse = {"reuse_answers": "always", "answers_path": str(tasks.folder)}
    answer = tasks.chat.wake(record["request_id"], prompt="Why?", **reuse)

    assert tasks.ask("Why?", run="tuesday") == answer
    assert tasks.posts == 1


def test_a_task_that_was_changed_while_deferred_keeps_nothing_under_the_new_question(tasks: Tasks) -> None:
    tasks.defer("Why?")
    record = tasks.runs["monday", -1].store.record
    tasks.chat.clock.ahead += 60

    reuse = {"reuse_answers": "always", "answers_path": str(tasks.folder)}
    tasks.chat.wake(record["request_id"], prompt="Who?", **reuse)

    assert not tasks.folder.exists()


def test_a_memory_that_cannot_be_read_stops_the_task_before_it_pays(tasks: Tasks) -> None:
    tasks.ask("Why?")
    kept = next(tasks.folder.glob("*/*.json"))
    kept.unlink()
    kept.mkdir()

    with pytest.raises(SegmindStateError, match="answer cache"):
        tasks.ask("Why?", run="tuesday")
    assert tasks.posts == 1


def test_an_answer_that_cannot_be_kept_is_returned_all_the_same(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(*_: Any) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(AnswerCache, "keep", keep)
    assert tasks.ask("Why?")
    assert tasks.posts == 1


def test_without_a_folder_nothing_is_sent(tasks: Tasks) -> None:
    with pytest.raises(AirflowFailException, match=r"set answers_path, or \[segmind\] answers_path"):
        tasks.ask("Why?", answers_path=None)
    assert tasks.posts == 0


def test_the_folder_may_come_from_the_configuration(tasks: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__SEGMIND__ANSWERS_PATH", str(tasks.folder))
    tasks.ask("Why?", answers_path=None)
    tasks.ask("Why?", answers_path=None, run="tuesday")
    assert tasks.posts == 1


@pytest.mark.parametrize("value", [True, "sometimes", 30, timedelta(seconds=-1), None])
def test_reuse_answers_is_checked_at_dag_parse(value: Any) -> None:
    with pytest.raises(SegmindConfigError, match=r"reuse_answers.*timedelta"):
        SegmindRunOperator(task_id="a_task", inputs={}, reuse_answers=value)


def test_a_reused_answer_is_an_entry_of_the_record_of_spend_without_cost(
    tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_PATH", str(tmp_path / "spend"))
    for run in ("monday", "tuesday", "tuesday", "wednesday"):
        tasks.ask("Why?", run=run)
    store = configured_store()
    assert store is not None

    entries = sorted(store.read(), key=lambda entry: entry.run_id)

    assert [(entry.run_id, entry.reused, entry.outcome) for entry in entries] == [
        ("monday", False, "success"),
        ("tuesday", True, "success"),
        ("wednesday", True, "success"),
    ]
    paid = entries[0]
    assert paid.cost_micros == pytest.approx(tasks.chat.emulator.bill[0].cost * 1e6)
    assert all(entry.cost_micros == 0 and entry.tokens == 0 for entry in entries[1:])
    assert all(entry.request_id.partition("#")[0] == paid.request_id for entry in entries[1:])


# Results of other models.


def test_a_result_without_files_is_reused_whole(make: Make, emulator: SegmindEmulator) -> None:
    chat = {"model": "gpt-5.4-mini", "inputs": {"messages": [{"role": "user", "content": "Why?"}]}}
    run = Run()
    first = make(**chat).execute(run.context())
    other = Run(run_id="tuesday")

    assert make(**chat).execute(other.context()) == first
    assert len(emulator.posts()) == 1
    assert other.ti.pushed["reused"] is True
    assert other.ti.pushed["cost"] == 0.0
    assert other.ti.pushed["request_id"] == first["request_id"]


def test_files_are_reused_where_they_were_stored_and_as_long_as_they_are_there(
    make: Make, emulator: SegmindEmulator, tmp_path: Path
) -> None:
    stored = {"output_path": str(tmp_path / "images")}
    first = make(**stored).execute(Run().context())

    assert make(output_path=str(tmp_path / "elsewhere")).execute(Run(run_id="tuesday").context()) == first
    assert len(emulator.posts()) == 1
    Path(first["uri"]).unlink()
    make(**stored).execute(Run(run_id="wednesday").context())
    assert len(emulator.posts()) == 2


def test_files_that_are_at_segmind_only_are_not_kept(
    make: Make, emulator: SegmindEmulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        make().execute(Run().context())
    make().execute(Run(run_id="tuesday").context())

    assert len(emulator.posts()) == 2
    assert "is not kept for reuse: its files are only at Segmind" in caplog.text
    assert not (tmp_path / "answers").exists()


def test_a_large_result_is_reused_from_its_file(make: Make, emulator: SegmindEmulator, tmp_path: Path) -> None:
    chat = {"model": "gpt-5.4-mini", "inputs": {"messages": [{"role": "user", "content": "Why?"}]}}
    stored = {"output_path": str(tmp_path / "results"), "max_xcom_bytes": 10, **chat}
    first = make(**stored).execute(Run().context())
    assert first["uri"].endswith(".json")

    assert make(**stored).execute(Run(run_id="tuesday").context()) == first
    assert len(emulator.posts()) == 1


def test_a_truncated_reply_is_a_result_but_is_not_kept(make: Make, emulator: SegmindEmulator) -> None:
    emulator.script(text="half of it", finish_reason="length", times=None)
    chat = {"model": "gpt-5.4-mini", "inputs": {"messages": [{"role": "user", "content": "Why?"}]}}
    for run in ("monday", "tuesday"):
        make(**chat).execute(Run(run_id=run).context())
    assert len(emulator.posts()) == 2


def test_a_deferred_result_is_kept_when_the_task_resumes(make: Make, emulator: SegmindEmulator, clock: Clock) -> None:
    chat = {"model": "gpt-5.4-mini", "inputs": {"messages": [{"role": "user", "content": "Why?"}]}}
    run = Run()
    emulator.script(latency=60.0, times=1)
    with pytest.raises(TaskDeferred):
        make(deferrable=True, sync_wait=0.0, **chat).execute(run.context())
    clock.ahead += 60
    event = RequestEvent(run.store.record["request_id"], "success").to_json()
    first = make(**chat).execute_complete(run.context(), event)

    assert make(**chat).execute(Run(run_id="tuesday").context()) == first
    assert len(emulator.posts()) == 1


def test_a_whole_result_that_another_task_has_meanwhile_is_not_paid_again(
    make: Make, emulator: SegmindEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    chat = {"model": "gpt-5.4-mini", "inputs": {"messages": [{"role": "user", "content": "Why?"}]}}
    run = Run()
    emulator.script(latency=60.0, fail="overloaded", times=1)
    with pytest.raises(TaskDeferred):
        make(deferrable=True, sync_wait=0.0, **chat).execute(run.context())
    emulator.advance(60.0)
    result = make(**chat).execute(Run(run_id="tuesday").context())

    assert make(on_failed="resubmit", **chat).execute(run.context()) == result
    assert len(emulator.posts()) == 2
    assert "Another task has stored the answer since; it is not submitted again" in caplog.text
    assert "Submitting again" not in caplog.text
    assert run.ti.pushed["reused"] is True
