"""A failing task shows our sentence once, and a short traceback behind it."""

from __future__ import annotations

import copy
import io
import json
import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_segmind.compat import AirflowFailException, AirflowSensorTimeout, AirflowSkipException
from airflow_provider_segmind.exceptions import (
    SegmindConfigError,
    SegmindError,
    SegmindRateLimitError,
    SegmindRequestError,
    SegmindRequestFailedError,
    SegmindRequestTimeoutError,
    before_sending,
)
from airflow_provider_segmind.failures import sensor_failures, task_failures

SENTENCE = "The source cannot be read. Nothing was sent."
HELP = "Help: troubleshooting#invalid-configuration"


def raised(failures: Any, error: SegmindError) -> BaseException:
    """Return what reaches Airflow when an error has a cause that says the same."""
    expected = (SegmindError, AirflowFailException, AirflowSensorTimeout, AirflowSkipException)
    with pytest.raises(expected) as caught, failures:
        _fail(error)
    return caught.value


def _fail(error: SegmindError) -> None:
    try:
        raise SegmindConfigError(str(error))
    except SegmindConfigError as cause:
        raise error from cause


@pytest.mark.parametrize(
    ("failures", "error"),
    [
        (task_failures(), SegmindConfigError(SENTENCE)),
        (task_failures(), SegmindRateLimitError(SENTENCE, retry_after=3.0)),
        (sensor_failures(soft_fail=False, never_fail=False), SegmindConfigError(SENTENCE)),
        (sensor_failures(soft_fail=False, never_fail=False), SegmindRateLimitError(SENTENCE)),
        (sensor_failures(soft_fail=False, never_fail=False), SegmindRequestTimeoutError(SENTENCE, request_id="r")),
        (sensor_failures(soft_fail=True, never_fail=False), SegmindConfigError(SENTENCE)),
    ],
)
def test_airflow_is_shown_one_error_and_the_others_are_its_context(failures: Any, error: SegmindError) -> None:
    tracebacks = pytest.importorskip("structlog.tracebacks")
    shown = raised(failures, error)

    # This is how Airflow 3 writes the error of a task for its page of logs.
    (stack,) = tracebacks.extract(type(shown), shown, shown.__traceback__).stacks
    assert stack.exc_value.removesuffix(f" Help: troubleshooting#{error.anchor}").endswith(SENTENCE)
    assert len(stack.frames) <= 5
    assert shown.__context__ is error
    assert isinstance(error.__cause__, SegmindConfigError)


@pytest.mark.parametrize(
    ("failures", "error", "kind"),
    [
        (task_failures(), SegmindRequestFailedError(SENTENCE, request_id="r-1"), AirflowFailException),
        (
            sensor_failures(soft_fail=False, never_fail=False),
            SegmindRequestFailedError(SENTENCE, request_id="r-1"),
            AirflowFailException,
        ),
        (
            sensor_failures(soft_fail=False, never_fail=False),
            SegmindRequestTimeoutError(SENTENCE, request_id="r-1"),
            AirflowSensorTimeout,
        ),
    ],
)
def test_a_callback_gets_an_error_of_our_type_that_airflow_does_not_retry(
    failures: Any, error: SegmindRequestError, kind: type[Exception]
) -> None:
    shown = raised(failures, error)

    for each in (shown, copy.copy(shown), pickle.loads(pickle.dumps(shown))):
        assert isinstance(each, kind)
        assert isinstance(each, type(error))
        assert (each.args[0], each.request_id, each.billed) == (SENTENCE, "r-1", error.billed)
        assert str(each) == str(shown)
    assert type(shown).__name__ == type(error).__name__
    assert (shown.__cause__, shown.__traceback__ and shown.__traceback__.tb_next is not None) == (None, True)


def test_a_failure_is_raised_again_as_it_is() -> None:
    inner = raised(task_failures(), SegmindConfigError(SENTENCE))
    with pytest.raises(AirflowFailException) as caught, task_failures():
        raise inner
    assert type(caught.value) is type(inner)


def test_the_text_log_of_a_task_begins_with_the_sentence_and_skips_the_frames_of_airflow() -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logger = logging.getLogger("airflow.task")
    logger.addHandler(handler)
    try:
        for error in (SegmindConfigError(SENTENCE), ValueError("100 % somebody else's")):
            names = {"__name__": "airflow.models.taskinstance", "failures": task_failures(), "error": error}
            source = "def _execute_task():\n    with failures:\n        raise error\n"
            exec(compile(source, "taskinstance.py", "exec"), names)
            try:
                names["_execute_task"]()  # type: ignore[operator]
            except Exception:
                logger.exception("Task failed with %s", "exception")
    finally:
        logger.removeHandler(handler)

    ours, other = written.getvalue().split("\nTask failed", 1)
    first, *frames, last = ours.splitlines()
    assert first == f"Task failed with exception: {SENTENCE} {HELP}"
    assert frames[0] == "Traceback (most recent call last):"
    assert last == "airflow_provider_segmind.exceptions.SegmindConfigError"
    assert "taskinstance.py" not in ours
    assert ours.count("  File ") == 2
    assert "failures.py" in ours
    assert other.startswith(" with exception\nTraceback")
    assert "taskinstance.py" in other


