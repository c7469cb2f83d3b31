from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.client.responses import (
    LONGEST_RESET_WAIT,
    CallContext,
    MalformedResponseError,
    Response,
    from_gateway,
    malformed_error,
    mask,
    seconds_until_reset,
    server_message,
    status_error,
)
from airflow_provider_segmind.exceptions import (
    SegmindAPIError,
    SegmindAuthenticationError,
    SegmindBadRequestError,
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
from tests.support.clients import KEY, PLAIN_KEY

SUBMIT = CallContext("Submitting to model 'm'", KEY, paid=True, names="model")
POLL = CallContext("Asking for request 'r-1'", KEY, names="request", request_id="r-1")
RECORD = CallContext("Looking up request 'r-1'", KEY, names="record", request_id="r-1")
BALANCE = CallContext("Fetching the balance", KEY, names="account")
PATH = CallContext("Listing the models", KEY)

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC).timestamp()
HTML_405 = b"<html><head><title>405</title><style>b{}</style></head><body><h1>Method Not Allowed</h1></body></html>"


def said(status: int, body: Any = None, **headers: str) -> Response:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return Response(status, content, {name.replace("_", "-"): value for name, value in headers.items()}, NOW)


def error(text: str) -> dict[str, str]:
    return {"error": text}


TABLE: list[tuple[str, CallContext, int, Any, type[SegmindError], bool | None, bool]] = [
    ("400 malformed", SUBMIT, 400, error("Invalid JSON"), SegmindBadRequestError, False, False),
    ("400 on a poll", POLL, 400, error("bad id"), SegmindBadRequestError, False, False),
    ("408 on a poll", POLL, 408, error("timeout"), SegmindServerError, False, True),
    ("408 on a submit", SUBMIT, 408, error("timeout"), SegmindSubmissionUnknownError, None, False),
    ("408 of a proxy", SUBMIT, 408, b"<html>timeout</html>", SegmindResponseError, False, True),
    (
        "401 no key",
        SUBMIT,
        401,
        error("Missing Authorization or x-api-key in header"),
        SegmindAuthenticationError,
        False,
        False,
    ),
    (
        "401 bad key",
        POLL,
        401,
        error("Unauthorized. API key is invalid or may have expired..."),
        SegmindAuthenticationError,
        False,
        False,
    ),
    (
        "401 platform",
        BALANCE,
        401,
        {"error": "invalid_api_key", "error_description": "x", "status_code": 401},
        SegmindAuthenticationError,
        False,
        False,
    ),
    ("402", SUBMIT, 402, error("Insufficient credits. You have 0.0 credits."), SegmindCreditsError, False, False),
    ("402 wordless", SUBMIT, 402, None, SegmindCreditsError, False, False),
    ("402 page", SUBMIT, 402, b"<html>Payment Required</html>", SegmindCreditsError, False, False),
    ("406 text", SUBMIT, 406, b"Insufficient credits. You have 0.0 credits.", SegmindCreditsError, False, False),
    ("406 page", SUBMIT, 406, b"<html>Not Acceptable!</html>", SegmindResponseError, False, True),
    ("403", SUBMIT, 403, error("not allowed"), SegmindPermissionError, False, False),
    ("404 model", SUBMIT, 404, error("Model not found"), SegmindModelNotFoundError, False, False),
    ("404 request", POLL, 404, error("Request r-1 not found"), SegmindRequestExpiredError, True, False),
    ("404 record", RECORD, 404, error("not found"), SegmindBadRequestError, False, False),
    ("404 balance", BALANCE, 404, error("No credits found for the user"), SegmindBadRequestError, False, False),
    ("404 path", PATH, 404, None, SegmindBadRequestError, False, False),
    ("405 HTML", SUBMIT, 405, HTML_405, SegmindBadRequestError, False, True),
    ("406 content type", SUBMIT, 406, error("Invalid content type"), SegmindBadRequestError, False, False),
    (
        "406 content type and credits",
        SUBMIT,
        406,
        error("Invalid Content-Type; no credits used"),
        SegmindBadRequestError,
        False,
        False,
    ),
    (
        "406 credits",
        SUBMIT,
        406,
        error("INSUFFICIENT CREDITS. You have 0.1 credits."),
        SegmindCreditsError,
        False,
        False,
    ),
    (
        "406 balance",
        SUBMIT,
        406,
        error("Your balance 0.1 is below the estimated cost 0.5"),
        SegmindCreditsError,
        False,
        False,
    ),
    ("406 spend limit", SUBMIT, 406, error("Team spend limit reached"), SegmindCreditsError, False, False),
    ("406 spending limit", SUBMIT, 406, error("spending-limit exceeded"), SegmindCreditsError, False, False),
    ("406 value", SUBMIT, 406, error("aspect_ratio must be one of 1:1, 16:9"), SegmindBadRequestError, False, False),
    (
        "406 value that is not about money",
        SUBMIT,
        406,
        error("Insufficient image resolution"),
        SegmindBadRequestError,
        False,
        False,
    ),
    ("410", SUBMIT, 410, error("Model is deprecated"), SegmindModelRetiredError, False, False),
    ("410 request", POLL, 410, error("gone"), SegmindRequestExpiredError, True, False),
    ("413", SUBMIT, 413, b"<h1>Request Entity Too Large</h1>", SegmindBadRequestError, False, False),
    ("418", SUBMIT, 418, error("teapot"), SegmindBadRequestError, False, False),
    ("422 on submit", SUBMIT, 422, error("prompt is required"), SegmindBadRequestError, False, False),
    ("429", SUBMIT, 429, error("rate_limit_exceeded"), SegmindRateLimitError, False, True),
    ("429 on a poll", POLL, 429, error("rate_limit_exceeded"), SegmindRateLimitError, False, True),
    ("500 on submit", SUBMIT, 500, error("boom"), SegmindSubmissionUnknownError, None, False),
    ("502 HTML on submit", SUBMIT, 502, b"<html>Bad gateway</html>", SegmindSubmissionUnknownError, None, False),
    ("503 on submit", SUBMIT, 503, None, SegmindSubmissionUnknownError, None, False),
    ("504 on submit", SUBMIT, 504, None, SegmindSubmissionUnknownError, None, False),
    ("500 on a poll", POLL, 500, error("boom"), SegmindServerError, False, True),
    ("502 HTML on a poll", POLL, 502, b"<html>Bad gateway</html>", SegmindServerError, False, True),
    ("503 on the balance", BALANCE, 503, None, SegmindServerError, False, True),
    ("307", SUBMIT, 307, None, SegmindResponseError, False, True),
    ("303 after a POST", SUBMIT, 303, None, SegmindResponseError, None, False),
    ("400 page", SUBMIT, 400, b"<html>Bad Request</html>", SegmindResponseError, False, True),
    ("401 page", SUBMIT, 401, b"<html>Sign in</html>", SegmindResponseError, False, True),
    ("403 page", SUBMIT, 403, b"<!doctype html><p>Attention required</p>", SegmindResponseError, False, True),
    ("404 page", SUBMIT, 404, b"<html>404</html>", SegmindResponseError, False, True),
    ("404 page on a poll", POLL, 404, b"<html>404</html>", SegmindResponseError, False, True),
    ("404 text on a poll", POLL, 404, b"default backend - 404", SegmindResponseError, False, True),
    ("410 page on a poll", POLL, 410, b"<html>gone</html>", SegmindResponseError, False, True),
    ("404 wordless on a poll", POLL, 404, None, SegmindRequestExpiredError, True, False),
    ("414 page", SUBMIT, 414, b"<html>URI too long</html>", SegmindBadRequestError, False, False),
    ("429 page", SUBMIT, 429, b"<html>slow down</html>", SegmindRateLimitError, False, True),
    ("301 on a poll", POLL, 301, None, SegmindResponseError, False, True),
]


