"""
One of several processes that use the same account: ``python -m tests.support.rate_process JSON``.

It prints ``ready``, waits for a line on stdin, makes its requests, and prints how many completed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any

from airflow_provider_segmind.client.async_client import AsyncSegmindClient
from airflow_provider_segmind.client.config import ClientConfig
from airflow_provider_segmind.client.endpoints import Endpoints
from airflow_provider_segmind.client.rate_limiter import RateSettings
from tests.support.rate_clocks import FastClock
from tests.support.rate_requests import submit_and_wait

AT_ONCE = 5
"""Requests at a time; with more, calls would take long on a fast clock because this machine is busy."""


@dataclass(frozen=True)
class Workload:
    """
    What one process does.

    :param requests: how many requests it makes.
    :param clock: fields of its :class:`FastClock`.
    :param config: fields of its ``ClientConfig``.
    :param window: wall-clock seconds of a minute, for a limit whose clock (Redis) cannot be accelerated.
    """

    gateway: str
    requests: int
    clock: dict[str, float]
    config: dict[str, Any]
    window: float = 60.0


async def work(workload: Workload) -> int:
    clock = FastClock(**workload.clock)
    config = ClientConfig(endpoints=Endpoints(gateway=workload.gateway), **workload.config)
    async with await AsyncSegmindClient.create(config, clock=clock, sleep=clock.sleep) as client:
        rate = config.rate
        client.limiter.configure(
            RateSettings(rate.requests_per_minute, rate.rate_share, rate.redis_url, workload.window)
        )
        client.limiter.counts_polls = True
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        slots = asyncio.Semaphore(AT_ONCE)

        async def limited(number: int) -> bool:
            async with slots:
                state = await submit_and_wait(client, str(number))
            return state is not None and state.completed

        return sum(await asyncio.gather(*map(limited, range(workload.requests))))


if __name__ == "__main__":
    print(asyncio.run(work(Workload(**json.loads(sys.argv[1])))))
