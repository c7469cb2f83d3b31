from __future__ import annotations

import json
import logging
import socket
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_segmind.client.client import ClientConfig, SegmindClient
from airflow_provider_segmind.client.endpoints import Endpoints
from airflow_provider_segmind.client.http_library import httpx
from airflow_provider_segmind.client.retry import ONE_ATTEMPT
from airflow_provider_segmind.exceptions import (
    SegmindAPIError,
    SegmindAuthenticationError,
    SegmindBadRequestError,
    SegmindConfigError,
    SegmindConnectionError,
    SegmindCreditsError,
    SegmindError,
    SegmindModelNotFoundError,
    SegmindModelRetiredError,
    SegmindPermissionError,
    SegmindRateLimitError,
    SegmindRequestExpiredError,
    SegmindResponseError,
    SegmindServerError,
    SegmindSubmissionUnknownError,
)
from tests.support.clients import (
    KEY,
    PLAIN_KEY,
    PROMPT,
    START,
    World,
    accepted,
    answer,
    balance,
    result,
    status,
    submit,
)
from tests.support.loopback_server import Loopback, silence

Act = Callable[[Any], Any]


def run_sync(client: Any) -> Any:
    return client.run_sync("a-model", {"prompt": PROMPT})


def models(client: Any) -> Any:
    return client.list_models()


def record(client: Any) -> Any:
    return client.get_request_record("r-1")


def records(client: Any) -> Any:
    return client.list_request_records(model="a-model")


def upload(client: Any) -> Any:
    return client.upload(["data:image/png;base64,AA=="])


PAID: list[Act] = [submit, run_sync]
FREE: list[Act] = [status, result, balance, models, record, records]
LOST: list[Any] = [
    httpx.ReadTimeout("timed out"),
    httpx.WriteTimeout("timed out"),
    httpx.ReadError("reset"),
    httpx.WriteError("broken pipe"),
    httpx.RemoteProtocolError("server disconnected"),
]
NEVER_LEFT = [httpx.ConnectError("refused"), httpx.ConnectTimeout("timed out"), httpx.PoolTimeout("full")]


NO_KEY = "Missing Authorization or x-api-key in header"
BAD_KEY = "Unauthorized. API key is invalid or may have expired..."

