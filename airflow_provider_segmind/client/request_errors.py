"""What is raised about a request that failed, whose result has expired, or that took too long."""

from __future__ import annotations

from airflow_provider_segmind.client.models import RequestState
from airflow_provider_segmind.client.poll_schedule import Pending
from airflow_provider_segmind.defaults import RESULT_LIFETIME
from airflow_provider_segmind.exceptions import (
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindRequestTimeoutError,
    shorten,
)


def failed_error(state: RequestState, model: str | None = None) -> SegmindRequestFailedError:
    """Return the error of a request that Segmind reports as FAILED."""
    name = f"request {state.request_id!r}" + (f" (model {model!r})" if model else "")
    reason = state.error or "no reason given"
    return SegmindRequestFailedError(
        f"Segmind reports {name} as FAILED: {shorten(reason)!r}. Nothing was billed, and waiting again will not help: "
        "change the inputs and clear the task that submitted it.",
        request_id=state.request_id,
        reason=reason,
    )


def expired_error(pending: Pending, now: float) -> SegmindRequestExpiredError:
    """Return the error of a result that has expired."""
    age = pending.age(now)
    why = (
        "Segmind keeps a result for one hour after submission"
        if age >= RESULT_LIFETIME - 60
        else "the id may be unknown to this account, or Segmind deleted the result early"
    )
    return SegmindRequestExpiredError(
        f"The result of {pending.name} is gone, {age:.0f} s after submission: {why}. If the request completed, it was "
        "billed; the request history has its cost and output URL.",
        request_id=pending.request_id,
        age=age,
    )


def timeout_error(pending: Pending, now: float, last: str) -> SegmindRequestTimeoutError:
    """Return the error of a wait that reached its deadline."""
    return SegmindRequestTimeoutError(
        f"Waiting for {pending.name} timed out: it was {last}, {pending.age(now):.0f} s after submission. Segmind has "
        "no cancel call, so the request continues and may be billed; a retry of the task polls the same request again.",
        request_id=pending.request_id,
    )
