"""Wait for one request, or for several, without a worker slot; then store the result and describe the outcome."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from airflow_provider_segmind.chat.json_values import for_xcom
from airflow_provider_segmind.client.downloads import Downloads
from airflow_provider_segmind.client.models import RequestResult
from airflow_provider_segmind.client.polling import Pending
from airflow_provider_segmind.compat import conf
from airflow_provider_segmind.exceptions import (
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindResponseTooLargeError,
)
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.result_storage import ResultDestination, store_for_event
from airflow_provider_segmind.triggers.events import RequestEvent
from airflow_provider_segmind.triggers.poller import Poller, poller_of

if TYPE_CHECKING:
    pass

from collections.abc import AsyncIterator
from importlib import import_module
from types import ModuleType

from airflow_provider_segmind.compat import BaseTrigger, TriggerEvent, airflow_version
from airflow_provider_segmind.defaults import DEFAULT_CONNECTION, MAX_XCOM_BYTES
from airflow_provider_segmind.exceptions import SegmindError
from airflow_provider_segmind.masking import masked
from airflow_provider_segmind.triggers.events import Payload

ONE_HOUR = 3600.0
LATE = 5.0
"""Seconds after a trigger's deadline for which it still waits for its Connection, to look once."""


async def _poller(trigger: SegmindRequestTrigger | SegmindRequestsTrigger) -> Poller:
    """Return the poller of the account; raises whatever kept the Connection from being looked up."""
    connection_id = trigger.segmind_conn_id
    return await poller_of((owner_of(trigger), connection_id), SegmindHook(connection_id).get_async_config)


def owner_of(trigger: Any) -> str:
    """
    Return whose Connections a trigger may see: its team's, as far as Airflow tells.

    Where teams share a triggerer and the team is not told, a DAG belongs to one team and stands for it.
    """
    task = getattr(trigger, "task_instance", None)
    told = getattr(getattr(task, "_ti_context_from_server", None), "dag_run", None)
    for known in (trigger, task, getattr(task, "dag_run", None), told):
        team = getattr(known, "team_name", None)
        if isinstance(team, str) and team:
            return f"team {team}"
    if not conf.getboolean("core", "multi_team", fallback=False):
        return ""
    dag_id = getattr(task, "dag_id", None)
    return f"dag {dag_id}" if dag_id else f"trigger {getattr(trigger, 'trigger_id', None) or id(trigger)}"


async def outcome(trigger: SegmindRequestTrigger) -> RequestEvent:
    """
    Wait for the request of ``trigger`` with the poller of its account, and land its result.

    :raises SegmindError: waiting ended otherwise.
    """
    wants_body = trigger.fetch or trigger.output_path is not None
    pending = Pending(
        request_id=trigger.request_id,
        submitted_at=trigger.submitted_at,
        end_time=trigger.end_time,
        poll_interval=trigger.poll_interval,
        model=trigger.model,
    )
    poller = await asyncio.wait_for(_poller(trigger), max(0.0, trigger.end_time - time.time()) + LATE)
    try:
        state = await poller.wait(pending, fetch=wants_body, report=trigger.warn)
    except SegmindResponseTooLargeError:
        # A triggerer holds a thousand requests; a worker takes more of one.
        trigger.log.info("Request %s has a result too large for a triggerer; its task fetches it", trigger.request_id)
        return RequestEvent(trigger.request_id, "success")
    trigger.log.info("Request %s is COMPLETED", trigger.request_id)
    if not isinstance(state, RequestResult):
        return RequestEvent(trigger.request_id, "success", {"metrics": for_xcom(state.metrics.to_json()).value}, True)
    destination = ResultDestination(trigger.output_path, trigger.max_xcom_bytes, trigger.overflow_path)
    # Threads of sync_to_async may ask the supervisor for connections of the object store; plain threads may not.
    value = await sync_to_async(store_for_event, thread_sensitive=False)(
        state, model=trigger.model, destination=destination, downloads=Downloads.of(poller.config)
    )
    return RequestEvent(trigger.request_id, "success", value=value, has_value=value is not None)


