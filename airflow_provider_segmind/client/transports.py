"""How a call travels: over aiohttp where installed, else over kept connections; over httpx behind a proxy."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import io
import select
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from airflow_provider_segmind.client.account import ClientConfig
from airflow_provider_segmind.client.endpoints import Call
from airflow_provider_segmind.client.response_body import (
    ACCEPT_ENCODING,
    MAX_RESPONSE_BYTES,
    TRIGGERER_RESPONSE_BYTES,
    Body,
    TooLargeError,
)
from airflow_provider_segmind.client.responses import Answer
from airflow_provider_segmind.client.transport_errors import (
    answer_headers,
    http_timeout,
    shared_tls,
    too_large,
    transport_error,
)
from airflow_provider_segmind.masking import masked

if TYPE_CHECKING:
    import aiohttp

BUFFER = 1 << 18
"""Bytes that are read ahead of what is asked for."""


class AsyncioStream(httpcore.AsyncNetworkStream):
    """A connection; what is written leaves before the next read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._held: list[bytes] = []

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Send what is held back, then read; empty at the end."""
        if self._held:
            # Not waiting until all is sent: a server may refuse a large body before it has read it.
            self._writer.writelines(self._held)
            self._held = []
        with _named(httpcore.ReadError, httpcore.ReadTimeout):
            return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Take bytes to send."""
        if buffer:
            self._held.append(buffer)

    async def aclose(self) -> None:
        """Close without waiting for the other side, or for what is not sent yet."""
        self._writer.transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Return the connection, which :class:`AsyncioNetwork` opened with TLS already."""
        return self

    def get_extra_info(self, info: str) -> Any:
        """Return what asyncio knows; ``is_readable`` of an idle connection means that the other side has closed it."""
        if info != "is_readable":
            return self._writer.get_extra_info(info)
        if self._reader.at_eof() or self._writer.is_closing():
            return True
        poll = select.poll()
        poll.register(self._writer.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))


class AsyncioNetwork(httpcore.AsyncNetworkBackend):
    """
    Opens connections to hosts of one kind.

    :param tls: how to speak TLS to them, None for plain text.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> AsyncioStream:
        """Connect, TLS included."""
        with _named(httpcore.ConnectError, httpcore.ConnectTimeout):
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_connection(
                    host,
                    port,
                    ssl=self._tls,
                    server_hostname=host if self._tls else None,
                    happy_eyeballs_delay=0.25,
                    limit=BUFFER,
                )
        return AsyncioStream(reader, writer)


