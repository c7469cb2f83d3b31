"""Runs the sync and the async client through the same tests, with a scripted server and a virtual clock."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_segmind.client.client import AsyncSegmindClient, ClientConfig, SegmindClient
from airflow_provider_segmind.client.http_library import httpx

KEY = "SG_0123456789abcdef"
PLAIN_KEY = "b7f3e1d09c8a4466"
"""A key without the prefix, which only an exact match can mask."""
PROMPT = "a prompt that must not be logged"
START = 1_000_000_000.0

Reply = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]
Script = Callable[[httpx.Request], httpx.Response]


def answer(status: int = 200, body: Any = None, *, headers: dict[str, str] | None = None) -> httpx.Response:
    """Return a response whose body is JSON, or the given bytes."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    kind = {} if isinstance(body, bytes) or body is None else {"content-type": "application/json"}
    return httpx.Response(status, content=content, headers={**kind, **(headers or {})})


def accepted(request_id: str = "r-1") -> httpx.Response:
    return answer(200, {"request_id": request_id, "status": "QUEUED"})


@dataclass
class World:
    """The virtual time, and the requests that the server received."""

    kind: str = "sync"
    now: float = START
    seen: list[httpx.Request] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    @property
    def posts(self) -> int:
        return sum(request.method == "POST" for request in self.seen)

    @property
    def paths(self) -> list[str]:
        return [request.url.path for request in self.seen]

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.pauses.append(seconds)
        self.now += seconds

    async def async_sleep(self, seconds: float) -> None:
        self.sleep(seconds)

    def serve(self, replies: Reply | Iterable[Reply]) -> Script:
        """Respond with ``replies`` in turn, repeating the last one."""
        script: list[Reply] = [replies] if callable(replies) or isinstance(replies, (httpx.Response, Exception)) else []
        script = script or list(replies)  # type: ignore[arg-type]

        def handle(request: httpx.Request) -> httpx.Response:
            self.seen.append(request)
            reply = script.pop(0) if len(script) > 1 else script[0]
            if isinstance(reply, Exception):
                raise reply
            if isinstance(reply, httpx.Response):
                # A response is read once; every call gets its own.
                return httpx.Response(reply.status_code, content=reply.content, headers=reply.headers)
            return reply(request)

        return handle

    def run(
        self,
        replies: Reply | Iterable[Reply] | None,
        act: Callable[[Any], Any],
        *,
        key: str = KEY,
        **config: Any,
    ) -> Any:
        """
        Call ``act`` with a sync or async client and return its result, awaited if necessary.

        :param replies: the responses of the server; None uses the real network.
        """
        settings = ClientConfig(api_key=key, **config)
        transport = None if replies is None else httpx.MockTransport(self.serve(replies))
        options: dict[str, Any] = {"clock": lambda: self.now, "rng": random.Random(1)}
        if self.kind == "sync":
            with SegmindClient(settings, transport=transport, sleep=self.sleep, **options) as client:
                return act(client)

        async def go() -> Any:
            async with await AsyncSegmindClient.create(
                settings, transport=transport, sleep=self.async_sleep, **options
            ) as client:
                result = act(client)
                return await result if isinstance(result, Awaitable) else result

        return asyncio.run(go())


def submit(client: Any) -> Any:
    return client.submit("a-model", {"prompt": PROMPT})


def status(client: Any) -> Any:
    return client.get_status("r-1")


def result(client: Any) -> Any:
    return client.get_result("r-1")


def balance(client: Any) -> Any:
    return client.get_credits()
