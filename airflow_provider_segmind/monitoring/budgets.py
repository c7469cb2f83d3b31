"""
The budgets of a Connection, and those of the configuration: what is spent, reserved and left of each window.

Reads the store as a task does, and reserves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto

from airflow_provider_segmind.budget.guard import BudgetSettings
from airflow_provider_segmind.budget.limits import CONNECTION_BUDGET, WARN_AT
from airflow_provider_segmind.budget.usage import WindowUse, window_uses
from airflow_provider_segmind.hooks.budgets import named_budgets
from airflow_provider_segmind.monitoring.reader import CoreHook


@dataclass(frozen=True, slots=True)
class InFlight:
    """
    Paid requests of a Connection in flight.

    :param most: its ``max_paid_in_flight``.
    """

    connection: str
    number: int
    most: int


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """
    How much of some budgets is used.

    :param windows: those that are open.
    :param in_flight: None without a limit.
    """

    windows: tuple[WindowUse, ...] = ()
    in_flight: InFlight | None = None


def budgets_of_connection(conn_id: str, now: float) -> BudgetUse:
    """
    Read the budgets that belong to a Connection. Blocks.

    :param now: epoch seconds.
    :raises SegmindConfigError: they cannot be read, or have no store.
    :raises SegmindStateError: the store did not answer.
    """
    hook = CoreHook(conn_id)
    try:
        settings = hook.budget_settings()
    finally:
        hook.close()
    with _closing(settings):
        if settings.store is None:
            return BudgetUse()
        most, flight = settings.max_in_flight, None
        if most is not None:
            flight = InFlight(conn_id, settings.store.in_flight(conn_id), most)
        return BudgetUse(window_uses(settings.store, settings.rules, now), flight)


def budgets_of_configuration(now: float) -> BudgetUse:
    """
    Read all of ``[segmind] budgets``, whichever tasks name them. Blocks.

    :raises SegmindError: as :func:`budgets_of_connection`.
    """
    settings = named_budgets()
    with _closing(settings):
        return BudgetUse() if settings.store is None else BudgetUse(window_uses(settings.store, settings.rules, now))


@contextmanager
def _closing(settings: BudgetSettings) -> Iterator[None]:
    """Close the store's connection of this thread: a server's thread pool would keep it open."""
    try:
        yield
    finally:
        if settings.store is not None:
            settings.store.close()


class BudgetWarning(Enum):
    """What is to be noticed about a window."""

    NONE = auto()
    NEARLY_SPENT = auto()
    USED_UP = auto()

    @property
    def text(self) -> str:
        """The warning in words, such as ``80% spent``."""
        return {self.NONE: "", self.NEARLY_SPENT: f"{WARN_AT:.0%} spent", self.USED_UP: "used up"}[self]


def budget_name(use: WindowUse) -> str:
    """Return the name of a window's budget as people know it: ``connection segmind_default``, or its own."""
    name = use.window.budget
    return f"connection {name.removeprefix(CONNECTION_BUDGET)}" if name.startswith(CONNECTION_BUDGET) else name


def period(use: WindowUse) -> str:
    """Return the day or the month of a window, such as ``2026-11-27``."""
    return use.window.key.rpartition("/")[2]


def warning(use: WindowUse) -> BudgetWarning:
    """Return what is to be noticed about a window."""
    if use.left <= 0:
        return BudgetWarning.USED_UP
    return BudgetWarning.NEARLY_SPENT if use.spent >= WARN_AT * use.window.limit else BudgetWarning.NONE
