"""
Calls over connections of our own keeping, one stack of idle ones for each host.

httpx searches its whole pool for every call and builds a request and a response around it, which is two thirds of what
a call costs (``docs/performance.md``). Here httpcore, on which httpx stands, sends and reads; kept is only which
connection is idle, the one used last on top.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, TypeVar

import httpcore
import httpx

from airflow_provider_segmind.api.answers import Answer
from airflow_provider_segmind.api.bodies import ACCEPT_ENCODING, MAX_RESPONSE_BYTES, Body, TooLargeError
from airflow_provider_segmind.api.network import AsyncioNetwork
from airflow_provider_segmind.api.protocol import Call
from airflow_provider_segmind.api.transport import (
    answer_headers,
    http_timeout,
    shared_tls,
    too_large,
    transport_error,
)
from airflow_provider_segmind.masking import masked

T = TypeVar("T")
LastLook: TypeAlias = Callable[[], Awaitable[object]]
"""Awaited when a connection is held and the next step is that bytes leave; raises what must keep them here."""

KEEP_ALIVE = 30.0
"""Seconds an idle connection is kept, longer than most looks are apart."""
FRESH = 3.0
"""Seconds of idleness up to which a paid call trusts a connection: one that the server is closing loses the call, and
nobody can tell whether it arrived. Servers wait five seconds or more (uvicorn's default is the shortest in use)."""
_PACKED = (("accept-encoding", ACCEPT_ENCODING),)


class Host(NamedTuple):
    """Where a connection leads."""

    scheme: bytes
    name: bytes
    port: int | None
    header: bytes


class _Idle(NamedTuple):
    """A connection nobody uses, and since when (monotonic seconds)."""

    connection: httpcore.AsyncHTTPConnection
    since: float


class Connections:
    """
    Send calls straight to their hosts; a proxy needs httpx.

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
        self._max_bytes = max_bytes
        self._slots = asyncio.Semaphore(most)
        self._seconds = seconds
        self._clock = clock
        self._networks = {b"http": AsyncioNetwork(None), b"https": AsyncioNetwork(shared_tls())}
        self._idle: dict[Host, deque[_Idle]] = {}
        self._closed = False

    async def send(self, call: Call[T], last_look: LastLook | None = None) -> T:
        """
        Carry out ``call`` and read its answer.

        :param last_look: see :class:`~airflow_provider_segmind.api.senders.Sender`.
        :raises SegmindError: what came back, or what it means that nothing did.
        """
        seconds = call.timeout or self._seconds
        try:
            async with asyncio.timeout(seconds):
                answer = await self._exchange(call, seconds, last_look)
        except TooLargeError as error:
            raise too_large(call.asked, error) from error
        except TimeoutError as error:
            raise transport_error(call.asked, call.url, httpx.ReadTimeout("the call took too long")) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise transport_error(call.asked, call.url, error) from error
        except _TROUBLES as error:
            masked(error)
            raise transport_error(call.asked, call.url, _in_httpx_words(error)) from error
        return call.read(answer)

    async def close(self) -> None:
        """Close what is idle; what is in use closes with its call."""
        self._closed = True
        idle, self._idle = self._idle, {}
        for stack in idle.values():
            for one in stack:
                await one.connection.aclose()

    async def _exchange(self, call: Call[T], seconds: float, last_look: LastLook | None) -> Answer:
        host, target = host_and_target(call.url)
        times = http_timeout(seconds)
        await self._slot(times.pool)
        try:
            connection = await self._take(host, paid=call.asked.paid)
            try:
                async with connection.stream(
                    call.method,
                    httpcore.URL(scheme=host.scheme, host=host.name, port=host.port, target=target),
                    headers=_headers(host, call),
                    content=call.body,
                    extensions={
                        "timeout": {"connect": times.connect, "read": times.read, "write": times.write},
                        **before_bytes_leave(last_look),
                    },
                ) as response:
                    pairs = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers)
                    headers = answer_headers(pairs)
                    body = Body(headers, self._max_bytes)
                    async for chunk in response.aiter_stream():
                        body.add(chunk)
            finally:
                await self._give(host, connection)
        finally:
            self._slots.release()
        return Answer(response.status, body.content, headers, self._clock())

    async def _slot(self, seconds: float | None) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(seconds):
                await self._slots.acquire()
        except TimeoutError as error:
            raise httpcore.PoolTimeout("no connection was free") from error

    async def _take(self, host: Host, *, paid: bool) -> httpcore.AsyncHTTPConnection:
        stack = self._idle.get(host)
        longest = FRESH if paid else KEEP_ALIVE
        while stack:
            connection, since = stack.pop()
            if time.monotonic() - since <= longest and not connection.has_expired():
                return connection
            await connection.aclose()
        origin = httpcore.Origin(host.scheme, host.name, host.port or (443 if host.scheme == b"https" else 80))
        return httpcore.AsyncHTTPConnection(
            origin, ssl_context=shared_tls(), network_backend=self._networks[host.scheme]
        )

    async def _give(self, host: Host, connection: httpcore.AsyncHTTPConnection) -> None:
        if self._closed or not connection.is_available():
            await connection.aclose()
            return
        now = time.monotonic()
        stack = self._idle.setdefault(host, deque())
        stack.append(_Idle(connection, now))
        if now - stack[0].since > KEEP_ALIVE:
            await stack.popleft().connection.aclose()


def before_bytes_leave(last_look: LastLook | None) -> dict[str, Any]:
    """Return what makes httpcore call ``last_look`` between connecting and sending, as its extensions."""
    if last_look is None:
        return {}

    async def trace(name: str, info: Mapping[str, Any]) -> None:
        # The request for a tunnel, to a proxy, is not the call yet.
        if name.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            await last_look()

    return {"trace": trace}


_TROUBLES = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
)


def _in_httpx_words(error: Exception) -> httpx.HTTPError:
    """Return httpx's error for one of httpcore, which has the same name; what each means is decided for httpx."""
    kind: type[httpx.HTTPError] = getattr(httpx, type(error).__name__)
    return kind(str(error))


def host_and_target(url: str) -> tuple[Host, bytes]:
    """
    Split a URL into where to connect and what to ask for there.

    :raises httpx.InvalidURL: nobody can connect there.
    """
    scheme, _, rest = url.partition("://")
    name, _, path = rest.partition("/")
    return _host(f"{scheme}://{name}"), b"/" + path.encode()


@lru_cache(maxsize=64)
def _host(base: str) -> Host:
    # httpx knows how a name with letters beyond ASCII is written.
    url = httpx.URL(base)
    return Host(url.raw_scheme, url.raw_host, url.port, url.netloc)


def _headers(host: Host, call: Call[T]) -> list[tuple[bytes, bytes]]:
    named: Iterable[tuple[str, str]] = (*_PACKED, *call.headers.items())
    return [(b"host", host.header), *((name.encode(), value.encode()) for name, value in named)]