# Every answer to a submit: the reply, its class, billed, retryable, POSTs that reach the server.
SUBMITS: list[tuple[str, Any, type[SegmindError], bool | None, bool, int]] = [
    ("400", answer(400, {"error": "Invalid JSON"}), SegmindBadRequestError, False, False, 1),
    ("401 no key", answer(401, {"error": NO_KEY}), SegmindAuthenticationError, False, False, 1),
    ("401 bad key", answer(401, {"error": BAD_KEY}), SegmindAuthenticationError, False, False, 1),
    ("402", answer(402, {"error": "Insufficient credits."}), SegmindCreditsError, False, False, 1),
    ("403", answer(403, {"error": "no"}), SegmindPermissionError, False, False, 1),
    ("404", answer(404, {"error": "no such model"}), SegmindModelNotFoundError, False, False, 1),
    ("405 HTML", answer(405, b"<html>Method Not Allowed</html>"), SegmindBadRequestError, False, True, 6),
    ("406 content type", answer(406, {"error": "Invalid content type"}), SegmindBadRequestError, False, False, 1),
    ("406 credits", answer(406, {"error": "Insufficient credits"}), SegmindCreditsError, False, False, 1),
    ("406 value", answer(406, {"error": "bad aspect_ratio"}), SegmindBadRequestError, False, False, 1),
    ("406 spend limit", answer(406, {"error": "team spend limit"}), SegmindCreditsError, False, False, 1),
    ("410", answer(410, {"error": "retired"}), SegmindModelRetiredError, False, False, 1),
    ("413", answer(413, b"too large"), SegmindBadRequestError, False, False, 1),
    ("422", answer(422, {"error": "prompt is required"}), SegmindBadRequestError, False, False, 1),
    ("429", answer(429, {"error": "rate_limit_exceeded"}), SegmindRateLimitError, False, True, 6),
    ("500", answer(500, {"error": "boom"}), SegmindSubmissionUnknownError, None, False, 1),
    ("502 HTML", answer(502, b"<html>Bad gateway</html>"), SegmindSubmissionUnknownError, None, False, 1),
    ("503", answer(503), SegmindSubmissionUnknownError, None, False, 1),
    ("504", answer(504), SegmindSubmissionUnknownError, None, False, 1),
    ("refused", httpx.ConnectError("refused"), SegmindConnectionError, False, True, 6),
    ("connect timeout", httpx.ConnectTimeout("t"), SegmindConnectionError, False, True, 6),
    ("no DNS", httpx.ConnectError("[Errno -2] Name or service not known"), SegmindConnectionError, False, True, 6),
    ("read timeout", httpx.ReadTimeout("t"), SegmindSubmissionUnknownError, None, False, 1),
    ("write timeout", httpx.WriteTimeout("t"), SegmindSubmissionUnknownError, None, False, 1),
    ("reset", httpx.ReadError("reset"), SegmindSubmissionUnknownError, None, False, 1),
    ("cut off", httpx.RemoteProtocolError("incomplete body"), SegmindSubmissionUnknownError, None, False, 1),
    ("broken JSON", answer(200, b'{"request_id": "r'), SegmindResponseError, None, False, 1),
    ("empty 200", answer(200), SegmindResponseError, None, False, 1),
    ("HTML 200", answer(200, b"<html>maintenance</html>"), SegmindResponseError, None, False, 1),
    ("JSON list", answer(200, ["r-1"]), SegmindResponseError, None, False, 1),
    ("no request_id", answer(200, {"status": "QUEUED"}), SegmindResponseError, None, False, 1),
    ("request_id with slashes", answer(200, {"request_id": "../../v1/x"}), SegmindResponseError, None, False, 1),
    ("request_id of an odd type", answer(202, {"request_id": [7]}), SegmindResponseError, None, False, 1),
    ("204", answer(204), SegmindResponseError, None, False, 1),
    ("307", answer(307, headers={"location": "https://elsewhere.example/"}), SegmindResponseError, False, True, 6),
    ("303", answer(303, headers={"location": "https://elsewhere.example/"}), SegmindResponseError, None, False, 1),
    ("404 page", answer(404, b"<html>404</html>"), SegmindResponseError, False, True, 6),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "kind", "billed", "retryable", "posts"), [row[1:] for row in SUBMITS], ids=[row[0] for row in SUBMITS]
)
def test_a_submit_that_goes_wrong_is_named_and_sent_no_more_often_than_is_safe(
    world: World, reply: Any, kind: type[SegmindError], billed: bool | None, retryable: bool, posts: int
) -> None:
    with pytest.raises(kind) as caught:
        world.run(reply, submit)

    assert type(caught.value) is kind
    assert (caught.value.billed, caught.value.retryable) == (billed, retryable)
    assert world.posts == len(world.seen) == posts
    assert "Submitting to model 'a-model'" in str(caught.value)
    assert PROMPT not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("act", PAID)
@pytest.mark.parametrize("lost", LOST, ids=repr)
def test_a_paid_post_is_not_sent_again_after_it_was_lost(world: World, act: Act, lost: Exception) -> None:
    with pytest.raises(SegmindSubmissionUnknownError, match="was not sent again"):
        world.run([lost, accepted()], act)

    assert world.posts == 1


@pytest.mark.parametrize("act", PAID)
@pytest.mark.parametrize("error", NEVER_LEFT, ids=repr)
def test_a_paid_post_that_never_left_is_sent_again(world: World, act: Act, error: Exception) -> None:
    world.run([error, error, accepted()], act)

    assert world.posts == 3
    assert len(world.pauses) == 2


@pytest.mark.parametrize("act", PAID)
def test_a_paid_post_that_was_limited_is_sent_again_after_the_reset(world: World, act: Act) -> None:
    limited = answer(429, {"error": "x"}, headers={"x-rate-limit-reset-at-utc": str(START + 20)})

    world.run([limited, accepted()], act)

    assert world.posts == 2
    assert 20 < world.pauses[0] <= 21


