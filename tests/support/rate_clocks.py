"""
Clocks that shorten a minute.

A fast clock turns milliseconds of this machine into seconds of Segmind. The leaping clock stops during a call, and
otherwise leaps to the next wake-up, so that the load of the machine does not change the results.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from airflow_provider_segmind.client.http_library import httpx

START = 1_900_000_000.0


class LeapingClock:
    """Time that passes only when all coroutines sleep."""

    def __init__(self) -> None:
        self._now = START
        self._alarms: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0
        self.under_way = 0

    def __call__(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self._count += 1
        alarm = asyncio.get_running_loop().create_future()
        heapq.heappush(self._alarms, (self._now + seconds, self._count, alarm))
        await alarm

    async def run(self, *journeys: Coroutine[Any, Any, Any]) -> list[Any]:
        """Run all coroutines and return their results."""
        together = asyncio.gather(*journeys)
        # The loop's callbacks that can run now; it has no public name for them.
        ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
        while not together.done():
            await asyncio.sleep(0)
            while ready:
                await asyncio.sleep(0)
            if self.under_way:
                await asyncio.sleep(0.001)
            elif not together.done():
                self._leap()
        return await together

    def _leap(self) -> None:
        assert self._alarms, "Deadlock: nothing sleeps, and nothing can continue."
        self._now, _, alarm = heapq.heappop(self._alarms)
        if not alarm.done():
            alarm.set_result(None)


class DistantTransport(httpx.AsyncBaseTransport):
    """A transport to the emulator with latency on the leaping clock in each direction."""

    def __init__(self, clock: LeapingClock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._inner = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=10))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await self._clock.sleep(self._rng.uniform(0.02, 0.3))
        self._clock.under_way += 1
        try:
            response = await self._inner.handle_async_request(request)
            content = await response.aread()
            await response.aclose()
        finally:
            self._clock.under_way -= 1
        await self._clock.sleep(self._rng.uniform(0.02, 0.3))
        return httpx.Response(response.status_code, headers=response.headers, content=content)

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass(frozen=True)
class FastClock:
    """
    The wall clock, ``scale`` times as fast, the same in every process with the same anchor.

    :param anchor: wall-clock time.
    :param shown: the time that the fast clock shows then.
    """

    anchor: float
    shown: float
    scale: float

    def __call__(self) -> float:
        return self.shown + (time.time() - self.anchor) * self.scale

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.scale)
