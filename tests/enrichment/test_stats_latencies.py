"""Quantiles of latencies."""

from __future__ import annotations

import pytest

from airflow_provider_segmind.enrichment.stats import Latencies


def test_quantiles_are_within_three_percent_and_those_of_parts_add_up() -> None:
    parts = [Latencies() for _ in range(4)]
    for number in range(1, 1001):
        parts[number % 4].add(number / 100)
    total = Latencies()
    for part in parts:
        total.counts.update(part.counts)
    quantiles = total.quantiles()
    assert quantiles["p50"] == pytest.approx(5.0, rel=0.03)
    assert quantiles["p99"] == pytest.approx(9.9, rel=0.03)
    assert Latencies().quantiles() == {}
