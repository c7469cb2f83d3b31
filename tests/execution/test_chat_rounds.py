"""An answer that takes several paid requests: a try that continues after any interruption pays none of them twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.chat.reply_policy import Spent, part_after
from airflow_provider_segmind.compat import AirflowFailException, TaskDeferred
from airflow_provider_segmind.exceptions import (
    SegmindConfigError,
    SegmindRequestTimeoutError,
    SegmindSubmissionUnknownError,
)
from airflow_provider_segmind.execution.request import RequestExecution
from tests.support.chat_tasks import CLAUDE, GEMINI, GPT, NUMBER, Chat

DATA: dict[str, Any] = {"output_type": NUMBER}
REASK = "The validator says"


class Killed(BaseException):
    """The worker died."""


@pytest.fixture
def mending(chat: Chat) -> Chat:
    """A model that gets it wrong at first and right when it is given the reason."""
    chat.emulator.script(text="no data")
    chat.emulator.script(match=REASK, json={"x": 1})
    return chat


def texts(body: Any) -> str:
    return str(body["messages"])


@pytest.mark.parametrize("model", [GEMINI, GPT, CLAUDE])
def test_a_wrong_answer_is_asked_again_with_the_validators_words(model: str, mending: Chat) -> None:
    assert mending.ask(model=model, **DATA) == {"x": 1}

    assert mending.posts == len(mending.emulator.bill) == 2
    assert "not JSON" in texts(mending.body())
    assert "no data" in texts(mending.body())
    assert mending.body()["response_format"] == mending.body(0)["response_format"]


def test_usage_and_cost_are_those_of_all_requests_and_the_id_is_the_last(mending: Chat) -> None:
    mending.ask(**DATA)

    bill = mending.emulator.bill
    assert mending.xcoms["cost"] == pytest.approx(bill[0].cost + bill[1].cost)
    assert mending.xcoms["usage"]["output_tokens"] == 2 + 2
    assert mending.xcoms["request_id"] == bill[1].request_id
    assert mending.xcoms["finish_reason"] == "stop"


def test_without_xcom_nothing_is_pushed(mending: Chat) -> None:
    assert mending.ask(do_xcom_push=False, **DATA) == {"x": 1}

    assert mending.xcoms == {}


def test_a_retry_after_the_end_pays_nothing_and_returns_the_same(mending: Chat) -> None:
    mending.ask(**DATA)
    first = dict(mending.xcoms)

    assert mending.ask(**DATA) == {"x": 1}
    assert mending.posts == 2
    assert mending.xcoms == first


def test_the_last_request_is_enough_when_the_results_before_it_have_expired(mending: Chat) -> None:
    mending.ask(**DATA)
    first = mending.emulator.bill[0].request_id
    mending.emulator.fault("result|status", match=first, status=404, body={"error": "gone"}, times=None)

    assert mending.ask(**DATA) == {"x": 1}
    assert mending.posts == 2


def test_a_worker_killed_before_the_repair_continues_with_it(mending: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    submit = RequestExecution.submit

    def killed(self: RequestExecution, **fields: Any) -> Any:
        if mending.posts == 1:
            raise Killed
        return submit(self, **fields)

    with monkeypatch.context() as patched:
        patched.setattr(RequestExecution, "submit", killed)
        with pytest.raises(Killed):
            mending.ask(**DATA)
    assert mending.posts == 1

    assert mending.ask(**DATA) == {"x": 1}
    assert mending.posts == len(mending.emulator.bill) == 2


def test_a_chain_whose_state_airflow_has_emptied_is_found_under_the_output_path(mending: Chat, tmp_path: Path) -> None:
    for _ in range(3):
        assert mending.ask(output_path=str(tmp_path), **DATA) == {"x": 1}
        mending.run.store.values.clear()
    assert mending.posts == len(mending.emulator.bill) == 2


def test_a_worker_killed_after_the_repairs_post_finds_it_in_the_history(mending: Chat) -> None:
    def kill(value: Any) -> None:
        if mending.posts == 2 and value["request_id"] is not None and value["spent_before"] is not None:
            raise Killed

    mending.run.store.on_write = kill
    with pytest.raises(Killed):
        mending.ask(**DATA)
    mending.run.store.on_write = lambda value: None
    records = [record["request_id"] for record in mending.run.store.values.values()]
    assert records == [mending.emulator.jobs[0].request_id, None]

    assert mending.ask(**DATA) == {"x": 1}
    assert mending.posts == len(mending.emulator.bill) == 2


def test_a_lost_repair_of_unknown_outcome_is_not_sent_again(mending: Chat) -> None:
    mending.emulator.settings(history_delay=7200)
    mending.emulator.fault("submit", match=REASK, reset=True, when="after", times=None)

    for _ in range(2):
        with pytest.raises(AirflowFailException) as caught:
            mending.ask(**DATA)
        assert isinstance(caught.value.__context__, SegmindSubmissionUnknownError)
    assert mending.posts == 2


def test_a_refused_repair_is_submitted_by_the_retry_and_the_first_request_is_not(mending: Chat) -> None:
    mending.emulator.fault("submit", match=REASK, status=402, body={"error": "Insufficient credits"})
    with pytest.raises(AirflowFailException, match="credits"):
        mending.ask(**DATA)

    assert mending.ask(**DATA) == {"x": 1}
    assert len(mending.emulator.jobs) == len(mending.emulator.bill) == 2


def test_an_error_with_the_repairs_result_costs_nothing_more(mending: Chat) -> None:
    def down(value: Any) -> None:
        if value["spent_before"] is not None and value["request_id"] is not None:
            mending.emulator.fault("status|result", status=503, times=None)

    mending.run.store.on_write = down
    with pytest.raises(SegmindRequestTimeoutError):
        mending.ask(timeout=60, **DATA)
    mending.emulator.unfault()
    mending.run.store.on_write = lambda value: None

    assert mending.ask(**DATA) == {"x": 1}
    assert mending.posts == 2


def test_each_request_of_a_deferred_task_may_be_waited_for_in_the_triggerer(mending: Chat) -> None:
    fields: dict[str, Any] = {"deferrable": True, "sync_wait": 0, **DATA}
    mending.emulator.settings(latency=30.0)

    with pytest.raises(TaskDeferred) as first:
        mending.ask(**fields)
    mending.emulator.advance(31)
    with pytest.raises(TaskDeferred) as second:
        mending.wake(first.value.trigger.request_id, **fields)
    mending.emulator.advance(31)
    assert first.value.trigger.request_id != second.value.trigger.request_id

    assert mending.wake(second.value.trigger.request_id, **fields) == {"x": 1}
    assert mending.posts == len(mending.emulator.bill) == 2


def test_a_deferral_that_timed_out_continues_with_the_last_request(mending: Chat) -> None:
    fields: dict[str, Any] = {"deferrable": True, "sync_wait": 0, **DATA}
    mending.emulator.settings(latency=30.0)
    with pytest.raises(TaskDeferred) as first:
        mending.ask(**fields)
    mending.emulator.advance(31)
    with pytest.raises(TaskDeferred):
        mending.wake(first.value.trigger.request_id, **fields)
    mending.emulator.advance(31)

    assert mending.task(**fields).execute_complete(mending.run.context(), None) == {"x": 1}
    assert mending.posts == 2


def test_resuming_after_a_deferral_reads_no_file(chat: Chat, tmp_path: Any) -> None:
    path = tmp_path / "note.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n1")
    fields: dict[str, Any] = {"deferrable": True, "sync_wait": 0, "files": [str(path)]}
    chat.emulator.settings(latency=30.0)
    with pytest.raises(TaskDeferred) as deferred:
        chat.ask(**fields)
    chat.emulator.advance(31)
    path.unlink()

    assert chat.wake(deferred.value.trigger.request_id, **fields) == "echo: question"


def test_a_cut_off_answer_is_requested_once_more_with_a_larger_cap(chat: Chat) -> None:
    chat.emulator.script(text="all of it")
    chat.emulator.script(text="all", finish_reason="length", times=1)

    assert chat.ask(options={"max_tokens": 100}) == "all of it"
    assert (chat.body(0)["max_tokens"], chat.body(1)["max_tokens"]) == (100, 400)
    assert chat.body(0)["messages"] == chat.body(1)["messages"]
    assert chat.ask(options={"max_tokens": 100}) == "all of it"
    assert chat.posts == 2


def test_a_repair_that_is_cut_off_is_the_same_request_with_more_room(chat: Chat) -> None:
    chat.emulator.script(match=REASK, json={"x": 5})
    chat.emulator.script(match=REASK, text='{"x"', finish_reason="length", times=1)
    chat.emulator.script(text="no data", times=1)

    fields: dict[str, Any] = {"model": GPT, "options": {"max_tokens": 50}, **DATA}

    with pytest.raises(AirflowFailException, match=r"cut off.*2 requests were billed"):
        chat.ask(max_repairs=1, **fields)
    assert chat.ask(max_repairs=2, **fields) == {"x": 5}
    assert chat.posts == 3
    assert [chat.body(number)["max_tokens"] for number in range(3)] == [50, 50, 200]
    assert chat.body(2)["messages"] == chat.body(1)["messages"]


@pytest.mark.parametrize("fields", [{}, DATA])
def test_no_repairs_means_no_second_paid_request(fields: dict[str, Any], chat: Chat) -> None:
    chat.emulator.script(text='{"x"', finish_reason="length")

    with pytest.raises(AirflowFailException, match=r"cut off.*The request was billed"):
        chat.ask(max_repairs=0, **fields)
    assert chat.posts == 1


def test_the_limit_of_repairs_applies_across_retries(chat: Chat) -> None:
    chat.emulator.script(text="no data")

    for _ in range(3):
        with pytest.raises(AirflowFailException, match="3 requests were billed"):
            chat.ask(max_repairs=2, **DATA)
    assert chat.posts == 3
    with pytest.raises(AirflowFailException, match="4 requests were billed"):
        chat.ask(max_repairs=3, **DATA)
    assert chat.posts == 4


def test_a_changed_question_starts_a_new_chain(mending: Chat) -> None:
    mending.ask(prompt="one", **DATA)

    assert mending.ask(prompt="two", **DATA) == {"x": 1}
    assert mending.posts == 4


def test_a_failed_repair_can_be_submitted_again_and_costs_nothing(mending: Chat) -> None:
    mending.emulator.script(match=REASK, fail="model broke", times=1)

    assert mending.ask(on_failed="resubmit", **DATA) == {"x": 1}
    assert mending.posts == 3
    assert len(mending.emulator.bill) == 2


@pytest.mark.parametrize("backend", ["path", "variable"])
def test_the_chain_is_kept_where_airflow_has_no_state_store(
    backend: str, mending: Chat, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "variable":
        from airflow_provider_segmind import task_state

        kept: dict[str, Any] = {}
        monkeypatch.setattr(task_state.VariableTaskState, "read", lambda self: kept.get(self._key))
        monkeypatch.setattr(
            task_state.VariableTaskState, "write", lambda self, record: kept.update({self._key: record})
        )
    fields = {**DATA, "state_path": str(tmp_path) if backend == "path" else None}

    for _ in range(2):
        context = mending.run.context()
        del context["task_state_store"]
        assert mending.task(**fields).execute(context) == {"x": 1}
    assert mending.posts == 2


def test_an_unknown_cost_stays_unknown_and_a_part_is_a_plain_name() -> None:
    from airflow_provider_segmind.chat.replies import TokenUsage

    spent = Spent().plus(0.5, TokenUsage(input_tokens=3)).plus(None, TokenUsage(input_tokens=4, output_tokens=1))

    assert (spent.requests, spent.cost) == (2, None)
    assert (spent.usage or {})["input_tokens"] == 7
    assert (spent.usage or {})["output_tokens"] is None
    assert Spent.from_json(spent.to_json()) == spent
    assert part_after("a-1_b") == "after-a-1_b"
    assert part_after("../../x").removeprefix("after-").isalnum()


def test_an_output_address_from_the_history_is_never_taken_for_the_answer(chat: Chat) -> None:
    chat.ask()
    chat.emulator.advance(4000)
    record = {"model_status": "COMPLETED", "generation_url": "https://images.example/a.png"}
    chat.emulator.fault("history", patch=record, times=None)

    with pytest.raises(AirflowFailException, match="has no text"):
        chat.ask()
    assert chat.posts == 1


@pytest.mark.parametrize("place", ["answer.txt", "taken/answers/"])
def test_an_answer_that_could_not_be_stored_is_refused_before_anything_is_paid(
    place: str, chat: Chat, tmp_path: Path
) -> None:
    (tmp_path / "answer.txt").mkdir()
    (tmp_path / "taken").write_text("")
    with pytest.raises(SegmindConfigError, match="'output_path'"):
        chat.ask(output_path=f"{tmp_path.as_uri()}/{place}", state_path=(tmp_path / "state").as_uri())
    assert chat.posts == 0
