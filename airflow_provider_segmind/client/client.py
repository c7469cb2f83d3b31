"""
The blocking client; :mod:`.async_client` has the same for event loops.

Both are short loops over the same decisions: what to send is decided in :mod:`.endpoints`, what may be sent again in
:mod:`.retry`, how to wait in :mod:`.polling`. A transport sends the calls.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from airflow_provider_segmind.client import polling
from airflow_provider_segmind.client.account_calls import AccountCalls, Report, always, no_report, succeeded
from airflow_provider_segmind.client.async_client import AsyncSegmindClient
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
from airflow_provider_segmind.client.retry import DEFAULT_LIMITS, RetryLimits, retrying
from airflow_provider_segmind.client.transports import BlockingTransport
from airflow_provider_segmind.exceptions import SegmindError

__all__ = ["AsyncSegmindClient", "ClientConfig", "SegmindClient"]
T = TypeVar("T")


class SegmindClient(AccountCalls):
    """
    The blocking client. Use it in a worker; in an event loop use :class:`AsyncSegmindClient`.

    :param sleep: called between attempts and polls.
    :param may_spend: called before each paid call is sent; raises an error that prevents it.
    """

    def __init__(
        self,
        config: ClientConfig,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        may_spend: Callable[[], None] = always,
    ) -> None:
        super().__init__(config, clock=clock, rng=rng)
        self.may_spend = may_spend
        self._sleep = sleep
        self._transport = BlockingTransport(config, clock=clock, mock=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def submit(self, model: str, inputs: Mapping[str, Any]) -> SubmittedRequest:
        """
        Submit a request: one paid POST, billed when it completes.

        :raises SegmindSubmissionUnknownError: it may have been created; it is not sent again.
        :raises SegmindError: it was refused; nothing was billed.
        """
        return self.perform(self.wire.submit(model, inputs))

    def run_sync(self, model: str, inputs: Mapping[str, Any], *, timeout: float | None = None) -> SyncResult:
        """
        Run a model through the blocking v1 call: one paid POST, billed when it is answered 200.

        :param timeout: seconds for the whole call; the gateway itself gives up after about a minute.
        """
        return self.perform(self.wire.run_sync(model, inputs, timeout))

    def submit_once(
        self, model: str, inputs: Mapping[str, Any], *, on_permit: Callable[[], object]
    ) -> SubmittedRequest:
        """
        Submit with one POST, never retried; errors as in :meth:`submit`.

        :param on_permit: called when the rate limiter lets the call through, right before it is sent.
        """
        return self._admitted(self.wire.submit(model, inputs), on_permit=on_permit)

    def get_status(self, request_id: str) -> RequestState:
        """Return the state of a request; FAILED is a state here, not an error. Free."""
        return self.perform(self.wire.status(request_id))

    def get_result(self, request_id: str) -> RequestResult:
        """
        Fetch the body of a request; it is final only when ``completed``. Free.

        :raises SegmindRequestFailedError: Segmind reports FAILED; nothing was billed.
        :raises SegmindRequestExpiredError: the id is unknown, or older than an hour.
        """
        return succeeded(self.perform(self.wire.result(request_id)))

    def get_credits(self) -> Credits:
        """Return the balance. Free; runs no model."""
        return self.perform(self.wire.credits())

    def list_models(self) -> list[ModelInfo]:
        """List the models. Free; needs no key."""
        return self.perform(self.wire.models())

    def get_request_record(self, request_id: str) -> RequestRecord:
        """Return one of the account's requests, of any age, from the request history. Free; rows appear late."""
        return self.perform(self.wire.request_record(request_id))

    def list_request_records(self, **filters: Any) -> RecordPage:
        """Return a page of the request history; filters as in :meth:`Wire.request_records`. Free."""
        return self.perform(self.wire.request_records(**filters))

    def upload(self, data_urls: Sequence[str]) -> list[str]:
        """Store files given as ``data:`` URLs at Segmind and return their public URLs."""
        return self.perform(self.wire.upload(data_urls))

    def poll(self, request_id: str, *, fetch: bool = False) -> RequestState:
        """Poll once, without retries; with ``fetch``, ask for the result itself."""
        return self.drive(polling.poll(self.wire, request_id, fetch=fetch))

    def wait(
        self, pending: Pending, *, fetch: bool = False, until: float | None = None, report: Report = no_report
    ) -> RequestState | None:
        """Wait for a request to end; see :func:`polling.wait`."""
        return self.drive(self.waiting(pending, fetch=fetch, until=until, report=report), pending)

    def perform(self, call: Call[T], limits: RetryLimits = DEFAULT_LIMITS) -> T:
        """Carry out a call, again where that is allowed."""
        loop = retrying(limits, sleep=self._sleep, rng=self.rng)
        result: T = loop(self._admitted, call)
        return result

    def drive(self, steps: Generator[Any, Any, T], pending: Pending | None = None) -> T:
        """Carry out what ``steps`` yields, a call or a pause, until it returns. Calls are not retried."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, polling.Pause):
                    self._sleep(step.seconds)
                    step = next(steps)
                    continue
                try:
                    value = self._admitted(step, self.priority(pending))
                except SegmindError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(value)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _admitted(
        self, call: Call[T], priority: Priority | None = None, on_permit: Callable[[], object] | None = None
    ) -> T:
        def exchange(call: Call[T]) -> T:
            if call.context.paid:
                self.may_spend()
            if on_permit is not None:
                on_permit()
            return self._transport.send(call)

        return self.throttle.send(call, exchange, self._sleep, priority)
