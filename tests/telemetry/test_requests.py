"""What the requests of a task add to its metrics and its spans."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_segmind.client.rate_limiter import CallCounts
from airflow_provider_segmind.telemetry import requests
from airflow_provider_segmind.telemetry.requests import RequestTelemetry, telemetry_of
from tests.support.metrics import Stats


@pytest.mark.parametrize("cost", [12.25, 0.0001, 48.2513, 1051.09, 0.5, 3.0])
def test_the_costs_of_many_tasks_add_up_with_their_fractions(cost: float) -> None:
    counted: list[float] = []
    for _ in range(1000):
        telemetry = RequestTelemetry({}, CallCounts(), operation="generate_content")
        stats = Stats()
        telemetry._metrics._open = lambda stats=stats: stats
        telemetry.finished(model="m", began=None, tokens=1, cost=cost / 1e6)
        telemetry.send()
        counted += [count for name, count in stats.counted if name == "segmind.cost_micros"]

    assert sum(counted) == pytest.approx(1000 * cost)
    assert all("e" not in str(count) for count in counted)
    assert all(isinstance(count, int) for count in counted) == cost.is_integer()


def test_what_a_task_asked_and_was_billed_is_sent_with_its_names() -> None:
    counts = CallCounts(posts=2, polls=5)
    context: Any = {"ti": SimpleNamespace(dag_id="shop", task_id="ask")}
    telemetry = telemetry_of(context, counts, conn_id="segmind_default")
    stats = Stats()
    telemetry._metrics._open = lambda: stats
    counts.posts += 3
    for _ in range(2):
        telemetry.accepted()
    telemetry.finished(model="m", began=None, tokens=30, cost=0.000267)
    telemetry.finished(model="m", began=None, tokens=None, cost=None)

    telemetry.send()

    # Calls that the client had made before the task are another's.
    assert dict(stats.counted) == {
        "segmind.submits": 3,
        "segmind.requests": 2,
        "segmind.tokens": 30,
        "segmind.cost_micros": 267,
    }
    assert stats.tags[0] == {"dag_id": "shop", "task_id": "ask", "conn_id": "segmind_default"}


def test_a_request_whose_submission_is_unknown_has_a_span_without_duration(monkeypatch: pytest.MonkeyPatch) -> None:
    spans: list[dict[str, Any]] = []
    tracer = SimpleNamespace(request=lambda operation, **about: spans.append({"operation": operation, **about}))
    monkeypatch.setattr(requests, "task_tracer", lambda: tracer)
    telemetry = RequestTelemetry({}, CallCounts(), operation="chat")

    telemetry.finished(model="m", began=None, tokens=1, cost=0.5, request_id="r-1")
    telemetry.finished(model="m", began=5.0, tokens=1, cost=0.5, request_id="r-2")

    assert [span["request_id"] for span in spans] == ["r-1", "r-2"]
    assert spans[0]["began"] == spans[0]["ended"]
    assert (spans[1]["began"], spans[1]["operation"], spans[1]["cost"]) == (5.0, "chat", 0.5)
