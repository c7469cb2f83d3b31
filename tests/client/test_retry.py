from __future__ import annotations

import random
from itertools import pairwise

import pytest

from airflow_provider_segmind import exceptions
from airflow_provider_segmind.client.retry import (
    RetryLimits,
    account_pause_after_429,
    may_send_again,
    retrying,
    seconds_before_retry,
)
from airflow_provider_segmind.exceptions import (
    SegmindConnectionError,
    SegmindError,
    SegmindRateLimitError,
    SegmindResponseError,
    SegmindServerError,
    SegmindSubmissionUnknownError,
)


@pytest.mark.parametrize(
    "error",
    [
        SegmindConnectionError("never left"),
        SegmindRateLimitError("429"),
        SegmindServerError("5xx"),
        SegmindResponseError("cut off", billed=False, retryable=True),
    ],
)
def test_a_transient_error_that_cost_nothing_is_retried(error: SegmindError) -> None:
    assert may_send_again(error)


@pytest.mark.parametrize(
    "error",
    [
        SegmindSubmissionUnknownError("lost"),
        SegmindResponseError("no request_id"),
        exceptions.SegmindBadRequestError("400"),
        exceptions.SegmindCreditsError("402"),
        exceptions.SegmindConfigError("config"),
        ValueError("a bug"),
        KeyboardInterrupt(),
    ],
)
def test_every_other_error_is_not_retried(error: BaseException) -> None:
    assert not may_send_again(error)


def test_a_call_that_has_waited_to_its_limit_is_not_retried_by_the_client() -> None:
    error = exceptions.SegmindConnectionError("The shared rate limit is out of reach.")
    error.retries_exhausted = True

    assert error.retryable
    assert not may_send_again(error)
    assert count(RetryLimits(attempts=5), error) == 1


def test_no_error_of_unknown_billing_is_retryable() -> None:
    classes = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, SegmindError)]

    assert not [kind for kind in classes if kind.billed is None and kind.retryable]


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_pauses_grow_and_are_bounded(jitter: float) -> None:
    pauses = [seconds_before_retry(SegmindServerError("x"), attempt, jitter) for attempt in range(1, 40)]

    assert all(later >= earlier for earlier, later in pairwise(pauses))
    assert 0.5 <= pauses[0] <= 1.5
    assert pauses[-1] <= 45


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_a_reset_time_is_waited_for_and_a_little_more(jitter: float) -> None:
    seconds = seconds_before_retry(SegmindRateLimitError("429", retry_after=20.0), 1, jitter)

    assert 20.1 <= seconds <= 21.0


def test_a_reset_in_the_past_of_a_wrong_clock_does_not_end_the_retries() -> None:
    error = SegmindRateLimitError("429", retry_after=0.0)

    assert sum(seconds_before_retry(error, attempt, 0.5) for attempt in range(1, 6)) > 25


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_a_reset_to_come_bounds_the_pause_of_an_account(jitter: float) -> None:
    def pauses(reset: float | None) -> list[float]:
        error = SegmindRateLimitError("429", retry_after=reset)
        return [account_pause_after_429(error, refusals, jitter) for refusals in range(1, 20)]

    assert 1.0 < min(pauses(1.0)) <= max(pauses(1.0)) <= 4.0
    assert 20.0 < min(pauses(20.0)) <= max(pauses(20.0)) <= 42.0
    # A clock that is ahead reads every reset as past.
    assert pauses(0.0) == pauses(None) == sorted(pauses(None))
    assert max(pauses(None)) >= 15.0


def count(limits: RetryLimits, error: SegmindError) -> int:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises(type(error)) as caught:
        retrying(limits, sleep=lambda _: None, rng=random.Random(1))(call)
    assert caught.value is error
    return calls


def test_a_call_is_tried_as_often_as_the_limits_say() -> None:
    assert count(RetryLimits(attempts=6), SegmindServerError("5xx")) == 6
    assert count(RetryLimits(attempts=1), SegmindServerError("5xx")) == 1


def test_a_call_that_was_never_sent_gets_all_attempts() -> None:
    assert count(RetryLimits(attempts=6), SegmindConnectionError("refused")) == 6


def test_no_attempt_starts_after_the_last_second_allowed() -> None:
    assert count(RetryLimits(attempts=6, seconds=30.0), SegmindRateLimitError("429", retry_after=31.0)) == 1
