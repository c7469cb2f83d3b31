"""
Free calls over few connections, for the one poller of an event loop.

aiohttp where it is installed, because a GET costs it an eighth of httpx's CPU (``docs/performance.md``); httpx
otherwise. Neither sends a paid call: what an error of theirs means for money is decided in :mod:`transport`, for
httpx only.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from airflow_provider_segmind.api.answers import Answer, mask
from airflow_provider_segmind.api.config import ClientConfig
from airflow_provider_segmind.api.protocol import Call
from airflow_provider_segmind.api.transport import answer_headers, http_timeout, shared_tls, transport_error
from airflow_provider_segmind.exceptions import SegmindConnectionError, shorten

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

CONNECTIONS = 8
"""Connections to a host. httpx searches its pool for each call, and more of them cost more than they bring."""
KEEP_ALIVE = 30.0
"""Seconds an idle connection is kept, longer than most looks are apart."""


class Looks(Protocol):
    """Sends free calls."""

    async def send(self, call: Call[T]) -> T:
        """Carry out ``call`` and read its answer."""

    async def close(self) -> None:
        """Close the connections."""


def _only_free(call: Call[T]) -> None:
    if call.asked.paid:
        raise ValueError("A paid call is sent by a client, which knows what a lost answer means for money.")


class HttpxLooks:
    """Sends free calls with httpx."""

    def __init__(self, config: ClientConfig, clock: Callable[[], float]) -> None:
        limits = httpx.Limits(
            max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=KEEP_ALIVE
        )
        self._http = httpx.AsyncClient(verify=shared_tls(), limits=limits)
        self._seconds = config.request_timeout
        self._clock = clock

    async def send(self, call: Call[T]) -> T:
        """Carry out ``call`` and read its answer."""
        _only_free(call)
        try:
            async with asyncio.timeout(self._seconds):
                response = await self._http.request(
                    call.method, call.url, headers=call.headers, timeout=http_timeout(self._seconds)
                )
        except TimeoutError as error:
            raise transport_error(call.asked, call.url, httpx.ReadTimeout("the call took too long")) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise transport_error(call.asked, call.url, error) from error
        return call.read(Answer(response.status_code, response.content, answer_headers(response), self._clock()))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


class AiohttpLooks:
    """Sends free calls with aiohttp; build it inside a running loop."""

    def __init__(self, config: ClientConfig, clock: Callable[[], float], proxy: str | None = None) -> None:
        import aiohttp

        self._troubles = (aiohttp.ClientError, TimeoutError, OSError)
        seconds = http_timeout(config.request_timeout)
        timeout = aiohttp.ClientTimeout(total=config.request_timeout, sock_connect=seconds.connect)
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=KEEP_ALIVE, ssl=shared_tls())
        self._session: aiohttp.ClientSession = aiohttp.ClientSession(
            connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), proxy=proxy
        )
        self._clock = clock

    async def send(self, call: Call[T]) -> T:
        """Carry out ``call`` and read its answer."""
        _only_free(call)
        try:
            async with self._session.request(
                call.method, call.url, headers=call.headers, allow_redirects=False
            ) as response:
                content = await response.read()
        except self._troubles as error:
            words = shorten(mask(str(error), call.asked.secret)) or "no details"
            raise SegmindConnectionError(
                f"{call.asked.what} got no answer ({type(error).__name__}: {words}). The call itself costs nothing; a "
                "later try may succeed.",
                request_id=call.asked.request_id,
            ) from error
        headers = {name.lower(): value for name, value in response.headers.items()}
        return call.read(Answer(response.status, content, headers, self._clock()))

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


def environment_proxy(url: str) -> str | None:
    """
    Return the proxy that the environment names for ``url``, as httpx would.

    Read once, because aiohttp's ``trust_env`` reads it in a thread for every call, at half of what the call costs.
    """
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.netloc):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


async def open_looks(config: ClientConfig, clock: Callable[[], float]) -> Looks:
    """Return the cheapest way to look that is installed, without blocking the loop."""
    await asyncio.to_thread(shared_tls)
    if importlib.util.find_spec("aiohttp") is None:
        return HttpxLooks(config, clock)
    await asyncio.to_thread(importlib.import_module, "aiohttp")
    return AiohttpLooks(config, clock, await asyncio.to_thread(environment_proxy, config.endpoints.gateway))