@pytest.mark.parametrize("code", [500, 502, 503, 504])
def test_a_submit_is_not_sent_again_after_a_server_error(world: World, code: int) -> None:
    with pytest.raises(SegmindSubmissionUnknownError, match="was not sent again"):
        world.run([answer(code), accepted()], submit)

    assert world.posts == 1


def test_a_post_lost_after_a_safe_repetition_is_still_unknown(world: World) -> None:
    with pytest.raises(SegmindSubmissionUnknownError):
        world.run([httpx.ConnectError("refused"), answer(429), httpx.ReadTimeout("t"), accepted()], submit)

    assert world.posts == 3


@pytest.mark.parametrize("act", FREE)
@pytest.mark.parametrize(
    "blip", [*LOST, *NEVER_LEFT, answer(500), answer(502, b"<p>"), answer(429), answer(200, b"{")], ids=repr
)
def test_a_free_call_is_sent_again(world: World, act: Act, blip: Any) -> None:
    body = {"status": "COMPLETED", "credits": 1, "data": [{"request_id": "r-1", "slug": "m"}]}

    world.run([blip, blip, answer(200, body)], act)

    assert len(world.seen) == 3
    assert world.posts == 0


@pytest.mark.parametrize("act", FREE)
def test_a_free_call_is_not_retried_without_end(world: World, act: Act) -> None:
    with pytest.raises(SegmindServerError):
        world.run(answer(503), act)

    assert len(world.seen) == 6


def test_a_submit_is_one_post_of_the_inputs(world: World) -> None:
    found = world.run(accepted("0f" * 16), submit)

    assert found.request_id == "0f" * 16
    (request,) = world.seen
    assert (request.method, str(request.url)) == ("POST", "https://api.segmind.com/v2/a-model")
    assert json.loads(request.content) == {"prompt": PROMPT}
    assert request.headers["x-api-key"] == KEY
    assert request.headers["content-type"] == "application/json"


def test_urls_that_the_server_names_are_never_dialled(world: World) -> None:
    foreign = "https://evil.example/v2/requests/r-1"
    replies = [
        answer(200, {"request_id": "r-1", "status_url": foreign, "response_url": foreign, "poll_url": foreign}),
        answer(200, {"status": "QUEUED", "status_url": foreign}),
        answer(200, {"status": "COMPLETED", "response_url": foreign}),
    ]

    def act(client: Any) -> Any:
        if world.kind == "sync":
            return [client.submit("m", {}), client.get_status("r-1"), client.get_result("r-1")]

        async def go() -> Any:
            return [await client.submit("m", {}), await client.get_status("r-1"), await client.get_result("r-1")]

        return go()

    world.run(replies, act, endpoints=Endpoints(gateway="http://proxy.example/segmind"))

    assert {request.url.host for request in world.seen} == {"proxy.example"}
    assert world.paths == ["/segmind/v2/m", "/segmind/v2/requests/r-1/status", "/segmind/v2/requests/r-1"]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("act", [*PAID, *FREE, upload])
def test_a_redirect_is_never_followed_and_the_key_stays_at_home(world: World, act: Act, code: int) -> None:
    with pytest.raises(SegmindResponseError, match=r"a redirect to 'https://elsewhere\.example/x'") as caught:
        world.run(answer(code, headers={"location": "https://elsewhere.example/x"}), act)

    # "See other" may be how a POST that was carried out is answered.
    unknown = code == 303 and act in PAID
    assert len(world.seen) == (1 if unknown else 6)
    assert {request.url.host for request in world.seen}.isdisjoint({"elsewhere.example"})
    assert (caught.value.retryable, caught.value.billed) == ((False, None) if unknown else (True, False))


@pytest.mark.parametrize("act", [submit, status, result])
@pytest.mark.parametrize(
    "page", [answer(302, headers={"location": "/login"}), answer(404, b"<html>404</html>"), answer(405, b"<html>")]
)
def test_an_answer_of_a_gateway_is_waited_out_and_paid_once(world: World, act: Act, page: httpx.Response) -> None:
    good = accepted() if act is submit else answer(200, {"status": "COMPLETED", "output": "x"})

    assert world.run([page, page, page, good], act).request_id == "r-1"

    assert len(world.seen) == 4


