"""What a trigger does in the triggerer: wait, land the result, and describe the outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from airflow_provider_segmind.api.models import RequestResult
from airflow_provider_segmind.api.polling import Pending
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.landing import Place, land
from airflow_provider_segmind.triggers.events import RequestEvent
from airflow_provider_segmind.triggers.poller import poller_of

if TYPE_CHECKING:
    from airflow_provider_segmind.triggers.request import SegmindRequestTrigger


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
    poller = await poller_of(trigger.segmind_conn_id, SegmindHook(trigger.segmind_conn_id).get_async_config)
    state = await poller.wait(pending, fetch=wants_body, report=trigger.warn)
    trigger.log.info("Request %s is COMPLETED", trigger.request_id)
    value: Any
    if isinstance(state, RequestResult):
        place = Place(trigger.output_path, trigger.max_xcom_bytes)
        # Threads of sync_to_async may ask the supervisor for connections of the object store; plain threads may not.
        value = await sync_to_async(land, thread_sensitive=False)(state, model=trigger.model, place=place)
    else:
        value = {"metrics": state.metrics.to_json()}
    return RequestEvent(trigger.request_id, "success", value=value, has_value=True)
