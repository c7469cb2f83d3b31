"""The slice of a table: how much it reserves, what it returns, and who settles it."""

from __future__ import annotations

import random

import pytest

from airflow_provider_segmind.budget import slices
from airflow_provider_segmind.budget.limits import BudgetRule, windows
from airflow_provider_segmind.budget.orphaned_reservations import settle_slice
from airflow_provider_segmind.budget.slices import TableSlice
from airflow_provider_segmind.enrichment.settings import RunFigures
from airflow_provider_segmind.exceptions import SegmindBudgetError, SegmindStateError
from tests.support.budget_tables import BOUND, MIDNIGHT, SharedBudget, Table
from tests.support.budgets import a_reservation


def figures(*, spent: float = 0.0, held: float = 0.0, in_flight: int = 0, waiting: int = 0) -> RunFigures:
    return RunFigures(spent=spent, held=held, in_flight=in_flight, waiting=(BOUND,) * waiting)


def exchange(table: TableSlice, run: RunFigures) -> None:
    """Tell the store once what is due."""
    order = table.plan(run)
    if order is not None:
        table.apply(table.execute_order(order))


def reserved(budget: SharedBudget) -> int:
    """Return the micro-dollars that are reserved."""
    return sum(one.amount - round(one.spent) for one in budget.store.rows.values())


def test_nothing_is_admitted_before_it_is_reserved() -> None:
    budget = SharedBudget(limit=1.0)
    table = budget.slice("a")
    assert not table.admits(figures(), BOUND)
    exchange(table, figures(waiting=3))
    assert reserved(budget) == 30_000
    assert table.admits(figures(held=2 * BOUND, in_flight=2), BOUND)
    assert not table.admits(figures(held=3 * BOUND, in_flight=3), BOUND)


def test_a_bill_below_the_bound_makes_room_for_the_next_request() -> None:
    budget = SharedBudget(limit=1.0)
    table = budget.slice("a")
    exchange(table, figures(waiting=1))
    assert not table.admits(figures(held=BOUND, in_flight=1), 0.004)
    assert table.admits(figures(spent=0.006), 0.004)


def test_slices_shrink_with_what_is_left_down_to_one_request() -> None:
    budget = SharedBudget(limit=0.2)
    sizes = []
    for number in range(8):
        table = budget.slice(f"table {number}")
        exchange(table, figures(waiting=1))
        before = reserved(budget)
        exchange(table, figures(held=BOUND, in_flight=1, waiting=64))
        sizes.append(reserved(budget) - before)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] == 10_000


def test_what_is_not_used_is_returned_after_some_seconds() -> None:
    budget = SharedBudget(limit=1.0)
    table = budget.slice("a")
    exchange(table, figures(waiting=5))
    for _ in range(12):
        budget.clock.now += 1.0
        exchange(table, figures(held=BOUND, in_flight=1))
    assert 10_000 <= reserved(budget) < 10_100


def test_slots_are_shared_by_tables_and_come_back() -> None:
    budget = SharedBudget(limit=1.0, max_in_flight=3)
    one, other = budget.slice("one"), budget.slice("other")
    exchange(one, figures(waiting=2))
    exchange(other, figures(waiting=2))
    assert budget.store.in_flight("c") == 3
    assert other.admits(figures(), BOUND)
    assert not other.admits(figures(held=BOUND, in_flight=1), BOUND)
    one.close(figures(spent=0.01))
    assert budget.store.in_flight("c") == 1
    budget.clock.now += 1.0
    exchange(other, figures(held=BOUND, in_flight=1, waiting=1))
    assert other.admits(figures(held=BOUND, in_flight=1), BOUND)


def test_a_slice_that_was_not_renewed_must_not_be_used() -> None:
    budget = SharedBudget(limit=1.0)
    table = budget.slice("a")
    exchange(table, figures(waiting=1))
    budget.clock.now += slices.LEASE
    assert not table.admits(figures(), BOUND)
    exchange(table, figures(waiting=1))
    assert table.admits(figures(), BOUND)