@pytest.mark.parametrize(
    ("context", "status", "body", "kind", "billed", "retryable"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_a_response_raises_the_documented_error(
    context: CallContext, status: int, body: Any, kind: type[SegmindError], billed: bool | None, retryable: bool
) -> None:
    answer = said(status, body)

    found = status_error(context, answer)

    assert type(found) is kind
    assert (found.billed, found.retryable) == (billed, retryable)
    assert f"HTTP {status}" in str(found)
    assert context.what in str(found)
    assert str(found).endswith((".", ")."))
    words = server_message(answer, KEY)
    assert repr(words) in str(found) if words else "without a body" in str(found)
    if isinstance(found, SegmindAPIError):
        assert (found.status_code, found.request_id, found.body) == (status, context.request_id, words)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (302, None, True),
        (502, None, True),
        (503, {"error": "overloaded"}, True),
        (404, b"<html>", True),
        (200, b"<html>maintenance</html>", True),
        (500, b"<html>", True),
        (500, {"error": "bad seed"}, False),
        (404, {"error": "Request r-1 not found"}, False),
        (401, {"error": "Unauthorized"}, False),
        (402, b"<html>Payment Required</html>", False),
        (406, b"Insufficient credits", False),
        (406, b"<html>Not Acceptable!</html>", True),
        (413, b"<html>too large</html>", False),
        (429, b"<html>slow down</html>", False),
    ],
)
def test_a_response_of_a_gateway_is_distinguished_from_one_of_segmind(status: int, body: Any, expected: bool) -> None:
    answer = said(status, body)
    assert from_gateway(answer) is expected
    if not 200 <= status < 300:
        assert getattr(status_error(POLL, answer), "gateway", False) is expected


