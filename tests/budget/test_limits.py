"""Which budgets apply, and when their days and months begin."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from airflow_provider_segmind.budget.limits import BudgetRule, Window, budget_rule, read_budgets, windows
from airflow_provider_segmind.exceptions import SegmindConfigError

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def test_a_budget_has_a_window_for_its_day_and_one_for_its_month() -> None:
    rule = BudgetRule("team-a", 5_000_000, 100_000_000, "Europe/Berlin")

    assert windows([rule], at("2026-11-27T10:00")) == (
        Window("team-a/2026-11", "team-a", 100_000_000, at("2026-12-01T00:00")),
        Window("team-a/2026-11-27", "team-a", 5_000_000, at("2026-11-28T00:00")),
    )


def test_the_day_is_that_of_the_budgets_timezone() -> None:
    rule = BudgetRule("a", 1, None, "Asia/Tokyo")

    (window,) = windows([rule], datetime(2026, 12, 31, 15, 0, tzinfo=UTC).timestamp())

    assert (window.key, window.resets_at) == ("a/2027-01-01", datetime(2027, 1, 1, 15, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-11-27", 24)])
def test_a_day_is_as_long_as_the_change_of_the_clocks_makes_it(day: str, hours: int) -> None:
    begin, rule = at(f"{day}T00:00"), BudgetRule("a", 1, None, "Europe/Berlin")

    (first,) = windows([rule], begin)
    (last,) = windows([rule], first.resets_at - 0.001)
    (before,) = windows([rule], begin - 0.001)

    assert first == last
    assert first.resets_at - begin == timedelta(hours=hours).total_seconds()
    assert before.resets_at == begin


def test_a_day_without_a_midnight_begins_when_the_clocks_change() -> None:
    rule = BudgetRule("a", 1, None, "America/Sao_Paulo")
    change = datetime(2018, 11, 4, 3, 0, tzinfo=UTC).timestamp()

    (before,) = windows([rule], change - 1)
    (after,) = windows([rule], change)

    assert (before.key, before.resets_at, after.key) == ("a/2018-11-03", change, "a/2018-11-04")


def test_windows_are_sorted_and_each_is_there_once() -> None:
    rules = [BudgetRule("b", 1, 2), BudgetRule("a", 3, None), BudgetRule("b", 1, 2)]

    assert [window.key for window in windows(rules, 0.0)] == ["a/1970-01-01", "b/1970-01", "b/1970-01-01"]


def test_a_window_says_what_it_is() -> None:
    day, month = sorted(windows([BudgetRule("a", 1, 2)], 0.0), key=lambda window: window.limit)

    assert day.title == "the day 1970-01-01 of budget 'a'"
    assert month.title == "the month 1970-01 of budget 'a'"


def test_budgets_are_read_from_the_configuration_in_dollars() -> None:
    given = {"team-a": {"daily": 5, "monthly": "100.5", "timezone": "Europe/Berlin"}, "all": {"daily": 0}}

    assert read_budgets(json.dumps(given)) == {
        "team-a": BudgetRule("team-a", 5_000_000, 100_500_000, "Europe/Berlin"),
        "all": BudgetRule("all", 0, None, "UTC"),
    }
    assert read_budgets(" ") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "is not a JSON object"),
        ("{", "is not a JSON object"),
        ('{"connection:x": {"daily": 1}}', "'connection:x' is not a valid name"),
        ('{"a": 5}', "'a' is an int"),
        ('{"a": {}}', "has no limit"),
        ('{"a": {"dayly": 1}}', "unknown field 'dayly'"),
        ('{"a": {"daily": -1}}', "the daily limit is -1"),
        ('{"a": {"daily": true}}', "the daily limit is True"),
        ('{"a": {"monthly": "many"}}', "the monthly limit is 'many'"),
        ('{"a": {"monthly": NaN}}', "the monthly limit is nan"),
        ('{"a": {"monthly": [1]}}', "the monthly limit is a list"),
        ('{"a": {"daily": 1, "timezone": "Mars/Base"}}', "the timezone is 'Mars/Base'"),
        ('{"a": {"daily": 1, "timezone": 7}}', "the timezone is 7"),
        ('{"a": {"daily": 1, "timezone": "../etc"}}', "the timezone is '../etc'"),
    ],
)
def test_a_budget_that_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(SegmindConfigError, match=message) as raised:
        read_budgets(text)

    assert "Nothing was sent." in str(raised.value)


def test_fields_without_a_limit_are_no_budget() -> None:
    assert budget_rule("connection:a", "", None, "", field="x") is None
