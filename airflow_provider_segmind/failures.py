"""
The only door from our errors to the failures Airflow acts on.

Airflow asks one question of an exception: may the task be tried again? An error that a retry cannot mend becomes
``AirflowFailException``, so that retries are not burnt on it; every other error passes as it is and follows the task's
``retries``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from airflow_provider_segmind.compat import AirflowFailException, AirflowSensorTimeout, AirflowSkipException
from airflow_provider_segmind.exceptions import SegmindError, SegmindRequestTimeoutError, after_sending
from airflow_provider_segmind.masking import masked


def earlier_try(context: Any) -> str | None:
    """Say that an earlier try may have sent something, None in the first try."""
    number = getattr(context.get("ti"), "try_number", None)
    return "an earlier try may have sent requests" if isinstance(number, int) and number > 1 else None


@contextmanager
def task_failures(sent: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """
    Turn an error that a retry cannot mend into one that Airflow does not retry.

    :param sent: says in words what the task had sent before, None when nothing.
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
    """Skip the task, and with it what follows by the usual trigger rule."""
    raise AirflowSkipException(reason)


@contextmanager
def sensor_failures(*, soft_fail: bool, never_fail: bool) -> Iterator[None]:
    """
    Do the same for a sensor, whose deadline Airflow knows under a name of its own and never retries.

    :param soft_fail: skip the task instead of failing it when it times out or cannot succeed.
    :param never_fail: skip the task on every error.
    """
    try:
        yield
    except SegmindError as error:
        masked(error)
        final = not error.retryable or isinstance(error, SegmindRequestTimeoutError)
        if never_fail or (soft_fail and final):
            raise AirflowSkipException(f"Skipped instead of failed, as asked: {error}") from error
        if isinstance(error, SegmindRequestTimeoutError):
            raise AirflowSensorTimeout(str(error)) from error
        if final:
            raise AirflowFailException(str(error)) from error
        raise
    except Exception as error:
        if (shown := masked(error)) is not error:
            raise shown from shown.__cause__
        raise
