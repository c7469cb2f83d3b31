"""The result of a request that another task submitted."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.chat.replies import TokenUsage
from airflow_provider_segmind.client.submission import RequestRef, iso
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.exceptions import SegmindRequestExpiredError, SegmindRequestTimeoutError
from airflow_provider_segmind.execution.result import fetch_result, summary, tokens_of
from airflow_provider_segmind.operators.request import SegmindResultOperator, SegmindSubmitOperator
from airflow_provider_segmind.result_storage import ResultDestination, StoredResult
from tests.support.airflow_fakes import INPUTS, Clock, Run, by_hand, hook_by
from tests.support.request_tasks import MODEL


def test_submit_returns_what_the_other_tasks_accept(emulator: SegmindEmulator, clock: Clock, run: Run) -> None:
    emulator.settings(latency=30.0)
    handed = by_hand(SegmindSubmitOperator(task_id="s", model=MODEL, inputs=INPUTS), clock).execute(run.context())
    assert handed["model"] == MODEL
    assert handed["submitted_at"] <= iso(clock())
    result = by_hand(SegmindResultOperator(task_id="r", request_id=handed), clock)
    with pytest.raises(SegmindRequestTimeoutError, match="has no result yet"):
        result.execute(run.context())
    clock.ahead += 40
    for form in (handed, str(handed), handed["request_id"]):
        task = by_hand(SegmindResultOperator(task_id="r", request_id=form), clock)
        assert task.execute(run.context())["request_id"] == handed["request_id"]
    assert len(emulator.posts()) == 1


@pytest.fixture
def picture(emulator: SegmindEmulator, clock: Clock) -> str:
    """A request whose result Segmind has dropped and whose entry of the history has its file."""
    request_id = hook_by(clock).submit("seedream-4.5", INPUTS).request_id
    clock.ahead += 4000
    return request_id


def fetch(clock: Clock, request_id: Any, *, recover: bool = False, **destination: Any) -> StoredResult:
    client, log = hook_by(clock).get_conn(), logging.getLogger("a_task")
    return fetch_result(request_id, ResultDestination(**destination), client=client, recover=recover, log=log)


def test_an_expired_result_is_recovered_from_the_history_where_that_is_wanted(
    emulator: SegmindEmulator, clock: Clock, picture: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = fetch(clock, picture, recover=True, output_path=tmp_path.as_uri())

    assert stored.manifest is not None
    assert Path(stored.manifest.uris[0].removeprefix("file://")).stat().st_size > 0
    assert stored.metrics["cost"] == emulator.bill[0].cost
    assert "Searching the request history" in caplog.text
    assert len(emulator.posts()) == 1


def test_an_expired_result_is_an_error_that_says_how_old_the_request_is_if_that_is_known(
    emulator: SegmindEmulator, clock: Clock, picture: str
) -> None:
    with pytest.raises(SegmindRequestExpiredError, match=picture) as of_unknown_age:
        fetch(clock, picture)
    submitted = RequestRef(picture, model="seedream-4.5", submitted_at=clock() - 4000).to_json()
    with pytest.raises(SegmindRequestExpiredError, match=r"4\d\d\d s after submission: Segmind keeps a result for one"):
        fetch(clock, submitted)

    assert " s after submission" not in str(of_unknown_age.value)
    assert emulator.calls("history") == []


def test_a_result_that_is_missing_for_seconds_is_not_gone(emulator: SegmindEmulator, clock: Clock) -> None:
    handed = RequestRef(hook_by(clock).submit(MODEL, INPUTS).request_id, submitted_at=clock() - 60)
    emulator.fault("result", status=404, body={"error": "gone"}, times=4)

    assert fetch(clock, handed.to_json()).for_xcom["request_id"] == handed.request_id
    assert emulator.calls("history") == []


def test_a_result_that_another_task_has_stored_is_not_fetched_again(
    emulator: SegmindEmulator, clock: Clock, tmp_path: Path
) -> None:
    request_id = hook_by(clock).submit(MODEL, INPUTS).request_id
    folder = {"output_path": f"{tmp_path.as_uri()}/", "max_xcom_bytes": 0}
    first = fetch(clock, request_id, **folder)
    assert first.manifest is not None
    known = first.for_xcom
    emulator.fault("result|status", status=404, body={"error": "gone"}, times=None)

    for request in (request_id, known):
        assert fetch(clock, request, **folder) == first
    # The other task may have stored it elsewhere.
    assert fetch(clock, known).for_xcom["request_id"] == request_id
    # Where it is not stored, it has to be fetched.
    with pytest.raises(SegmindRequestExpiredError):
        fetch(clock, request_id)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({}, "5 tokens in, 7 tokens out"),
        ({"cost": 0.000267}, "5 tokens in, 7 tokens out, cost $0.000267"),
        (
            {"cost": 0, "total_time": 4.5, "queue_time": 0.0, "inference_time": 4.0},
            "5 tokens in, 7 tokens out, cost $0.00, total 4.5 s, queued 0.0 s, inference 4.0 s",
        ),
    ],
)
def test_a_result_is_summarized_in_one_line_as_far_as_segmind_reports(metrics: dict[str, Any], words: str) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 7}
    reply = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": usage}
    stored = StoredResult({"output": json.dumps(reply), "metrics": metrics})

    assert summary("r-1", "gpt-5", stored) == f"Request r-1 (model gpt-5) completed: {words}"


def test_a_result_that_says_nothing_of_itself_is_only_completed() -> None:
    assert summary("r-1", "m", StoredResult("a text")) == "Request r-1 (model m) completed"
    assert tokens_of(StoredResult({"images": []}), "m") == TokenUsage()