def test_a_try_whose_slice_was_taken_over_stops() -> None:
    budget = SharedBudget(limit=1.0)
    late, retry = budget.slice("a"), budget.slice("a")
    exchange(late, figures(waiting=2))
    assert retry.claim_earlier() == pytest.approx(slices.TAKE_OVER_AFTER)
    budget.clock.now += slices.TAKE_OVER_AFTER
    retry.take_over(figures(spent=0.004))
    assert budget.spent == pytest.approx(0.004)
    assert retry.admits(figures(spent=0.004), BOUND)
    exchange(late, figures(spent=0.004, waiting=1))
    assert isinstance(late.error, SegmindStateError)
    assert not late.admits(figures(), BOUND)
    late.close(figures(spent=0.004))
    assert budget.spent == pytest.approx(0.004)


def test_a_retry_does_not_wait_for_a_clock_that_was_ahead() -> None:
    budget = SharedBudget(limit=1.0)
    killed, retry = budget.slice("a"), budget.slice("a")
    budget.clock.now += 3600.0
    exchange(killed, figures(waiting=2))
    budget.clock.now -= 3600.0

    assert retry.claim_earlier() == slices.TAKE_OVER_AFTER


def test_what_was_reserved_before_midnight_counts_on_that_day() -> None:
    budget = SharedBudget(limit=0.02)
    table = budget.slice("a")
    exchange(table, figures(waiting=2))
    budget.clock.now = MIDNIGHT + 86_400.0 + 1.0
    run = figures(spent=0.015, waiting=1)
    exchange(table, run)
    assert not table.admits(run, BOUND)
    budget.clock.now += 1.0
    exchange(table, run)
    assert table.admits(run, BOUND)
    assert {key: part / 1e12 for key, part in budget.store.spent.items()} == {"team/2023-11-15": 0.015}
    table.close(figures(spent=0.018))
    assert budget.store.spent["team/2023-11-16"] / 1e12 == pytest.approx(0.003)


def test_a_store_that_does_not_answer_stops_what_is_sent_and_later_the_run() -> None:
    budget = SharedBudget(limit=1.0)
    table = budget.slice("a")
    exchange(table, figures(waiting=2))
    budget.store.silent()
    budget.clock.now += 3.0
    exchange(table, figures(held=BOUND, in_flight=1, waiting=1))
    assert not table.admits(figures(), BOUND)
    assert table.error is None
    budget.clock.now += slices.SILENCE_PATIENCE
    exchange(table, figures(waiting=1))
    assert isinstance(table.error, SegmindStateError)
    assert table.error.retryable


def test_a_table_waits_for_what_others_may_return_and_stops_when_they_cannot() -> None:
    budget = SharedBudget(limit=0.015)
    one, other = budget.slice("one"), budget.slice("other")
    exchange(one, figures(waiting=1))
    exchange(other, figures(waiting=1))
    assert other.error is None
    one.close(figures(spent=0.008))
    budget.clock.now += 1.0
    exchange(other, figures(waiting=1))
    assert isinstance(other.error, SegmindBudgetError)
    assert "$0.007 of $0.015 is left" in str(other.error)
    assert not other.error.retryable


@pytest.mark.parametrize("defers", [True, False])
def test_a_table_that_may_defer_waits_a_minute_for_what_others_have_reserved(defers: bool) -> None:
    budget = SharedBudget(limit=0.015)
    one, other = budget.slice("one"), budget.slice("other", defers=defers)
    exchange(one, figures(waiting=1))
    for _ in range(int(slices.DEFER_PATIENCE)):
        exchange(other, figures(waiting=1))
        assert other.error is None
        budget.clock.now += 1.0
    exchange(other, figures(waiting=1))

    if not defers:
        assert other.error is None
        budget.clock.now += slices.PATIENCE
        exchange(other, figures(waiting=1))
    assert isinstance(other.error, SegmindBudgetError)
    # A retry finds what has been returned by then.
    assert other.error.retryable
    assert other.error.ask_again_in is not None
    assert "reserved for other requests" in str(other.error)


def test_a_table_does_not_wait_for_what_was_reserved_for_a_request_more_than_a_day_ago() -> None:
    budget = SharedBudget(limit=0.015)
    lost = a_reservation(amount=10_000, windows=("team/2023-11",), sending=True, reserved_at=MIDNIGHT - 86_400.0)
    (window,) = windows([BudgetRule("team", None, 15_000)], MIDNIGHT)
    budget.store.reserve(lost, [window], max_in_flight=None)
    table = budget.slice("a", defers=True)
    table._rules = (BudgetRule("team", None, 15_000),)

    exchange(table, figures(waiting=1))

    assert isinstance(table.error, SegmindBudgetError)
    assert table.error.ask_again_in is None
    assert not table.error.retryable


