"""
Wait for one request, for several, for the end of a pause or for room in a limit, without a worker slot.

Workers import this module to defer. The arguments of a trigger are stored in the metadata database as plain text: ids,
times, paths and counts, never a key or a prompt. Deadlines are epoch seconds, so that they survive a restart of the
triggerer.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, ClassVar, NoReturn

from asgiref.sync import sync_to_async

from airflow_provider_segmind.chat.json_values import for_xcom
from airflow_provider_segmind.client.downloads import Downloads
from airflow_provider_segmind.client.models import RequestResult
from airflow_provider_segmind.client.polling import Pending, urgent
from airflow_provider_segmind.compat import BaseTrigger, TriggerEvent, conf
from airflow_provider_segmind.defaults import DEFAULT_CONNECTION, MAX_XCOM_BYTES, RESULT_LIFETIME
from airflow_provider_segmind.deferral import defer_until, earliest_event, warn_not_cancelled
from airflow_provider_segmind.exceptions import (
    SegmindConfigError,
    SegmindError,
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindResponseTooLargeError,
)
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.masking import masked
from airflow_provider_segmind.pausing import CHECK_INTERVAL, pause_reason
from airflow_provider_segmind.result_storage import ResultDestination, StoredResult, store_for_event
from airflow_provider_segmind.triggers.events import Payload, RequestEvent
from airflow_provider_segmind.triggers.poller import FINAL, Poller, poller_of

ONE_HOUR = 3600.0
PLACE_INTERVAL = 5.0
"""Seconds, on average, between two look-ups of a Connection's places in flight."""
PLACE_KEPT = 20.0
"""Seconds for which a place is kept for the task that was resumed for it, which has to start before it can reserve."""
SETTLE_INTERVAL = 300.0
"""Seconds after which one task is resumed without a place: a task that reserves returns those of dead ones."""
RESET_SPREAD = 60.0
"""Seconds after the turn of a budget within which the tasks that wait for it resume."""
LATE = 5.0
"""Seconds after a trigger's deadline for which it still waits for its Connection, to poll once."""
SHORTEST_AGAIN = 30.0
"""Least seconds before a triggerer that could not poll is asked again."""
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

    :param deadline: epoch second at which the task must have ended, also if its request has not.
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
    :param pending: makes the request to wait for out of the time of its submission.
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


def defer_while_paused(
    defer: Callable[..., NoReturn], *, until: float, method_name: str, resume_state: dict[str, Any] | None = None
) -> NoReturn:
    """
    Defer a task until spending is allowed again.

    :param until: epoch second at which it is resumed in any case, infinity for never.
    :param method_name: the method that resumes it.
    :param resume_state: given back in the event.
    """
    trigger = SegmindPauseTrigger(
        until=None if math.isinf(until) else until, resume_state=resume_state, not_before=earliest_event(time.time())
    )
    defer(trigger=trigger, method_name=method_name)


def defer_until_reset(defer: Callable[..., NoReturn], *, resets_at: float, method_name: str) -> NoReturn:
    """
    Defer a task until the next day or month of a budget begins.

    :param resets_at: epoch second at which it begins.
    :param method_name: the method that resumes the task.
    """
    # Spread over a minute, so that thousands of tasks do not resume in the same second.
    until = resets_at + random.random() * RESET_SPREAD
    trigger = SegmindBudgetTrigger(until=until, not_before=earliest_event(time.time()))
    defer(trigger=trigger, method_name=method_name)


def defer_for_place(
    defer: Callable[..., NoReturn],
    *,
    segmind_conn_id: str,
    until: float,
    method_name: str,
    resume_state: dict[str, Any] | None = None,
) -> NoReturn:
    """
    Defer a task until fewer paid requests of its Connection are in flight than ``max_paid_in_flight``.

    :param until: epoch second at which it is resumed in any case, infinity for never.
    :param method_name: the method that resumes it.
    :param resume_state: given back in the event.
    """
    trigger = SegmindInFlightTrigger(
        segmind_conn_id=segmind_conn_id,
        until=None if math.isinf(until) else until,
        resume_state=resume_state,
        not_before=earliest_event(time.time()),
    )
    defer(trigger=trigger, method_name=method_name)


class _SegmindTrigger(BaseTrigger):
    """
    What all triggers do: serialize, hold an event back, log, and warn when they are killed.

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
        except Exception as error:  # The task never sees what a trigger raises, and nothing is paid for here.
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


class SegmindRequestsTrigger(_SegmindTrigger):
    """
    Wait in the triggerer until enough of several requests have ended, with any outcome.

    For an enrichment that has nothing to do but wait: the task fetches the results itself, by id, and continues.

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


