from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_segmind.client.http_library import httpx
from airflow_provider_segmind.client.models import RequestResult, RequestState
from airflow_provider_segmind.client.poll_schedule import Pending
from airflow_provider_segmind.client.polling import MALFORMED_RESPONSES
from airflow_provider_segmind.defaults import RESULT_LIFETIME
from airflow_provider_segmind.exceptions import (
    SegmindAuthenticationError,
    SegmindBadRequestError,
    SegmindError,
    SegmindPermissionError,
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindRequestTimeoutError,
    SegmindResponseError,
)
from tests.support.clients import START, World, answer

DONE = {"status": "COMPLETED", "output": "hi", "metrics": {"cost": 0.1}}
STATUS_DONE = {"status": "COMPLETED", "metrics": {}}
BUSY = {"status": "PROCESSING", "metrics": {}}
FAILED = {"status": "FAILED", "error": "content policy"}
GONE = {"error": "Request r-1 not found"}


def pending(*, timeout: float = 600.0, age: float = 0.0, poll_interval: float | None = None) -> Pending:
    return Pending("r-1", START - age, START + timeout, poll_interval, "Simple_Vector_Flux")


def wait(world: World, replies: Any, what: Pending, **options: Any) -> Any:
    return world.run(replies, lambda client: client.wait(what, **options))


def by_route(status: Callable[[int], httpx.Response], result: Callable[[int], httpx.Response]) -> Any:
    """Answer each route by how often it was asked."""
    asked = {"status": 0, "result": 0}

    def reply(request: httpx.Request) -> httpx.Response:
        route = "status" if request.url.path.endswith("/status") else "result"
        asked[route] += 1
        return (status if route == "status" else result)(asked[route])

    return reply


@pytest.mark.parametrize("fetch", [False, True])
def test_a_completed_request_is_polled_once_without_waiting(world: World, fetch: bool) -> None:
    state = wait(world, answer(200, DONE), pending(), fetch=fetch)

    assert state.completed
    assert isinstance(state, RequestResult) is fetch
    assert world.paths == ["/v2/requests/r-1" + ("" if fetch else "/status")]
    assert world.pauses == []


@pytest.mark.parametrize("fetch", [False, True])
def test_waiting_ends_when_the_request_does(world: World, fetch: bool) -> None:
    replies = [answer(200, {"status": "QUEUED"}), answer(200, BUSY), answer(200, BUSY), answer(200, DONE)]

    state = wait(world, replies, pending(), fetch=fetch)

    assert state.completed
    assert len(world.seen) == 4
    assert len(world.pauses) == 3


def test_an_unknown_status_keeps_waiting(world: World) -> None:
    replies = [answer(200, {"status": "WARMING_UP"}), answer(200, {"status": "quantum"}), answer(200, DONE)]

    assert wait(world, replies, pending()).completed


@pytest.mark.parametrize("code", [200, 422])
@pytest.mark.parametrize("fetch", [False, True])
def test_failed_ends_the_wait_with_any_status_code(world: World, fetch: bool, code: int) -> None:
    with pytest.raises(SegmindRequestFailedError) as caught:
        wait(world, [answer(200, BUSY), answer(code, FAILED)], pending(), fetch=fetch)

    assert caught.value.reason == "content policy"
    assert "request 'r-1' (model 'Simple_Vector_Flux') as FAILED: 'content policy'" in str(caught.value)
    assert (caught.value.billed, caught.value.retryable) == (False, False)


def test_failed_from_the_result_route_is_confirmed_by_the_status(world: World) -> None:
    script = by_route(
        lambda n: answer(200, BUSY) if n == 1 else answer(422, FAILED),
        lambda _: answer(422, {"error": "not ready"}),
    )

    with pytest.raises(SegmindRequestFailedError, match="content policy"):
        wait(world, script, pending(), fetch=True)

    assert [path.rpartition("/")[2] for path in world.paths] == ["r-1", "status", "r-1", "status"]


