"""Give a table task's worker back while all there is to do is to wait."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.deferral import backstop, deadline_of_task
from airflow_provider_segmind.triggers.request import SegmindRequestsTrigger, earliest_event

if TYPE_CHECKING:
    from airflow_provider_segmind.bulk.rest import Rest
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.operators.enrich_rows import SegmindEnrichOperator

REST_AFTER = 60.0
"""Seconds for which there must be nothing to do; a rest costs the start of a task and another look at the table."""


def rest_in_triggerer(
    task: SegmindEnrichOperator, context: Context, rest: Rest, *, model: str, carried: dict[str, Any]
) -> None:
    """
    Defer until enough requests have ended.

    :param carried: counts of the try so far.
    """
    now = time.time()
    until = min(rest.until, deadline_of_task(context, task.execution_timeout))
    task.log.info(
        "%d requests are under way and nothing else can be done; waiting in the triggerer until %d of them have "
        "ended, %d s at the most",
        *(len(rest.requests), rest.enough, max(0, until - now)),
    )
    task.defer(
        trigger=SegmindRequestsTrigger(
            requests=[list(one) for one in rest.requests],
            enough=rest.enough,
            until=until,
            segmind_conn_id=task.segmind_conn_id,
            model=model,
            poll_interval=task.poll_interval,
            carried=carried,
            not_before=earliest_event(now),
        ),
        method_name="execute_complete",
        timeout=backstop(until, now),
    )
