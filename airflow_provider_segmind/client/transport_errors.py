"""What httpx needs to be told, and what its errors mean for money."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterable
from urllib.parse import urlsplit

import httpx

from airflow_provider_segmind.client.response_body import TooLargeError
from airflow_provider_segmind.client.responses import FATE_UNKNOWN, NOT_BILLED, Asked
from airflow_provider_segmind.exceptions import (
    SegmindConfigError,
    SegmindConnectionError,
    SegmindError,
    SegmindResponseTooLargeError,
    SegmindSubmissionUnknownError,
    shorten,
)
from airflow_provider_segmind.masking import mask, masked

CONNECT_TIMEOUT = 10.0
"""Seconds to reach a host; past them nothing was sent."""
_NEVER_LEFT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
    httpx.LocalProtocolError,
)


@functools.cache
def shared_tls() -> ssl.SSLContext:
    """Return the one TLS context of the process; building one costs tens of milliseconds and half a megabyte."""
    return httpx.create_ssl_context()


def http_timeout(seconds: float) -> httpx.Timeout:
    """
    Return httpx's timeouts for a call that may take ``seconds``.

    Waiting for a free connection, TCP and TLS (``connect`` each) together end before ``seconds`` do, so that a call
    which ran out of time as a whole is never one that had not left yet.
    """
    return httpx.Timeout(seconds, connect=min(CONNECT_TIMEOUT, seconds / 4), pool=seconds / 3)


def answer_headers(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return headers with lower-case names; those that come twice are joined."""
    found: dict[str, str] = {}
    for name, value in items:
        lower = name.lower()
        found[lower] = f"{found[lower]}, {value}" if lower in found else value
    return found


def too_large(asked: Asked, error: TooLargeError) -> SegmindResponseTooLargeError:
    """Return the error of a response that was not read to its end, and say what that means for money."""
    said = (
        f"{asked.what} was answered with a response that is too large: {error} (max_response_bytes). "
        "Reading stopped there."
    )
    billed: bool | None = False
    meaning = f"{asked.costs}."
    if asked.paid:
        billed, meaning = None, f"{FATE_UNKNOWN}."
    elif asked.names == "request":
        billed = True
        meaning = (
            "The request was billed if it has completed, and its result stays at Segmind until an hour after its "
            "submission: raise max_response_bytes in the connection's extra and clear the task; fetching is free."
        )
    return SegmindResponseTooLargeError(f"{said} {meaning}", billed=billed, request_id=asked.request_id)


def transport_error(asked: Asked, url: str, error: httpx.HTTPError | httpx.InvalidURL) -> SegmindError:
    """
    Return what it means that no whole answer came.

    A call that never left cost nothing. One that was lost after sending may have been carried out: for a paid call
    that is "unknown", for a free one it does not matter.
    """
    host = urlsplit(url).netloc
    # It becomes the cause, which a traceback prints.
    masked(error)
    if isinstance(error, httpx.InvalidURL):
        return SegmindConfigError(
            f"{asked.what} is impossible: {host!r} is not a host ({error}). Nothing was sent; check the connection's "
            "host."
        )
    words = shorten(mask(str(error), asked.secret)) or "no details"
    said = f"{asked.what} at {host!r} got no answer ({type(error).__name__}: {words})"
    if isinstance(error, _NEVER_LEFT):
        return SegmindConnectionError(
            f"{said}. The call never left, so {NOT_BILLED[0].lower()}{NOT_BILLED[1:]}; check the connection's host "
            "and the network.",
            request_id=asked.request_id,
        )
    if asked.paid:
        return SegmindSubmissionUnknownError(f"{said} after it was sent. {FATE_UNKNOWN}.", request_id=asked.request_id)
    return SegmindConnectionError(
        f"{said}. The call itself costs nothing; a later try may succeed.", request_id=asked.request_id
    )
