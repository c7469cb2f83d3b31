"""
Free calls over few connections, for the one poller of an event loop.

aiohttp where it is installed, because a GET costs it less than half of what it costs otherwise
(``docs/performance.md``). It sends no paid call: what an error means for money is decided in :mod:`transport`, for
the errors of httpx and httpcore only.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_segmind.api.answers import Answer, mask
from airflow_provider_segmind.api.config import ClientConfig
from airflow_provider_segmind.api.connections import KEEP_ALIVE
from airflow_provider_segmind.api.protocol import Call
from airflow_provider_segmind.api.senders import Sender, environment_proxy, sender_for
from airflow_provider_segmind.api.transport import http_timeout, shared_tls
from airflow_provider_segmind.exceptions import SegmindConnectionError, shorten

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

CONNECTIONS = 8
"""Connections of a poller: looks are short, so more of them bring nothing."""


def _only_free(call: Call[T]) -> None:
    if call.asked.paid:
        raise ValueError("A paid call is sent by a client, which knows what a lost answer means for money.")


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


async def open_looks(config: ClientConfig, clock: Callable[[], float]) -> Sender:
    """Return the cheapest way to look that is installed, without blocking the loop."""
    await asyncio.to_thread(shared_tls)
    if importlib.util.find_spec("aiohttp") is None:
        return sender_for(config, most=CONNECTIONS, clock=clock)
    await asyncio.to_thread(importlib.import_module, "aiohttp")
    return AiohttpLooks(config, clock, await asyncio.to_thread(environment_proxy, config.endpoints.gateway))
