"""What a trigger does in the triggerer: wait, land the result, and describe the outcome."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from airflow_provider_segmind.api.json_values import for_xcom
from airflow_provider_segmind.api.media import Downloads
from airflow_provider_segmind.api.models import RequestResult
from airflow_provider_segmind.api.polling import Pending
from airflow_provider_segmind.compat import conf
from airflow_provider_segmind.exceptions import (
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindResponseTooLargeError,
)
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.landing import Place, land_for_event
from airflow_provider_segmind.triggers.events import RequestEvent
from airflow_provider_segmind.triggers.poller import Poller, poller_of

if TYPE_CHECKING:
    from airflow_provider_segmind.triggers.request import SegmindRequestsTrigger, SegmindRequestTrigger

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
    place = Place(trigger.output_path, trigger.max_xcom_bytes, trigger.overflow_path)
    # Threads of sync_to_async may ask the supervisor for connections of the object store; plain threads may not.
    value = await sync_to_async(land_for_event, thread_sensitive=False)(
        state, model=trigger.model, place=place, downloads=Downloads.of(poller.config)
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
