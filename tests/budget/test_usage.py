"""What is left of the windows that are open."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from airflow_provider_segmind.budget.limits import BudgetRule, Window
from airflow_provider_segmind.budget.store import Usage
from airflow_provider_segmind.budget.usage import WindowUse, window_uses

NOON = 1_795_694_400.0
"""2026-11-26 12:00 UTC."""
DAY, MONTH = "team-a/2026-11-26", "team-a/2026-11"


class Store:
    """Knows what is used of some windows, and which it was asked for."""

    def __init__(self, **used: Usage) -> None:
        self.used = used
        self.asked: list[list[str]] = []

    def usage(self, keys: Iterable[str]) -> dict[str, Usage]:
        self.asked.append(list(keys))
        return self.used


def read(store: Any, *rules: BudgetRule) -> tuple[WindowUse, ...]:
    return window_uses(store, rules, NOON)


def test_each_open_window_has_what_is_spent_reserved_and_left() -> None:
    store = Store(**{DAY: Usage(spent=3.5, reserved=1.0), "team-a/2026-11-25": Usage(spent=99.0)})

    uses = read(store, BudgetRule("team-a", 10, 100))

    assert {use.window.key: (use.spent, use.reserved, use.left) for use in uses} == {
        DAY: (3.5, 1.0, 5.5),
        # The store knows no window in which nothing was reserved yet.
        MONTH: (0.0, 0.0, 100.0),
    }
    assert [sorted(keys) for keys in store.asked] == [[MONTH, DAY]]


def test_the_window_of_two_equal_rules_is_there_once() -> None:
    rule = BudgetRule("team-a", 10, None)

    assert [use.window.key for use in read(Store(), rule, rule)] == [DAY]


def test_nothing_is_left_where_a_bill_was_higher_than_its_bound() -> None:
    assert WindowUse(Window(DAY, "team-a", 10, NOON), spent=12.0, reserved=1.0).left == 0.0


def test_without_a_budget_the_store_is_not_asked() -> None:
    store = Store()

    assert read(store) == ()
    assert store.asked == []
