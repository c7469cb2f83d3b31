"""
One poller for every trigger of a connection in an event loop.

A trigger that opens its own client costs the triggerer 850 KB and tens of milliseconds; here it adds an entry to a
queue. The poller drives the generators of :func:`polling.wait` from one heap with one timer and sends their polls over
a few connections, opened for the first poll and closed when the last trigger has finished. Everything lives in one
event loop, so nothing is locked.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from airflow_provider_segmind.client import polling
from airflow_provider_segmind.client.account_calls import Report
from airflow_provider_segmind.client.config import ClientConfig
from airflow_provider_segmind.client.endpoints import Call
from airflow_provider_segmind.client.models import RequestState
from airflow_provider_segmind.client.poll_schedule import Pending, shared_history, urgent
from airflow_provider_segmind.client.rate_limiter import Priority, Throttle, rate_limiter_for
from airflow_provider_segmind.client.transports import Transport, prepare, transport_for
from airflow_provider_segmind.exceptions import SegmindError
from airflow_provider_segmind.telemetry.metrics import MetricsSender, call_totals

CONFIG_LIFETIME = 60.0
"""
Seconds for which a Connection is not looked up again; otherwise a thousand triggers would each ask the supervisor.
"""
CONNECTION_PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 30.0, 30.0)
"""
Seconds before each further attempt at a failed lookup: two minutes in all, of the hour for which a result is kept.
"""
STEPS_PER_YIELD = 50
"""Entries a worker may handle without a poll before it yields to the loop's other tasks."""
POLLER_CONNECTIONS = 8
"""Connections of a poller: polls are short, so more connections gain nothing."""
FINAL = (SegmindError, AttributeError, KeyError, NameError, TypeError)
"""Errors that another lookup cannot fix: a Connection that cannot work, or a bug."""
FindConfig = Callable[[], Coroutine[Any, Any, ClientConfig]]
OwnedConnection = tuple[str, str]
"""The owner of a Connection and its id: one id may name another account for another team."""
_log = logging.getLogger(__name__)
Opener = Callable[[ClientConfig, Callable[[], float]], Awaitable[Transport]]


async def open_transport(config: ClientConfig, clock: Callable[[], float]) -> Transport:
    """Open the connections without blocking the loop."""
    await prepare()
    return transport_for(config, connections=POLLER_CONNECTIONS, clock=clock, polls_only=True)


class _Entry:
    """One trigger's request: the generator that waits for it, and the future that gets the outcome."""

    __slots__ = ("due", "fetch", "future", "pending", "report", "steps")

    def __init__(self, pending: Pending, fetch: bool, report: Report, future: asyncio.Future[RequestState]) -> None:
        self.pending = pending
        self.fetch = fetch
        self.report = report
        self.future = future
        self.due: float | None = None
        self.steps: Generator[polling.Step, Any, RequestState | None] | None = None


