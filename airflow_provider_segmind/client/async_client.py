"""The client for event loops; :mod:`.client` has the blocking one."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from airflow_provider_segmind.client import polling
from airflow_provider_segmind.client.account_calls import AccountCalls, Report, no_report, succeeded
from airflow_provider_segmind.client.config import ClientConfig
from airflow_provider_segmind.client.endpoints import Call
from airflow_provider_segmind.client.http_library import httpx
from airflow_provider_segmind.client.models import (
    Credits,
    ModelInfo,
    RecordPage,
    RequestRecord,
    RequestResult,
    RequestState,
    SubmittedRequest,
    SyncResult,
)
from airflow_provider_segmind.client.poll_schedule import Pending
from airflow_provider_segmind.client.rate_limiter import Priority
from airflow_provider_segmind.client.retry import DEFAULT_LIMITS, RetryLimits, async_retrying, may_send_again
from airflow_provider_segmind.client.transport_errors import BeforeSend
from airflow_provider_segmind.client.transports import prepare, transport_for
from airflow_provider_segmind.exceptions import SegmindError

T = TypeVar("T")
CONNECTIONS = 64
"""Connections a client opens at most; more calls at once wait for one."""


class AsyncSegmindClient(AccountCalls):
    """
    The client for event loops; method for method like :class:`SegmindClient`.

    Build it with :meth:`create`, which keeps the reading of certificates (tens of milliseconds) off the loop.

    :param may_spend: awaited before each paid call is sent; raises an error that prevents it.
    """

    def __init__(
        self,
        config: ClientConfig,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        may_spend: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(config, clock=clock, rng=rng)
        self._may_spend = may_spend
        self._sleep = sleep
        self._transport = transport_for(config, connections=CONNECTIONS, clock=clock, mock=transport)

    @classmethod
    async def create(cls, config: ClientConfig, **options: Any) -> Self:
        """Return a client without blocking the event loop."""
        await prepare()
        return cls(config, **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def submit(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        on_permit: Callable[[], Awaitable[object]] | None = None,
        before_send: BeforeSend | None = None,
    ) -> SubmittedRequest:
        """
        Submit a request; see :meth:`SegmindClient.submit`.

        :param on_permit: awaited when the rate limiter lets the call through, right before each attempt is sent.
        :param before_send: awaited after that, when the attempt has its connection and the next step is to send.
        """
        return await self.perform(self.wire.submit(model, inputs), on_permit=on_permit, before_send=before_send)

    async def submit_once(
        self, model: str, inputs: Mapping[str, Any], *, on_permit: Callable[[], Awaitable[object]]
    ) -> SubmittedRequest:
        """Submit with one POST; see :meth:`SegmindClient.submit_once`."""
        return await self._admitted(self.wire.submit(model, inputs), on_permit=on_permit)

    async def run_sync(self, model: str, inputs: Mapping[str, Any], *, timeout: float | None = None) -> SyncResult:
        """Run a model through v1; see :meth:`SegmindClient.run_sync`."""
        return await self.perform(self.wire.run_sync(model, inputs, timeout))

    async def get_status(self, request_id: str) -> RequestState:
        """Return the state of a request."""
        return await self.perform(self.wire.status(request_id))

    async def get_result(self, request_id: str) -> RequestResult:
        """Fetch the body of a request; see :meth:`SegmindClient.get_result`."""
        return succeeded(await self.perform(self.wire.result(request_id)))

    async def get_credits(self) -> Credits:
        """Return the balance."""
        return await self.perform(self.wire.credits())

    async def list_models(self) -> list[ModelInfo]:
        """List the models."""
        return await self.perform(self.wire.models())

    async def get_request_record(self, request_id: str) -> RequestRecord:
        """Return one request from the request history."""
        return await self.perform(self.wire.request_record(request_id))

    async def list_request_records(self, **filters: Any) -> RecordPage:
        """Return a page of the request history."""
        return await self.perform(self.wire.request_records(**filters))

    async def upload(self, data_urls: Sequence[str]) -> list[str]:
        """Store files at Segmind and return their public URLs."""
        return await self.perform(self.wire.upload(data_urls))

    async def poll(self, request_id: str, *, fetch: bool = False) -> RequestState:
        """Poll once, without retries."""
        return await self.drive(polling.poll(self.wire, request_id, fetch=fetch))

    async def wait(
        self, pending: Pending, *, fetch: bool = False, until: float | None = None, report: Report = no_report
    ) -> RequestState | None:
        """Wait for a request to end; see :func:`polling.wait`."""
        return await self.drive(self.waiting(pending, fetch=fetch, until=until, report=report), pending)

    async def perform(
        self,
        call: Call[T],
        limits: RetryLimits = DEFAULT_LIMITS,
        on_permit: Callable[[], Awaitable[object]] | None = None,
        before_send: BeforeSend | None = None,
    ) -> T:
        """Carry out a call, again where that is allowed; ``on_permit`` and ``before_send`` as in :meth:`submit`."""
        try:
            return await self._admitted(call, on_permit=on_permit, before_send=before_send)
        except SegmindError as error:
            if not may_send_again(error):
                raise
            first = error
        # The loop costs a tenth of a call to set up, so it is only made when there is something to repeat.
        loop = async_retrying(limits, sleep=self._sleep, rng=self.rng)
        return await loop(_after(first, partial(self._admitted, on_permit=on_permit, before_send=before_send)), call)

    async def drive(self, steps: Generator[Any, Any, T], pending: Pending | None = None) -> T:
        """Carry out what ``steps`` yields, a call or a pause, until it returns. Calls are not retried."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, polling.Pause):
                    await self._sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    value = await self._admitted(step, self.priority(pending))
                except SegmindError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(value)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _admitted(
        self,
        call: Call[T],
        priority: Priority | None = None,
        on_permit: Callable[[], Awaitable[object]] | None = None,
        before_send: BeforeSend | None = None,
    ) -> T:
        async def exchange(call: Call[T]) -> T:
            if call.context.paid and self._may_spend is not None:
                await self._may_spend()
            if on_permit is not None:
                await on_permit()
            return await self._transport.send(call, before_send)

        return await self.throttle.send_async(call, exchange, self._sleep, priority)


def _after(first: SegmindError, again: Callable[[Call[T]], Awaitable[T]]) -> Callable[[Call[T]], Awaitable[T]]:
    """Return ``again``, whose first attempt was made and ended with ``first``."""
    pending = [first]

    async def attempt(call: Call[T]) -> T:
        if pending:
            raise pending.pop()
        return await again(call)

    return attempt
