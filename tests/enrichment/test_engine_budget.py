"""Tables under budgets: they reserve in slices, agree with the bill, and never exceed it, also when they are killed."""

from __future__ import annotations

import asyncio
import math
import os
import random

import pytest

from airflow_provider_segmind.budget.limits import windows
from airflow_provider_segmind.enrichment.row_request import OUTAGE_PATIENCE
from airflow_provider_segmind.exceptions import SegmindInFlightError
from tests.support.budget_tables import BOUND, MIDNIGHT, SETTLED, SharedBudget, Table, is_used_up, rows_left
from tests.support.budgets import a_reservation
from tests.support.enrichment import table as rows_of

SEEDS = int(os.environ.get("SEGMIND_TABLE_SEEDS", "8"))


def table_of(budget: SharedBudget, name: str = "a", *, rows: int = 60, faults: float = 0.0, seed: int = 1) -> Table:
    return Table(name, budget, random.Random(seed), rows=rows, faults=faults)


async def test_a_table_spends_what_it_is_billed_and_returns_the_rest() -> None:
    budget = SharedBudget(limit=5.0)
    async with budget.passing_time():
        engine = await table_of(budget).one_try()
    assert engine is not None
    assert rows_left(engine) == 0
    assert budget.spent == pytest.approx(budget.billed, abs=1e-9)
    assert not budget.store.rows
    assert sum(budget.store.reserved.values()) == 0
    engine.close()


async def test_a_table_stops_when_the_budget_has_no_room_for_one_more_request() -> None:
    budget = SharedBudget(limit=0.2)
    async with budget.passing_time():
        engine = await table_of(budget).one_try()
    assert engine is not None
    assert is_used_up(engine)
    assert engine.stopped is not None
    assert "cannot cover another request of up to $0.01" in engine.stopped.reason
    assert budget.billed <= 0.2
    assert 0.2 - budget.billed < BOUND
    assert budget.spent == pytest.approx(budget.billed, abs=1e-9)
    assert rows_left(engine) > 0
    engine.close()


async def test_a_long_wait_for_a_budget_is_not_an_outage() -> None:
    budget = SharedBudget(limit=0.015)
    (window,) = windows(budget.rules, budget.clock())
    other = a_reservation(amount=10_000, windows=(window.key,), reserved_at=budget.clock(), renewed_at=budget.clock())
    budget.store.reserve(other, [window], max_in_flight=None)
    table = table_of(budget, rows=1)
    troubles = ["refused"]
    table.segmind.trouble = lambda _: troubles.pop() if troubles else None

    async def free() -> None:
        for _ in range(4):
            await asyncio.sleep(0.02)
            budget.clock.now += OUTAGE_PATIENCE / 2
        budget.store.settle(other.id, 0)

    async with budget.passing_time():
        engine, _ = await asyncio.gather(table.one_try(), free())
    assert engine is not None
    assert engine.stopped is None
    assert (rows_left(engine), troubles) == (0, [])
    engine.close()


@pytest.mark.parametrize("rows_before", [5, 60], ids=["few", "more than are set aside"])
async def test_open_requests_that_take_every_place_are_fetched_although_new_rows_come_before_them(
    rows_before: int,
) -> None:
    fetched = []
    for kill_at in range(20, 60, 4):
        budget = SharedBudget(limit=5.0, max_in_flight=2)
        table = table_of(budget, rows=3)
        async with budget.passing_time():
            if (finished := await table.one_try(kill_at)) is not None:
                finished.close()
                continue
            table.rows = rows_of(
                *(f"new {number}" for number in range(rows_before)), *(f"a {number}" for number in range(3))
            )
            for _ in range(4):
                engine = await asyncio.wait_for(table.one_try(), 60)
                assert engine is not None
                fetched.append(engine.tally.resumed)
                left = rows_left(engine)
                engine.close()
                if not left:
                    break
                assert isinstance(engine.stopped and engine.stopped.error, SegmindInFlightError)
                budget.clock.now += SETTLED
        assert left == 0
        assert budget.spent == pytest.approx(budget.billed, abs=1e-9)
    assert max(fetched) == 2


@pytest.mark.parametrize("places", [1, 2, 3])
async def test_open_requests_of_rows_that_left_the_source_give_their_places_back(places: int) -> None:
    blocked = 0
    for kill_at in range(20, 60, 4):
        budget = SharedBudget(limit=5.0, max_in_flight=places)
        table = table_of(budget, rows=3)
        async with budget.passing_time():
            if (finished := await table.one_try(kill_at)) is not None:
                finished.close()
                continue
            table.rows = rows_of(*(f"new {number}" for number in range(5)))
            for _ in range(9):
                engine = await asyncio.wait_for(table.one_try(), 60)
                assert engine is not None
                left = rows_left(engine)
                engine.close()
                if not left:
                    break
                blocked += 1
                budget.clock.now += SETTLED
        assert left == 0
        assert budget.spent <= budget.billed + 1e-9
    assert blocked


@pytest.mark.parametrize("rows_before", [5, 60], ids=["few", "more than are set aside"])
async def test_a_retry_on_the_next_day_fetches_open_requests_although_new_rows_come_before_them(
    rows_before: int,
) -> None:
    fetched = 0
    for kill_at in range(20, 60, 4):
        budget = SharedBudget(limit=5.0)
        budget.clock.now = MIDNIGHT + 86_400.0 - 60.0
        table = table_of(budget, rows=3)
        async with budget.passing_time():
            if (finished := await table.one_try(kill_at)) is not None:
                finished.close()
                continue
            budget.clock.now = MIDNIGHT + 86_400.0 + 1.0
            table.rows = rows_of(
                *(f"new {number}" for number in range(rows_before)), *(f"a {number}" for number in range(3))
            )
            for _ in range(4):
                engine = await asyncio.wait_for(table.one_try(), 60)
                assert engine is not None
                fetched += engine.tally.resumed
                left = rows_left(engine)
                engine.close()
                if not left:
                    break
                budget.clock.now += SETTLED
        assert left == 0
        assert budget.billed - 1e-9 < budget.spent <= budget.billed + 3 * BOUND
    assert fetched


@pytest.mark.parametrize("kills", [0, 1, 3])
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_request_that_was_given_up_stays_charged_over_kills(seed: int, kills: int) -> None:
    budget = SharedBudget(limit=5.0)
    table = Table("a", budget, random.Random(seed), rows=40, faults=0.3, on_unknown="resubmit")
    table.segmind.history_delay = math.inf
    async with budget.passing_time():
        engine = await table.run(kills)
    engine.close()
    assert budget.store.rows == {}
    assert budget.spent >= budget.billed - 1e-9


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_tables_that_are_killed_never_exceed_their_budget_and_use_it_up(seed: int) -> None:
    rng = random.Random(seed)
    budget = SharedBudget(limit=rng.choice([0.25, 0.5, 0.9]), max_in_flight=rng.choice([None, 3, 8]))
    tables = [Table(f"table-{number}", budget, random.Random(rng.random()), rows=60) for number in range(3)]
    async with budget.passing_time():
        engines = await asyncio.gather(*(each.run(kills=rng.randint(0, 3)) for each in tables))
    assert budget.billed <= budget.limit
    assert budget.spent == pytest.approx(budget.billed, abs=1e-9)
    assert not budget.store.rows
    assert len(budget.store.warnings) == (budget.spent >= 0.8 * budget.limit)
    if any(map(is_used_up, engines)):
        assert budget.limit - budget.billed < BOUND

    for engine in engines:
        assert is_used_up(engine) or rows_left(engine) == 0
        engine.close()
