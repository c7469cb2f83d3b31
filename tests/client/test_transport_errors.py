from __future__ import annotations

import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from airflow_provider_segmind.client.http_library import httpx
from airflow_provider_segmind.client.response_body import UnreadableBodyError
from airflow_provider_segmind.client.responses import CallContext
from airflow_provider_segmind.client.transport_errors import transport_error
from airflow_provider_segmind.exceptions import (
    SegmindConfigError,
    SegmindConnectionError,
    SegmindSubmissionUnknownError,
)
from tests.support.clients import KEY, PLAIN_KEY

PAID = CallContext("Submitting to model 'm'", KEY, paid=True, names="model")
FREE = CallContext("Asking for request 'r-1'", KEY, names="request", request_id="r-1")
URL = "https://proxy.example:8443/v2/m"

NEVER_LEFT = [
    httpx.ConnectError("refused"),
    httpx.ConnectTimeout("timed out"),
    httpx.PoolTimeout("no connection free"),
    httpx.ProxyError("407"),
    httpx.UnsupportedProtocol("no scheme"),
    httpx.LocalProtocolError("bad header"),
]
LOST = [
    httpx.ReadTimeout("timed out"),
    httpx.WriteTimeout("timed out"),
    httpx.ReadError("reset"),
    httpx.WriteError("broken pipe"),
    httpx.CloseError("closing"),
    httpx.RemoteProtocolError("server disconnected"),
    httpx.DecodingError("bad gzip"),
    httpx.TooManyRedirects("loop"),
]
_KEY = ConnectionKey("segmind.test", 443, True, True, None, None, None)
NEVER_LEFT_OTHERS = [
    ssl.SSLCertVerificationError("expired"),
    aiohttp.ClientConnectorError(_KEY, OSError(111, "refused")),
    aiohttp.ClientConnectorError(_KEY, OSError(-2, "Name or service not known")),
    aiohttp.ClientConnectorCertificateError(_KEY, ssl.SSLCertVerificationError("expired")),
    aiohttp.ClientProxyConnectionError(_KEY, OSError(111, "refused")),
    aiohttp.ConnectionTimeoutError("timed out"),
]
LOST_OTHERS = [
    UnreadableBodyError("encoded as br"),
    TimeoutError(),
    OSError(104, "reset"),
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientOSError(104, "reset"),
    aiohttp.ClientPayloadError("cut"),
    aiohttp.SocketTimeoutError("timed out"),
]


@pytest.mark.parametrize("context", [PAID, FREE])
@pytest.mark.parametrize("error", NEVER_LEFT + NEVER_LEFT_OTHERS, ids=lambda error: type(error).__name__)
def test_a_call_that_never_left_cost_nothing_and_may_be_sent_again(context: CallContext, error: Exception) -> None:
    found = transport_error(context, URL, error)

    assert type(found) is SegmindConnectionError
    assert (found.billed, found.retryable, found.request_id) == (False, True, context.request_id)
    assert "'proxy.example:8443'" in str(found)
    # What a poll or a download is about may have been billed.
    assert f"never left. {'Nothing was billed' if context.paid else 'The call itself costs nothing'};" in str(found)


@pytest.mark.parametrize("error", LOST + LOST_OTHERS, ids=lambda error: type(error).__name__)
def test_a_paid_call_lost_after_sending_is_unknown(error: Exception) -> None:
    found = transport_error(PAID, URL, error)

    assert type(found) is SegmindSubmissionUnknownError
    assert (found.billed, found.retryable) == (None, False)
    assert "was not sent again" in str(found)


@pytest.mark.parametrize("error", LOST + LOST_OTHERS, ids=lambda error: type(error).__name__)
def test_a_free_call_lost_after_sending_may_be_sent_again(error: Exception) -> None:
    found = transport_error(FREE, URL, error)

    assert type(found) is SegmindConnectionError
    assert (found.billed, found.retryable) == (False, True)


def test_every_error_of_httpx_is_classified() -> None:
    leaves = [
        kind
        for kind in vars(httpx).values()
        if isinstance(kind, type) and issubclass(kind, httpx.RequestError) and not kind.__subclasses__()
    ]

    # Of httpx2 alone, for streams of events, which nothing here reads.
    assert {kind.__name__ for kind in leaves} - {"SSEError"} == {type(error).__name__ for error in NEVER_LEFT + LOST}


def test_an_impossible_url_is_an_error_of_the_connection() -> None:
    assert type(transport_error(PAID, "https://999.1.1.1", httpx.InvalidURL("bad IPv4"))) is SegmindConfigError


def test_a_call_that_did_not_pass_its_check_never_left_whatever_the_error() -> None:
    for error in LOST + LOST_OTHERS:
        found = transport_error(PAID, URL, error, sent=False)
        assert type(found) is SegmindConnectionError
        assert found.billed is False


def test_an_error_without_a_message_still_makes_a_sentence() -> None:
    assert "(ReadTimeout: no details)" in str(transport_error(FREE, URL, httpx.ReadTimeout("")))


def test_a_key_in_the_message_of_a_transport_error_is_masked() -> None:
    for key in (KEY, PLAIN_KEY):
        context = CallContext("Trying", key, paid=True)
        assert key not in str(transport_error(context, URL, httpx.RemoteProtocolError(f"illegal line {key}")))
