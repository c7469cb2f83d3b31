"""
Amounts of money: counted in micro-dollars, shown as dollars. Short because that is all.

Segmind bills fractions of a micro-dollar, so sums are made of what it reports and rounded afterwards.
"""

from __future__ import annotations

import math
from typing import overload


@overload
def exact_micros(amount: float) -> float: ...


@overload
def exact_micros(amount: float | None) -> float | None: ...


def exact_micros(amount: float | None) -> float | None:
    """Return USD as micro-dollars with their fraction, None if unknown."""
    return None if amount is None else round(amount * 1_000_000, 6)


def micros(amount: float | None) -> int | None:
    """Return USD as whole micro-dollars, None if unknown or not finite."""
    return None if amount is None or not math.isfinite(amount) else round(amount * 1_000_000)


def usd(amount: float | None) -> str:
    """
    Return micro-dollars in the form that every log line, message and report shows, such as ``$0.0267``.

    Cents from 10 dollars up, hundredths of a cent from a cent up, and micro-dollars below. Zeros at the end are left
    out down to the cents.
    """
    if amount is None:
        return "an unknown amount"
    amount = round(amount)
    size = abs(amount)
    digits = 2 if size >= 10_000_000 else 4 if size >= 10_000 else 6
    dollars, _, fraction = f"{size / 1_000_000:,.{digits}f}".partition(".")
    return f"{'-' if amount < 0 else ''}${dollars}.{fraction.rstrip('0').ljust(2, '0')}"


def format_usd(amount: float | None) -> str:
    """Return USD in the same form."""
    return usd(micros(amount))


def format_usd_range(low: float, high: float | None) -> str:
    """Return a range of USD; a single amount if both ends look the same. ``high`` is None for no limit."""
    if high is None:
        return f"at least {format_usd(low)}"
    return format_usd(low) if format_usd(low) == format_usd(high) else f"{format_usd(low)} to {format_usd(high)}"