def test_markup_is_removed_from_the_servers_message() -> None:
    assert server_message(said(405, HTML_405), KEY) == "405 Method Not Allowed"


@pytest.mark.parametrize("context", [POLL, RECORD, BALANCE, PATH])
@pytest.mark.parametrize("status", [400, 401, 403, 413, 429, 307])
def test_a_refused_poll_does_not_claim_that_the_request_costs_nothing(context: CallContext, status: int) -> None:
    message = str(status_error(context, said(status)))

    assert "Nothing was billed" not in message
    assert "The call itself costs nothing" in message


@pytest.mark.parametrize(
    ("context", "status", "body", "advice"),
    [
        (SUBMIT, 401, None, "check the API key (password)"),
        (SUBMIT, 402, None, "add credits"),
        (SUBMIT, 404, None, "spelling of 'model'"),
        (SUBMIT, 405, HTML_405, "a proxy or gateway in front of Segmind responded"),
        (SUBMIT, 406, error("Invalid content type"), "base URL of the connection and any proxy"),
        (SUBMIT, 410, None, "choose another"),
        (SUBMIT, 413, None, "send their URLs instead"),
        (SUBMIT, 422, None, "correct the inputs"),
        (SUBMIT, 500, None, "was not sent again: search Segmind's request history"),
        (POLL, 400, None, "clear the task, which polls again"),
        (POLL, 404, None, "the request history has its outcome"),
        (RECORD, 404, None, "up to two hours late"),
        (RECORD, 400, None, "check the base URLs of the connection"),
        (PATH, 400, error("odd"), "check the base URLs of the connection"),
        (BALANCE, 404, None, "the key is valid"),
        (SUBMIT, 307, None, "set the base URL"),
    ],
)
def test_a_message_says_what_to_do(context: CallContext, status: int, body: Any, advice: str) -> None:
    assert advice in str(status_error(context, said(status, body)))


def test_a_missing_record_does_not_refer_to_itself() -> None:
    assert "get_request_record" not in str(status_error(RECORD, said(404)))


def test_a_redirect_names_its_target_without_the_key() -> None:
    message = str(status_error(POLL, said(307, location=f"https://elsewhere.example/?key={KEY}")))

    assert "'https://elsewhere.example/?key=***'" in message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (error("no"), "no"),
        ({"error_message": "no"}, "no"),
        ({"message": "no"}, "no"),
        ({"detail": [{"loc": ["prompt"]}]}, '[{"loc": ["prompt"]}]'),
        ({"error": None, "detail": "no"}, "no"),
        ({"error": {"code": 3}}, '{"code": 3}'),
        ({"weird": 1}, '{"weird": 1}'),
        (["a"], '["a"]'),
        ("plain", '"plain"'),
        (b"", ""),
        (b"{broken", "{broken"),
        (b"\xff\xfe", "��"),
        (b"a\n\n   b\tc", "a b c"),
        (error("x" * 500), "x" * 200 + "…"),
    ],
)
def test_the_servers_message_is_found_and_shortened(body: Any, words: str) -> None:
    assert server_message(said(400, body), KEY) == words


@pytest.mark.parametrize("secret", [KEY, PLAIN_KEY])
@pytest.mark.parametrize("status", [200, 307, 400, 401, 404, 406, 422, 429, 500])
@pytest.mark.parametrize("paid", [True, False])
def test_a_key_the_server_echoes_is_in_no_message(secret: str, status: int, paid: bool) -> None:
    context = CallContext("Trying", secret, paid=paid, names="model" if paid else "request", request_id="r-1")
    for body in (error(f"key {secret} is bad"), {"error": {"key": secret}}, f"<p>{secret}</p>".encode(), [secret]):
        answer = said(status, body, location=f"https://x/{secret}")
        for found in (
            status_error(context, answer),
            malformed_error(context, answer, MalformedResponseError("is odd")),
        ):
            assert secret not in str(found) + repr(vars(found))
            assert "***" in str(found)