@pytest.mark.parametrize("code", [400, 404, 409, 422, 425])
def test_a_result_refused_before_completion_is_replaced_by_the_status(world: World, code: int) -> None:
    script = by_route(
        lambda n: answer(200, BUSY if n < 3 else STATUS_DONE),
        lambda n: answer(200, DONE) if n >= 4 else answer(code, {"error": "not completed"}),
    )

    state = wait(world, script, pending(age=60), fetch=True)

    assert isinstance(state, RequestResult)
    assert state.output == "hi"


@pytest.mark.parametrize("code", [400, 404, 409, 422, 425])
def test_a_request_that_ends_between_result_and_status_is_not_lost(world: World, code: int) -> None:
    script = by_route(
        lambda _: answer(200, STATUS_DONE), lambda n: answer(200, DONE) if n > 1 else answer(code, {"error": "early"})
    )

    assert wait(world, script, pending(age=60), fetch=True).output == "hi"


def test_a_missing_result_of_a_completed_request_has_expired(world: World) -> None:
    script = by_route(lambda _: answer(200, STATUS_DONE), lambda _: answer(404, GONE))

    with pytest.raises(SegmindRequestExpiredError, match="3599 s after") as caught:
        wait(world, script, pending(age=3599), fetch=True)

    assert caught.value.billed
    assert caught.value.age == pytest.approx(3599)
    assert "one hour after submission" in str(caught.value)
    assert "(model 'Simple_Vector_Flux')" in str(caught.value)


@pytest.mark.parametrize("code", [400, 404, 409, 410, 425])
@pytest.mark.parametrize("times", [2, 3])
def test_a_result_that_comes_seconds_after_completion_is_not_gone(world: World, code: int, times: int) -> None:
    script = by_route(
        lambda _: answer(200, STATUS_DONE),
        lambda n: answer(200, DONE) if n > 2 * times else answer(code, {"error": "not there"}),
    )

    assert wait(world, script, pending(age=60), fetch=True).output == "hi"
    assert world.pauses == [1.0, 3.0, 6.0][:times]


def test_a_result_is_looked_for_again_no_later_than_the_deadline(world: World) -> None:
    script = by_route(lambda _: answer(200, STATUS_DONE), lambda _: answer(404, GONE))

    with pytest.raises(SegmindRequestExpiredError):
        wait(world, script, pending(age=60, timeout=2), fetch=True, until=START)
    assert world.pauses == [1.0]


def test_a_refused_result_of_a_completed_request_raises_that_error(world: World) -> None:
    script = by_route(lambda _: answer(200, STATUS_DONE), lambda _: answer(400, {"error": "odd"}))

    with pytest.raises(SegmindBadRequestError, match="odd"):
        wait(world, script, pending(age=60), fetch=True)


@pytest.mark.parametrize("fetch", [False, True])
def test_a_404_in_the_first_seconds_is_waited_out(world: World, fetch: bool) -> None:
    replies = [answer(404, GONE)] * (4 if fetch else 2) + [answer(200, DONE)]

    assert wait(world, replies, pending(), fetch=fetch).completed


@pytest.mark.parametrize("fetch", [False, True])
def test_a_404_that_stays_has_expired(world: World, fetch: bool) -> None:
    with pytest.raises(SegmindRequestExpiredError) as caught:
        wait(world, answer(404, GONE), pending(), fetch=fetch)

    assert caught.value.age == pytest.approx(10)
    assert "unknown to this account" in str(caught.value)


BLIPS = [
    answer(500, {"error": "boom"}),
    answer(502, b"<html>Bad gateway</html>"),
    answer(503),
    answer(504),
    answer(429, {"error": "rate_limit_exceeded"}),
    answer(200, b'{"status": "COMP'),
    answer(200, b"<html>maintenance</html>"),
    answer(307, headers={"location": "https://elsewhere.example/"}),
    answer(302, b"<html>Found</html>", headers={"location": "/login"}),
    answer(404, b"<html>404</html>"),
    answer(404, b"default backend - 404"),
    answer(401, b"<html>Sign in</html>"),
    answer(403, b"<html>Attention required</html>"),
    answer(422, b"<html>Unprocessable</html>"),
    httpx.ConnectError("refused"),
    httpx.ConnectError("[Errno -3] Temporary failure in name resolution"),
    httpx.ConnectTimeout("timed out"),
    httpx.ReadTimeout("timed out"),
    httpx.ReadError("reset"),
    httpx.RemoteProtocolError("server disconnected"),
]


