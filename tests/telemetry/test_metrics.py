"""Figures become metrics of Airflow as their increase since the last time."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_segmind.client.rate_limiter import CallCounts
from airflow_provider_segmind.telemetry.metrics import INTERVAL, MetricsSender, call_totals, cost_total
from tests.support.metrics import Stats


class Sending:
    def __init__(self) -> None:
        self.stats, self.now = Stats(), 0.0
        self.totals: dict[str, float] = {"polls": 0}
        self.metrics = MetricsSender(
            {"dag_id": "a_dag", "model": ""},
            lambda: self.totals,
            lambda: {"in_flight": 2},
            stats=lambda: self.stats,
            clock=lambda: self.now,
        )


@pytest.fixture
def sending() -> Sending:
    return Sending()


def test_only_what_was_added_is_sent(sending: Sending) -> None:
    for total in (3, 3, 10):
        sending.totals = {"polls": total}
        sending.metrics.send()

    assert sending.stats.counted == [("segmind.polls", 3), ("segmind.polls", 7)]
    assert sending.stats.gauges == [("segmind.in_flight", 2)] * 3


def test_tags_without_a_value_are_left_out(sending: Sending) -> None:
    sending.metrics.send()

    assert sending.stats.tags == [{"dag_id": "a_dag"}]


def test_nothing_is_sent_before_the_interval_is_over(sending: Sending) -> None:
    sending.totals = {"polls": 1}
    for now in (0.0, INTERVAL / 2, INTERVAL, INTERVAL * 1.5, INTERVAL * 2):
        sending.now = now
        sending.totals["polls"] += 1
        sending.metrics.send_if_due()

    assert sending.stats.counted == [("segmind.polls", 4), ("segmind.polls", 2)]


def test_a_backend_that_fails_is_not_asked_again(sending: Sending) -> None:
    sending.totals, sending.stats.error = {"polls": 1}, RuntimeError("no socket")
    sending.metrics.send()
    sending.stats.error = None
    sending.metrics.send()

    assert sending.stats.counted == sending.stats.gauges == []


def test_waiting_is_sent_in_milliseconds() -> None:
    found: dict[str, Any] = call_totals(CallCounts(posts=2, polls=5, refused=1, waited=1.25))

    assert found == {"submits": 2, "polls": 5, "rate_limited": 1, "waited_ms": 1250}


@pytest.mark.parametrize(("usd", "micros"), [(0.0, 0.0), (1e-6, 1.0), (float("nan"), 0.0), (float("inf"), 0.0)])
def test_a_cost_is_counted_in_micro_dollars(usd: float, micros: float) -> None:
    assert cost_total(usd) == micros


def test_what_is_sent_of_a_cost_in_parts_adds_up() -> None:
    sending = Sending()
    for _ in range(100):
        sending.totals["polls"] += 0.1
        sending.metrics.send()

    assert sum(count for _, count in sending.stats.counted) == pytest.approx(10.0)