async def enough_ended(trigger: SegmindRequestsTrigger) -> int:
    """
    Wait until enough requests of ``trigger`` have ended or its time is up; return how many have.

    A request that failed, or whose result is gone, has ended as well: its task decides what that means.

    :raises SegmindError: the account cannot be asked at all.
    """
    if not trigger.requests:
        await asyncio.sleep(max(0.0, trigger.until - time.time()))
        return 0
    poller = await asyncio.wait_for(_poller(trigger), max(0.0, trigger.until - time.time()) + LATE)
    waits = {
        asyncio.create_task(
            poller.wait(
                Pending(
                    request_id=request_id,
                    submitted_at=submitted_at,
                    # The moment at which this trigger ends is its own.
                    end_time=trigger.until + ONE_HOUR,
                    poll_interval=trigger.poll_interval,
                    model=trigger.model,
                ),
                fetch=False,
                report=trigger.warn,
            )
        )
        for request_id, submitted_at in trigger.requests
    }
    ended = 0
    try:
        while ended < trigger.enough and (left := trigger.until - time.time()) > 0:
            done, waits = await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                _raise_unless_ended(task)
            ended += len(done)
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    trigger.log.info("%d of %d requests have ended", ended, len(trigger.requests))
    return ended


def _raise_unless_ended(task: asyncio.Task[Any]) -> None:
    error = task.exception()
    if error is not None and not isinstance(error, SegmindRequestFailedError | SegmindRequestExpiredError):
        raise error


HOLD_SECONDS = 12.0
"""Seconds after a deferral in which an event can fail the task on affected Airflow versions; measured: up to 10.3."""
LAST_AFFECTED = (3, 3, 2)
"""The newest Airflow whose scheduler takes the late "success" of a deferred try for a state mismatch."""


def earliest_event(now: float) -> float:
    """Return the epoch second before which a trigger deferred at ``now`` must not fire on this Airflow."""
    return now + HOLD_SECONDS if airflow_version()[:3] <= LAST_AFFECTED else 0.0


_loaded: list[ModuleType] = []


async def _waiting() -> ModuleType:
    """
    Return the module that waits.

    Workers import this module to defer; what only a triggerer needs is imported there, once and off its event loop.
    """
    if not _loaded:
        _loaded.append(await asyncio.to_thread(import_module, "airflow_provider_segmind.triggers.request"))
    return _loaded[0]


class SegmindRequestTrigger(BaseTrigger):
    """
    Wait in the triggerer for a request to end, and say how in one event.

    The arguments are stored in the metadata database as plain text: ids, times and paths, never a key or a prompt. The
    deadline is a moment, so that it survives a restart of the triggerer.

    :param request_id: the request.
    :param segmind_conn_id: the Connection.
    :param submitted_at: epoch seconds of the submission.
    :param end_time: epoch seconds after which waiting ends with a ``timeout`` event.
    :param poll_interval: seconds between looks, None to choose.
    :param model: the model, for messages.
    :param fetch: whether the event carries the result (or its manifest), not only the state.
    :param output_path: where to land the result the moment it is complete.
    :param max_xcom_bytes: bytes up to which the event carries the result itself.
    :param overflow_path: folder for a larger result where there is no ``output_path``; without it the event carries
        only the id, and the task fetches the result.
    :param not_before: epoch seconds before which the event is held back, see :func:`earliest_event`.
    """

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
        max_xcom_bytes: int = MAX_XCOM_BYTES,
        overflow_path: str | None = None,
        not_before: float = 0.0,
        **_: Any,
    ) -> None:
        # A task deferred by another version of this package may name arguments this one does not know.
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

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments to build it from again."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "request_id": self.request_id,
                "segmind_conn_id": self.segmind_conn_id,
                "submitted_at": self.submitted_at,
                "end_time": self.end_time,
                "poll_interval": self.poll_interval,
                "model": self.model,
                "fetch": self.fetch,
                "output_path": self.output_path,
                "max_xcom_bytes": self.max_xcom_bytes,
                "overflow_path": self.overflow_path,
                "not_before": self.not_before,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, land what was waited for, and yield one event."""
        try:
            event = await (await _waiting()).outcome(self)
        except SegmindError as error:
            event = RequestEvent.of_error(self.request_id, error)
        except Exception as error:  # Raising tells the task nothing, and nothing is paid for here.
            self.log.error("Waiting for request %s broke off", self.request_id, exc_info=masked(error))
            event = RequestEvent.of_error(self.request_id, error)
        held = self.not_before - time.time()
        if held > 0:
            await asyncio.sleep(held)
        yield TriggerEvent(event.to_json())  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Say what becomes of the request; Airflow 3.3 calls this when the deferred task is killed or cleared."""
        self.log.warning(
            "Nobody waits for request %s in this trigger any more. Segmind has no cancel call: it goes on and may be "
            "billed; a retry of the task finds it again.",
            self.request_id,
        )

    def warn(self, text: str) -> None:
        """Log trouble while waiting."""
        # Not `self.log.warning` itself: a logger for each trigger would be a tenth of what waiting costs.
        self.log.warning(text)


