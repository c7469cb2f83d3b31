"""How long a deferral may last, when its event may come, and what a task is told that stops waiting."""

from __future__ import annotations

import logging
import math
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_segmind import deferral
from airflow_provider_segmind.deferral import (
    BACKSTOP_SECONDS,
    HOLD_SECONDS,
    LAST_AFFECTED,
    LONGEST_DEFERRAL,
    deadline_of_task,
    defer_until,
    earliest_event,
    timed_out,
    warn_not_cancelled,
)

NOW = 1_800_000_000.0
FIXED = (LAST_AFFECTED[0], LAST_AFFECTED[1], LAST_AFFECTED[2] + 1)


@pytest.fixture
def affected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferral, "airflow_version", lambda: LAST_AFFECTED)
    monkeypatch.setattr(time, "time", lambda: NOW)


def deferred(end_time: float) -> dict[str, Any]:
    """Return what Airflow's ``defer`` is given."""
    given: dict[str, Any] = {}
    defer_until(end_time, given.update, lambda **arguments: arguments)  # type: ignore[arg-type]
    return given


@pytest.mark.parametrize(
    ("end_time", "seconds"),
    [
        (NOW + 600, 600 + BACKSTOP_SECONDS),
        (NOW, BACKSTOP_SECONDS),
        (NOW - 3600, BACKSTOP_SECONDS),
        (math.inf, LONGEST_DEFERRAL),
        (1e200, LONGEST_DEFERRAL),
    ],
)
def test_airflow_ends_a_deferral_a_minute_after_the_trigger_does(
    affected: None, end_time: float, seconds: float
) -> None:
    given = deferred(end_time)

    assert given["timeout"] == timedelta(seconds=seconds)
    assert given["method_name"] == "execute_complete"
    # Airflow adds it to the present.
    assert datetime.now(UTC) + given["timeout"] < datetime.max.replace(tzinfo=UTC)


def test_the_trigger_holds_its_event_back_from_the_moment_of_the_deferral(affected: None) -> None:
    assert deferred(NOW + 600)["trigger"] == {"not_before": NOW + HOLD_SECONDS}


@pytest.mark.parametrize(
    ("version", "seconds"),
    [((2, 11, 0), HOLD_SECONDS), (LAST_AFFECTED, HOLD_SECONDS), ((*LAST_AFFECTED, "rc1"), HOLD_SECONDS), (FIXED, None)],
)
def test_an_event_is_held_back_on_affected_versions_only(
    monkeypatch: pytest.MonkeyPatch, version: tuple[Any, ...], seconds: float | None
) -> None:
    monkeypatch.setattr(deferral, "airflow_version", lambda: version)

    assert earliest_event(NOW) == (0.0 if seconds is None else NOW + seconds)


@pytest.mark.parametrize(
    ("method", "error", "expected"),
    [
        ("__fail__", "Trigger timeout", True),
        ("__fail__", "Trigger/execution timeout", True),
        ("__fail__", "Trigger failure", False),
        ("__fail__", None, False),
        ("execute_complete", "Trigger timeout", False),
    ],
)
def test_only_a_deferral_without_an_event_in_time_has_timed_out(method: str, error: str | None, expected: bool) -> None:
    assert timed_out(method, None if error is None else {"error": error}) is expected


def test_a_task_must_end_its_execution_timeout_after_it_started() -> None:
    context: Any = {"ti": SimpleNamespace(start_date=datetime.fromtimestamp(NOW, tz=UTC))}

    assert deadline_of_task(context, timedelta(minutes=5)) == NOW + 300
    assert deadline_of_task(context, None) == math.inf
    assert deadline_of_task({"ti": SimpleNamespace(start_date=None)}, timedelta(minutes=5)) == math.inf  # type: ignore[typeddict-item]


def test_a_task_that_stops_waiting_says_that_its_requests_go_on(caplog: pytest.LogCaptureFixture) -> None:
    warn_not_cancelled(logging.getLogger("a_task"), "request 'r-1'", "continues with it.")

    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "request 'r-1'" in record.getMessage()
    assert "may be billed" in record.getMessage()
    assert record.getMessage().endswith("a retry of the task continues with it.")