class SegmindPauseTrigger(_SegmindTrigger):
    """
    Wait in the triggerer until spending is allowed again.

    :param until: epoch seconds at which the event comes in any case, None for never.
    :param resume_state: given back in the event.
    :param not_before: epoch seconds before which the event is not sent, see
        :func:`~airflow_provider_segmind.deferral.earliest_event`.
    """

    arguments = ("until", "resume_state", "not_before")

    def __init__(
        self,
        *,
        until: float | None = None,
        resume_state: dict[str, Any] | None = None,
        not_before: float = 0.0,
        **_: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.until = until
        self.resume_state = resume_state
        self.not_before = not_before

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event: ``resume_state``."""
        while await paused_in_triggerer() and (self.until is None or time.time() < self.until):
            left = math.inf if self.until is None else self.until - time.time()
            # Spread over the interval, so that thousands of tasks do not resume in the same second.
            await asyncio.sleep(max(0.0, min(left, CHECK_INTERVAL * (0.5 + random.random()))))
        yield await self._event(Payload(resume_state=self.resume_state))


class SegmindBudgetTrigger(_SegmindTrigger):
    """
    Wait in the triggerer until a budget's next day or month begins.

    :param until: epoch seconds.
    :param not_before: epoch seconds before which the event is not sent, see
        :func:`~airflow_provider_segmind.deferral.earliest_event`.
    """

    arguments = ("until", "not_before")

    def __init__(self, *, until: float, not_before: float = 0.0, **_: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.until = until
        self.not_before = not_before

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event without content."""
        while (left := self.until - time.time()) > 0:
            # In parts, so that a clock that is set is noticed.
            await asyncio.sleep(min(left, ONE_HOUR))
        yield await self._event(Payload())


class SegmindInFlightTrigger(_SegmindTrigger):
    """
    Wait in the triggerer until a Connection has room below its ``max_paid_in_flight``.

    :param segmind_conn_id: the Connection.
    :param until: epoch seconds at which the event comes in any case, None for never.
    :param resume_state: given back in the event.
    :param not_before: epoch seconds before which the event is not sent, see
        :func:`~airflow_provider_segmind.deferral.earliest_event`.
    """

    arguments = ("segmind_conn_id", "until", "resume_state", "not_before")

    def __init__(
        self,
        *,
        segmind_conn_id: str = DEFAULT_CONNECTION,
        until: float | None = None,
        resume_state: dict[str, Any] | None = None,
        not_before: float = 0.0,
        **_: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.segmind_conn_id = segmind_conn_id
        self.until = until
        self.resume_state = resume_state
        self.not_before = not_before

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and yield one event: ``resume_state``."""
        places = _places.setdefault((owner_of(self), self.segmind_conn_id), _Places(time.monotonic()))
        # A place that is taken too early would be held without a use.
        await asyncio.sleep(max(0.0, self.not_before - time.time()))
        while self.until is None or time.time() < self.until:
            await self._look_up(places)
            if places.take(time.monotonic()):
                break
            left = math.inf if self.until is None else self.until - time.time()
            await asyncio.sleep(max(0.0, min(left, PLACE_INTERVAL * (0.5 + random.random()))))
        yield await self._event(Payload(resume_state=self.resume_state))

    async def _look_up(self, places: _Places) -> None:
        """Find out how many places are free; one look-up serves all tasks of the process for some seconds."""
        if time.monotonic() - places.looked_at < PLACE_INTERVAL:
            return
        # While it is read, the others use the value before.
        places.looked_at = time.monotonic()
        try:
            places.free = await sync_to_async(_free_places, thread_sensitive=False)(self.segmind_conn_id)
            places.failing = False
        except SegmindConfigError:
            # The task that is resumed says what is wrong.
            places.free = math.inf
        except Exception as error:  # The task never sees what a trigger raises; the store may answer the next time.
            places.free = 0
            if not places.failing:
                self.log.warning("The budget store could not be reached", exc_info=masked(error))
            places.failing = True


class _Places:
    """
    The places in flight of a Connection, as all triggers of this process see them.

    :param now: monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self.free: float = 0
        self.looked_at = -math.inf
        self.failing = False
        self._resumed: list[float] = []
        self._last = now

    def take(self, now: float) -> bool:
        """Return whether one more task is to be resumed."""
        self._resumed = [at for at in self._resumed if now - at < PLACE_KEPT]
        if self.free <= len(self._resumed) and now - self._last < SETTLE_INTERVAL:
            return False
        self._resumed.append(now)
        self._last = now
        return True


_places: dict[tuple[str, str], _Places] = {}


def _free_places(segmind_conn_id: str) -> float:
    """
    Return how many more paid requests of a Connection may be in flight. Blocks.

    :raises SegmindConfigError: the limit cannot be read, or has no store.
    """
    settings = SegmindHook(segmind_conn_id).budget_settings()
    if settings.store is None or settings.max_in_flight is None:
        return math.inf
    try:
        return settings.max_in_flight - settings.store.in_flight(segmind_conn_id)
    finally:
        settings.store.close()


_pause_read: tuple[float, bool] = (-math.inf, True)


async def paused_in_triggerer() -> bool:
    """Return whether spending is paused; one look-up serves all tasks of the process for some seconds."""
    global _pause_read
    read_at, paused = _pause_read
    if time.monotonic() - read_at >= CHECK_INTERVAL:
        # Until it is read, the others use the value before.
        _pause_read = (time.monotonic(), paused)
        paused = await sync_to_async(pause_reason)() is not None
        _pause_read = (time.monotonic(), paused)
    return paused


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
