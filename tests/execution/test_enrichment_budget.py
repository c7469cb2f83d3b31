"""An enrichment under a budget: it stops in time, says so, stores what was paid, and defers where it is told to."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.budget import slices
from airflow_provider_segmind.budget.limits import BudgetRule, windows
from airflow_provider_segmind.budget.sql_store import SqlBudgetStore
from airflow_provider_segmind.budget.store import Usage
from airflow_provider_segmind.compat import AirflowFailException, AirflowSkipException, TaskDeferred
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.enrichment import engine
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindInFlightError
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator
from airflow_provider_segmind.triggers.request import SegmindRequestsTrigger
from airflow_provider_segmind.triggers.spending import SegmindInFlightTrigger
from tests.support.airflow_fakes import KEY, Run
from tests.support.budgets import DriverHook, a_reservation

MODEL = "gemini-3.1-flash-lite"
ROWS = 40
CAP = 1000
BOUND = 0.0016
"""USD above what a row may cost; it is billed about a hundredth of it."""
LITTLE = BOUND + 0.0001
"""USD of a budget that suffices for some rows."""


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    with SegmindEmulator(api_keys=[KEY]) as running:
        monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", running.connection_json)
        monkeypatch.setenv("AIRFLOW_CONN_A_DATABASE", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "b")}))
        monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_CONN_ID", "a_database")
        yield running


class Budgeted:
    """A table of 40 different rows under a budget of its own for each day."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run = Run()
        self.output = folder / "out.jsonl"
        self.source = [{"id": number, "thing": f"thing {number}"} for number in range(ROWS)]
        self.store = SqlBudgetStore(DriverHook("sqlite", "?", {"database": str(folder / "b")}), "a_database")
        self._monkeypatch = monkeypatch

    def limit(self, daily: float) -> None:
        budgets = {"team": {"daily": daily}}
        self._monkeypatch.setenv("AIRFLOW__SEGMIND__BUDGETS", json.dumps(budgets))

    def limit_in_flight(self, most: int) -> None:
        given = json.loads(os.environ["AIRFLOW_CONN_SEGMIND_DEFAULT"])
        connection = {**given, "extra": {**given["extra"], "max_paid_in_flight": most}}
        self._monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", json.dumps(connection))

    def task(self, **fields: Any) -> SegmindEnrichFileOperator:
        given = {
            "concurrency": 4, "options": {"max_tokens": CAP}, "budget": "team", "model": MODEL,
            "max_failed_rows": None, "deferrable": False, **fields,
        }  # fmt: skip
        task = SegmindEnrichFileOperator(
            task_id="a_task", key="id", prompt="The colour of {thing}?", source=self.source,
            output_path=str(self.output), **given,
        )  # fmt: skip
        hand: Any = task
        hand._cached_logger = hand._log = logging.getLogger("a_task")
        return task

    def used(self) -> Usage:
        (window,) = windows([BudgetRule("team", 1, None)], time.time())
        return self.store.usage([window.key]).get(window.key, Usage())

    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.output.with_suffix(".manifest.json").read_text())
        return found


