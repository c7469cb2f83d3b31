"""What one GET costs the process that sends it, by HTTP client, on loopback: why calls travel as they do."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from benchmarks.server import Server, running

CALLS = 500
TURNS = 3
HEADERS = {"x-api-key": "SG_0123456789abcdef", "accept": "application/json", "user-agent": "bench"}
Get = Callable[[str], Awaitable[bytes]]
Opener = Callable[[Server], contextlib.AbstractAsyncContextManager[Get]]


def _tls(server: Server) -> Any:
    return ssl.create_default_context(cafile=server.trust) if server.trust else False


def ring(clients: int, each: int, *, library: str = "httpx") -> Opener:
    """Return so many clients with so many connections each, used in turn."""
    httpx = import_module(library)

    @contextlib.asynccontextmanager
    async def opened(server: Server) -> AsyncIterator[Get]:
        verify, limits = _tls(server), httpx.Limits(max_connections=each, max_keepalive_connections=each)
        async with contextlib.AsyncExitStack() as stack:
            opened = [
                await stack.enter_async_context(httpx.AsyncClient(verify=verify, limits=limits, timeout=60))
                for _ in range(clients)
            ]
            number = 0

            async def get(url: str) -> bytes:
                nonlocal number
                number += 1
                content: bytes = (await opened[number % clients].get(url, headers=HEADERS)).content
                return content

            yield get

    return opened


def aiohttp_session(connections: int) -> Opener:
    @contextlib.asynccontextmanager
    async def opened(server: Server) -> AsyncIterator[Get]:
        import aiohttp

        connector = aiohttp.TCPConnector(limit=connections, ssl=_tls(server))
        async with aiohttp.ClientSession(connector=connector) as session:

            async def get(url: str) -> bytes:
                async with session.get(url, headers=HEADERS) as response:
                    return await response.read()

            yield get

    return opened


def clients() -> dict[str, tuple[Opener, int]]:
    """Return how to open each client, and how many connections it has; the first one is the measure."""
    found = {
        "one aiohttp session, 64 connections": (aiohttp_session(64), 64),
        "64 httpx clients, 1 connection each": (ring(64, 1), 64),
        "one httpx client, 4 connections": (ring(1, 4), 4),
        "one httpx client, 16 connections": (ring(1, 16), 16),
        "one httpx client, 64 connections": (ring(1, 64), 64),
    }
    if find_spec("httpx2"):
        found["one httpx2 client, 64 connections"] = (ring(1, 64, library="httpx2"), 64)
        found["64 httpx2 clients, 1 connection each"] = (ring(64, 1, library="httpx2"), 64)
    return found


async def microseconds(opener: Opener, server: Server, at_once: int) -> float:
    """Return the CPU of a GET, with as many callers as there are connections."""
    async with opener(server) as get:
        url = f"{server.url}/v2/requests/r-1-9999999999.0/status"
        await asyncio.gather(*(get(url) for _ in range(at_once)))
        remaining = iter(range(CALLS))

        async def worker() -> None:
            for _ in remaining:
                await get(url)

        cpu = time.process_time()
        await asyncio.gather(*(worker() for _ in range(at_once)))
        return (time.process_time() - cpu) / CALLS * 1e6


def _column(*, delay: float, tls: bool) -> dict[str, float]:
    found: dict[str, list[float]] = {name: [] for name in clients()}
    with running(delay=delay, tls=tls) as server:
        for _ in range(TURNS):
            for name, (opener, at_once) in clients().items():
                found[name].append(asyncio.run(microseconds(opener, server, at_once)))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Print CPU per GET, in multiples of aiohttp's."""
    columns = [_column(delay=0.0, tls=False), _column(delay=0.05, tls=True)]
    print("\n| client | plain, to aiohttp's | TLS and 50 ms, to aiohttp's | plain | TLS and 50 ms |")
    print("| --- | --- | --- | --- | --- |")
    bases = [next(iter(column.values())) for column in columns]
    for name in columns[0]:
        values = [column[name] for column in columns]
        ratios = " | ".join(f"{value / base:.1f}" for value, base in zip(values, bases, strict=True))
        print(f"| {name} | {ratios} | " + " | ".join(f"{value:,.0f} µs" for value in values) + " |", flush=True)
