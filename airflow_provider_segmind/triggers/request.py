"""
Wait for one request, or for several, without a worker slot; then store the result and describe the outcome.

Workers import this module to defer. The arguments of a trigger are stored in the metadata database as plain text: ids,
times, paths and counts, never a key or a prompt. Deadlines are epoch seconds, so that they survive a restart of the
triggerer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, ClassVar, NoReturn

from asgiref.sync import sync_to_async

from airflow_provider_segmind.chat.json_values import for_xcom
from airflow_provider_segmind.client.downloads import Downloads
from airflow_provider_segmind.client.models import RequestResult
from airflow_provider_segmind.client.polling import Pending
from airflow_provider_segmind.compat import BaseTrigger, TriggerEvent, conf
from airflow_provider_segmind.defaults import DEFAULT_CONNECTION, MAX_XCOM_BYTES
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
from airflow_provider_segmind.triggers.poller import Poller, poller_of

ONE_HOUR = 3600.0
LATE = 5.0
"""Seconds after a trigger's deadline for which it still waits for its Connection, to poll once."""


def defer_request(
    pending: Pending,
    destination: ResultDestination,
    *,
    segmind_conn_id: str,
    deadline: float,
    defer: Callable[..., NoReturn],
    log: Any,
    fetch: bool = False,
) -> NoReturn:
    """
    Defer a task until its request has ended.

    :param deadline: epoch second at which the task must have ended, also if its request has not.
    :param fetch: whether the event carries the result.
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
        ),
    )


class _SegmindTrigger(BaseTrigger):
    """
    What both triggers do: serialize, hold an event back, log, and warn when they are killed.

    Arguments that a class does not know are ignored: another version of this package may have deferred the task.
    """

    arguments: ClassVar[tuple[str, ...]]
    """Names of the constructor's arguments, which are attributes as well."""
    segmind_conn_id: str
    not_before: float

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return path, {name: getattr(self, name) for name in self.arguments}

    def warn(self, text: str) -> None:
        """Log a problem while waiting."""
        # Not `self.log.warning` itself: a logger for each trigger would be a tenth of what waiting costs.
        self.log.warning(text)

    async def _poller(self, end_time: float) -> Poller:
        """
        Return the poller of the account.

        :raises Exception: the Connection could not be looked up, soon after ``end_time`` at the latest.
        """
        connection = owner_of(self), self.segmind_conn_id
        found = poller_of(connection, SegmindHook(self.segmind_conn_id).get_async_config)
        return await asyncio.wait_for(found, max(0.0, end_time - time.time()) + LATE)

    async def _event(self, payload: dict[str, Any]) -> TriggerEvent:
        """Return the event once it may be sent."""
        seconds = self.not_before - time.time()
        if seconds > 0:
            await asyncio.sleep(seconds)
        return TriggerEvent(payload)  # type: ignore[no-untyped-call]


class SegmindRequestTrigger(_SegmindTrigger):
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
    :param not_before: epoch seconds before which the event is not sent, see
        :func:`~airflow_provider_segmind.deferral.earliest_event`.
    """

    arguments = (
        *("request_id", "segmind_conn_id", "submitted_at", "end_time", "poll_interval", "model", "fetch"),
        *("output_path", "max_xcom_bytes", "overflow_path", "not_before"),
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
        self.not_before = not_before

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, store the result, and yield one event."""
        try:
            event = await self._outcome()
        except SegmindError as error:
            event = RequestEvent.of_error(self.request_id, error)
        except Exception as error:  # The task never sees what a trigger raises, and nothing is paid for here.
            self.log.error("Waiting for request %s failed", self.request_id, exc_info=masked(error))
            event = RequestEvent.of_error(self.request_id, error)
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


class SegmindRequestsTrigger(_SegmindTrigger):
    """
    Wait in the triggerer until enough of several requests have ended, with any outcome.

    For an enrichment that has nothing to do but wait: the task fetches the results itself, by id, and continues.

    :param requests: id and epoch seconds of the submission of each request; may be empty.
    :param enough: how many of them must have ended.
    :param until: epoch seconds at which the event comes in any case, after which the task continues.
    :param segmind_conn_id: the Connection.
    :param model: the model, for messages.
    :param poll_interval: seconds between polls, None to choose.
    :param resume_state: counts of the try so far, given back in the event.
    :param not_before: epoch seconds before which the event is not sent, see
        :func:`~airflow_provider_segmind.deferral.earliest_event`.
    """

    arguments = (
        *("requests", "enough", "until", "segmind_conn_id", "model", "poll_interval", "resume_state", "not_before"),
    )

    def __init__(
        self,
        *,
        requests: list[Any],
        enough: int,
        until: float,
        segmind_conn_id: str = DEFAULT_CONNECTION,
        model: str | None = None,
        poll_interval: float | None = None,
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
        self.poll_interval = poll_interval
        self.resume_state = resume_state
        self.not_before = not_before

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event: ``ended`` (number of requests), ``error`` (its type or None), ``resume_state``."""
        failure: str | None = None
        ended = 0
        try:
            ended = await self._enough_ended()
        except Exception as error:  # The task never sees what a trigger raises; it polls by itself, which is free.
            self.log.warning("Waiting for %d requests failed", len(self.requests), exc_info=masked(error))
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
                        # This trigger ends at ``until``; the poller is not to end before.
                        end_time=self.until + ONE_HOUR,
                        poll_interval=self.poll_interval,
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
        self.log.info("%d of %d requests have ended", ended, len(self.requests))
        return ended

    async def on_kill(self) -> None:
        """Warn that the requests continue; Airflow 3.3 calls this when the deferred task is killed or cleared."""
        warn_not_cancelled(self.log, f"{len(self.requests)} requests", "fetches their results by id")


def owner_of(trigger: Any) -> str:
    """
    Return whose Connections a trigger may see: those of its team, as far as Airflow names one.

    Where teams share a triggerer and the team is unknown, the DAG takes its place, as a DAG belongs to one team.
    """
    task = getattr(trigger, "task_instance", None)
    dag_run = getattr(getattr(task, "_ti_context_from_server", None), "dag_run", None)
    for known in (trigger, task, getattr(task, "dag_run", None), dag_run):
        team = getattr(known, "team_name", None)
        if isinstance(team, str) and team:
            return f"team {team}"
    if not conf.getboolean("core", "multi_team", fallback=False):
        return ""
    dag_id = getattr(task, "dag_id", None)
    return f"dag {dag_id}" if dag_id else f"trigger {getattr(trigger, 'trigger_id', None) or id(trigger)}"


def _raise_unless_ended(task: asyncio.Task[Any]) -> None:
    error = task.exception()
    if error is not None and not isinstance(error, SegmindRequestFailedError | SegmindRequestExpiredError):
        raise error
