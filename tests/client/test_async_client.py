"""What only the client for event loops does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from airflow_provider_segmind.client.client import AsyncSegmindClient, ClientConfig, SegmindClient
from airflow_provider_segmind.client.endpoints import Endpoints
from tests.support.clients import KEY
from tests.support.loopback_server import Loopback, silence


def test_both_clients_have_the_same_methods() -> None:
    def public(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert public(AsyncSegmindClient) - public(SegmindClient) == {"create"}
    assert public(SegmindClient) <= public(AsyncSegmindClient)


def test_cancelling_an_async_call_is_not_swallowed(loopback: Callable[..., Loopback]) -> None:
    server = loopback(silence)

    async def go() -> None:
        config = ClientConfig(api_key=KEY, endpoints=Endpoints(gateway=server.url))
        async with await AsyncSegmindClient.create(config) as client:
            task = asyncio.create_task(client.submit("m", {}))
            while not server.received:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(go())
    assert len(server.received) == 1
