"""What the page shows of budgets: a line for each window, and what cannot be read."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from airflow_provider_segmind.budget.usage import WindowUse
from airflow_provider_segmind.exceptions import SegmindError
from airflow_provider_segmind.monitoring.budgets import (
    BudgetUse,
    BudgetWarning,
    InFlight,
    budget_name,
    budgets_of_configuration,
    budgets_of_connection,
    period,
    warning,
)

BUDGETS_LIFETIME = 5.0
"""Seconds for which a store is not read again, however many users open the page."""
COLOURS_OF_WARNINGS = {
    BudgetWarning.NONE: "#2f6db5",
    BudgetWarning.NEARLY_SPENT: "#e09f3e",
    BudgetWarning.USED_UP: "#d1495b",
}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """
    A window as one line.

    :param spent_share: of the limit, 0.0 to 1.0; with ``reserved_share`` at most 1.0.
    """

    use: WindowUse
    name: str
    period: str
    warning: BudgetWarning
    spent_share: float
    reserved_share: float


def budget_line(use: WindowUse) -> BudgetLine:
    """Return the line of a window."""
    limit = use.window.limit
    spent = min(1.0, use.spent / limit) if limit else 1.0
    reserved = min(1.0 - spent, use.reserved / limit) if limit else 0.0
    return BudgetLine(use, budget_name(use), period(use), warning(use), spent, reserved)


class BudgetCache:
    """Budgets as they were read by this process a few seconds ago at most."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, BudgetUse | str]] = {}

    def read(
        self, conn_ids: Iterable[str], *, named: bool
    ) -> tuple[list[BudgetLine], list[InFlight], list[tuple[str, str]]]:
        """
        Return lines, requests in flight, and what cannot be read with the reason. Blocks.

        :param conn_ids: Connections whose budgets are shown.
        :param named: whether those of the configuration are shown.
        """
        now = time.time()
        wanted: dict[str, Callable[[float], BudgetUse]] = {
            f"The budget of connection {conn_id!r}": partial(budgets_of_connection, conn_id) for conn_id in conn_ids
        }
        if named:
            wanted["[segmind] budgets"] = budgets_of_configuration
        found = {name: self._read(name, read, now) for name, read in wanted.items()}
        uses = [one for one in found.values() if isinstance(one, BudgetUse)]
        flights = [one.in_flight for one in uses if one.in_flight is not None]
        troubles = [(name, one) for name, one in found.items() if isinstance(one, str)]
        return [budget_line(window) for one in uses for window in one.windows], flights, troubles

    def _read(self, name: str, read: Callable[[float], BudgetUse], now: float) -> BudgetUse | str:
        at, known = self._known.get(name, (0.0, ""))
        if not known or time.monotonic() - at > BUDGETS_LIFETIME:
            try:
                known = read(now)
            except Exception as error:  # Connections, secrets backends and stores fail in any way.
                log.warning("%s cannot be read", name, exc_info=True)
                known = reason_of(error)
            self._known[name] = (time.monotonic(), known)
        return known


def reason_of(error: Exception) -> str:
    """Return why a Connection or a store cannot be read, as the page shows it."""
    if type(error).__name__ == "AirflowNotFoundException":
        return "The API server has no such Connection: define it there as well, or in Airflow's database."
    return str(error) if isinstance(error, SegmindError) else type(error).__name__