def test_another_accounts_key_is_masked_as_well() -> None:
    assert mask("use SG_feedface instead", KEY) == "use *** instead"


def test_without_a_key_nothing_is_replaced() -> None:
    assert mask("plain text", "") == "plain text"


@pytest.mark.parametrize(
    ("cut", "paid", "billed", "retryable"),
    [(True, False, False, True), (False, False, False, False), (True, True, None, False), (False, True, None, False)],
)
def test_a_malformed_response_to_a_paid_call_leaves_its_outcome_unknown(
    cut: bool, paid: bool, billed: bool | None, retryable: bool
) -> None:
    found = malformed_error(SUBMIT if paid else POLL, said(200, b"{"), MalformedResponseError("is not JSON", cut=cut))

    assert type(found) is SegmindResponseError
    assert (found.billed, found.retryable) == (billed, retryable)
    assert ("It is unknown whether the request was created" in str(found)) is paid


RESETS = [
    ("2026-11-22T10:00:30Z", 30),
    ("2026-11-22T10:00:30", 30),
    ("2026-11-22 10:00:30", 30),
    ("2026-11-22 10:00:30.500000", 30.5),
    ("2026-11-22T10:00:30.123456789Z", 30.123456),
    ("2026-11-22 10:00:30 UTC", 30),
    ("2026-11-22 10:00:30 +0000 UTC", 30),
    ("2026-11-22T12:00:30+02:00", 30),
    ("2026-11-22T10:00:30+0000", 30),
    (str(int(NOW) + 30), 30),
    (f"{NOW + 30.5}", 30.5),
    (str((int(NOW) + 30) * 1000), 30),
    ("Sun, 22 Nov 2026 10:00:30 GMT", 30),
    ("30", 30),
    ("0", 0),
    (" 12.5 ", 12.5),
    ("2026-11-22T09:00:00Z", 0),
    (str(int(NOW) - 30), 0),
    ("2027-01-01T00:00:00Z", LONGEST_RESET_WAIT),
    ("100000", LONGEST_RESET_WAIT),
    ("9999-12-31T23:59:59Z", LONGEST_RESET_WAIT),
]
GARBAGE = [
    "",
    "soon",
    "-5",
    "nan",
    "inf",
    "1e99",
    "2026-13-45",
    "Mon, 99 Xyz",
    "Mon, 01 Jan 2020 00:00:00 +99999999999999999",
]


@pytest.mark.parametrize("header", ["x-rate-limit-reset-at-utc", "retry-after"])
@pytest.mark.parametrize(("text", "seconds"), RESETS)
def test_a_reset_time_is_read_in_every_plausible_format(header: str, text: str, seconds: float) -> None:
    answer = Response(429, b"", {header: text}, NOW)

    assert seconds_until_reset(answer) == pytest.approx(seconds, abs=1e-3)


@pytest.mark.parametrize("text", GARBAGE)
def test_an_unreadable_reset_time_is_ignored(text: str) -> None:
    assert seconds_until_reset(Response(429, b"", {"x-rate-limit-reset-at-utc": text}, NOW)) is None
    assert seconds_until_reset(Response(429, b"", {"x-rate-limit-reset-at-utc": text, "retry-after": "7"}, NOW)) == 7


def test_segminds_own_header_takes_precedence_over_that_of_a_proxy() -> None:
    headers = {"x-rate-limit-reset-at-utc": "2026-11-22T10:00:20Z", "retry-after": "50"}

    assert seconds_until_reset(Response(429, b"", headers, NOW)) == 20


@given(text=st.text(max_size=40) | st.datetimes().map(str) | st.floats().map(str) | st.integers().map(str))
def test_any_string_in_a_reset_header_can_be_read(text: str) -> None:
    seconds = seconds_until_reset(Response(429, b"", {"x-rate-limit-reset-at-utc": text}, NOW))

    assert seconds is None or 0 <= seconds <= LONGEST_RESET_WAIT


def test_the_repr_of_a_response_shows_no_body_and_no_header() -> None:
    assert "canary" not in repr(Response(200, b"canary", {"x": "canary"}))