@pytest.mark.parametrize("fetch", [False, True])
@pytest.mark.parametrize("blip", BLIPS, ids=repr)
def test_a_transient_error_only_costs_time(world: World, blip: Any, fetch: bool) -> None:
    reports: list[str] = []

    state = wait(world, [answer(200, BUSY), blip, blip, blip, answer(200, DONE)], pending(), fetch=fetch,
                 report=reports.append)  # fmt: skip

    assert state.completed
    assert world.posts == 0
    assert len(world.seen) == 5
    started, ended = reports
    assert started.endswith("Still waiting for request 'r-1' (model 'Simple_Vector_Flux').")
    assert ended == "Segmind is reachable again; request 'r-1' (model 'Simple_Vector_Flux') is COMPLETED."


@pytest.mark.parametrize("blip", BLIPS, ids=repr)
def test_an_outage_is_waited_out_until_the_deadline_and_then_reported(world: World, blip: Any) -> None:
    with pytest.raises(
        SegmindRequestTimeoutError, match=r"it was unreachable \(Segmind\w+Error\), 100 s after"
    ) as caught:
        wait(world, blip, pending(timeout=100))

    assert world.now == START + 100
    assert (caught.value.billed, caught.value.retryable) == (True, True)


def test_the_reset_time_of_a_429_is_waited_for(world: World) -> None:
    limited = answer(429, {"error": "x"}, headers={"retry-after": "40"})

    wait(world, [limited, answer(200, DONE)], pending(poll_interval=1.0))

    # Spread over a second, so that tasks that share a limit do not poll together.
    [pause] = world.pauses
    assert 40.0 < pause <= 41.0


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (answer(401, {"error": "Unauthorized"}), SegmindAuthenticationError),
        (answer(403, {"error": "Forbidden"}), SegmindPermissionError),
    ],
)
@pytest.mark.parametrize("fetch", [False, True])
def test_an_error_that_waiting_cannot_resolve_ends_the_wait_at_once(
    world: World, reply: httpx.Response, kind: type[SegmindError], fetch: bool
) -> None:
    with pytest.raises(kind):
        wait(world, reply, pending(), fetch=fetch)

    assert world.pauses == []


@pytest.mark.parametrize("status", [{}, {"status": None}])
def test_the_result_of_a_completed_request_needs_no_status(world: World, status: dict[str, Any]) -> None:
    script = by_route(
        lambda n: answer(200, BUSY if n == 1 else STATUS_DONE), lambda _: answer(200, {"output": "hi", **status})
    )

    state = wait(world, script, pending(), fetch=True)

    assert (state.status, state.output) == ("COMPLETED", "hi")


@pytest.mark.parametrize("body", [{"error": "try again", "output": None}, {"message": "busy"}, ["hi"]])
def test_a_response_without_a_status_and_an_output_is_not_a_result(world: World, body: Any) -> None:
    script = by_route(lambda _: answer(200, STATUS_DONE), lambda n: answer(200, body if n < 4 else DONE))

    assert wait(world, script, pending(), fetch=True).output == "hi"


MALFORMED = [["COMPLETED"], "COMPLETED", 7, {"state": "done"}]


@pytest.mark.parametrize("body", MALFORMED)
@pytest.mark.parametrize("fetch", [False, True])
def test_a_response_without_a_state_is_polled_again(world: World, body: object, fetch: bool) -> None:
    odd = [answer(200, body)] * (2 if fetch else 1)

    assert wait(world, [*odd, answer(200, DONE)], pending(), fetch=fetch).completed
    assert len(world.pauses) >= 1


