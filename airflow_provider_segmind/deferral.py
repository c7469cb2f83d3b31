"""How long Airflow is told to let a task wait in the triggerer."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_segmind.client.polling import Pending
    from airflow_provider_segmind.compat import Context


BACKSTOP_SECONDS = 60.0
"""Seconds after our own deadline at which Airflow ends a deferral whose trigger said nothing."""
LONGEST_DEFERRAL = 10 * 365 * 86400.0
"""Seconds of the longest deferral: Airflow adds them to the present, and a date ends with the year 9999."""
TRIGGER_FAILED = "__fail__"
"""What Airflow resumes a task with when its trigger ended without an event."""
TIMED_OUT = ("Trigger timeout", "Trigger/execution timeout")
"""Airflow's words for a deferral that nobody ended in time, from 3.0 on and before; 2.11 has no exception for it."""


def timed_out(next_method: str, next_kwargs: dict[str, Any] | None) -> bool:
    """Tell whether Airflow resumes a task because no trigger spoke before the deferral's deadline."""
    return next_method == TRIGGER_FAILED and (next_kwargs or {}).get("error") in TIMED_OUT


def waiting_ends(pending: Pending, context: Context, execution_timeout: timedelta | None) -> float:
    """Return the epoch second at which the trigger gives up."""
    return min(pending.end_time, deadline_of_task(context, execution_timeout))


def deadline_of_task(context: Context, execution_timeout: timedelta | None) -> float:
    """
    Return the epoch second at which the task must have ended, infinity without an ``execution_timeout``.

    Airflow 3 does not count the time in the triggerer towards ``execution_timeout``, so a trigger's deadline has to.
    """
    started = getattr(context["ti"], "start_date", None)
    if execution_timeout is None or started is None:
        return math.inf
    return float(started.timestamp() + execution_timeout.total_seconds())


def backstop(end_time: float, now: float) -> timedelta:
    """Return after how long Airflow is to end a deferral whose trigger said nothing by its own deadline."""
    return timedelta(seconds=min(max(0.0, end_time - now) + BACKSTOP_SECONDS, LONGEST_DEFERRAL))
