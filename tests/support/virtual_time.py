"""Virtual time: workers are generators that yield the seconds to sleep, so that hours pass in milliseconds."""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_segmind.client.endpoints import Call
from airflow_provider_segmind.client.rate_limiter import Priority, RateLimiter
from airflow_provider_segmind.client.responses import CallContext
from airflow_provider_segmind.exceptions import SegmindError, SegmindRateLimitError

Worker = Generator[float, None, None]


def a_call(method: str = "POST", url: str = "https://api.segmind.com/v2/m") -> Call[Any]:
    paid = method == "POST"
    return Call(
        context=CallContext(what="Testing", secret="", paid=paid), method=method, url=url, read=lambda answer: answer
    )


class World:
    """Runs workers in the order of their wake-up times."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self._alarms: list[tuple[float, int, Worker]] = []
        self._count = 0

    def clock(self) -> float:
        return self.now

    def start(self, worker: Worker, after: float = 0.0) -> None:
        self._count += 1
        heapq.heappush(self._alarms, (self.now + after, self._count, worker))

    def run(self, until: float = float("inf")) -> None:
        while self._alarms and self._alarms[0][0] <= until:
            self.now, _, worker = heapq.heappop(self._alarms)
            for pause in worker:
                self.start(worker, max(0.0, pause))
                break


@dataclass
class Server:
    """Allows a number of calls in any minute and responds with 429 to more, with or without the reset time."""

    world: World
    allowed: int = 50
    names_reset: bool = True
    latency: Callable[[], float] = lambda: 0.2
    arrivals: list[float] = field(default_factory=list)
    accepted: deque[float] = field(default_factory=deque)
    refused: list[float] = field(default_factory=list)

    def receive(self) -> SegmindError | None:
        now = self.world.now
        self.arrivals.append(now)
        while self.accepted and self.accepted[0] <= now - 60:
            self.accepted.popleft()
        if len(self.accepted) >= self.allowed:
            self.refused.append(now)
            reset = self.accepted[0] + 60 - now if self.names_reset else None
            return SegmindRateLimitError("Too many.", status_code=429, retry_after=reset)
        self.accepted.append(now)
        return None

    def most_in_a_minute(self) -> int:
        return max(bisect_right(self.arrivals, start + 59.999) - i for i, start in enumerate(self.arrivals))


def send(
    world: World,
    server: Server,
    limiter: RateLimiter,
    call: Call[Any],
    done: Counter[str],
    priority: Priority | None = None,
) -> Worker:
    """Send one call until it is accepted, as a client does."""
    while True:
        permit = yield from limiter.admission(call, world.clock, priority)  # type: ignore[misc]
        latency = server.latency()
        yield latency / 2
        error = server.receive()
        yield latency / 2
        limiter.release(permit, world.now, error)
        if error is None:
            done[call.method] += 1
            return
        yield 0.5


def fleet(
    world: World, server: Server, limiter: RateLimiter, count: int, done: Counter[str], *, polls: int = 1
) -> list[Worker]:
    """Return workers that each submit a request and poll it."""

    def journey() -> Worker:
        yield from send(world, server, limiter, a_call("POST"), done)
        for _ in range(polls):
            yield 4.0
            yield from send(world, server, limiter, a_call("GET"), done)

    return [journey() for _ in range(count)]


def seeded(seed: int = 1) -> random.Random:
    return random.Random(seed)