@pytest.fixture
def written() -> Iterator[Callable[[Any], io.StringIO]]:
    """Have structlog write with a renderer, as Airflow 3 configures it when a task starts."""
    structlog = pytest.importorskip("structlog")
    before = structlog.get_config()

    def to(*renderers: Any) -> io.StringIO:
        text = io.StringIO()
        structlog.configure(processors=list(renderers), logger_factory=structlog.WriteLoggerFactory(text))
        return text

    yield to
    structlog.configure(**before)


def log_failure(error: Exception) -> None:
    """Log an error of a task as Airflow's task runner does."""
    import structlog

    logger = structlog.get_logger().bind()  # It holds its processors from here on.
    names = {"__name__": "airflow.sdk.execution_time.task_runner", "failures": task_failures(), "error": error}
    exec(compile("def run():\n    with failures:\n        raise error\n", "task_runner.py", "exec"), names)
    try:
        names["run"]()  # type: ignore[operator]
    except Exception:
        logger.exception("Task failed with exception")


def test_the_log_file_of_a_task_of_airflow_3_has_the_sentence_in_its_message_only(written: Any) -> None:
    structlog = pytest.importorskip("structlog")
    renderer = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
    text = written(renderer, structlog.processors.JSONRenderer())
    for error in (SegmindConfigError(SENTENCE), SegmindConfigError("Another."), ValueError("somebody else's")):
        log_failure(error)

    ours, another, other = map(json.loads, text.getvalue().splitlines())
    assert ours["event"] == f"Task failed with exception: {SENTENCE} {HELP}"
    assert another["event"] == f"Task failed with exception: Another. {HELP}"
    (stack,) = ours["exception"]
    assert (stack["exc_type"], stack["exc_value"]) == ("SegmindConfigError", "")
    assert [frame["filename"].rpartition("/")[2] for frame in stack["frames"]] == [
        "test_failures.py",
        "failures.py",
    ]
    assert other["event"] == "Task failed with exception"
    assert other["exception"][0]["exc_value"] == "somebody else's"


def test_the_text_log_of_a_task_of_airflow_3_begins_with_the_sentence(written: Any) -> None:
    structlog = pytest.importorskip("structlog")
    text = written(structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback))
    log_failure(SegmindConfigError(SENTENCE))

    first, *frames, last = text.getvalue().splitlines()
    assert first.rstrip() == f"Task failed with exception: {SENTENCE} {HELP}"
    assert frames[0] == "Traceback (most recent call last):"
    assert last == "airflow_provider_segmind.exceptions.SegmindConfigError"
    assert "task_runner.py" not in text.getvalue()


def test_an_error_that_a_retry_may_help_keeps_its_type_and_fields() -> None:
    shown = raised(task_failures(), SegmindRateLimitError(SENTENCE, retry_after=3.0, request_id="r-1"))

    assert isinstance(shown, SegmindRateLimitError)
    assert (shown.args[0], shown.retry_after, shown.request_id, shown.status_code) == (SENTENCE, 3.0, "r-1", 429)


@pytest.mark.parametrize(
    ("said", "before", "shown"),
    [
        ("'prompt' is empty.", None, "'prompt' is empty. Nothing was sent."),
        ("'prompt' is empty. Nothing was sent.", None, "'prompt' is empty. Nothing was sent."),
        (
            "'prompt' is empty.",
            "request 'r' was sent",
            "'prompt' is empty. Nothing more was sent; request 'r' was sent.",
        ),
    ],
)
def test_an_invalid_value_found_by_a_task_says_what_was_sent(said: str, before: str | None, shown: str) -> None:
    with pytest.raises(SegmindConfigError) as invalid, before_sending():
        raise SegmindConfigError(said)

    error = raised(task_failures(lambda: before), invalid.value)

    assert str(error).startswith(f"{shown} Help: ")


def test_an_error_after_sending_does_not_say_that_nothing_was_sent() -> None:
    error = raised(task_failures(lambda: None), SegmindConfigError("The answers are in the ledger."))

    assert str(error).startswith("The answers are in the ledger. Help: ")
