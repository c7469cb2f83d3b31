"""
Wait for one request or for several without a worker slot.

Workers import this module to defer. The arguments of a trigger are stored in the metadata database as plain text: ids,
times, paths and counts, never a key or a prompt. Deadlines are epoch seconds, so that they survive a restart of the
triggerer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, NoReturn

from asgiref.sync import sync_to_async

from airflow_provider_segmind.chat.json_values import for_xcom
from airflow_provider_segmind.client.downloads import Downloads
from airflow_provider_segmind.client.models import RequestResult
from airflow_provider_segmind.client.poll_schedule import Pending, urgent
from airflow_provider_segmind.compat import TriggerEvent
from airflow_provider_segmind.defaults import DEFAULT_CONNECTION, MAX_XCOM_BYTES, RESULT_LIFETIME
from airflow_provider_segmind.deferral import defer_until, warn_not_cancelled
from airflow_provider_segmind.exceptions import (
    SegmindError,
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindResponseTooLargeError,
)
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.masking import masked
from airflow_provider_segmind.result_storage import ResultDestination, StoredResult, store_for_event
from airflow_provider_segmind.triggers.events import Payload, RequestEvent
from airflow_provider_segmind.triggers.poller import FINAL
from airflow_provider_segmind.triggers.trigger import SegmindTrigger
from airflow_provider_segmind.wording import counted

SHORTEST_AGAIN = 30.0
"""Minimum seconds before a triggerer that could not poll is used again."""
LONGEST_AGAIN = 300.0
"""Most seconds before that; between them it is a quarter of the request's age."""


def defer_request(
    pending: Pending,
    destination: ResultDestination,
    *,
    segmind_conn_id: str,
    deadline: float,
    defer: Callable[..., NoReturn],
    log: Any,
    fetch: bool = False,
    poll_from: float = 0.0,
) -> NoReturn:
    """
    Defer a task until its request has ended.

    :param deadline: epoch second at which the task must have ended, even if its request has not.
    :param fetch: whether the event carries the result.
    :param poll_from: epoch second before which the triggerer does not try to poll, see :func:`defer_again_from`.
    """
    log.info("Request %s is in progress; waiting for it in the triggerer", pending.request_id)
    end_time = min(pending.end_time, deadline)
    defer_until(
        end_time,
        defer,
        partial(
            SegmindRequestTrigger,
            request_id=pending.request_id,
            segmind_conn_id=segmind_conn_id,
            submitted_at=pending.submitted_at,
            end_time=end_time,
            poll_interval=pending.poll_interval,
            model=pending.model,
            fetch=fetch,
            output_path=destination.output_path,
            max_xcom_bytes=destination.max_xcom_bytes,
            overflow_path=destination.overflow_path,
            poll_from=poll_from,
        ),
    )


def find_connection_or_defer(
    hook: SegmindHook,
    event: RequestEvent | None,
    *,
    pending: Callable[[float], Pending],
    destination: ResultDestination,
    defer: Callable[..., NoReturn],
    log: Any,
    fetch: bool = False,
) -> None:
    """
    Read the Connection in a worker, or defer again if neither the triggerer nor this worker can.

    :param event: how waiting in the triggerer ended, None for a task that was resumed without one.
    :param pending: makes the request to wait for from the time of its submission.
    :param destination: where the trigger stores the result; the task continues on a worker afterwards.
    :raises Exception: it could not be read, and the event is not one of a triggerer that another attempt may help.
    """
    try:
        hook.find_connection()
    except SegmindError:
        raise
    except Exception as error:
        now = time.time()
        waiting = None if event is None or event.submitted_at is None else pending(event.submitted_at)
        if event is None or waiting is None or now >= waiting.end_time or not may_help_again(event):
            raise
        log.warning(
            "%s This worker cannot read connection %r either (%s)",
            *(event.error(), hook.segmind_conn_id, type(error).__name__),
        )
        defer_request(
            waiting,
            destination,
            segmind_conn_id=hook.segmind_conn_id,
            deadline=waiting.end_time,
            defer=defer,
            log=log,
            fetch=fetch,
            poll_from=_again_from(waiting, now),
        )


def may_help_again(event: RequestEvent) -> bool:
    """Return whether a triggerer that could not poll may be able to later."""
    error = event.error()
    return error is not None and error.retryable and event.error_class not in {kind.__name__ for kind in FINAL}


