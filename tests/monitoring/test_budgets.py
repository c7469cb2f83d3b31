"""What is spent, reserved and left of budgets."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_segmind.budget.limits import CONNECTION_BUDGET, BudgetRule, windows
from airflow_provider_segmind.budget.store import Granted, Reservation
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.hooks.budgets import budget_store
from tests.support.monitoring_commands import Command, account, add_connection, command, stored

if TYPE_CHECKING:
    from tests.support.metadata import Metadata

__all__ = ["account", "command", "stored"]
pytestmark = pytest.mark.airflow


def test_budgets_shows_what_is_spent_reserved_and_left(
    stored: Metadata, account: SegmindEmulator, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = json.loads(account.connection_json)
    limited = {**given, "extra": {**given["extra"], "daily_budget": 2, "max_paid_in_flight": 7}}
    add_connection(stored, "segmind_default", json.dumps(limited))
    database = {"conn_type": "sqlite", "host": str(tmp_path / "budgets.sqlite")}
    monkeypatch.setenv("AIRFLOW_CONN_A_DATABASE", json.dumps(database))
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_CONN_ID", "a_database")
    monkeypatch.setenv("AIRFLOW__SEGMIND__BUDGETS", '{"team-a": {"monthly": 100}}')
    use_budget(spent=250_000, reserved=500_000)

    code, printed = command("budgets")
    found = json.loads(command("budgets", "-o", "json")[1])

    assert code == 0
    assert re.search(r"connection segmind_default +\S+ +\$2\.00 +\$0\.25 +\$0\.50 +\$1\.25", printed)
    assert re.search(r"team-a +\d{4}-\d\d +\$100\.00 +\$0\.00 +\$0\.00 +\$100\.00", printed)
    assert "segmind_default: 1 of 7 paid requests in flight." in printed
    assert [one["left_micros"] for one in found["windows"]] == [1_250_000, 100_000_000]
    assert [one["budget"] for one in found["windows"]] == ["connection:segmind_default", "team-a"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT00:00:00\+00:00", one["resets_at"]) for one in found["windows"])
    assert found["in_flight"] == [{"connection": "segmind_default", "in_flight": 1, "max_paid_in_flight": 7}]
    assert "a_database" in command("check")[1]


def test_budgets_without_a_store_are_an_error_and_no_budgets_are_none(
    account: SegmindEmulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = command("budgets")
    monkeypatch.setenv("AIRFLOW__SEGMIND__BUDGETS", '{"team-a": {"daily": 1}}')
    homeless = command("budgets")

    assert none[0] == 0
    assert "No budget is set" in none[1]
    assert homeless[0] == 1
    assert "Budget 'team-a' needs a store that all tasks share" in homeless[1]


def use_budget(*, spent: int, reserved: int) -> None:
    """Let one request of ``segmind_default`` be billed, and one be in flight; micro-dollars."""
    store = budget_store()
    assert store is not None
    now = time.time()
    own = windows([BudgetRule(f"{CONNECTION_BUDGET}segmind_default", 2_000_000, None)], now)
    for name, amount in (("billed", spent), ("open", reserved)):
        request = Reservation(
            id=name,
            owner="shop/monday/ask/-1",
            kind="request",
            amount=amount,
            windows=tuple(window.key for window in own),
            slots=1,
            connection="segmind_default",
            model="a-model",
            reserved_at=now,
            renewed_at=now,
        )
        assert isinstance(store.reserve(request, own, max_in_flight=None), Granted)
    assert store.settle("billed", spent)
