"""Which budgets apply to a Connection and to what a task names, and where they are kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.budget.limits import BudgetRule
from airflow_provider_segmind.budget.redis_store import RedisBudgetStore
from airflow_provider_segmind.budget.sql_store import SqlBudgetStore
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.hooks.budgets import budget_settings, budget_store, named_budgets, task_owner
from tests.support.airflow_fakes import Run

TEAM = BudgetRule("team-a", 5_000_000, None)
REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    database = {"conn_type": "sqlite", "host": str(tmp_path / "budgets.sqlite")}
    monkeypatch.setenv("AIRFLOW_CONN_A_DATABASE", json.dumps(database))
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_CONN_ID", "a_database")
    monkeypatch.setenv("AIRFLOW__SEGMIND__BUDGETS", json.dumps({"team-a": {"daily": 5}}))


def read(budget: str | None = None, **extra: Any) -> Any:
    return budget_settings("a_connection", extra, budget, None)


def test_the_budget_of_the_connection_and_the_one_of_the_task_both_hold() -> None:
    settings = read("team-a", daily_budget="2.5", budget_timezone="Asia/Tokyo", max_paid_in_flight="3")

    assert settings.rules == (BudgetRule("connection:a_connection", 2_500_000, None, "Asia/Tokyo"), TEAM)
    assert settings.max_in_flight == 3
    assert isinstance(settings.store, SqlBudgetStore)


def test_a_connection_without_limits_has_no_budget_that_holds() -> None:
    assert not read().hold
    assert not read(daily_budget="", monthly_budget=None, max_paid_in_flight=" ").hold


def test_redis_keeps_budgets_where_it_is_named_also_beside_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(budget_store(), SqlBudgetStore)

    monkeypatch.setenv("AIRFLOW__SEGMIND__BUDGET_REDIS_URL", REDIS)
    assert isinstance(budget_store(), RedisBudgetStore)
    assert isinstance(read(daily_budget=1).store, RedisBudgetStore)

    monkeypatch.delenv("AIRFLOW__SEGMIND__SPEND_CONN_ID")
    assert isinstance(budget_store(), RedisBudgetStore)


def test_the_redis_of_a_connection_keeps_its_own_budget_and_no_shared_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__SEGMIND__SPEND_CONN_ID")

    assert isinstance(read(daily_budget=1, redis_url=REDIS).store, RedisBudgetStore)
    with pytest.raises(SegmindConfigError, match="'team-a' needs a store"):
        read("team-a", daily_budget=1, redis_url=REDIS)


def test_a_budget_without_a_store_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__SEGMIND__SPEND_CONN_ID")

    for given in ({"daily_budget": 1}, {"max_paid_in_flight": 1}):
        with pytest.raises(SegmindConfigError, match="needs a store that all tasks share"):
            read(**given)
    with pytest.raises(SegmindConfigError, match="needs a store that all tasks share"):
        named_budgets()


@pytest.mark.parametrize(
    "value", [0, -1, 1.5, True, "many", [1], float("nan"), float("inf"), 10**7, pytest.param(10**400, id="huge")]
)
def test_a_count_of_requests_in_flight_that_cannot_be_read_is_named(value: Any) -> None:
    with pytest.raises(SegmindConfigError, match="'max_paid_in_flight' of connection 'a_connection' is"):
        read(max_paid_in_flight=value)


@pytest.mark.parametrize("value", [-1, True, "many", [1], float("nan"), pytest.param(10**400, id="huge")])
def test_a_limit_of_a_connection_that_cannot_be_read_is_named(value: Any) -> None:
    with pytest.raises(SegmindConfigError, match="Extra of connection 'a_connection': the daily limit is"):
        read(daily_budget=value)


@pytest.mark.parametrize(
    ("budget", "answer"), [("team_a", "did you mean 'team-a'?"), ("marketing", "it has 'team-a'.")]
)
def test_an_unknown_budget_is_answered_with_the_one_that_was_meant(budget: str, answer: str) -> None:
    with pytest.raises(SegmindConfigError, match=re.escape(answer)):
        read(budget)


def test_the_owner_of_a_reservation_is_the_task_instance_and_not_its_try() -> None:
    mapped = Run(dag_id="d", run_id="r", task_id="t", map_index=7, try_number=3)

    assert task_owner(mapped.context()) == "d/r/t/7"
    assert task_owner(Run(map_index=None).context()) == "a_dag/manual__1/a_task/-1"
