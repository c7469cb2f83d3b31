"""How others ask about each row: submit, status, result, and no ledger. An answer is the text of the model's reply."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from local.table import MODEL

CONNECTIONS = 64
THREADS = 32
Json = dict[str, Any]
Send = Callable[[str, str, Json | None], Awaitable[Json]]
"""Method, path and body to what is answered."""


def text_of(result: Json) -> str:
    text: str = json.loads(result["output"])["candidates"][0]["content"]["parts"][0]["text"]
    return text


async def ask(send: Send, prompt: str, *, status: bool) -> str:
    """
    Ask about one row.

    :param status: whether to look at the status before the result, or at the result at once.
    """
    submitted = await send("POST", f"/v2/{MODEL}", {"prompt": prompt})
    path = f"/v2/requests/{submitted['request_id']}"
    looked_at = f"{path}/status" if status else path
    while (state := await send("GET", looked_at, None))["status"] != "COMPLETED":
        await asyncio.sleep(1.0)
    return text_of(await send("GET", path, None) if status else state)


async def all_of(send: Send, prompts: Iterable[str], *, status: bool) -> list[str]:
    """Ask about every row, as many at once as there are connections."""
    left, answers = iter(prompts), list[str]()

    async def worker() -> None:
        for prompt in left:
            answers.append(await ask(send, prompt, status=status))

    await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))
    return answers


def with_httpx(url: str, prompts: list[str]) -> list[str]:
    import httpx

    async def run() -> list[str]:
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        async with httpx.AsyncClient(base_url=url, limits=limits, headers={"x-api-key": "SG_bench"}) as client:

            async def send(method: str, path: str, body: Json | None) -> Json:
                answer: Json = (await client.request(method, path, json=body)).raise_for_status().json()
                return answer

            return await all_of(send, prompts, status=True)

    return asyncio.run(run())


def with_aiohttp(url: str, prompts: list[str], *, status: bool = True) -> list[str]:
    import aiohttp

    async def run() -> list[str]:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS)
        async with aiohttp.ClientSession(url, connector=connector, headers={"x-api-key": "SG_bench"}) as session:

            async def send(method: str, path: str, body: Json | None) -> Json:
                async with session.request(method, path, json=body) as answer:
                    answer.raise_for_status()
                    found: Json = await answer.json()
                    return found

            return await all_of(send, prompts, status=status)

    return asyncio.run(run())


def with_sdk(url: str, prompts: list[str]) -> list[str]:
    from concurrent.futures import ThreadPoolExecutor

    from segmind import SegmindClient

    client = SegmindClient(api_key="SG_bench", base_url=f"{url}/v1")
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(lambda prompt: text_of(client.run(MODEL, prompt=prompt)), prompts))


def load() -> None:
    """Import what the peers import, so that it is no row's share."""
    import aiohttp  # noqa: F401
    import httpx  # noqa: F401
    import segmind  # noqa: F401


HTTPX = "httpx, one client, 64 connections"
SDK = "segmind SDK in 32 threads"
AIOHTTP = "aiohttp, one session, 3 calls"
AIOHTTP_RESULT = "aiohttp, looks at the result, 2 calls"
PEERS: dict[str, Callable[[str, list[str]], list[str]]] = {
    HTTPX: with_httpx,
    SDK: with_sdk,
    AIOHTTP: with_aiohttp,
    AIOHTTP_RESULT: lambda url, prompts: with_aiohttp(url, prompts, status=False),
}