@pytest.mark.parametrize("body", MALFORMED)
@pytest.mark.parametrize("fetch", [False, True])
def test_repeated_responses_without_a_state_end_the_try_only(world: World, body: object, fetch: bool) -> None:
    with pytest.raises(SegmindResponseError) as caught:
        wait(world, answer(200, body), pending(), fetch=fetch)

    assert caught.value.retryable
    assert len(world.pauses) == MALFORMED_RESPONSES


def test_a_last_poll_is_made_exactly_at_the_deadline(world: World) -> None:
    with pytest.raises(SegmindRequestTimeoutError) as caught:
        wait(world, answer(200, BUSY), pending(timeout=60.25, poll_interval=7.0))

    assert world.now == START + 60.25
    assert world.pauses == [7.0] * 8 + [pytest.approx(4.25)]
    assert len(world.seen) == 10
    assert "request 'r-1' (model 'Simple_Vector_Flux')" in str(caught.value)
    assert "it was PROCESSING, 60 s after submission" in str(caught.value)


def test_a_request_that_completes_at_the_deadline_is_returned(world: World) -> None:
    replies = [answer(200, BUSY), answer(200, DONE)]

    assert wait(world, replies, pending(timeout=5.0, poll_interval=60.0)).completed
    assert world.now == START + 5


@pytest.mark.parametrize("late", [0.0, 100.0])
def test_a_wait_that_starts_after_its_deadline_polls_once(world: World, late: float) -> None:
    with pytest.raises(SegmindRequestTimeoutError):
        wait(world, answer(200, BUSY), pending(timeout=-late))

    assert (len(world.seen), world.pauses) == (1, [])


def test_until_returns_none_while_the_request_is_in_progress(world: World) -> None:
    assert wait(world, answer(200, BUSY), pending(), until=START + 10.0) is None
    assert world.now == START + 10.0


def test_until_in_the_past_polls_once(world: World) -> None:
    assert wait(world, answer(200, BUSY), pending(), until=START - 1) is None
    assert (len(world.seen), world.pauses) == (1, [])


def test_until_returns_a_request_that_completes_before(world: World) -> None:
    assert wait(world, [answer(200, BUSY), answer(200, DONE)], pending(), until=START + 10).completed


def test_the_deadline_takes_precedence_over_until(world: World) -> None:
    with pytest.raises(SegmindRequestTimeoutError):
        wait(world, answer(200, BUSY), pending(timeout=5.0), until=START + 10)

    assert world.now == START + 5


def test_an_outage_at_until_does_not_end_the_wait(world: World) -> None:
    assert wait(world, answer(503), pending(), until=START + 3) is None


def test_poll_interval_is_followed(world: World) -> None:
    wait(world, [answer(200, BUSY)] * 5 + [answer(200, DONE)], pending(poll_interval=30.0))

    assert world.pauses == [30.0] * 5


@pytest.mark.parametrize("poll_interval", [600.0, 1800.0, 3600.0, 86400.0])
def test_a_long_poll_interval_does_not_skip_the_last_poll_before_expiry(world: World, poll_interval: float) -> None:
    def reply(_: httpx.Request) -> httpx.Response:
        age = world.now - START
        return answer(200, BUSY) if age < 3500 else answer(200, DONE) if age < 3600 else answer(404, GONE)

    assert wait(world, reply, pending(timeout=7200, poll_interval=poll_interval), fetch=True).output == "hi"


def test_an_hour_of_waiting_costs_a_bounded_number_of_polls(world: World) -> None:
    with pytest.raises(SegmindRequestTimeoutError):
        wait(world, answer(200, BUSY), pending(timeout=RESULT_LIFETIME))

    assert 400 < len(world.seen) < 650
    assert all(0.4 < pause < 17 for pause in world.pauses[:-1])


def test_poll_does_not_retry_and_returns_a_failure_as_a_state(world: World) -> None:
    state = world.run(answer(422, FAILED), lambda client: client.poll("r-1", fetch=True))

    assert isinstance(state, RequestState)
    assert state.failed
    assert world.pauses == []
