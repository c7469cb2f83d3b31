"""What bad input and trouble get: exception, retry or not, POSTs that reached Segmind, and Segmind's own words."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from airflow_provider_segmind import exceptions as e
from airflow_provider_segmind.compat import AirflowFailException
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.operators.request import SegmindRunOperator
from tests.support.airflow_fakes import CANARY, INPUTS, KEY, Clock, Run, by_hand

MODEL = "gemini-3.1-flash-lite"
Emulator = SegmindEmulator
ECHO = {"error": f"a complaint about {KEY}"}


@dataclass(frozen=True)
class Row:
    """One answer and what it gets.

    :param error: the exception's class, None when the task succeeds.
    :param retried: what Airflow does with the task: ``up_for_retry``, else ``failed``.
    :param words: what the message or the log must hold.
    """

    name: str
    given: Callable[[Emulator], Any]
    error: type[e.SegmindError] | None = None
    retried: bool = False
    posts: int = 1
    words: str = ""
    model: str = MODEL
    extra: tuple[tuple[str, Any], ...] = ()
    transport_is_dead: bool = False


def refused(status: int, body: Any, **fields: Any) -> Callable[[Emulator], Any]:
    return lambda emulator: emulator.fault("submit", status=status, body=body, times=None, **fields)


def submit_fault(**fields: Any) -> Callable[[Emulator], Any]:
    return lambda emulator: emulator.fault("submit", **fields)


def poll_fault(**fields: Any) -> Callable[[Emulator], Any]:
    return lambda emulator: emulator.fault("status|result", **fields)


def limited(form: str) -> Callable[[Emulator], Any]:
    return submit_fault(status=429, reset_in=20.0, reset_format=form)


def failing(status: int) -> Callable[[Emulator], Any]:
    def given(emulator: Emulator) -> None:
        emulator.settings(failed_status=status)
        emulator.script(fail="blocked by content policy")

    return given


def gone_after_completion(emulator: Emulator) -> None:
    emulator.fault("result", status=404, body={"error": "Request r not found"}, times=None)


NOT_SENT_AGAIN = "Nothing was sent again"
ADOPTED = "Found request"
TABLE = [
    Row("400", refused(400, {"error": "Missing field: prompt"}), e.SegmindBadRequestError, words="Missing field"),
    Row(
        "401 no key",
        refused(401, {"error": "Missing Authorization or x-api-key in header"}),
        e.SegmindAuthenticationError,
        words="Missing Authorization",
    ),
    Row(
        "401 bad key",
        lambda m: m.settings(api_keys=["SG_other"]),
        e.SegmindAuthenticationError,
        words="API key is invalid",
    ),
    Row("402 credits", lambda m: m.set_balance(0.0), e.SegmindCreditsError, words="Insufficient credits"),
    Row("403", lambda m: None, e.SegmindPermissionError, words="does not have access", model="restricted-model"),
    Row("404 slug", lambda m: None, e.SegmindModelNotFoundError, words="not found", model="no-such-slug-9"),
    Row("404 expired", lambda m: m.settings(ttl=0.0), e.SegmindRequestExpiredError, words="the result is lost"),
    Row("405 HTML", submit_fault(status=405, html=True), posts=2),
    Row("405 JSON", refused(405, {"error": "Method Not Allowed"}), e.SegmindBadRequestError, words="405"),
    Row(
        "406 credits",
        refused(406, {"error": "Balance 0.01 is below the estimated credits 0.05"}),
        e.SegmindCreditsError,
        words="Balance 0.01",
    ),
    Row(
        "406 content type",
        refused(406, {"error": "Invalid content type"}),
        e.SegmindBadRequestError,
        words="Invalid content type",
    ),
    Row(
        "406 value", refused(406, {"error": "steps must be below 50"}), e.SegmindBadRequestError, words="steps must be"
    ),
    Row("410 retired", lambda m: None, e.SegmindModelRetiredError, words="retired", model="gemini-1.5-pro"),
    Row("413", refused(413, "<html>too large</html>"), e.SegmindBadRequestError, words="upload the files"),
    Row(
        "422 on submit",
        refused(422, {"error": "seed must be a number"}),
        e.SegmindBadRequestError,
        words="seed must be",
    ),
    Row("FAILED in 422", failing(422), e.SegmindRequestFailedError, words="blocked by content policy"),
    Row("FAILED inside 200", failing(200), e.SegmindRequestFailedError, words="blocked by content policy"),
    Row(
        "429 every time",
        refused(429, {"error": "rate_limit_exceeded"}),
        e.SegmindRateLimitError,
        retried=True,
        posts=6,
        words="rate_limit_exceeded",
    ),
    Row("429 once, no header", submit_fault(status=429), posts=2),
    Row("429 once, ISO with Z", limited("iso_z"), posts=2),
    Row("429 once, ISO without Z", limited("iso"), posts=2),
    Row("429 once, epoch", limited("epoch"), posts=2),
    Row(
        "500, not created",
        refused(500, {"error": "internal error 77"}),
        e.SegmindSubmissionUnknownError,
        words="internal error 77",
    ),
    Row("500, created", submit_fault(status=500, when="after"), words=ADOPTED),
    Row(
        "502 HTML, not created",
        submit_fault(status=502, html=True),
        e.SegmindSubmissionUnknownError,
        words="Bad Gateway",
    ),
    Row("502 HTML, created", submit_fault(status=502, html=True, when="after"), words=ADOPTED),
    Row("503", submit_fault(status=503), e.SegmindSubmissionUnknownError, words=NOT_SENT_AGAIN),
    Row("504 empty, created", submit_fault(status=504, empty=True, when="after"), words=ADOPTED),
    Row(
        "connection refused",
        lambda m: None,
        e.SegmindConnectionError,
        retried=True,
        posts=0,
        words="never left",
        transport_is_dead=True,
    ),
    Row("reset before acceptance", submit_fault(reset=True), e.SegmindSubmissionUnknownError, words=NOT_SENT_AGAIN),
    Row("reset after acceptance", submit_fault(reset=True, when="after"), words=ADOPTED),
    Row("closed after acceptance", submit_fault(close=True, when="after"), words=ADOPTED),
    Row("read timeout", submit_fault(delay=0.6, when="after"), words=ADOPTED, extra=(("request_timeout", 0.3),)),
    Row("cut in the body", submit_fault(truncate="connection", when="after"), words=ADOPTED),
    Row("broken JSON, created", submit_fault(truncate="json", when="after"), words=ADOPTED),
    Row(
        "broken JSON, not created",
        submit_fault(status=200, body="{'oops"),
        e.SegmindSubmissionUnknownError,
        words="is not JSON",
    ),
    Row("JSON list", submit_fault(status=200, body=["r-1"]), e.SegmindSubmissionUnknownError, words="JSON list"),
    Row("2xx without request_id", submit_fault(drop=["request_id"], when="after"), words=ADOPTED),
    Row("2xx with a path for an id", submit_fault(patch={"request_id": "../v1/get-user-credits"}), words=ADOPTED),
    Row(
        "307 on submit",
        submit_fault(redirect="http://127.0.0.2:9/{path}", times=None),
        e.SegmindResponseError,
        retried=True,
        posts=6,
        words="not followed",
    ),
    Row(
        "307 on the polls",
        poll_fault(redirect="http://127.0.0.2:9/{path}", times=None),
        e.SegmindRequestTimeoutError,
        retried=True,
        words="not followed",
    ),
    Row("unknown status", lambda m: m.fault("result", patch={"status": "WARMING_UP"}, times=3)),
    Row("COMPLETED then 404", gone_after_completion, e.SegmindRequestExpiredError, words="the result is lost"),
    Row(
        "polls answered 401",
        poll_fault(status=401, times=None),
        e.SegmindAuthenticationError,
        words="check the API key",
    ),
    Row("polls in trouble for a while", poll_fault(status=503, html=True, times=8), words="Segmind is reachable again"),
    Row("polls limited for a while", poll_fault(status=429, times=4), words="Segmind is reachable again"),
    Row(
        "polls of broken JSON",
        poll_fault(status=200, body="<html>login</html>", times=4),
        words="Segmind is reachable again",
    ),
    Row("polls of half an answer", poll_fault(truncate="connection", times=4), words="Segmind is reachable again"),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_an_answer_gets_its_exception_its_retry_and_no_post_too_many(
    row: Row,
    emulator: Emulator,
    clock: Clock,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fields = emulator.connection
    fields["extra"] |= dict(row.extra)
    if row.transport_is_dead:
        fields["host"] = f"http://127.0.0.1:{unused_port()}"
    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", json.dumps(fields))
    row.given(emulator)
    task = SegmindRunOperator(task_id="a_task", model=row.model, inputs=INPUTS, deferrable=False)
    by_hand(task, clock)
    caplog.set_level(logging.DEBUG)

    value, error, failed = None, None, False
    try:
        value = task.execute(run.context())
    except AirflowFailException as problem:
        error, failed = problem.__context__, True
    except e.SegmindError as problem:
        error = problem

    assert type(error) is (row.error or type(None)), error
    assert failed is (row.error is not None and not row.retried)
    assert len(emulator.posts()) == row.posts
    assert len(emulator.bill) <= 1
    if row.error is None:
        assert value["status"] == "COMPLETED"
        assert len(emulator.bill) == 1
    text = caplog.text + str(error)
    assert row.words in text
    assert KEY not in text
    assert CANARY not in "".join(record.getMessage() for record in caplog.records if record.levelno >= logging.INFO)
    assert len(str(error)) < 1500


def test_the_table_has_the_answers_the_issue_names() -> None:
    assert len(TABLE) >= 24
    assert len({row.name for row in TABLE}) == len(TABLE)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("route", ["submit", "status|result", "history"])
def test_a_key_that_the_server_echoes_is_masked_everywhere(
    route: str, emulator: Emulator, clock: Clock, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    emulator.fault(route, status=400, body=ECHO, times=None)
    if route == "history":
        emulator.fault("submit", status=500, body=ECHO)
    task = SegmindRunOperator(task_id="a_task", model=MODEL, inputs=INPUTS, deferrable=False)
    by_hand(task, clock)

    with pytest.raises(AirflowFailException, match=r"\*\*\*") as caught:
        task.execute(run.context())

    chain: BaseException | None = caught.value
    seen: list[BaseException] = []
    while chain is not None:
        # structlog, with which Airflow logs a task's error, follows causes without looking back.
        assert chain not in seen
        seen.append(chain)
        assert KEY not in str(chain) + repr(chain) + repr(vars(chain))
        chain = chain.__cause__ or chain.__context__
    assert KEY not in caplog.text + json.dumps(run.store.written) + json.dumps(run.ti.pushed) + repr(task.hook.config)


def test_a_status_url_on_another_host_is_never_dialled(emulator: Emulator, clock: Clock, run: Run) -> None:
    emulator.settings(public_url="http://127.0.0.2:9")
    emulator.settings(latency=5.0)
    task = SegmindRunOperator(task_id="a_task", model=MODEL, inputs=INPUTS, deferrable=False)
    by_hand(task, clock)
    assert task.execute(run.context())["status"] == "COMPLETED"
