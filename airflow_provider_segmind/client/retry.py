"""
Pure: may a call be sent again, and after how many seconds.

==========================================  ======================  ===============================
what happened                               free call               paid call
==========================================  ======================  ===============================
never left (refused, connect, pool timeout) again                   again
429                                         again, after the reset  again, after the reset
a redirect, a 4xx page of a proxy           again                   again
5xx answered to the call itself             again                   unknown (twice more, if configured)
lost after sending (timeout, reset, cut)    again                   **unknown**
==========================================  ======================  ===============================

"Unknown" is :class:`~airflow_provider_segmind.exceptions.SegmindSubmissionUnknownError` and is never sent again
here. Source: Segmind's async page (every POST creates a new billable job; there is no idempotency key).
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
)
from tenacity.stop import stop_base

from airflow_provider_segmind.exceptions import SegmindAPIError, SegmindError, SegmindRateLimitError, SegmindServerError

RESUBMIT_ATTEMPTS = 3
"""Paid calls in all where a 5xx may be answered with another: a 500 is often a bad value that fails each time."""


@dataclass(frozen=True, slots=True)
class Patience:
    """
    How long the client itself goes on before the caller hears of trouble.

    :param attempts: calls in all.
    :param seconds: no new call starts later than this after the first.
    """

    attempts: int = 6
    seconds: float = 180.0


ONE_ATTEMPT = Patience(attempts=1)
"""For callers that have a loop of their own."""


def may_send_again(error: BaseException) -> bool:
    """
    Tell whether the very same call may be sent again after ``error``.

    The table above is held by the error classes: what a paid call must not repeat is never ``retryable``.
    """
    spent = isinstance(error, SegmindAPIError) and error.patience_spent
    return isinstance(error, SegmindError) and error.retryable and not spent


def seconds_before_retry(error: BaseException | None, attempt: int, jitter: float) -> float:
    """
    Say how long to wait before attempt ``attempt + 1``.

    :param jitter: a random number from 0 to 1; without it, all tasks that met the same limit would come back together.
    """
    growing = float(min(30.0, 0.5 * 2 ** min(attempt, 10)) * (0.5 + jitter))
    if isinstance(error, SegmindRateLimitError) and error.retry_after is not None:
        # Never less than without a reset time: a clock that is ahead reads every reset as past.
        return max(growing, error.retry_after + 0.1 + 0.9 * jitter)
    return growing


class _ResubmittedEnough(stop_base):
    """Stop after a 5xx to a paid call, however much patience is left."""

    def __call__(self, retry_state: RetryCallState) -> bool:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        return isinstance(error, SegmindServerError) and retry_state.attempt_number >= RESUBMIT_ATTEMPTS


def _options(patience: Patience, rng: random.Random, paid: bool) -> dict[str, Any]:
    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return seconds_before_retry(error, state.attempt_number, rng.random())

    stop = stop_after_attempt(patience.attempts) | stop_before_delay(patience.seconds)
    return {
        "retry": retry_if_exception(may_send_again),
        "stop": stop | _ResubmittedEnough() if paid else stop,
        "wait": wait,
        "reraise": True,
    }


def retrying(patience: Patience, *, sleep: Callable[[float], None], rng: random.Random, paid: bool = False) -> Retrying:
    """Return the retry loop of the sync client."""
    return Retrying(sleep=sleep, **_options(patience, rng, paid))


def async_retrying(
    patience: Patience, *, sleep: Callable[[float], Awaitable[None]], rng: random.Random, paid: bool = False
) -> AsyncRetrying:
    """Return the retry loop of the async client."""
    return AsyncRetrying(sleep=sleep, **_options(patience, rng, paid))
