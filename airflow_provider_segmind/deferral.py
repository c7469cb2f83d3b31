"""Give a worker slot back while a trigger waits, and warn when a task stops waiting: Segmind has no cancel call."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_segmind.compat import airflow_version

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import Context


BACKSTOP_SECONDS = 60.0
"""Seconds after our own deadline at which Airflow ends a deferral whose trigger sent no event."""
LONGEST_DEFERRAL = 10 * 365 * 86400.0
"""Seconds of the longest deferral: Airflow adds them to the current time, and Python's dates end with the year 9999."""
TRIGGER_FAILED = "__fail__"
"""The method name with which Airflow resumes a task whose trigger ended without an event."""
TIMED_OUT = ("Trigger timeout", "Trigger/execution timeout")
"""Airflow's error for a deferral that timed out, from 3.0 on and before; 2.11 has no exception for it."""
HOLD_SECONDS = 12.0
"""Seconds after a deferral in which an event can fail the task on affected Airflow versions; measured: up to 10.3."""
LAST_AFFECTED = (3, 3, 2)
"""The newest Airflow whose scheduler takes the late "success" of a deferred try for a state mismatch."""


def defer_until(end_time: float, defer: Callable[..., NoReturn], new_trigger: Callable[..., Any]) -> NoReturn:
    """
    Defer a task to ``execute_complete`` until its trigger fires, or until a minute after ``end_time`` if it does not.

    :param end_time: epoch second at which the trigger gives up.
    :param defer: Airflow's ``defer`` of the operator.
    :param new_trigger: makes the trigger, given ``not_before``.
    """
    now = time.time()
    timeout = min(max(0.0, end_time - now) + BACKSTOP_SECONDS, LONGEST_DEFERRAL)
    defer(
        trigger=new_trigger(not_before=earliest_event(now)),
        method_name="execute_complete",
        timeout=timedelta(seconds=timeout),
    )


def earliest_event(now: float) -> float:
    """Return the epoch second before which a trigger deferred at ``now`` must not fire on this Airflow."""
    return now + HOLD_SECONDS if airflow_version()[:3] <= LAST_AFFECTED else 0.0


def timed_out(next_method: str, next_kwargs: dict[str, Any] | None) -> bool:
    """Return whether Airflow resumes a task because the deferral timed out without a trigger event."""
    return next_method == TRIGGER_FAILED and (next_kwargs or {}).get("error") in TIMED_OUT


def deadline_of_task(context: Context, execution_timeout: timedelta | None) -> float:
    """
    Return the epoch second at which the task must have ended, infinity without an ``execution_timeout``.

    Airflow 3 does not count the time in the triggerer towards ``execution_timeout``, so a trigger's deadline has to.
    """
    started = getattr(context["ti"], "start_date", None)
    if execution_timeout is None or started is None:
        return math.inf
    return float(started.timestamp() + execution_timeout.total_seconds())


def warn_not_cancelled(log: Any, requests: str, retry: str) -> None:
    """
    Warn that requests continue although their task stops.

    :param requests: which.
    :param retry: what a retry of the task does about them.
    """
    log.warning(
        "Stopped waiting for %s. Segmind has no cancel call: requests in progress continue and may be billed; a retry "
        "of the task %s",
        requests,
        retry,
    )
