"""
Calls by aiohttp, where it is installed: its parser is compiled, so a call costs a third of what h11 needs.

What an error means for money is decided in :mod:`transport`; here is said only which of httpx's errors it is.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from airflow_provider_segmind.api.answers import Answer
from airflow_provider_segmind.api.bodies import ACCEPT_ENCODING, MAX_RESPONSE_BYTES, Body, TooLargeError
from airflow_provider_segmind.api.connections import FRESH, LastLook, host_and_target
from airflow_provider_segmind.api.protocol import Call
from airflow_provider_segmind.api.transport import (
    answer_headers,
    http_timeout,
    shared_tls,
    too_large,
    transport_error,
)

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

LARGE = 1 << 19
"""Bytes from which on a body is sent piece by piece."""


class AiohttpSender:
    """
    Sends calls with aiohttp.

    aiohttp repeats a GET by itself whose connection turns out to be closed, and never a POST.

    :param most: connections open at once.
    :param seconds: for a call that names no time of its own.
    :param clock: epoch seconds.
    :param max_bytes: of a response, see :mod:`.bodies`.
    """

    def __init__(
        self,
        *,
        most: int,
        seconds: float,
        clock: Callable[[], float] = time.time,
        max_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self._most = most
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def send(self, call: Call[T], last_look: LastLook | None = None) -> T:
        """
        Carry out ``call`` once and read its answer.

        :param last_look: see :class:`~airflow_provider_segmind.api.senders.Sender`.
        :raises SegmindError: what came back, or what it means that nothing did.
        """
        import aiohttp

        session = self._session or self._open()
        try:
            # What nobody can connect to is no matter of the network, which aiohttp would make of some of it.
            host_and_target(call.url)
            async with session.request(
                call.method,
                call.url,
                data=_payload(call.body),
                headers={**call.headers, "accept-encoding": ACCEPT_ENCODING},
                timeout=_timeout(call.timeout or self._seconds),
                allow_redirects=False,
                trace_request_ctx=last_look,
            ) as response:
                headers = answer_headers(response.headers.items())
                body = Body(headers, self._max_bytes)
                async for chunk in response.content.iter_any():
                    body.add(chunk)
        except TooLargeError as error:
            raise too_large(call.asked, error) from error
        except (httpx.InvalidURL, httpx.HTTPError) as error:
            raise transport_error(call.asked, call.url, error) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise transport_error(call.asked, call.url, _in_httpx_words(error)) from error
        return call.read(Answer(response.status, body.content, headers, self._clock()))

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        connector = aiohttp.TCPConnector(limit=self._most, keepalive_timeout=FRESH, ssl=shared_tls())
        # aiohttp awaits these between getting a connection and writing to it.
        held = aiohttp.TraceConfig()
        held.on_connection_create_end.append(_look_once_more)
        held.on_connection_reuseconn.append(_look_once_more)
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trace_configs=[held]
        )
        return self._session


async def _look_once_more(_session: object, context: Any, _params: object) -> None:
    if context.trace_request_ctx is not None:
        await context.trace_request_ctx()


@lru_cache(maxsize=8)
def _timeout(seconds: float) -> aiohttp.ClientTimeout:
    import aiohttp

    times = http_timeout(seconds)
    # Ends before the whole time does, so that what runs out of that has left.
    connect = (times.pool or 0.0) + 2 * (times.connect or 0.0)
    return aiohttp.ClientTimeout(total=seconds, connect=connect, sock_connect=times.connect)


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    # Large bytes would be written in one piece, for which aiohttp warns of its own slowness.
    return io.BytesIO(body) if body is not None and len(body) > LARGE else body


def _in_httpx_words(error: Exception) -> httpx.HTTPError | httpx.InvalidURL:
    """Return httpx's error for one of aiohttp; whatever does not surely come from before the sending may have left."""
    import aiohttp

    words = str(error)
    if isinstance(error, aiohttp.InvalidURL):
        return httpx.InvalidURL(words)
    if isinstance(error, aiohttp.ClientConnectorError):
        return httpx.ConnectError(words)
    # Older ones have no error of their own for it: then it may have left.
    if isinstance(error, getattr(aiohttp, "ConnectionTimeoutError", ())):
        return httpx.ConnectTimeout(words)
    return httpx.ReadTimeout(words) if isinstance(error, TimeoutError) else httpx.ReadError(words)