class SegmindRequestsTrigger(BaseTrigger):
    """
    Wait in the triggerer until enough of several requests have ended, whatever became of them, and say so in one event.

    For a table task that has nothing to do but wait: it fetches the results itself, by id, and goes on. The arguments
    are stored in the metadata database as plain text: ids, times and counts.

    :param requests: id and epoch seconds of the submission of each request; may be empty.
    :param enough: how many of them must have ended.
    :param until: epoch seconds at which the event comes in any case.
    :param segmind_conn_id: the Connection.
    :param model: the model, for messages.
    :param poll_interval: seconds between looks, None to choose.
    :param carried: counts of the try so far, given back in the event.
    :param not_before: epoch seconds before which the event is held back, see :func:`earliest_event`.
    """

    def __init__(
        self,
        *,
        requests: list[Any],
        enough: int,
        until: float,
        segmind_conn_id: str = DEFAULT_CONNECTION,
        model: str | None = None,
        poll_interval: float | None = None,
        carried: dict[str, Any] | None = None,
        not_before: float = 0.0,
        **_: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.requests = requests
        self.enough = enough
        self.until = until
        self.segmind_conn_id = segmind_conn_id
        self.model = model
        self.poll_interval = poll_interval
        self.carried = carried
        self.not_before = not_before

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments to build it from again."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "requests": [list(one) for one in self.requests],
                "enough": self.enough,
                "until": self.until,
                "segmind_conn_id": self.segmind_conn_id,
                "model": self.model,
                "poll_interval": self.poll_interval,
                "carried": self.carried,
                "not_before": self.not_before,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait and yield one event: ``ended`` (how many requests), ``trouble`` (in words, or None) and ``carried``."""
        trouble: str | None = None
        ended = 0
        try:
            ended = await (await _waiting()).enough_ended(self)
        except Exception as error:  # Raising tells the task nothing; the task looks for itself, and looks are free.
            self.log.warning("Waiting for %d requests broke off", len(self.requests), exc_info=masked(error))
            trouble = type(error).__name__
        held = self.not_before - time.time()
        if held > 0:
            await asyncio.sleep(held)
        yield TriggerEvent(Payload(ended=ended, trouble=trouble, carried=self.carried))  # type: ignore[no-untyped-call]

    async def on_kill(self) -> None:
        """Say what becomes of the requests; Airflow 3.3 calls this when the deferred task is killed or cleared."""
        self.log.warning(
            "Nobody waits for %d requests in this trigger any more. Segmind has no cancel call: they go on and may be "
            "billed; a retry of the task fetches them by id.",
            len(self.requests),
        )

    def warn(self, text: str) -> None:
        """Log trouble while waiting."""
        self.log.warning(text)
