"""
The only place where our errors become failures that Airflow acts on.

An error that a retry cannot resolve becomes a failure that Airflow does not retry, so that no retries are wasted on it:
an ``AirflowFailException`` that is also the error, with its class's name and its fields, so that a callback finds in
``context["exception"]`` what it needs. Every other error is raised as it is and follows the task's ``retries``.

Airflow logs the error once, as one record of level ERROR whose message ends with our sentence; a short traceback
follows it. The sentence says what was tried, what came back, what it means and where the documentation explains it; the
errors that led to it would repeat it, each with a traceback of its own. They are its ``__context__``, and in the log at
level DEBUG.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any, NoReturn

from airflow_provider_segmind.compat import AirflowFailException, AirflowSensorTimeout, AirflowSkipException
from airflow_provider_segmind.defaults import OnBudget
from airflow_provider_segmind.exceptions import (
    SegmindBudgetError,
    SegmindError,
    SegmindRequestTimeoutError,
    after_sending,
    with_help,
)
from airflow_provider_segmind.masking import masked

log = logging.getLogger(__name__)


def earlier_try(context: Any) -> str | None:
    """Return a clause saying that an earlier try may have sent something, None in the first try."""
    number = getattr(context.get("ti"), "try_number", None)
    return "an earlier try may have sent requests" if isinstance(number, int) and number > 1 else None


def task_failures(
    sent: Callable[[], str | None] = lambda: None,
    *,
    ended: Callable[[], object] = lambda: None,
    on_budget: OnBudget = "fail",
) -> AbstractContextManager[None]:
    """
    Turn an error that a retry cannot resolve into one that Airflow does not retry.

    :param sent: returns a clause about what the task had sent before, None if nothing.
    :param ended: called when the block has ended, in whatever way.
    :param on_budget: ``skip_downstream`` skips the task where a budget has no room.
    """

    def failure(error: SegmindError) -> Exception:
        if (before := sent()) is not None:
            after_sending(error, before)
        if isinstance(error, SegmindBudgetError) and on_budget == "skip_downstream":
            return AirflowSkipException(f"Skipped, because of on_budget='skip_downstream': {error}")
        return _failed(error, None if error.retryable else AirflowFailException)

    return _Failures(failure, ended)


def skip(reason: str) -> NoReturn:
    """Skip the task and, under the default trigger rule, the tasks downstream of it."""
    raise AirflowSkipException(reason)


def sensor_failures(*, soft_fail: bool, never_fail: bool) -> AbstractContextManager[None]:
    """
    Do the same for a sensor, whose timeout is a separate exception that Airflow never retries.

    :param soft_fail: skip the task instead of failing it when it times out or cannot succeed.
    :param never_fail: skip the task on every error.
    """

    def failure(error: SegmindError) -> Exception:
        timed_out = isinstance(error, SegmindRequestTimeoutError)
        final = timed_out or not error.retryable
        if never_fail or (soft_fail and final):
            reason = "never_fail" if never_fail else "soft_fail"
            return AirflowSkipException(f"Skipped instead of failed, because of {reason}: {error}")
        return _failed(error, (AirflowSensorTimeout if timed_out else AirflowFailException) if final else None)

    return _Failures(failure)


class _Failures(AbstractContextManager[None]):
    """
    Raise the failure of a task for an error that its block raised.

    A class, because the generators of contextlib would add their frames to the traceback.
    """

    def __init__(
        self, failure: Callable[[SegmindError], Exception], ended: Callable[[], object] = lambda: None
    ) -> None:
        self._failure = failure
        self._ended = ended

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._ended()
        if not isinstance(error, Exception):
            return
        shown = masked(error)
        if isinstance(error, SegmindError):
            log.debug("The errors that led to the failure of the task", exc_info=error)
            _put_sentences_first()
            raise self._failure(error) from None
        if shown is not error:
            raise shown from shown.__cause__


def _failed(error: SegmindError, failure: type[Exception] | None) -> SegmindError:
    """
    Return a copy of an error, without the traceback and the errors that led to it.

    :param failure: the class of Airflow's that the copy is an instance of as well, if any.
    """
    kind = type(error)
    made = _rebuild(kind, failure if failure and not issubclass(kind, failure) else None, error.args, vars(error))
    return with_help(made)


def _rebuild(
    kind: type[SegmindError], failure: type[Exception] | None, args: tuple[Any, ...], attributes: dict[str, Any]
) -> SegmindError:
    made = kind if failure is None else _kind_of_both(kind, failure)
    # Several of our errors have required arguments besides the message.
    error = made.__new__(made, *args)
    error.__dict__.update(attributes)
    return error


def _kind_of_both(kind: type[SegmindError], failure: type[Exception]) -> type[SegmindError]:
    """Return a class of errors that has both classes as bases and the name of the first, as a traceback shows it."""

    def reduce(self: SegmindError) -> tuple[Any, ...]:
        return _rebuild, (kind, failure, self.args, vars(self))

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind, failure), {**names, "__reduce__": reduce})


def _sentence_first(record: logging.LogRecord) -> bool:
    """
    Move our sentence from the end of the traceback into the message.

    Airflow 2.11 logs a failed task as text: "Task failed with exception", its own frames, then the error.
    """
    kind, error, stack = record.exc_info or (None, None, None)
    if kind and isinstance(error, SegmindError) and record.exc_text is None:
        record.msg, record.args = f"{record.getMessage()}: {error}", ()
        frames = traceback.StackSummary.extract(each for each in traceback.walk_tb(stack) if not _of_airflow(each[0]))
        # A formatter takes this text instead of the traceback.
        record.exc_text = "".join(
            ["Traceback (most recent call last):\n", *frames.format(), f"{kind.__module__}.{kind.__name__}"]
        )
    return True


def _put_sentences_first() -> None:
    """
    Do the same in Airflow 3, which logs through structlog.

    Its list of processors is changed in place, because Airflow's logger of a task already holds it. This is done when a
    task fails, because Airflow replaces the list when a task starts.
    """
    if (structlog := sys.modules.get("structlog")) is None:
        return
    processors = structlog.get_config()["processors"]
    if isinstance(processors, list) and _sentence_in_event not in processors:
        processors.insert(0, _sentence_in_event)


def _sentence_in_event(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    given = event.get("exc_info")
    if isinstance(given, BaseException):
        given = (type(given), given, given.__traceback__)
    kind, error, stack = given if isinstance(given, tuple) else sys.exc_info() if given else (None, None, None)
    if kind and isinstance(error, SegmindError):
        event["event"] = f"{event.get('event', '')}: {error}"
        # Renderers take the class of an error from the error itself.
        names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__str__": lambda _: ""}
        shown = type(kind.__name__, (Exception,), names)()
        event["exc_info"] = (type(shown), shown, _outside_airflow(stack))
    return event


def _outside_airflow(stack: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames of Airflow."""
    entries: list[TracebackType] = []
    while stack is not None:
        entries.append(stack)
        stack = stack.tb_next
    kept: TracebackType | None = None
    for entry in reversed(entries):
        if not _of_airflow(entry.tb_frame):
            kept = TracebackType(kept, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return kept


def _of_airflow(frame: FrameType) -> bool:
    module: str = frame.f_globals.get("__name__", "")
    return module.partition(".")[0] == "airflow"


# The logger of TaskInstance in Airflow 2.11; a filter applies to records of this logger only, not of those below it.
logging.getLogger("airflow.task").addFilter(_sentence_first)
