"""
What one GET costs the process that waits, by HTTP client, on loopback.

Run it with the benchmark environment: ``make bench`` or ``.venvs/bench/bin/python benchmarks/http_clients.py``.
CPU is the client process's own; the server answers from another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent))
from local.server import Server, running

CALLS = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
AT_ONCE = 64
HEADERS = {"x-api-key": "SG_0123456789abcdef", "accept": "application/json", "user-agent": "bench"}
Get = Callable[[str], Awaitable[bytes]]
Opener = Callable[[Server, int], contextlib.AbstractAsyncContextManager[Get]]


def context(server: Server) -> object:
    import ssl

    return ssl.create_default_context(cafile=server.trust) if server.trust else False


def httpx_get(client: httpx.AsyncClient) -> Get:
    async def get(url: str) -> bytes:
        return (await client.get(url, headers=HEADERS)).content

    return get


@contextlib.asynccontextmanager
async def one_client(server: Server, size: int) -> AsyncIterator[Get]:
    limits = httpx.Limits(max_connections=size, max_keepalive_connections=size)
    async with httpx.AsyncClient(verify=context(server), limits=limits, timeout=60) as client:
        yield httpx_get(client)


@contextlib.asynccontextmanager
async def ring(server: Server, size: int) -> AsyncIterator[Get]:
    async with contextlib.AsyncExitStack() as stack:
        shared = context(server)
        limits = httpx.Limits(max_connections=4, max_keepalive_connections=4)
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(verify=shared, limits=limits, timeout=60))
            for _ in range(max(1, size // 4))
        ]
        getters, turn = [httpx_get(client) for client in clients], 0

        async def get(url: str) -> bytes:
            nonlocal turn
            turn += 1
            return await getters[turn % len(getters)](url)

        yield get


@contextlib.asynccontextmanager
async def http2(server: Server, size: int) -> AsyncIterator[Get]:
    limits = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(verify=context(server), http1=False, http2=True, limits=limits, timeout=60) as client:
        yield httpx_get(client)


@contextlib.asynccontextmanager
async def bare_transport(server: Server, size: int) -> AsyncIterator[Get]:
    limits = httpx.Limits(max_connections=size, max_keepalive_connections=size)
    async with httpx.AsyncHTTPTransport(verify=context(server), limits=limits) as transport:
        extensions = {"timeout": httpx.Timeout(60).as_dict()}

        async def get(url: str) -> bytes:
            request = httpx.Request("GET", url, headers=HEADERS, extensions=extensions)
            response = await transport.handle_async_request(request)
            return await response.aread()

        yield get


@contextlib.asynccontextmanager
async def own_connections(server: Server, size: int) -> AsyncIterator[Get]:
    from airflow_provider_segmind.client import transports as connections
    from airflow_provider_segmind.client.endpoints import Call
    from airflow_provider_segmind.client.responses import Asked

    trusting = context(server)
    connections.shared_tls = lambda: trusting  # type: ignore[assignment,return-value]
    sender = connections.Connections(most=size, seconds=60)

    async def get(url: str) -> bytes:
        call = Call(Asked("Looking", ""), "GET", url, lambda answer: answer.content, headers=HEADERS)
        return await sender.send(call)

    yield get
    await sender.close()


@contextlib.asynccontextmanager
async def over_aiohttp(server: Server, size: int) -> AsyncIterator[Get]:
    import aiohttp
    from httpx_aiohttp import AiohttpTransport

    connector = aiohttp.TCPConnector(limit=size, ssl=context(server))  # type: ignore[arg-type]
    transport = AiohttpTransport(client=lambda: aiohttp.ClientSession(connector=connector))
    async with httpx.AsyncClient(transport=transport, timeout=60) as client:
        yield httpx_get(client)


@contextlib.asynccontextmanager
async def aiohttp_itself(server: Server, size: int) -> AsyncIterator[Get]:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=size, ssl=context(server))  # type: ignore[arg-type]
    async with aiohttp.ClientSession(connector=connector) as session:

        async def get(url: str) -> bytes:
            async with session.get(url, headers=HEADERS) as answer:
                return await answer.read()

        yield get


ROWS: list[tuple[str, Opener, int]] = [
    ("one httpx client, 64 connections", one_client, 64),
    ("one httpx client, 16 connections", one_client, 16),
    ("one httpx client, 8 connections", one_client, 8),
    ("one httpx client, 4 connections", one_client, 4),
    ("ring of 16 httpx clients of 4", ring, 64),
    ("ring of 4 httpx clients of 4", ring, 16),
    ("httpx transport without its client, 8", bare_transport, 8),
    ("httpx over HTTP/2, 1 connection", http2, 1),
    ("own connections over httpcore, 64", own_connections, 64),
    ("own connections over httpcore, 8", own_connections, 8),
    ("httpx over httpx-aiohttp, 64", over_aiohttp, 64),
    ("httpx over httpx-aiohttp, 8", over_aiohttp, 8),
    ("aiohttp itself, 64", aiohttp_itself, 64),
    ("aiohttp itself, 8", aiohttp_itself, 8),
]


async def measure(opener: Opener, server: Server, size: int, at_once: int) -> tuple[float, float]:
    """Return CPU in µs for a GET, and GETs per second."""
    async with opener(server, size) as get:
        url = f"{server.url}/v2/requests/r-1-9999999999.0/status"
        await asyncio.gather(*(get(url) for _ in range(at_once)))
        left = CALLS

        async def worker() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await get(url)

        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(at_once)))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return cpu / CALLS * 1e6, CALLS / wall


def table(title: str, *, delay: float, tls: bool) -> None:
    found: list[tuple[str, float, float]] = []
    for name, opener, size in ROWS:
        second = opener is http2
        with running(delay=delay, tls=tls or second, http2=second) as server:
            # As many callers as connections, because that is how the poller bounds itself.
            at_once = AT_ONCE if second else size
            runs = [asyncio.run(measure(opener, server, size, at_once)) for _ in range(3)]
        found.append((name, statistics.median(r[0] for r in runs), statistics.median(r[1] for r in runs)))
    cheapest = min(cpu for _, cpu, _ in found)
    print(f"\n{title}\n\n| client | µs of CPU per GET | GETs per s | times the cheapest |\n| --- | --- | --- | --- |")
    for name, cpu, rate in found:
        print(f"| {name} | {cpu:,.0f} | {rate:,.0f} | {cpu / cheapest:.1f} |", flush=True)


if __name__ == "__main__":
    table("Plain HTTP", delay=0.0, tls=False)
    table("Plain HTTP, 50 ms added", delay=0.05, tls=False)
    table("TLS", delay=0.0, tls=True)
    table("TLS, 50 ms added", delay=0.05, tls=True)
