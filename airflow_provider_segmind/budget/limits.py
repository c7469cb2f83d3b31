"""
Which budgets apply, and their windows at a given time.

A budget has a limit for each day, for each month, or for both. Days and months begin at midnight in its timezone, so a
day has 23 or 25 hours where the clocks are changed. Amounts are micro-dollars.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from airflow_provider_segmind.exceptions import SegmindConfigError, shorten, type_name
from airflow_provider_segmind.money import micros, usd

MOST_DOLLARS = 1_000_000
"""The highest limit; the stores count trillionths of a dollar in 64 bits."""
CONNECTION_BUDGET = "connection:"
"""Prefix of the name of a budget that belongs to a Connection; no other budget name can begin with it."""
WARN_AT = 0.8
"""Share of a limit that leads to a warning when it is spent: one for each window, over all tasks."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}")


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """
    A budget.

    :param name: of ``[segmind] budgets``, or ``connection:`` and the id of a Connection.
    :param daily: micro-dollars for each day, None for no limit.
    :param monthly: micro-dollars for each month, None for no limit.
    :param timezone: IANA name; days and months begin at its midnight.
    """

    name: str
    daily: int | None
    monthly: int | None
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Window:
    """
    A budget's day or month.

    :param key: of its counter, such as ``team-a/2026-11-27`` or ``team-a/2026-11``.
    :param budget: the name of the budget.
    :param limit: micro-dollars.
    :param resets_at: epoch second at which the next window begins.
    """

    key: str
    budget: str
    limit: int
    resets_at: float

    @property
    def title(self) -> str:
        """The window as a message names it."""
        return _title(self.key)


def spent_warning(key: str, limit: float) -> str:
    """
    Return what a log says once :data:`WARN_AT` of a window is spent.

    :param limit: micro-dollars.
    """
    return f"{WARN_AT:.0%} of {usd(limit)}, the limit of {_title(key)}, has been spent"


def _title(key: str) -> str:
    budget, _, period = key.rpartition("/")
    of = "day" if period.count("-") == 2 else "month"
    return f"the {of} {period} of budget {budget!r}"


def windows(rules: Iterable[BudgetRule], now: float) -> tuple[Window, ...]:
    """Return the windows of some budgets at a time, each once, in the order in which every store locks them."""
    found = {window.key: window for rule in rules for window in _windows(rule, now)}
    return tuple(found[key] for key in sorted(found))


def _windows(rule: BudgetRule, now: float) -> Iterable[Window]:
    zone = ZoneInfo(rule.timezone)
    today = datetime.fromtimestamp(now, zone).date()
    if rule.daily is not None:
        yield Window(f"{rule.name}/{today}", rule.name, rule.daily, _midnight(today + timedelta(days=1), zone))
    if rule.monthly is not None:
        next_month = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
        yield Window(f"{rule.name}/{today:%Y-%m}", rule.name, rule.monthly, _midnight(next_month, zone))


def _midnight(day: date, zone: ZoneInfo) -> float:
    # Where clocks are set forward at midnight it does not exist, and this is the second of the change.
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()


def read_budgets(text: str) -> dict[str, BudgetRule]:
    """
    Read ``[segmind] budgets``.

    :param text: JSON, ``{"team-a": {"daily": 5, "monthly": 100, "timezone": "Europe/Berlin"}}``, in USD.
    :raises SegmindConfigError: names what is wrong; nothing was sent.
    """
    try:
        given = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, Mapping):
        raise SegmindConfigError(
            '[segmind] budgets is not a JSON object of names and limits, like {"team-a": {"daily": 5}}. '
            "Nothing was sent."
        )
    for name in given:
        if not _NAME.fullmatch(name):
            raise SegmindConfigError(
                f"[segmind] budgets: {shorten(name, 40)!r} is not a valid name; use up to 100 letters, digits, '_', "
                "'.' and '-'. Nothing was sent."
            )
    return {name: _rule(name, limits) for name, limits in given.items()}


def _rule(name: str, limits: object) -> BudgetRule:
    field = f"[segmind] budgets: {name!r}"
    if not isinstance(limits, Mapping):
        raise SegmindConfigError(f"{field} is {type_name(limits)}; it must be an object. Nothing was sent.")
    if unknown := limits.keys() - {"daily", "monthly", "timezone"}:
        raise SegmindConfigError(
            f"{field} has the unknown field {shorten(str(min(unknown, key=str)), 40)!r}; use daily, monthly and "
            "timezone. Nothing was sent."
        )
    rule = budget_rule(name, limits.get("daily"), limits.get("monthly"), limits.get("timezone"), field=field)
    if rule is None:
        raise SegmindConfigError(f"{field} has no limit; give daily, monthly or both, in USD. Nothing was sent.")
    return rule


def budget_rule(name: str, daily: object, monthly: object, timezone: object, *, field: str) -> BudgetRule | None:
    """
    Return a budget, None if it has no limit.

    :param daily: USD, also as a string; None or empty for no limit.
    :param monthly: USD, in the same way.
    :param timezone: IANA name; UTC if None or empty.
    :param field: where the values come from, for errors.
    :raises SegmindConfigError: a value is invalid; nothing was sent.
    """
    limits = [_micros(value, f"{field}: the {kind} limit") for kind, value in (("daily", daily), ("monthly", monthly))]
    zone = "UTC" if timezone in (None, "") else timezone
    try:
        ZoneInfo(zone)  # type: ignore[arg-type]
    except (KeyError, ValueError, TypeError, AttributeError, OSError):
        raise SegmindConfigError(
            f"{field}: the timezone is {shorten(repr(zone), 40)}; it must be an IANA name, like 'Europe/Berlin'. "
            "Nothing was sent."
        ) from None
    if limits == [None, None]:
        return None
    return BudgetRule(name, limits[0], limits[1], str(zone))


def _micros(value: object, what: str) -> int | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number <= MOST_DOLLARS:
        shown = shorten(repr(value), 40) if isinstance(value, str | int | float) else type_name(value)
        raise SegmindConfigError(f"{what} is {shown}; it must be USD, from 0 to {MOST_DOLLARS:,}. Nothing was sent.")
    return micros(number)