@pytest.mark.parametrize("act", [status, result])
def test_an_unknown_or_expired_id_is_expired(world: World, act: Act) -> None:
    with pytest.raises(SegmindRequestExpiredError) as caught:
        world.run(answer(404, {"error": "Request r-1 not found"}), act)

    assert caught.value.request_id == "r-1"
    assert len(world.seen) == 1


def test_a_result_keeps_everything_and_an_unknown_cost_is_none(world: World) -> None:
    body = {
        "status": "COMPLETED",
        "error": None,
        "output": '{"candidates": []}',
        "metrics": {"inference_time": 1},
        "seed": 7,
    }

    found = world.run(answer(200, body), result)

    assert (found.output, found.metrics.cost, found.metrics.inference_time) == ('{"candidates": []}', None, 1.0)
    assert found.to_json() == {**body, "request_id": "r-1", "metrics": {"inference_time": 1.0}}


def test_a_missing_balance_record_is_told_from_a_bad_key(world: World) -> None:
    with pytest.raises(SegmindAPIError, match="the key is valid") as caught:
        world.run(answer(404, {"error": "No credits found for the user"}), balance)
    assert caught.value.status_code == 404

    with pytest.raises(SegmindAuthenticationError, match="check the API key"):
        world.run(answer(401, {"error": "Unauthorized"}), balance)


def test_a_blocking_call_returns_bytes_and_what_they_cost(world: World) -> None:
    image = answer(200, b"\x89PNG", headers={"content-type": "image/png", "x-cost": "0.05", "x-request-id": "r-9"})

    found = world.run(image, run_sync)

    assert (found.content, found.cost, found.request_id) == (b"\x89PNG", 0.05, "r-9")
    assert world.paths == ["/v1/a-model"]
    assert "*/*" in world.seen[0].headers["accept"]


@pytest.mark.parametrize("key", ["file_urls", "urls"])
def test_an_upload_returns_the_urls(world: World, key: str) -> None:
    assert world.run(answer(200, {key: ["https://images.segmind.com/assets/x"]}), upload) == [
        "https://images.segmind.com/assets/x"
    ]
    assert json.loads(world.seen[0].content) == {"data_urls": ["data:image/png;base64,AA=="]}


def outcome(world: World, reply: Any, act: Act, key: str) -> str:
    """Return the repr of what a call returns, or the traceback it ends with."""
    try:
        return repr(world.run(reply, act, key=key))
    except SegmindError as error:
        return "".join(traceback.format_exception(error)) + repr(vars(error))


@pytest.mark.parametrize("key", [KEY, PLAIN_KEY])
@pytest.mark.parametrize("code", [200, 307, 401, 404, 422, 500])
def test_a_key_that_is_echoed_shows_in_no_traceback(world: World, key: str, code: int) -> None:
    echo = answer(code, {"error": f"bad key {key}", "request_id": [key]}, headers={"location": f"https://x/{key}"})

    for act in (*PAID, *FREE, upload):
        assert key not in outcome(world, echo, act, key)


def test_neither_key_nor_prompt_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        world.run([answer(429), accepted()], submit)

    assert KEY not in caplog.text
    assert PROMPT not in caplog.text


def test_a_key_that_cannot_be_sent_is_refused_before_anything_is(world: World) -> None:
    with pytest.raises(SegmindConfigError, match="line break"):
        world.run(accepted(), submit, key="secret\n")

    assert world.seen == []