def defer_again_from(event: RequestEvent, pending: Pending, now: float) -> float | None:
    """
    Return from when a triggerer that could not poll a request is to try again, in epoch seconds.

    :returns: None where the worker is to wait by itself: another attempt would end in the same error, or the result is
        about to expire, and the next attempt may be too late to fetch it.
    """
    about_to_expire = urgent(pending, now) and pending.age(now) < RESULT_LIFETIME
    return None if about_to_expire or not may_help_again(event) else _again_from(pending, now)


def _again_from(pending: Pending, now: float) -> float:
    """Pause longer the older the request is: where no triggerer ever works, a task is resumed some 20 times an hour."""
    least = SHORTEST_AGAIN if urgent(pending, now) else max(SHORTEST_AGAIN, pending.age(now) / 4)
    return min(now + min(LONGEST_AGAIN, least) * (0.9 + 0.2 * random.random()), pending.end_time)


class SegmindRequestTrigger(SegmindTrigger):
    """
    Wait in the triggerer for a request to end, and describe the outcome in one event.

    :param request_id: the request.
    :param segmind_conn_id: the Connection.
    :param submitted_at: epoch seconds of the submission.
    :param end_time: epoch seconds after which waiting ends with a ``timeout`` event.
    :param poll_interval: seconds between polls, None to choose.
    :param model: the model, for messages.
    :param fetch: whether the event carries the result (or its manifest) and not only the metrics.
    :param output_path: where to store the result as soon as it is complete.
    :param max_xcom_bytes: bytes up to which the event carries the result itself.
    :param overflow_path: folder for a larger result where there is no ``output_path``; without it the event carries
        only the id, and the task fetches the result.
    :param poll_from: epoch seconds before which nothing is looked up or polled.
    :param not_before: epoch seconds before which the event is not sent, see
        :func:`~airflow_provider_segmind.deferral.earliest_event`.
    """

    arguments = (
        *("request_id", "segmind_conn_id", "submitted_at", "end_time", "poll_interval", "model", "fetch"),
        *("output_path", "max_xcom_bytes", "overflow_path", "poll_from", "not_before"),
    )

    def __init__(
        self,
        *,
        request_id: str,
        segmind_conn_id: str = DEFAULT_CONNECTION,
        submitted_at: float,
        end_time: float,
        poll_interval: float | None = None,
        model: str | None = None,
        fetch: bool = False,
        output_path: str | None = None,
        max_xcom_bytes: int | None = MAX_XCOM_BYTES,
        overflow_path: str | None = None,
        poll_from: float = 0.0,
        not_before: float = 0.0,
        **_: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.request_id = request_id
        self.segmind_conn_id = segmind_conn_id
        self.submitted_at = submitted_at
        self.end_time = end_time
        self.poll_interval = poll_interval
        self.model = model
        self.fetch = fetch
        self.output_path = output_path
        self.max_xcom_bytes = max_xcom_bytes
        self.overflow_path = overflow_path
        self.poll_from = poll_from
        self.not_before = not_before

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, store the result, and yield one event."""
        await asyncio.sleep(max(0.0, min(self.poll_from, self.end_time) - time.time()))
        try:
            event = await self._outcome()
        except SegmindError as error:
            event = RequestEvent.of_error(self.request_id, error, self.submitted_at)
        except Exception as error:  # A task never sees it, and nothing is paid for here.
            self.log.error("Waiting for request %s failed", self.request_id, exc_info=masked(error))
            event = RequestEvent.of_error(self.request_id, error, self.submitted_at)
        yield await self._event(event.to_json())

    async def _outcome(self) -> RequestEvent:
        """
        Wait for the request with the poller of its account, and store the result.

        :raises SegmindError: the request failed, or waiting for it did.
        """
        wants_body = self.fetch or self.output_path is not None
        pending = Pending(
            request_id=self.request_id,
            submitted_at=self.submitted_at,
            end_time=self.end_time,
            poll_interval=self.poll_interval,
            model=self.model,
        )
        poller = await self._poller(self.end_time)
        try:
            state = await poller.wait(pending, fetch=wants_body, report=self.warn)
        except SegmindResponseTooLargeError:
            # A triggerer waits for a thousand requests; a worker has more memory for one.
            self.log.info("The result of request %s is too large for a triggerer; its task fetches it", self.request_id)
            return RequestEvent(self.request_id, "success")
        self.log.info("Request %s is COMPLETED", self.request_id)
        if not isinstance(state, RequestResult):
            metrics = StoredResult({"metrics": for_xcom(state.metrics.to_json()).value})
            return RequestEvent(self.request_id, "success", metrics)
        destination = ResultDestination(self.output_path, self.max_xcom_bytes, self.overflow_path)
        # Threads of sync_to_async may ask the supervisor for connections of the object store; plain threads may not.
        stored = await sync_to_async(store_for_event, thread_sensitive=False)(
            state, model=self.model, destination=destination, downloads=Downloads.of(poller.config)
        )
        return RequestEvent(self.request_id, "success", stored)

    async def on_kill(self) -> None:
        """Warn that the request continues; Airflow 3.3 calls this when the deferred task is killed or cleared."""
        warn_not_cancelled(self.log, f"request {self.request_id}", "continues with it")


class SegmindRequestsTrigger(SegmindTrigger):
    """
    Wait in the triggerer until enough of several requests have ended, with any outcome.

    It is for an enrichment that has nothing to do but wait: the task fetches the results itself, by id, and continues.

    :param requests: id and epoch seconds of the submission of each request; may be empty.
    :param enough: how many of them must have ended.
    :param until: epoch seconds at which the event comes in any case, after which the task continues.
    :param segmind_conn_id: the Connection.
    :param model: the model, for messages.
    :param resume_state: counts of the try so far, given back in the event.
    :param not_before: epoch seconds before which the event is not sent, see
        :func:`~airflow_provider_segmind.deferral.earliest_event`.
    """

    arguments = (*("requests", "enough", "until", "segmind_conn_id", "model", "resume_state", "not_before"),)

    def __init__(
        self,
        *,
        requests: list[Any],
        enough: int,
        until: float,
        segmind_conn_id: str = DEFAULT_CONNECTION,
        model: str | None = None,
        resume_state: dict[str, Any] | None = None,
        not_before: float = 0.0,
        **_: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.requests = [list(one) for one in requests]
        self.enough = enough
        self.until = until
        self.segmind_conn_id = segmind_conn_id
        self.model = model
        self.resume_state = resume_state
        self.not_before = not_before

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event: ``ended`` (number of requests), ``error`` (its type or None), ``resume_state``."""
        failure: str | None = None
        ended = 0
        try:
            ended = await self._enough_ended()
        except Exception as error:  # A task never sees it; it polls by itself, which is free.
            self.log.warning("Waiting for %s failed", counted(len(self.requests), "request"), exc_info=masked(error))
            failure = type(error).__name__
        yield await self._event(Payload(ended=ended, error=failure, resume_state=self.resume_state))

    async def _enough_ended(self) -> int:
        """
        Wait until enough requests have ended or the time is up; return how many have.

        A request that failed, or whose result is gone, has ended as well: its task decides what follows.

        :raises SegmindError: the account cannot be polled at all.
        """
        if not self.requests:
            await asyncio.sleep(max(0.0, self.until - time.time()))
            return 0
        poller = await self._poller(self.until)
        waits = {
            asyncio.create_task(
                poller.wait(
                    Pending(
                        request_id=request_id,
                        submitted_at=submitted_at,
                        # This trigger ends at ``until``; the poller must not end before.
                        end_time=self.until + RESULT_LIFETIME,
                        model=self.model,
                    ),
                    fetch=False,
                    report=self.warn,
                )
            )
            for request_id, submitted_at in self.requests
        }
        ended = 0
        try:
            while ended < self.enough and (seconds := self.until - time.time()) > 0:
                done, waits = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    _raise_unless_ended(task)
                ended += len(done)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        self.log.info("Ended: %d of %s", ended, counted(len(self.requests), "request"))
        return ended

    async def on_kill(self) -> None:
        """Warn that the requests continue; Airflow 3.3 calls this when the deferred task is killed or cleared."""
        warn_not_cancelled(self.log, counted(len(self.requests), "request"), "fetches their results by id")


def _raise_unless_ended(task: asyncio.Task[Any]) -> None:
    error = task.exception()
    if error is not None and not isinstance(error, SegmindRequestFailedError | SegmindRequestExpiredError):
        raise error
