"""What the errors of every transport mean for money."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias
from urllib.parse import urlsplit

from airflow_provider_segmind.client.http_library import httpx
from airflow_provider_segmind.client.response_body import TooLargeError, UnreadableBodyError
from airflow_provider_segmind.client.responses import OUTCOME_UNKNOWN, CallContext
from airflow_provider_segmind.exceptions import (
    SegmindConfigError,
    SegmindConnectionError,
    SegmindError,
    SegmindResponseTooLargeError,
    SegmindSubmissionUnknownError,
    shorten,
)
from airflow_provider_segmind.masking import mask, masked

BeforeSend: TypeAlias = Callable[[], Awaitable[object]]
"""Awaited when a connection is available and before bytes are sent; raises to keep the call from being sent."""
_NEVER_LEFT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
    httpx.LocalProtocolError,
    # httpcore before 1.0.6 raises it as it is; a certificate is only checked before anything is sent.
    ssl.SSLCertVerificationError,
)


class SendCheck:
    """
    The check before one call is sent.

    :ivar passed: whether the check let the call through, so that it may have been sent.
    :ivar error: what the check raised; nothing was sent then.
    """

    def __init__(self, before_send: BeforeSend) -> None:
        self._before_send = before_send
        self.passed = False
        self.error: Exception | None = None

    async def __call__(self) -> None:
        """Run the check."""
        try:
            await self._before_send()
        except Exception as error:
            self.error = error
            raise
        self.passed = True


@contextmanager
def translated(context: CallContext, url: str, check: SendCheck | None = None) -> Iterator[None]:
    """
    Replace a transport's error with one that says whether the lost call may have been billed.

    :param check: the check before sending, if there is one; its own error is raised unchanged.
    """
    try:
        yield
    except TooLargeError as error:
        raise too_large(context, error) from error
    except _transport_errors() as error:
        if check is not None and check.error is not None:
            raise check.error from check.error.__cause__
        sent = check is None or check.passed
        raise transport_error(context, url, error, sent=sent) from masked(error)


def transport_error(context: CallContext, url: str, error: Exception, *, sent: bool = True) -> SegmindError:
    """
    Return the error for a call that got no complete response.

    A call that was not sent cost nothing. One that was lost after sending may have been carried out: for a paid call
    that is "unknown", for a free one it does not matter.

    :param error: of httpx, of aiohttp, or of the operating system.
    :param sent: False when it is certain that nothing was sent, for any error.
    """
    host = urlsplit(url).netloc
    # A traceback prints it as the cause.
    masked(error)
    if isinstance(error, (httpx.InvalidURL, *_aiohttp_errors("InvalidURL"))):
        return SegmindConfigError(
            f"{context.what} failed: {host!r} is not a valid host ({error}). Nothing was sent; check the connection's "
            "host."
        )
    reason = "the call took too long" if type(error) is TimeoutError else str(error)
    reason = shorten(mask(reason, context.secret)) or "no details"
    message = f"{context.what} at {host!r} got no response ({type(error).__name__}: {reason})"
    if not sent or _never_left(error):
        return SegmindConnectionError(
            f"{message}. The call never left. {context.costs}; check the connection's host and the network.",
            request_id=context.request_id,
        )
    if context.paid:
        return SegmindSubmissionUnknownError(
            f"{message} after it was sent. {OUTCOME_UNKNOWN}.", request_id=context.request_id
        )
    return SegmindConnectionError(
        f"{message}. The call itself costs nothing; a later try may succeed.", request_id=context.request_id
    )


def _never_left(error: Exception) -> bool:
    """Return whether an error certainly occurred before sending."""
    # Releases of aiohttp before 3.10 have no error for a connect timeout, so the call may have been sent.
    before = _aiohttp_errors("ClientConnectorError", "ConnectionTimeoutError")
    return isinstance(error, (*_NEVER_LEFT, *before))


def _transport_errors() -> tuple[type[Exception], ...]:
    # httpx lets some errors of TLS through as they are, and aiohttp some of its parser.
    system = (OSError, EOFError, ValueError, UnreadableBodyError)
    return (httpx.HTTPError, httpx.InvalidURL, *system, *_aiohttp_errors("ClientError"))


def _aiohttp_errors(*names: str) -> tuple[type[Exception], ...]:
    """Return errors of aiohttp by name; none unless it was imported, since nothing can have raised them then."""
    aiohttp = sys.modules.get("aiohttp")
    return tuple(getattr(aiohttp, name) for name in names if hasattr(aiohttp, name))


def too_large(context: CallContext, error: TooLargeError) -> SegmindResponseTooLargeError:
    """Return the error of a response that was not read to its end, and say what that means for money."""
    message = f"{context.what} returned a response that is too large: {error}. The rest was not read."
    billed: bool | None = False
    meaning = f"{context.costs}."
    if context.paid:
        billed, meaning = None, f"{OUTCOME_UNKNOWN}."
    elif context.names == "request":
        billed = True
        meaning = (
            "The request was billed if it has completed, and Segmind keeps its result for an hour after the "
            "submission: set max_result_bytes in the connection's extra to 16 times the size of the response and clear "
            "the task; fetching is free."
        )
    return SegmindResponseTooLargeError(f"{message} {meaning}", billed=billed, request_id=context.request_id)