@contextmanager
def _named(broken: type[Exception], late: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise late(str(error)) from error
    except (OSError, EOFError) as error:
        # ssl.SSLError is an OSError; the words of a certificate's trouble stay.
        raise broken(str(error)) from error


T = TypeVar("T")
BeforeSend: TypeAlias = Callable[[], Awaitable[object]]
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

    async def send(self, call: Call[T], before_send: BeforeSend | None = None) -> T:
        """
        Carry out ``call`` and read its answer.

        :param before_send: see :class:`~airflow_provider_segmind.client.transports.Sender`.
        :raises SegmindError: what came back, or what it means that nothing did.
        """
        seconds = call.timeout or self._seconds
        look = None
        try:
            async with asyncio.timeout(seconds) as limit:
                look = _Look.of(before_send, limit)
                answer = await self._exchange(call, seconds, look)
        except TooLargeError as error:
            raise too_large(call.asked, error) from error
        except TimeoutError as error:
            if look is not None:
                look.raise_own(error)
            raise transport_error(call.asked, call.url, httpx.ReadTimeout("the call took too long")) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise transport_error(call.asked, call.url, error) from error
        except _TROUBLES as error:
            raise transport_error(call.asked, call.url, _in_httpx_words(error)) from masked(error)
        return call.read(answer)

    async def close(self) -> None:
        """Close what is idle; what is in use closes with its call."""
        self._closed = True
        idle, self._idle = self._idle, {}
        for stack in idle.values():
            for one in stack:
                await one.connection.aclose()

    async def _exchange(self, call: Call[T], seconds: float, before_send: BeforeSend | None) -> Answer:
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
                        **before_bytes_leave(before_send),
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


class _Look:
    """
    The last look of one call: it does not count towards the call's time, and its errors are not those of the network.

    :param limit: the time of the call, None where the transport keeps it.
    """

    def __init__(self, look: BeforeSend, limit: asyncio.Timeout | None) -> None:
        self._look = look
        self._limit = limit
        self._error: Exception | None = None

    @classmethod
    def of(cls, look: BeforeSend | None, limit: asyncio.Timeout | None = None) -> _Look | None:
        return None if look is None else cls(look, limit)

    async def __call__(self) -> None:
        clock = asyncio.get_running_loop().time
        began, ends = clock(), None if self._limit is None else self._limit.when()
        if self._limit is not None and ends is not None and not self._limit.expired():
            self._limit.reschedule(None)
        try:
            await self._look()
        except (OSError, ValueError) as error:
            self._error = error
            raise
        finally:
            if self._limit is not None and ends is not None and not self._limit.expired():
                self._limit.reschedule(ends + clock() - began)

    def raise_own(self, error: Exception) -> None:
        """Raise what it raised itself, if ``error`` is that or was made of it: nothing has left then."""
        if self._error is not None and self._error in (error, error.__cause__):
            raise self._error


def before_bytes_leave(before_send: BeforeSend | None) -> dict[str, Any]:
    """Return what makes httpcore call ``before_send`` between connecting and sending, as its extensions."""
    if before_send is None:
        return {}

    async def trace(name: str, info: Mapping[str, Any]) -> None:
        # The request for a tunnel, to a proxy, is not the call yet.
        if name.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
            await before_send()

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

    async def send(self, call: Call[T], before_send: BeforeSend | None = None) -> T:
        """
        Carry out ``call`` once and read its answer.

        :param before_send: see :class:`~airflow_provider_segmind.client.transports.Sender`.
        :raises SegmindError: what came back, or what it means that nothing did.
        """
        import aiohttp

        session = self._session or self._open()
        look = _Look.of(before_send)
        try:
            # A URL that cannot be connected to is not a network error, as aiohttp would report some of them.
            host_and_target(call.url)
            async with session.request(
                call.method,
                call.url,
                data=_payload(call.body),
                headers={**call.headers, "accept-encoding": ACCEPT_ENCODING},
                timeout=_timeout(call.timeout or self._seconds),
                allow_redirects=False,
                trace_request_ctx=look,
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
            if look is not None:
                look.raise_own(error)
            # Errors of aiohttp keep their text outside their args, so another error is shown in the place of one.
            raise transport_error(call.asked, call.url, _aiohttp_in_httpx_words(error)) from masked(error)
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


def _aiohttp_in_httpx_words(error: Exception) -> httpx.HTTPError | httpx.InvalidURL:
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


class Sender(Protocol):
    """Sends calls."""

    async def send(self, call: Call[T], before_send: BeforeSend | None = None) -> T:
        """
        Carry out ``call`` once and read its answer.

        :param before_send: awaited once a connection is held, when the next step is that bytes leave. What it raises is
            raised here, and nothing was sent.
        """

    async def close(self) -> None:
        """Close the connections."""


class HttpxSender:
    """
    Sends calls with httpx, which knows the proxies of the environment.

    :param seconds: for a call that names no time of its own.
    :param clock: epoch seconds.
    :param transport: stands in for the network in tests.
    :param max_bytes: of a response, see :mod:`.bodies`.
    """

    def __init__(
        self,
        *,
        most: int,
        seconds: float,
        clock: Callable[[], float],
        transport: httpx.AsyncBaseTransport | None = None,
        max_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        self._http = httpx.AsyncClient(transport=transport, verify=shared_tls(), limits=limits)
        self._seconds = seconds
        self._clock = clock
        self._max_bytes = max_bytes
        self._traced = transport is None

    async def send(self, call: Call[T], before_send: BeforeSend | None = None) -> T:
        """Carry out ``call`` once and read its answer; ``before_send`` as in :class:`Sender`."""
        seconds = call.timeout or self._seconds
        if before_send is not None and not self._traced:
            await before_send()
        look = None
        try:
            async with asyncio.timeout(seconds) as limit:
                look = _Look.of(before_send, limit)
                answer = await self._exchange(call, seconds, look)
        except TooLargeError as error:
            raise too_large(call.asked, error) from error
        except TimeoutError as error:
            if look is not None:
                look.raise_own(error)
            raise transport_error(call.asked, call.url, httpx.ReadTimeout("the call took too long")) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise transport_error(call.asked, call.url, error) from error
        return call.read(answer)

    async def _exchange(self, call: Call[T], seconds: float, before_send: BeforeSend | None) -> Answer:
        headers = {**call.headers, "accept-encoding": ACCEPT_ENCODING}
        async with self._http.stream(
            call.method,
            call.url,
            content=call.body,
            headers=headers,
            timeout=http_timeout(seconds),
            extensions=before_bytes_leave(before_send),
        ) as response:
            found = answer_headers(response.headers.multi_items())
            body = Body(found, self._max_bytes, ready=response.is_stream_consumed)
            if response.is_stream_consumed:
                body.add(response.content)
            else:
                async for chunk in response.aiter_raw():
                    body.add(chunk)
        return Answer(response.status_code, body.content, found, self._clock())

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def sender_for(
    config: ClientConfig,
    *,
    most: int,
    clock: Callable[[], float],
    transport: httpx.AsyncBaseTransport | None = None,
    light: bool = False,
) -> Sender:
    """
    Return what sends an account's calls.

    :param most: connections open at once.
    :param transport: stands in for the network in tests.
    :param light: whether memory is worth more than speed, as in a triggerer: ten megabytes for aiohttp, and whatever a
        response above :data:`TRIGGERER_RESPONSE_BYTES` would take.
    """
    ends, seconds = config.endpoints, config.request_timeout
    hosts = (ends.gateway, ends.storage, ends.history, ends.models)
    max_bytes = min(config.max_response_bytes, TRIGGERER_RESPONSE_BYTES) if light else config.max_response_bytes
    if transport is not None or any(environment_proxy(url) for url in hosts):
        return HttpxSender(most=most, seconds=seconds, clock=clock, transport=transport, max_bytes=max_bytes)
    if has_aiohttp() and not light:
        return AiohttpSender(most=most, seconds=seconds, clock=clock, max_bytes=max_bytes)
    return Connections(most=most, seconds=seconds, clock=clock, max_bytes=max_bytes)


def has_aiohttp() -> bool:
    """Tell whether the extra is installed."""
    return importlib.util.find_spec("aiohttp") is not None


async def prepare() -> None:
    """Load, off the loop, what the first call would load on it: certificates and libraries."""
    await asyncio.to_thread(shared_tls)
    if has_aiohttp():
        await asyncio.to_thread(importlib.import_module, "aiohttp")


def environment_proxy(url: str) -> str | None:
    """Return the proxy that the environment names for ``url``, as httpx would."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")
