"""
The only place where our errors become failures that Airflow acts on.

An error that a retry cannot resolve becomes ``AirflowFailException``, so that no retries are wasted on it; every other
error is raised unchanged and follows the task's ``retries``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from airflow_provider_segmind.compat import AirflowFailException, AirflowSensorTimeout, AirflowSkipException
from airflow_provider_segmind.exceptions import SegmindError, SegmindRequestTimeoutError, after_sending
from airflow_provider_segmind.masking import masked


def earlier_try(context: Any) -> str | None:
    """Return a clause saying that an earlier try may have sent something, None in the first try."""
    number = getattr(context.get("ti"), "try_number", None)
    return "an earlier try may have sent requests" if isinstance(number, int) and number > 1 else None


@contextmanager
def task_failures(sent: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """
    Turn an error that a retry cannot resolve into one that Airflow does not retry.

    :param sent: returns a clause about what the task had sent before, None if nothing.
    """
    try:
        yield
    except SegmindError as error:
        if (before := sent()) is not None:
            after_sending(error, before)
        masked(error)
        if error.retryable:
            raise
        raise AirflowFailException(str(error)) from error
    except Exception as error:
        if (shown := masked(error)) is not error:
            raise shown from shown.__cause__
        raise


def skip(reason: str) -> NoReturn:
    """Skip the task and, under the default trigger rule, the tasks downstream of it."""
    raise AirflowSkipException(reason)


@contextmanager
def sensor_failures(*, soft_fail: bool, never_fail: bool) -> Iterator[None]:
    """
    Do the same for a sensor, whose timeout is a separate exception that Airflow never retries.

    :param soft_fail: skip the task instead of failing it when it times out or cannot succeed.
    :param never_fail: skip the task on every error.
    """
    try:
        yield
    except SegmindError as error:
        masked(error)
        final = not error.retryable or isinstance(error, SegmindRequestTimeoutError)
        if never_fail or (soft_fail and final):
            raise AirflowSkipException(
                f"Skipped instead of failed, because of {'never_fail' if never_fail else 'soft_fail'}: {error}"
            ) from error
        if isinstance(error, SegmindRequestTimeoutError):
            raise AirflowSensorTimeout(str(error)) from error
        if final:
            raise AirflowFailException(str(error)) from error
        raise
    except Exception as error:
        if (shown := masked(error)) is not error:
            raise shown from shown.__cause__
        raise
