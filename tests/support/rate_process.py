"""
One of several processes that use the same account: ``python -m tests.support.rate_process JSON``.

Says that it is ready, waits for a line, makes its journeys and says how many requests completed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any

from airflow_provider_segmind.client.account import ClientConfig
from airflow_provider_segmind.client.async_client import AsyncSegmindClient
from airflow_provider_segmind.client.endpoints import Endpoints
from airflow_provider_segmind.client.rate_limiter import RateSettings
from tests.support.rate_clocks import FastClock
from tests.support.rate_journeys import journey

AT_ONCE = 5
"""Journeys under way; more of them would make a call last long on a fast clock, because this machine takes its time."""


@dataclass(frozen=True)
class Part:
    """
    What one process has to do.

    :param requests: how many requests it makes, a few at a time.
    :param clock: fields of its :class:`FastClock`.
    :param config: fields of its ``ClientConfig``.
    :param window: wall-clock seconds that a minute has, for a limit whose clock (Redis) cannot be made faster.
    """

    gateway: str
    requests: int
    clock: dict[str, float]
    config: dict[str, Any]
    window: float = 60.0


async def work(part: Part) -> int:
    clock = FastClock(**part.clock)
    config = ClientConfig(endpoints=Endpoints(gateway=part.gateway), **part.config)
    async with await AsyncSegmindClient.create(config, clock=clock, sleep=clock.sleep) as client:
        rate = config.rate
        client.limiter.configure(
            RateSettings(rate.requests_per_minute, rate.rate_share, rate.count_polls, rate.redis_url, part.window)
        )
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        turn = asyncio.Semaphore(AT_ONCE)

        async def in_turn(number: int) -> bool:
            async with turn:
                state = await journey(client, str(number))
            return state is not None and state.completed

        return sum(await asyncio.gather(*map(in_turn, range(part.requests))))


if __name__ == "__main__":
    print(asyncio.run(work(Part(**json.loads(sys.argv[1])))))
