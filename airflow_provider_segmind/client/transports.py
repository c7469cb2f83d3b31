"""
How a call is sent: over aiohttp where it is installed, else over httpx; over httpx behind a proxy.

What an error of either means for money is decided in :mod:`.transport_errors`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from airflow_provider_segmind.client.config import ClientConfig
from airflow_provider_segmind.client.endpoints import Call
from airflow_provider_segmind.client.http_library import http_timeout, httpx, response_headers, shared_tls
from airflow_provider_segmind.client.response_body import (
    ACCEPT_ENCODING,
    MAX_RESPONSE_BYTES,
    TRIGGERER_RESPONSE_BYTES,
    Body,
)
from airflow_provider_segmind.client.responses import Response
from airflow_provider_segmind.client.transport_errors import BeforeSend, SendCheck, translated

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
PAID_KEEPALIVE = 3.0
"""Seconds of idleness up to which a paid call trusts a connection: one that the server is closing loses the call, and
whether it arrived is unknown. Servers wait five seconds or more (uvicorn's default is the shortest in use)."""
POLL_KEEPALIVE = 30.0
"""Seconds for which a connection that carries only polls is kept, longer than most polls are apart."""
WORKER_CONNECTIONS = 4
"""Connections of a worker's synchronous client."""
MAX_HEADER_BYTES = 1 << 16
"""Bytes of one header that aiohttp reads; its default of 8 KiB is less than what proxies add, and than httpx reads."""
LARGE = 1 << 19
"""Bytes from which a body is given to aiohttp as a file, to be sent piece by piece."""


class Transport(Protocol):
    """Sends the calls of an event loop."""

    async def send(self, call: Call[T], before_send: BeforeSend | None = None) -> T:
        """
        Send ``call`` once and read its response.

        :param before_send: awaited when a connection is available and before bytes are sent. Its errors are raised
            unchanged, and then nothing was sent.
        :raises SegmindError: what came back, or what it means that nothing did.
        """

    async def close(self) -> None:
        """Close the connections."""


class HttpxTransport:
    """
    Sends calls over httpx, with a client for each connection: httpx searches its whole pool at each call.

    :param connections: open at once.
    :param seconds: for a call without a timeout.
    :param keepalive: seconds for which an idle connection is trusted.
    :param clock: epoch seconds.
    :param proxied: whether the environment names a proxy; then each client is a whole one, which knows when to use it.
        Otherwise the transport inside it does, at three quarters of the CPU.
    :param mock: replaces the network in tests.
    :param max_bytes: of a response, see :mod:`.response_body`.
    """

    def __init__(
        self,
        *,
        connections: int,
        seconds: float,
        keepalive: float = PAID_KEEPALIVE,
        clock: Callable[[], float] = time.time,
        proxied: bool = False,
        mock: httpx.AsyncBaseTransport | None = None,
        max_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        limits = httpx.Limits(max_connections=1, keepalive_expiry=keepalive)
        self._clients: list[httpx.AsyncClient | httpx.AsyncHTTPTransport] = [
            httpx.AsyncClient(transport=mock, verify=shared_tls(), limits=limits)
            if proxied or mock is not None
            else httpx.AsyncHTTPTransport(verify=shared_tls(), limits=limits, trust_env=False)
            for _ in range(connections)
        ]
        # The client that was used last is taken first, since its idle connection is the freshest.
        self._free = self._clients.copy()
        self._slots = asyncio.Semaphore(connections)
        self._mocked = mock is not None
        self._seconds = seconds
        self._clock = clock
        self._max_bytes = max_bytes

    async def send(self, call: Call[T], before_send: BeforeSend | None = None) -> T:
        """Send ``call`` once and read its response; see :class:`Transport`."""
        seconds = call.timeout or self._seconds
        check = None if before_send is None else SendCheck(before_send)
        with translated(call.context, call.url, check):
            async with asyncio.timeout(seconds):
                response = await self._exchange(call, http_timeout(seconds), check)
        return call.read(response)

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            await client.aclose()

    async def _exchange(self, call: Call[T], timeout: httpx.Timeout, check: SendCheck | None) -> Response:
        await self._slot(timeout.pool)
        client = self._free.pop()
        try:
            if check is not None and self._mocked:
                await check()
            request = httpx.Request(
                call.method,
                _parsed(call.url),
                content=call.body,
                headers=_headers(tuple(call.headers.items())),
                # Reading and writing end with the whole call: timeouts of their own would start a timer each.
                extensions={"timeout": {"connect": timeout.connect, "pool": timeout.pool}, **_traced(check)},
            )
            if isinstance(client, httpx.AsyncClient):
                response = await client.send(request, stream=True)
            else:
                response = await client.handle_async_request(request)
            try:
                return await self._read(response)
            finally:
                await response.aclose()
        finally:
            self._free.append(client)
            self._slots.release()

    async def _read(self, response: httpx.Response) -> Response:
        headers = response_headers(response.headers.multi_items())
        body = Body(headers, self._max_bytes, ready=response.is_stream_consumed)
        if response.is_stream_consumed:
            body.add(response.content)
        else:
            # Not `aiter_raw`, which counts the bytes and cuts them into pieces once more.
            async for chunk in cast(httpx.AsyncByteStream, response.stream):
                body.add(chunk)
        return Response(response.status_code, body.content, headers, self._clock())

    async def _slot(self, seconds: float | None) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(seconds):
                await self._slots.acquire()
        except TimeoutError as error:
            raise httpx.PoolTimeout("no connection was free") from error


@lru_cache(maxsize=64)
def _parsed(url: str) -> httpx.URL:
    return httpx.URL(url)


@lru_cache(maxsize=16)
def _headers(headers: tuple[tuple[str, str], ...]) -> httpx.Headers:
    return httpx.Headers((*headers, ("accept-encoding", ACCEPT_ENCODING)))


def _traced(check: SendCheck | None) -> dict[str, Any]:
    """Return the extensions that make httpx run ``check`` between connecting and sending."""
    if check is None:
        return {}

    async def trace(name: str, info: Mapping[str, Any]) -> None:
        # The request for a tunnel, to a proxy, is not the call yet.
        if name.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            await check()

    return {"trace": trace}


class AiohttpTransport:
    """
    Sends calls with aiohttp, which sends a GET again by itself when its connection was closed, and never a
    POST; parameters as of :class:`HttpxTransport`.
    """

    def __init__(
        self,
        *,
        connections: int,
        seconds: float,
        keepalive: float = PAID_KEEPALIVE,
        clock: Callable[[], float] = time.time,
        max_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        self._connections = connections
        self._seconds = seconds
        self._keepalive = keepalive
        self._clock = clock
        self._max_bytes = max_bytes
        self._session: aiohttp.ClientSession | None = None

    async def send(self, call: Call[T], before_send: BeforeSend | None = None) -> T:
        """Send ``call`` once and read its response; see :class:`Transport`."""
        session = self._session or self._open()
        check = None if before_send is None else SendCheck(before_send)
        _pending_check.set(check)
        with translated(call.context, call.url, check):
            # aiohttp reports some names that cannot be hosts as network errors.
            _check_host("/".join(call.url.split("/", 3)[:3]))
            async with session.request(
                call.method,
                call.url,
                data=_payload(call.body),
                headers={**call.headers, "accept-encoding": ACCEPT_ENCODING},
                timeout=_aiohttp_timeout(call.timeout or self._seconds),
                allow_redirects=False,
            ) as response:
                headers = response_headers(response.headers.items())
                body = Body(headers, self._max_bytes)
                async for chunk in response.content.iter_any():
                    body.add(chunk)
        return call.read(Response(response.status, body.content, headers, self._clock()))

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        connector = _checking_connector()(limit=self._connections, keepalive_timeout=self._keepalive, ssl=shared_tls())
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )
        return self._session


_pending_check: ContextVar[SendCheck | None] = ContextVar("segmind_pending_check", default=None)
"""The check of the call that the current task is about to send with aiohttp."""


@cache
def _checking_connector() -> type[aiohttp.TCPConnector]:
    """Return a connector that hands a connection out once the check has passed; made late, as aiohttp is optional."""
    import aiohttp

    class CheckingConnector(aiohttp.TCPConnector):
        async def connect(self, *args: Any, **options: Any) -> Any:
            connection = await super().connect(*args, **options)
            check = _pending_check.get()
            if check is not None:
                try:
                    await check()
                except BaseException:
                    # Not in a hook of aiohttp's tracing: an error there leaves the connection open for good.
                    connection.release()
                    raise
            return connection

    return CheckingConnector


@lru_cache(maxsize=64)
def _check_host(base: str) -> None:
    httpx.URL(base)


@lru_cache(maxsize=8)
def _aiohttp_timeout(seconds: float) -> aiohttp.ClientTimeout:
    import aiohttp

    times = http_timeout(seconds)
    # Ends before the total does, so that a call that exceeds the total was sent.
    connect = (times.pool or 0.0) + 2 * (times.connect or 0.0)
    return aiohttp.ClientTimeout(total=seconds, connect=connect, sock_connect=times.connect)


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    # aiohttp warns of large bytes, which it would write in one piece.
    return io.BytesIO(body) if body is not None and len(body) > LARGE else body


class BlockingTransport:
    """
    Sends the calls of a worker, one after another.

    A call ends after its time, body included. Only headers that come byte by byte can take longer: httpx limits the
    silence between two reads of them, not their sum. Such a call ends with the task's ``execution_timeout``.

    :param mock: replaces the network in tests.
    """

    def __init__(
        self, config: ClientConfig, *, clock: Callable[[], float], mock: httpx.BaseTransport | None = None
    ) -> None:
        self._mock = mock
        self._http: dict[int, httpx.Client] = {}
        self._client()
        self._seconds = config.request_timeout
        self._max_bytes = config.max_response_bytes
        self._clock = clock

    def send(self, call: Call[T]) -> T:
        """
        Send ``call`` once and read its response.

        :raises SegmindError: what came back, or what it means that nothing did.
        """
        seconds = call.timeout or self._seconds
        deadline = time.monotonic() + seconds
        late = False
        with (
            translated(call.context, call.url),
            self._client().stream(
                call.method,
                call.url,
                content=call.body,
                headers={**call.headers, "accept-encoding": ACCEPT_ENCODING},
                timeout=http_timeout(seconds),
            ) as response,
        ):
            headers = response_headers(response.headers.multi_items())
            body = Body(headers, self._max_bytes, ready=response.is_stream_consumed)
            for chunk in raw_pieces(response):
                if late:
                    raise httpx.ReadTimeout("the body took too long")
                body.add(chunk)
                # A last piece that comes late completes a response that may have been paid for.
                late = time.monotonic() > deadline
        return call.read(Response(response.status_code, body.content, headers, self._clock()))

    def close(self) -> None:
        """Close the connections."""
        self._client().close()

    def _client(self) -> httpx.Client:
        """
        Return the client of this process.

        A fork inherits the connections of its parent: two processes that used one would receive each other's responses,
        and with them the ids of each other's paid requests.
        """
        found = self._http.get(os.getpid())
        if found is None:
            limits = httpx.Limits(max_connections=WORKER_CONNECTIONS, keepalive_expiry=PAID_KEEPALIVE)
            made = httpx.Client(transport=self._mock, verify=shared_tls(), limits=limits)
            # Another thread may have made one meanwhile.
            found = self._http.setdefault(os.getpid(), made)
        return found


def raw_pieces(response: httpx.Response) -> Iterator[bytes]:
    """Yield a body as received, or as httpx has decoded it already; see ``ready`` of :class:`.BodyDecoder`."""
    if response.is_stream_consumed:
        yield response.content
    else:
        yield from response.iter_raw()


def transport_for(
    config: ClientConfig,
    *,
    connections: int,
    clock: Callable[[], float],
    mock: httpx.AsyncBaseTransport | None = None,
    polls_only: bool = False,
) -> Transport:
    """
    Return what sends an account's calls in an event loop.

    :param connections: open at once.
    :param mock: replaces the network in tests.
    :param polls_only: whether it sends no paid call, as in a triggerer: connections are kept for longer, and a response
        above :data:`TRIGGERER_RESPONSE_BYTES` is not worth the memory.
    """
    hosts = config.endpoints
    options: dict[str, Any] = {
        "connections": connections,
        "seconds": config.request_timeout,
        "keepalive": POLL_KEEPALIVE if polls_only else PAID_KEEPALIVE,
        "clock": clock,
        "max_bytes": min(config.max_response_bytes, TRIGGERER_RESPONSE_BYTES if polls_only else sys.maxsize),
    }
    proxied = any(environment_proxy(url) for url in (hosts.gateway, hosts.storage, hosts.history, hosts.models))
    if mock is None and has_aiohttp() and not proxied:
        return AiohttpTransport(**options)
    return HttpxTransport(proxied=proxied, mock=mock, **options)


def has_aiohttp() -> bool:
    """Return whether the extra is installed."""
    return importlib.util.find_spec("aiohttp") is not None


async def prepare() -> None:
    """Load, off the loop, what the first call would load on it: certificates and libraries."""
    await asyncio.to_thread(_load)


def _load() -> None:
    shared_tls()
    if has_aiohttp():
        importlib.import_module("aiohttp")
    else:
        # httpx opens connections with anyio, which loads its backend for asyncio when it first runs.
        anyio = importlib.import_module("anyio")
        anyio.run(anyio.sleep, 0)


def environment_proxy(url: str) -> str | None:
    """Return the proxy that the environment names for ``url``, as httpx would."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