async def killed_before_it_reported() -> tuple[SharedBudget, Table]:
    """Kill tables at one point after the other, until one has bills that the store of budgets does not know."""
    for kill_at in range(300, 250, -5):
        budget = SharedBudget(limit=5.0)
        table = Table("a", budget, random.Random(4), rows=60, faults=0.0)
        async with budget.passing_time():
            assert await table.one_try(kill_at) is None
        if budget.spent < budget.billed:
            return budget, table
    raise AssertionError("Every table was killed just after it had reported its spend.")


async def test_the_slice_of_a_killed_table_is_settled_from_its_ledger() -> None:
    budget, table = await killed_before_it_reported()
    (found,) = budget.store.rows.values()
    assert settle_slice(budget.store, found, table.store.path, budget.clock())
    left = sum(one.amount - one.spent for one in budget.store.rows.values()) / 1e6
    assert budget.spent <= budget.billed <= budget.spent + left
    assert left <= (table.concurrency + 1) * BOUND


@pytest.mark.parametrize("part", [0.3, 1.0])
@pytest.mark.parametrize("kills", [0, 1, 4])
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_bill_that_is_not_reported_stays_charged_at_its_bound_over_kills(
    seed: int, kills: int, part: float
) -> None:
    budget = SharedBudget(limit=5.0)
    table = Table("a", budget, random.Random(seed), rows=40, faults=0.0, unreported=part)
    async with budget.passing_time():
        engine = await table.run(kills)
    engine.close()

    jobs = [job for job in table.segmind.jobs.values() if job.failed is None]
    silent = [job for job in jobs if not table.segmind.reports(job.id)]
    reported = sum(job.cost or 0.0 for job in jobs if table.segmind.reports(job.id))
    assert table.kills or not kills
    assert silent
    assert budget.store.rows == {}
    assert budget.spent == pytest.approx(reported + BOUND * len(silent), abs=1e-9)


@pytest.mark.parametrize("kills", [0, 2])
@pytest.mark.parametrize("seed", range(6))
async def test_a_bill_that_is_not_reported_is_charged_once_where_the_slice_is_replaced_at_midnight(
    seed: int, kills: int
) -> None:
    rng = random.Random(seed)
    budget = SharedBudget(limit=5.0)
    budget.clock.now = MIDNIGHT + 86_400.0 - rng.uniform(2.0, 8.0)
    table = Table("a", budget, rng, rows=60, faults=0.0, unreported=0.4)
    async with budget.passing_time():
        engine = await table.run(kills)
    engine.close()

    jobs = [job for job in table.segmind.jobs.values() if job.failed is None]
    reported = sum(job.cost or 0.0 for job in jobs if table.segmind.reports(job.id))
    silent = [job for job in jobs if not table.segmind.reports(job.id)]
    assert set(budget.store.spent) == {"team/2023-11-15", "team/2023-11-16"}
    charged = reported + BOUND * len(silent)
    if kills:
        # What a kill left of unknown fate counts at its bound on the day before, and if it is found, its bill on this.
        assert charged - 1e-9 < budget.spent <= charged + kills * table.concurrency * BOUND
    else:
        assert budget.spent == pytest.approx(charged, abs=1e-9)


async def test_the_slice_of_a_killed_table_is_settled_with_bills_that_are_not_reported() -> None:
    budget = SharedBudget(limit=5.0)
    table = Table("a", budget, random.Random(4), rows=60, faults=0.0, unreported=1.0)
    async with budget.passing_time():
        assert await table.one_try(300) is None
    (found,) = budget.store.rows.values()
    assert settle_slice(budget.store, found, table.store.path, budget.clock())
    left = sum(one.amount - one.spent for one in budget.store.rows.values()) / 1e6
    assert 0.03 < budget.billed <= budget.spent + left
    assert left <= (table.concurrency + 1) * BOUND


async def test_a_slice_without_a_ledger_stays_charged() -> None:
    budget = SharedBudget(limit=5.0)
    exchange(budget.slice("a"), figures(waiting=2))
    (found,) = budget.store.rows.values()
    table = Table("b", budget, random.Random(4), rows=1)
    assert not settle_slice(budget.store, found, table.store.path, budget.clock())
    assert reserved(budget) == 20_000
