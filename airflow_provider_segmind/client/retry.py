"""
Whether a failed call may be sent again, and after how many seconds.

==========================================  ======================  ===============================
what happened                               free call               paid call
==========================================  ======================  ===============================
not sent (refused, connect, pool timeout)   again                   again
429                                         again, after the reset  again, after the reset
a redirect, a proxy's 4xx page              again                   again
5xx response to the call itself             again                   **unknown**
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

from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_before_delay

from airflow_provider_segmind.exceptions import SegmindError, SegmindRateLimitError


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """
    How long the client retries a call before it raises the error.

    :param attempts: number of attempts.
    :param seconds: no attempt starts later than this after the first.
    """

    attempts: int = 6
    seconds: float = 180.0


DEFAULT_LIMITS = RetryLimits()
ONE_ATTEMPT = RetryLimits(attempts=1)
"""For callers that repeat calls in a loop of their own."""


def may_send_again(error: BaseException) -> bool:
    """
    Return whether the same call may be sent again after ``error``.

    The error classes implement the table above: an error after which a paid call must not be sent is not ``retryable``.
    """
    return isinstance(error, SegmindError) and error.retryable and not error.retries_exhausted


def seconds_before_retry(error: BaseException | None, attempt: int, jitter: float) -> float:
    """
    Return the seconds to wait before attempt ``attempt + 1``.

    :param jitter: a random number from 0 to 1, so that tasks that hit the same limit do not return together.
    """
    if isinstance(error, SegmindRateLimitError):
        return seconds_after_429(error, attempt, jitter)
    return _growing(attempt, jitter)


def seconds_after_429(error: SegmindRateLimitError, refusals: int, jitter: float) -> float:
    """
    Return the seconds after a 429 in which the call is not repeated.

    :param refusals: 429s in a row, of the call.
    :param jitter: a random number from 0 to 1.
    """
    growing = _growing(refusals, jitter)
    if error.retry_after is None:
        return growing
    # Never less than without a reset time: a clock that is ahead reads every reset as past.
    return max(growing, error.retry_after + 0.1 + 0.9 * jitter)


def account_pause_after_429(error: SegmindRateLimitError, refusals: int, jitter: float) -> float:
    """
    Return for how many seconds after a 429 the rate limiter sends no call of the account.

    A reset in the future bounds it: many calls that are each refused once count as many refusals in a row of the
    account.

    :param refusals: 429s in a row, of any call.
    """
    seconds = seconds_after_429(error, refusals, jitter)
    return min(seconds, 2 * (error.retry_after + 1.0)) if error.retry_after else seconds


def _growing(failures: int, jitter: float) -> float:
    return float(min(30.0, 0.5 * 2 ** min(failures, 10)) * (0.5 + jitter))


def _options(limits: RetryLimits, rng: random.Random) -> dict[str, Any]:
    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return seconds_before_retry(error, state.attempt_number, rng.random())

    return {
        "retry": retry_if_exception(may_send_again),
        "stop": stop_after_attempt(limits.attempts) | stop_before_delay(limits.seconds),
        "wait": wait,
        "reraise": True,
    }


def retrying(limits: RetryLimits, *, sleep: Callable[[float], None], rng: random.Random) -> Retrying:
    """Return the retry loop of the sync client."""
    return Retrying(sleep=sleep, **_options(limits, rng))


def async_retrying(
    limits: RetryLimits, *, sleep: Callable[[float], Awaitable[None]], rng: random.Random
) -> AsyncRetrying:
    """Return the retry loop of the async client."""
    return AsyncRetrying(sleep=sleep, **_options(limits, rng))
