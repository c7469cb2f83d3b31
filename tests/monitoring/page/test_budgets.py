"""The budgets on the page."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_segmind.budget.limits import BudgetRule, windows
from airflow_provider_segmind.budget.sql_store import SqlBudgetStore
from tests.support.budgets import DriverHook, a_reservation
from tests.support.page_runs import Visit

if TYPE_CHECKING:
    from tests.support.metadata import Metadata

pytestmark = pytest.mark.airflow


@pytest.fixture
def budgeted(stored: Metadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqlBudgetStore:
    """Two budgets and a limit in flight, kept in SQLite."""
    from airflow_provider_segmind.monitoring.page import app

    monkeypatch.setattr(app, "BUDGETS", app.BudgetCache())
    database = str(tmp_path / "budgets.sqlite")
    extra = {"monthly_budget": 10, "max_paid_in_flight": 3}
    segmind = {"conn_type": "segmind", "password": "SG_key", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", json.dumps(segmind))
    monkeypatch.setenv("AIRFLOW_CONN_A_DATABASE", json.dumps({"conn_type": "sqlite", "host": database}))
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_CONN_ID", "a_database")
    monkeypatch.setenv("AIRFLOW__SEGMIND__BUDGETS", json.dumps({"team-a": {"daily": 5}}))
    return SqlBudgetStore(DriverHook("sqlite", "?", {"database": database}), "a_database")


def spend_of(store: SqlBudgetStore, rule: BudgetRule, dollars: float, *, reserved: float = 0, slots: int = 0) -> None:
    open_now = windows([rule], time.time())
    for name, amount in (("spent", dollars), ("reserved", reserved)):
        one = a_reservation(f"{rule.name} {name}", amount=round(amount * 1e6), windows=tuple(w.key for w in open_now))
        one = replace(one, slots=slots if name == "reserved" else 0)
        store.reserve(one, open_now, max_in_flight=None)
    store.settle(f"id-{rule.name} spent", dollars * 1e6)


def test_each_window_of_a_budget_is_a_line_with_what_is_left(visit: Visit, budgeted: SqlBudgetStore) -> None:
    spend_of(budgeted, BudgetRule("team-a", 5_000_000, None), 4.0, reserved=0.25)
    spend_of(budgeted, BudgetRule("connection:segmind_default", None, 10_000_000), 1.5, slots=2)

    shown = visit("op").get("/budgets").text

    for said in (
        "team-a",
        "$4.00",
        "$0.25",
        "$0.75",
        "$5.00",
        "80% spent",
        "connection segmind_default",
        "$8.50",
        "$10.00",
    ):
        assert said in shown
    assert shown.count("<tr><td") == 2
    assert shown.count("badge") == 1
    assert "segmind_default: 2 of 3 paid requests in flight." in shown
    budgeted.close()


@pytest.mark.parametrize(
    ("spent", "warn_at", "badge", "colour"),
    [(4.9, 0.8, "80% spent", "#e09f3e"), (2.5, 0.5, "50% spent", "#e09f3e"), (5.0, 0.8, "used up", "#d1495b")],
)
def test_a_budget_has_the_warning_and_the_colour_of_its_level(
    visit: Visit, budgeted: SqlBudgetStore, monkeypatch: pytest.MonkeyPatch,
    spent: float, warn_at: float, badge: str, colour: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("airflow_provider_segmind.monitoring.budgets.WARN_AT", warn_at)
    spend_of(budgeted, BudgetRule("team-a", 5_000_000, None), spent)

    shown = visit("op").get("/budgets").text

    assert f">{badge}</span>" in shown
    assert f'fill="{colour}"' in shown
    budgeted.close()


def test_budgets_need_the_right_to_read_their_connections(
    visit: Visit, budgeted: SqlBudgetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    assert "No budget that you may read is set" in visit("viewer").get("/budgets").text

    def only(conn_id: str) -> str:
        allowed = lambda _, *, details=None, **__: details.conn_id == conn_id  # noqa: E731
        monkeypatch.setattr(SimpleAuthManager, "is_authorized_connection", allowed)
        return visit("op").get("/budgets").text

    assert "team-a" not in only("segmind_default")
    assert "segmind_default" in only("segmind_default")
    assert "team-a" in only("a_database")
    assert "segmind_default" not in only("a_database")


def test_a_budget_that_cannot_be_read_is_a_sentence_and_the_others_are_shown(
    visit: Visit, budgeted: SqlBudgetStore, stored: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"conn_type": "segmind", "password": "SG_key", "extra": {"daily_budget": "<b>"}}
    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", json.dumps(broken))

    shown = visit("op").get("/budgets").text

    assert "segmind_default&#39; cannot be read.</b> Extra of connection &#39;segmind_default&#39;: the daily" in shown
    assert "<b>'" not in shown
    assert "$5.00" in shown


def test_a_connection_that_only_workers_have_is_a_sentence(
    visit: Visit, budgeted: SqlBudgetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_SEGMIND_DEFAULT")

    shown = visit("op").get("/budgets").text

    assert "segmind_default&#39; cannot be read.</b> The API server has no such Connection" in shown
    assert "AirflowNotFoundException" not in shown
    assert "$5.00" in shown


def test_a_budget_is_read_once_in_some_seconds_however_many_look(
    visit: Visit, budgeted: SqlBudgetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_segmind.monitoring.page import budgets

    reads: list[float] = []
    read = budgets.budgets_of_configuration
    monkeypatch.setattr(budgets, "budgets_of_configuration", lambda now: (reads.append(now), read(now))[1])
    monkeypatch.setattr(budgets, "BUDGETS_LIFETIME", 3600.0)

    assert visit("op").get("/budgets").text == visit("op").get("/budgets").text
    assert len(reads) == 1
