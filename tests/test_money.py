"""Money: counted in micro-dollars and shown as dollars, in one form everywhere."""

from __future__ import annotations

import pytest

from airflow_provider_segmind.money import exact_micros, format_usd, format_usd_range, micros, usd


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000001"),
        (12, "$0.000012"),
        (48, "$0.000048"),
        (9_999, "$0.009999"),
        (10_000, "$0.01"),
        (26_712, "$0.0267"),
        (250_000, "$0.25"),
        (5_000_000, "$5.00"),
        (9_999_999, "$10.00"),
        (12_403_000, "$12.40"),
        (1_234_567_890_000, "$1,234,567.89"),
        (-250_000, "-$0.25"),
        (None, "an unknown amount"),
    ],
)
def test_an_amount_is_shown_as_dollars(amount: int | None, text: str) -> None:
    assert usd(amount) == text


@pytest.mark.parametrize(
    ("amount", "count"),
    [(4.825e-05, 48.25), (0.1 + 0.2, 300_000.0), (1e-12, 1e-06), (None, None), (float("inf"), float("inf"))],
)
def test_usd_become_micro_dollars_with_their_fraction(amount: float | None, count: float | None) -> None:
    assert exact_micros(amount) == count


@pytest.mark.parametrize(
    ("amount", "count"),
    [(4.825e-05, 48), (0.1 + 0.2, 300_000), (None, None), (float("nan"), None), (float("inf"), None)],
)
def test_usd_become_whole_micro_dollars(amount: float | None, count: int | None) -> None:
    assert micros(amount) == count


def test_no_amount_is_shown_in_scientific_notation() -> None:
    assert [format_usd(4.825e-05), format_usd(1e-9), format_usd(1e15)] == [
        "$0.000048",
        "$0.00",
        "$1,000,000,000,000,000.00",
    ]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.05, 0.05, "$0.05"),
        (0.05, 0.05 + 1e-12, "$0.05"),
        (0.0, 0.0, "$0.00"),
        (0.05, 0.06, "$0.05 to $0.06"),
        (0.05, None, "at least $0.05"),
    ],
)
def test_a_range_of_one_amount_is_shown_as_that_amount(low: float, high: float | None, text: str) -> None:
    assert format_usd_range(low, high) == text
