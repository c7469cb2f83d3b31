"""What others do with each row: submit, status, result, and no ledger. An answer is the text of the model's reply."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from benchmarks.table import MODEL

CONNECTIONS = 64
THREADS = 32
Json = dict[str, Any]
Send = Callable[[str, str, Json | None], Awaitable[Json]]
"""Method, path and body → the body of the response."""


def text_of(result: Json) -> str:
    text: str = json.loads(result["output"])["candidates"][0]["content"]["parts"][0]["text"]
    return text


async def answer_of(send: Send, prompt: str) -> str:
    submitted = await send("POST", f"/v2/{MODEL}", {"prompt": prompt})
    path = f"/v2/requests/{submitted['request_id']}"
    while (await send("GET", f"{path}/status", None))["status"] != "COMPLETED":
        await asyncio.sleep(1.0)
    return text_of(await send("GET", path, None))


async def all_answers(send: Send, prompts: Iterable[str]) -> list[str]:
    """Take as many rows at once as there are connections."""
    remaining, answers = iter(prompts), list[str]()

    async def worker() -> None:
        for prompt in remaining:
            answers.append(await answer_of(send, prompt))

    await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))
    return answers


def with_httpx(url: str, prompts: list[str]) -> list[str]:
    import httpx

    async def run() -> list[str]:
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        async with httpx.AsyncClient(base_url=url, limits=limits, headers={"x-api-key": "SG_bench"}) as client:

            async def send(method: str, path: str, body: Json | None) -> Json:
                response: Json = (await client.request(method, path, json=body)).raise_for_status().json()
                return response

            return await all_answers(send, prompts)

    return asyncio.run(run())


def with_aiohttp(url: str, prompts: list[str]) -> list[str]:
    import aiohttp

    async def run() -> list[str]:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS)
        async with aiohttp.ClientSession(url, connector=connector, headers={"x-api-key": "SG_bench"}) as session:

            async def send(method: str, path: str, body: Json | None) -> Json:
                async with session.request(method, path, json=body) as response:
                    response.raise_for_status()
                    found: Json = await response.json()
                    return found

            return await all_answers(send, prompts)

    return asyncio.run(run())


def with_sdk(url: str, prompts: list[str]) -> list[str]:
    from concurrent.futures import ThreadPoolExecutor

    from segmind import SegmindClient

    client = SegmindClient(api_key="SG_bench", base_url=f"{url}/v1")
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(lambda prompt: text_of(client.run(MODEL, prompt=prompt)), prompts))


def load() -> None:
    """Import what the peers import, so that it is not measured."""
    import aiohttp  # noqa: F401
    import httpx  # noqa: F401
    import segmind  # noqa: F401


HTTPX = "one httpx client, 64 connections"
SDK = "Segmind's SDK, 32 threads"
AIOHTTP = "one aiohttp session, 64 connections"
PEERS: dict[str, Callable[[str, list[str]], list[str]]] = {HTTPX: with_httpx, SDK: with_sdk, AIOHTTP: with_aiohttp}
