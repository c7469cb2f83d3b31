"""
Who carries a call out: aiohttp where it is installed, else connections of our own; httpx where a proxy stands between.

``docs/performance.md`` has what each costs.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from collections.abc import Callable
from typing import Protocol, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from airflow_provider_segmind.api.aiohttp_sender import AiohttpSender
from airflow_provider_segmind.api.answers import Answer
from airflow_provider_segmind.api.bodies import (
    ACCEPT_ENCODING,
    MAX_RESPONSE_BYTES,
    TRIGGERER_RESPONSE_BYTES,
    Body,
    TooLargeError,
)
from airflow_provider_segmind.api.config import ClientConfig
from airflow_provider_segmind.api.connections import Connections, LastLook, before_bytes_leave
from airflow_provider_segmind.api.protocol import Call
from airflow_provider_segmind.api.transport import (
    answer_headers,
    http_timeout,
    shared_tls,
    too_large,
    transport_error,
)

T = TypeVar("T")


class Sender(Protocol):
    """Sends calls."""

    async def send(self, call: Call[T], last_look: LastLook | None = None) -> T:
        """
        Carry out ``call`` once and read its answer.

        :param last_look: awaited once a connection is held, when the next step is that bytes leave. What it raises is
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

    async def send(self, call: Call[T], last_look: LastLook | None = None) -> T:
        """Carry out ``call`` once and read its answer; ``last_look`` as in :class:`Sender`."""
        seconds = call.timeout or self._seconds
        if last_look is not None and not self._traced:
            await last_look()
        try:
            async with asyncio.timeout(seconds):
                answer = await self._exchange(call, seconds, last_look)
        except TooLargeError as error:
            raise too_large(call.asked, error) from error
        except TimeoutError as error:
            raise transport_error(call.asked, call.url, httpx.ReadTimeout("the call took too long")) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise transport_error(call.asked, call.url, error) from error
        return call.read(answer)

    async def _exchange(self, call: Call[T], seconds: float, last_look: LastLook | None) -> Answer:
        headers = {**call.headers, "accept-encoding": ACCEPT_ENCODING}
        async with self._http.stream(
            call.method,
            call.url,
            content=call.body,
            headers=headers,
            timeout=http_timeout(seconds),
            extensions=before_bytes_leave(last_look),
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