class Poller:
    """
    Wait for many requests of one account.

    :param opener: opens the connections; :func:`open_transport` outside tests.
    :param on_idle: called when the last trigger has finished.
    """

    def __init__(
        self,
        config: ClientConfig,
        *,
        opener: Opener = open_transport,
        on_idle: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self.config = config
        self._wire = config.wire
        self._opener = opener
        self._on_idle = on_idle
        self._clock = clock
        self._rng = rng or random.Random()
        self._limiter = rate_limiter_for(config.endpoints.gateway, config.api_key, config.rate)
        self._throttle = Throttle(self._limiter, config.endpoints.gateway, clock)
        self._pace = polling.Pace(shared_history, self._spacing, self._cooldown, trust_prior=True)
        self._due: list[tuple[float, int, _Entry]] = []
        self._ready: deque[_Entry] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._workers: set[asyncio.Task[None]] = set()
        self._transport: Transport | None = None
        self._opening = asyncio.Lock()
        self._numbers = 0
        self.waiting = 0
        self._lag = 0.0
        self._metrics = MetricsSender({}, lambda: call_totals(self._throttle.counts), self._gauges)

    async def wait(self, pending: Pending, *, fetch: bool, report: Report) -> RequestState:
        """
        Wait for a request to end; errors as in :func:`polling.wait`.

        :param fetch: whether the result itself is wanted.
        :param report: called with a message when polling starts to fail and when it works again.
        """
        entry = _Entry(pending, fetch, report, asyncio.get_running_loop().create_future())
        self.waiting += 1
        self._queue(entry)
        try:
            return await entry.future
        finally:
            if entry.steps is not None:
                entry.steps.close()
            self.waiting -= 1
            if not self.waiting:
                await self._close()

    def _gauges(self) -> dict[str, float]:
        lag, self._lag = self._lag, 0.0
        return {"poller.waiting": self.waiting, "poller.lag_ms": round(lag * 1000)}

    def _spacing(self) -> float:
        return self._limiter.interval() * self.waiting

    def _cooldown(self) -> float:
        return self._limiter.cooldown(self._clock())

    def _queue(self, entry: _Entry) -> None:
        """Hand an entry to the workers; one whose result is about to expire goes first."""
        if urgent(entry.pending, self._clock()):
            self._ready.appendleft(entry)
        else:
            self._ready.append(entry)
        if len(self._workers) < POLLER_CONNECTIONS:
            worker = asyncio.get_running_loop().create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        idle = 0
        while self._ready:
            if self._metrics.take_due():
                # A backend may look up its host, which blocks.
                await asyncio.to_thread(self._metrics.send)
                continue
            entry = self._ready.popleft()
            if entry.future.done():
                continue
            if entry.due is not None:
                self._lag = max(self._lag, asyncio.get_running_loop().time() - entry.due)
            try:
                polled = await self._advance(entry)
            except Exception as error:  # noqa: BLE001 - the trigger must learn of any error; polls are free
                if not entry.future.done():
                    entry.future.set_exception(error)
                polled = True
            idle = 0 if polled else idle + 1
            if idle >= STEPS_PER_YIELD:
                idle = 0
                await asyncio.sleep(0)

    async def _advance(self, entry: _Entry) -> bool:
        """Carry out what the entry's generator yields until it pauses or ends; return whether there was a poll."""
        if entry.steps is None:
            entry.steps = polling.wait(
                self._wire,
                entry.pending,
                fetch=entry.fetch,
                clock=self._clock,
                jitter=self._rng.random,
                report=entry.report,
                pace=self._pace,
            )
        steps, polled = entry.steps, False
        try:
            step = next(steps)
            while not isinstance(step, polling.Pause):
                polled = True
                try:
                    value = await self._poll(step, entry.pending)
                except SegmindError as error:
                    if entry.future.done():
                        return True
                    step = steps.throw(error)
                else:
                    if entry.future.done():
                        return True
                    step = steps.send(value)
        except StopIteration as stop:
            if not entry.future.done():
                entry.future.set_result(stop.value)
            return polled
        self._postpone(entry, step.seconds)
        return polled

    async def _poll(self, call: Call[Any], pending: Pending) -> Any:
        transport = self._transport
        if transport is None:
            async with self._opening:
                if self._transport is None:
                    self._transport = await self._opener(self.config, self._clock)
                transport = self._transport
        priority = Priority.EXPIRING if urgent(pending, self._clock()) else None
        return await self._throttle.send_async(call, transport.send, asyncio.sleep, priority)

    def _postpone(self, entry: _Entry, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        when = entry.due = loop.time() + seconds
        self._numbers += 1
        heapq.heappush(self._due, (when, self._numbers, entry))
        if self._timer is None or when < self._timer.when():
            self._set_timer(loop, when)

    def _set_timer(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(when, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._due and self._due[0][0] <= now:
            _, _, entry = heapq.heappop(self._due)
            if not entry.future.done():
                self._queue(entry)
        if self._due:
            self._set_timer(loop, self._due[0][0])

    async def _close(self) -> None:
        """Close everything; the next trigger opens it again."""
        self._on_idle()
        asyncio.get_running_loop().run_in_executor(None, self._metrics.send)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due.clear()
        self._ready.clear()
        transport, self._transport = self._transport, None
        workers, self._workers = self._workers, set()
        for worker in workers:
            worker.cancel()
        if transport is not None:
            await transport.close()


class _Loop:
    """What one event loop shares: pollers, and Connections that were looked up recently."""

    def __init__(self) -> None:
        self.pollers: dict[ClientConfig, Poller] = {}
        self.configs: dict[OwnedConnection, tuple[float, asyncio.Task[ClientConfig]]] = {}
        self.last: dict[OwnedConnection, ClientConfig] = {}


_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()


async def poller_of(
    owned: OwnedConnection, find_config: FindConfig, *, pauses: Sequence[float] | None = None
) -> Poller:
    """
    Return the poller of a Connection's account in this loop; call its ``wait`` at once.

    Connections with equal values share a poller, even under different ids. A changed one gets a new poller; otherwise a
    raised limit would not apply until the last of its triggers has finished.

    :param find_config: looks the Connection up; called once for all triggers that need it within a minute.
    :param pauses: seconds before each further attempt at a failed lookup; :data:`CONNECTION_PAUSES` when None.
    :raises SegmindError: the Connection cannot work.
    :raises Exception: it could not be looked up; the last error of the secrets backend.
    """
    shared = _loops.setdefault(asyncio.get_running_loop(), _Loop())
    config = await _config(shared, owned, find_config, CONNECTION_PAUSES if pauses is None else pauses)
    poller = shared.pollers.get(config)
    if poller is None:
        poller = shared.pollers[config] = Poller(config, on_idle=partial(shared.pollers.pop, config, None))
    return poller


async def _config(
    shared: _Loop, owned: OwnedConnection, find_config: FindConfig, pauses: Sequence[float]
) -> ClientConfig:
    loop = asyncio.get_running_loop()
    known = shared.configs.get(owned)
    if known is None or (known[1].done() and (known[0] < loop.time() or _failed(known[1]))):
        task = loop.create_task(_found(shared, owned, find_config, pauses))
        known = shared.configs[owned] = loop.time() + CONFIG_LIFETIME, task
    if known[1].done():
        return known[1].result()
    # Shielded, because a trigger that is cancelled must not cancel the lookup for the others.
    return await asyncio.shield(known[1])


def _failed(task: asyncio.Task[ClientConfig]) -> bool:
    return task.cancelled() or task.exception() is not None


async def _found(
    shared: _Loop, owned: OwnedConnection, find_config: FindConfig, pauses: Sequence[float]
) -> ClientConfig:
    """Look a Connection up, repeatedly when that fails: requests that are paid for wait for it."""
    for pause in (*pauses, None):
        try:
            shared.last[owned] = await find_config()
        except FINAL:
            raise
        except Exception as error:
            # Airflow's API and secrets backends may raise anything; a lookup is free.
            known = shared.last.get(owned)
            if known is not None:
                _log.warning(
                    "Looking up connection %r failed (%s); using its last known values", owned[1], type(error).__name__
                )
                return known
            if pause is None:
                raise
            _log.warning("Looking up connection %r failed (%s); trying again", owned[1], type(error).__name__)
            await asyncio.sleep(pause)
        else:
            return shared.last[owned]
    raise AssertionError(pauses)