@pytest.fixture
def table(emulator: SegmindEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Budgeted:
    monkeypatch.setattr(engine, "BUDGET_INTERVAL", 0.02)
    monkeypatch.setattr(slices, "ASK_INTERVAL", 0.05)
    return Budgeted(tmp_path, monkeypatch)


def billed(emulator: SegmindEmulator) -> float:
    return round(sum(entry.cost for entry in emulator.bill) * 1e6, 6)


Task = Callable[..., SegmindEnrichFileOperator]


def test_a_table_within_its_budget_settles_what_it_was_billed(
    emulator: SegmindEmulator, table: Budgeted, caplog: pytest.LogCaptureFixture
) -> None:
    table.limit(1.0)
    with caplog.at_level(logging.INFO):
        manifest = table.task().execute(table.run.context())
    assert manifest["outcomes"]["success"] == ROWS
    assert manifest["stopped_by"] is None
    assert table.used() == Usage(billed(emulator), 0)
    assert "$1.00 of $1.00 left for the day" in caplog.text


def test_a_table_stops_at_its_budget_and_stores_what_was_paid(emulator: SegmindEmulator, table: Budgeted) -> None:
    table.limit(LITTLE)
    with pytest.raises(AirflowFailException, match=r"cannot cover another request of up to .* rows answered"):
        table.task().execute(table.run.context())
    assert 0 < billed(emulator) <= LITTLE * 1e6
    assert LITTLE * 1e6 - billed(emulator) < BOUND * 1e6
    assert table.used() == Usage(billed(emulator), 0)
    assert table.manifest()["stopped_by"] == "budget"
    answered = [json.loads(line) for line in table.output.read_text().splitlines()]
    assert sum(row["_segmind_status"] == "success" for row in answered) == len(emulator.bill)

    table.limit(1.0)
    assert table.task().execute(table.run.context())["outcomes"]["success"] == ROWS
    assert len(emulator.bill) == ROWS


def test_a_table_is_skipped_at_its_budget_where_it_says_so(emulator: SegmindEmulator, table: Budgeted) -> None:
    table.limit(LITTLE)
    with pytest.raises(AirflowSkipException, match="on_budget='skip_downstream'"):
        table.task(on_budget="skip_downstream").execute(table.run.context())
    assert len(emulator.bill) > 0


def test_a_table_defers_until_its_budget_has_room_and_pays_nothing_twice(
    emulator: SegmindEmulator, table: Budgeted
) -> None:
    table.limit(LITTLE)
    with pytest.raises(TaskDeferred) as caught:
        table.task(on_budget="defer").execute(table.run.context())
    trigger = caught.value.trigger
    assert isinstance(trigger, SegmindRequestsTrigger)
    assert trigger.requests == []
    (window,) = windows([BudgetRule("team", 1, None)], time.time())
    assert window.resets_at <= trigger.until <= window.resets_at + 60
    asked = len(emulator.bill)
    assert 0 < asked < ROWS
    assert table.used() == Usage(billed(emulator), 0)

    table.limit(1.0)
    event = {"ended": 0, "error": None, "resume_state": trigger.resume_state}
    manifest = table.task(on_budget="defer").execute_complete(table.run.context(), event)
    assert manifest["outcomes"]["success"] == ROWS
    assert len(emulator.bill) == ROWS
    assert table.used() == Usage(billed(emulator), 0)


@pytest.mark.parametrize("how", [{"on_budget": "defer"}, {"deferrable": True}])
def test_a_table_defers_while_others_have_reserved_its_budget(
    emulator: SegmindEmulator, table: Budgeted, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    monkeypatch.setattr(slices, "DEFER_PATIENCE", 0.2)
    table.limit(1.0)
    (window,) = windows([BudgetRule("team", 1_000_000, None)], time.time())
    now = time.time()
    other = a_reservation(
        owner="other", amount=999_000, windows=(window.key,), sending=True, reserved_at=now - 400, renewed_at=now
    )
    table.store.reserve(other, [window], max_in_flight=None)

    with pytest.raises(TaskDeferred) as caught:
        table.task(**how).execute(table.run.context())
    trigger = caught.value.trigger
    assert isinstance(trigger, SegmindRequestsTrigger)
    assert now + 190 < trigger.until < now + 400
    assert emulator.posts() == []
    assert [one.id for one in table.store.open_reservations()] == [other.id]

    table.store.settle(other.id, 1000)
    event = {"ended": 0, "error": None, "resume_state": trigger.resume_state}
    manifest = table.task(**how).execute_complete(table.run.context(), event)
    assert manifest["outcomes"]["success"] == len(emulator.bill) == ROWS


def test_a_model_without_a_known_price_is_refused_before_the_first_request(
    emulator: SegmindEmulator, table: Budgeted
) -> None:
    table.limit(1.0)
    with pytest.raises(AirflowFailException, match="its price is not known"):
        table.task(model="claude-3-haiku").execute(table.run.context())
    assert emulator.posts() == []


def test_a_dry_run_reserves_nothing(emulator: SegmindEmulator, table: Budgeted) -> None:
    table.limit(0.000001)
    assert table.task(dry_run=True).execute(table.run.context())["rows"] == ROWS
    assert table.used() == Usage()


def test_a_wrong_on_budget_is_refused_when_the_dag_is_parsed(table: Budgeted) -> None:
    with pytest.raises(SegmindConfigError, match="on_budget"):
        table.task(on_budget="wait")


@pytest.mark.parametrize(("deferrable", "raised"), [(True, TaskDeferred), (False, SegmindInFlightError)])
def test_a_table_whose_earlier_requests_take_every_place_defers_only_if_it_may(
    emulator: SegmindEmulator,
    table: Budgeted,
    monkeypatch: pytest.MonkeyPatch,
    deferrable: bool,
    raised: type[BaseException],
) -> None:
    table.limit_in_flight(1)
    other = a_reservation(slots=1, windows=(), reserved_at=time.time(), renewed_at=time.time())
    table.store.reserve(other, [], max_in_flight=1)
    taken = SegmindInFlightError("Requests of earlier tries use all slots.")
    monkeypatch.setattr(slices.TableSlice, "without_slot", lambda *_: taken)

    with pytest.raises(raised) as caught:
        table.task(budget=None, deferrable=deferrable).execute(table.run.context())
    assert deferrable or not isinstance(caught.value, AirflowFailException)
    assert emulator.posts() == []


def test_a_table_without_a_place_in_flight_defers_until_there_is_one(
    emulator: SegmindEmulator, table: Budgeted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "SLOT_PATIENCE", 0.2)
    table.limit_in_flight(1)
    other = a_reservation(slots=1, windows=(), reserved_at=time.time(), renewed_at=time.time())
    table.store.reserve(other, [], max_in_flight=1)

    with pytest.raises(TaskDeferred) as caught:
        table.task(budget=None, deferrable=True).execute(table.run.context())
    trigger = caught.value.trigger
    assert isinstance(trigger, SegmindInFlightTrigger)
    assert emulator.posts() == []

    table.store.settle(other.id, 0)
    task = table.task(budget=None, deferrable=True)
    manifest = getattr(task, caught.value.method_name)(table.run.context(), {"resume_state": trigger.resume_state})
    assert manifest["outcomes"]["success"] == len(emulator.bill) == ROWS
    assert table.store.in_flight("segmind_default") == 0
