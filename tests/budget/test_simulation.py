"""Many tasks under one budget, with kills and faults; ``make budget SEEDS=1000`` runs many more of them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.budget.sql_store import SqlBudgetStore
from airflow_provider_segmind.budget.store import BudgetStore
from tests.support.budget_simulation import Outcome, Simulation, check
from tests.support.budgets import DriverHook, budget_places

__all__ = ["budget_places"]

SEEDS = int(os.environ.get("SEGMIND_BUDGET_SEEDS", "5"))


class FastHook(DriverHook):
    """SQLite that does not wait for the disk: nothing here dies with the process."""

    def get_conn(self) -> Any:
        connection = sqlite3.connect(self.address["database"])
        connection.execute("PRAGMA synchronous = OFF")
        return connection


Fresh = Callable[[int, Callable[[str], None]], BudgetStore]


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fresh]:
    """Return an empty store for a seed."""
    made: list[Any] = []

    def store(seed: int, warn: Callable[[str], None]) -> BudgetStore:
        if request.param == "redis":
            return request.getfixturevalue("budget_places")("redis").open(warn=warn)
        for earlier in made:
            earlier.close()
        hook = FastHook("sqlite", "?", {"database": str(tmp_path / f"{seed}.sqlite")})
        made[:] = [SqlBudgetStore(hook, "x", warn=warn)]
        return made[0]

    yield store
    for one in made:
        one.close()


def test_no_seed_passes_its_limit_or_differs_from_the_bill(fresh: Fresh) -> None:
    outcomes: list[Outcome] = []
    for seed in range(SEEDS):
        warnings: list[str] = []
        store = fresh(seed, warnings.append)
        outcome = Simulation(seed, store).run()
        check(outcome, store)
        assert len(warnings) == (outcome.spent >= 0.8 * outcome.limit), (outcome, warnings)
        outcomes.append(outcome)
    print(
        f"FIGURES {len(outcomes)} seeds, {sum(one.requests for one in outcomes)} requests, "
        f"{sum(one.kills for one in outcomes)} kills, {sum(one.work_left for one in outcomes)} used up their budget, "
        f"highest use {max(one.billed / one.limit for one in outcomes):.4f} of a limit"
    )
