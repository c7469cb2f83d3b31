"""What is spent, reserved and left of the windows that are open now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from airflow_provider_segmind.budget.limits import BudgetRule, Window, windows
from airflow_provider_segmind.budget.store import BudgetStore, Usage


@dataclass(frozen=True, slots=True)
class WindowUse:
    """
    A window and how much of it is used, in micro-dollars.

    :param spent: billed.
    :param reserved: the most that open requests may still cost.
    """

    window: Window
    spent: float
    reserved: float

    @property
    def left(self) -> float:
        """What may still be reserved; 0 if a bill was higher than its bound."""
        return max(0.0, self.window.limit - self.spent - self.reserved)


def window_uses(store: BudgetStore, rules: Iterable[BudgetRule], now: float) -> tuple[WindowUse, ...]:
    """
    Return the open windows of some budgets, each once.

    :param now: epoch seconds.
    :raises SegmindStateError: the store did not answer.
    """
    found = windows(rules, now)
    used = store.usage([window.key for window in found]) if found else {}
    uses = ((window, used.get(window.key, Usage())) for window in found)
    return tuple(WindowUse(window, use.spent, use.reserved) for window, use in uses)