def test_the_client_imports_nothing_heavy() -> None:
    code = (
        "import sys, airflow_provider_segmind.client.client\n"
        "print([name for name in ('jsonschema', 'airflow', 'starlette', 'pyarrow', 'requests') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "[]"


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def half_an_answer(peer: socket.socket) -> None:
    peer.sendall(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"request_id": "r-1"')


def drip(peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    for _ in range(200):
        peer.sendall(b" ")
        time.sleep(0.05)


def nonsense(peer: socket.socket) -> None:
    peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


@pytest.mark.parametrize("treat", [reset, half_an_answer, silence, drip, nonsense])
def test_a_paid_post_lost_on_a_real_socket_is_unknown_and_sent_once(
    world: World, loopback: Callable[..., Loopback], treat: Callable[[socket.socket], None]
) -> None:
    server = loopback(treat)

    started = time.monotonic()
    with pytest.raises(SegmindSubmissionUnknownError, match="was not sent again"):
        world.run(None, submit, endpoints=Endpoints(gateway=server.url), request_timeout=0.5)

    assert time.monotonic() - started < 4
    assert len(server.received) == 1
    assert world.pauses == []


@pytest.mark.parametrize("treat", [reset, half_an_answer, silence, drip, nonsense])
def test_a_free_call_lost_on_a_real_socket_is_sent_again(
    world: World, loopback: Callable[..., Loopback], treat: Callable[[socket.socket], None]
) -> None:
    server = loopback(treat)

    with pytest.raises(SegmindConnectionError):
        world.run(None, status, endpoints=Endpoints(gateway=server.url), request_timeout=0.3)

    # aiohttp repeats a GET once by itself when its connection is reset, if the time of the call is not over.
    assert 6 <= len(server.received) <= 12


def test_a_refused_connection_never_left(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    with pytest.raises(SegmindConnectionError, match="never left"):
        world.run(None, submit, endpoints=Endpoints(gateway=f"http://127.0.0.1:{port}"))

    assert len(world.pauses) == 5


def test_a_server_without_tls_never_got_the_request(world: World, loopback: Callable[..., Loopback]) -> None:
    server = loopback(nonsense)
    gateway = server.url.replace("http://", "https://")

    with pytest.raises(SegmindConnectionError, match="never left"):
        world.run(None, submit, endpoints=Endpoints(gateway=gateway), request_timeout=2.0)

    assert all(b"x-api-key" not in data for data in server.received)


def test_a_server_that_accepts_and_never_shakes_hands_never_got_the_request(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        gateway = f"https://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(SegmindConnectionError, match=r"Connect(ion)?Timeout"):
            world.run(None, submit, endpoints=Endpoints(gateway=gateway), request_timeout=0.4)


def test_a_host_that_cannot_be_dialled_is_a_matter_of_the_connection(world: World) -> None:
    with pytest.raises(SegmindConfigError, match=r"999\.1\.1\.1"):
        world.run(None, submit, endpoints=Endpoints(gateway="http://999.1.1.1"))


def test_an_answer_whose_last_piece_comes_late_is_taken(
    world: World, loopback: Callable[..., Loopback], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b'{"request_id": "r-1"}'

    def whole(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)

    ticks = iter([0.0])
    if world.kind == "sync":
        monkeypatch.setattr("airflow_provider_segmind.client.client.time.monotonic", lambda: next(ticks, 1e9))

    assert world.run(None, submit, endpoints=Endpoints(gateway=loopback(whole).url)).request_id == "r-1"


def test_a_redirect_on_a_real_socket_carries_the_key_nowhere(world: World, loopback: Callable[..., Loopback]) -> None:
    other = loopback(silence)

    def redirect(peer: socket.socket) -> None:
        peer.sendall(f"HTTP/1.1 307 x\r\nlocation: {other.url}/v2/m\r\ncontent-length: 0\r\n\r\n".encode())

    server = loopback(redirect)
    calls: list[Callable[[Any], Any]] = [
        lambda client: client.perform(client.wire.submit("a-model", {}), ONE_ATTEMPT),
        lambda client: client.perform(client.wire.status("r-1"), ONE_ATTEMPT),
    ]
    for act in calls:
        with pytest.raises(SegmindResponseError, match="not followed"):
            world.run(None, act, endpoints=Endpoints(gateway=server.url))

    assert len(server.received) == 2
    assert other.received == []


def test_what_is_done_before_a_submit_waits_until_the_rate_limiter_permits_it() -> None:
    now, order = [1_000_000.0], []

    def sleep(seconds: float) -> None:
        order.append("waited")
        now[0] += seconds

    config = ClientConfig(api_key="SG_one_a_minute", requests_per_minute=1)
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"request_id": "r"}))
    with SegmindClient(config, transport=transport, sleep=sleep, clock=lambda: now[0]) as client:
        client.submit("gemini-3.1-flash-lite", {})
        client.submit_once("gemini-3.1-flash-lite", {}, on_permit=lambda: order.append("noted"))

    assert order[0] == "waited"
    assert order.index("noted") == len(order) - 1
