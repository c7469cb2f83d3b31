"""Mapped tasks reserve and settle each for itself, under the budget that each of them names."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from airflow_provider_segmind.budget.limits import BudgetRule, windows
from airflow_provider_segmind.budget.sql_store import SqlBudgetStore
from airflow_provider_segmind.budget.store import Usage
from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.budgets import DriverHook
from tests.support.dag_runs import run_dags

pytestmark = pytest.mark.airflow


def test_mapped_chats_and_shards_settle_each_under_its_budget(
    airflow_database: Path, segmind_emulator: SegmindEmulator, tmp_path: Path
) -> None:
    database = str(tmp_path / "budgets.sqlite")
    budgets = {"team-0": {"daily": 1}, "team-1": {"daily": 0.0001}, "team-2": {"daily": 1}, "tables": {"daily": 1}}
    ended = run_dags(
        ("tests/dags/budget_data.py", "budget_data"),
        connection=segmind_emulator.connection_json,
        AIRFLOW_CONN_A_DATABASE=json.dumps({"conn_type": "sqlite", "host": database}),
        AIRFLOW__SEGMIND__SPEND_CONN_ID="a_database",
        AIRFLOW__SEGMIND__BUDGETS=json.dumps(budgets),
        BUDGET_OUTPUT=str(tmp_path),
    )["budget_data"]
    store = SqlBudgetStore(DriverHook("sqlite", "?", {"database": database}), "a_database")

    def used(name: str) -> Usage:
        (window,) = windows([BudgetRule(name, 1, None)], time.time())
        return store.usage([window.key]).get(window.key, Usage())

    assert ended["state"] == "success", ended["log"]
    assert [bool(answer) for answer in ended["values"]["chat"]] == [True, False, True]
    assert "budget 'team-1'" in ended["log"]
    assert [manifest["outcomes"]["success"] for manifest in ended["values"]["table"]] != [12, 0]
    assert sum(manifest["outcomes"]["success"] for manifest in ended["values"]["table"]) == 12
    spent = {name: used(name).spent for name in budgets}
    assert spent["team-1"] == 0
    assert min(spent["team-0"], spent["team-2"], spent["tables"]) > 0
    assert spent["tables"] == pytest.approx(1e6 * sum(one["cost"] for one in ended["values"]["table"]), abs=1e-6)
    assert sum(spent.values()) == pytest.approx(1e6 * sum(one.cost for one in segmind_emulator.bill), abs=1e-6)
    assert [used(name).reserved for name in budgets] == [0, 0, 0, 0]
    assert store.open_reservations() == []
    assert len(segmind_emulator.posts()) == 2 + 12
    store.close()
