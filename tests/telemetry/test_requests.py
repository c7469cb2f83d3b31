"""What the requests of a task add to its metrics."""

from __future__ import annotations

import pytest

from airflow_provider_segmind.client.rate_limiter import CallCounts
from airflow_provider_segmind.telemetry.requests import RequestTelemetry
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
