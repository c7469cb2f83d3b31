"""What a task reserves before a call, what it may send, and what it settles afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.budget.guard import BudgetGuard, BudgetSettings, request_bound
from airflow_provider_segmind.budget.limits import BudgetRule
from airflow_provider_segmind.budget.sql_store import SqlBudgetStore
from airflow_provider_segmind.budget.store import Usage
from airflow_provider_segmind.chat.cost_estimate import Price
from airflow_provider_segmind.exceptions import (
    SegmindBudgetError,
    SegmindConfigError,
    SegmindInFlightError,
    SegmindStateError,
)
from tests.support.budgets import DriverHook

MODEL = "a-model"
PRICES = {
    MODEL: Price(input=1.0, output=10.0, max_output_tokens=1000),
    "dear": Price(input=1.0, output=1e18, max_output_tokens=1000),
}
BODY = {"prompt": "question", "max_tokens": 10}
BOUND = request_bound(MODEL, BODY, PRICES).micros
NOON = 1_700_049_600.0
DAY = 86_400.0
LOG = logging.getLogger("a_task")
Guarded = Callable[..., BudgetGuard]


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlBudgetStore]:
    made = SqlBudgetStore(DriverHook("sqlite", "?", {"database": str(tmp_path / "budgets.sqlite")}), "a_database")
    yield made
    made.close()


@pytest.fixture
def guarded(store: SqlBudgetStore, clock: Clock) -> Guarded:
    """Make the guard of one try of a task."""

    def guard(
        *rules: BudgetRule, most: int | None = None, owner: str = "dag/run/task/-1", store: Any = store
    ) -> BudgetGuard:
        settings = BudgetSettings(store=store, rules=rules, max_in_flight=most, prices=PRICES)
        return BudgetGuard(
            lambda: settings, owner=owner, connection="a_connection", history=lambda: None,  # type: ignore[arg-type,return-value]
            ledgers=lambda _: pytest.fail("no table"), log=LOG, clock=clock,
        )  # fmt: skip

    return guard


def daily(name: str, dollars: float = 1.0) -> BudgetRule:
    return BudgetRule(name, round(dollars * 1e6), None)


def used(store: SqlBudgetStore, key: str) -> Usage:
    return store.usage([key]).get(key, Usage())


def test_a_retry_takes_over_what_the_try_before_has_reserved(guarded: Guarded, store: SqlBudgetStore) -> None:
    first = guarded(daily("team")).reserve(MODEL, BODY, "digest")

    assert guarded(daily("team")).reserve(MODEL, BODY, "digest") == first
    assert used(store, "team/2023-11-15") == Usage(0, BOUND)


def test_a_retry_of_the_next_day_reserves_in_that_day(guarded: Guarded, store: SqlBudgetStore, clock: Clock) -> None:
    guarded(daily("team")).reserve(MODEL, BODY, "digest")
    clock.now += DAY

    retry = guarded(daily("team"))
    retry.sending(retry.reserve(MODEL, BODY, "digest"))

    assert used(store, "team/2023-11-15") == Usage(0, 0)
    assert used(store, "team/2023-11-16") == Usage(0, BOUND)


def test_a_retry_under_another_budget_reserves_in_that_budget(guarded: Guarded, store: SqlBudgetStore) -> None:
    guarded(daily("team")).reserve(MODEL, BODY, "digest")

    guarded(daily("team"), daily("other")).reserve(MODEL, BODY, "digest")

    assert used(store, "team/2023-11-15") == used(store, "other/2023-11-15") == Usage(0, BOUND)
    assert len(store.open_reservations()) == 1


def test_of_two_tries_with_one_reservation_only_the_first_sends(guarded: Guarded) -> None:
    first, second = guarded(daily("team")), guarded(daily("team"))
    one, other = first.reserve(MODEL, BODY, "digest"), second.reserve(MODEL, BODY, "digest")

    second.sending(other)
    with pytest.raises(SegmindStateError, match="Nothing was sent"):
        first.sending(one)
    first.unsent(one)
    second.accepted(other, "r1")
    second.settled("r1", 0.00001)

    assert one == other


def test_what_another_try_has_sent_is_not_returned(guarded: Guarded, store: SqlBudgetStore) -> None:
    first, second = guarded(daily("team")), guarded(daily("team"))
    one = first.reserve(MODEL, BODY, "digest")
    second.sending(second.reserve(MODEL, BODY, "digest"))

    with pytest.raises(SegmindStateError):
        first.sending(one)
    first.unsent(one)

    assert used(store, "team/2023-11-15") == Usage(0, BOUND)


def test_calls_made_at_the_same_time_reserve_each_for_itself(guarded: Guarded, store: SqlBudgetStore) -> None:
    guard = guarded(daily("team"), owner="hook")

    one, other = (guard.reserve(MODEL, BODY, "digest", owner=f"hook/{number}") for number in range(2))
    guard.sending(one)
    guard.sending(other)

    assert used(store, "team/2023-11-15") == Usage(0, 2 * BOUND)


def test_a_second_budget_without_room_releases_the_first(guarded: Guarded, store: SqlBudgetStore) -> None:
    guarded(daily("b", BOUND / 1e6), owner="other").reserve(MODEL, BODY, "digest")

    with pytest.raises(SegmindBudgetError, match=r"budget 'b' has \$0.00"):
        guarded(daily("a"), daily("b", BOUND / 1e6), most=5).reserve(MODEL, BODY, "digest")

    assert used(store, "a/2023-11-15") == Usage(0, 0)
    assert store.in_flight("a_connection") == 0


@pytest.mark.parametrize(("spent", "idle", "again"), [(0, 0, 5.0), (5, 100, 50.0), (5, 3000, 900.0), (None, 0, None)])
def test_a_refusal_says_when_what_others_have_reserved_may_be_returned(
    guarded: Guarded, clock: Clock, spent: int | None, idle: float, again: float | None
) -> None:
    month = BudgetRule("team", None, BOUND + 5)
    other = guarded(month, owner="other")
    if spent is None or spent:
        billed = other.reserve(MODEL, BODY, "first")
        other.sending(billed)
        other.accepted(billed, "request")
        other.settled("request", (spent or 6) / 1e6)
    if spent is not None:
        other.sending(other.reserve(MODEL, BODY, "second"))
    clock.now += idle

    with pytest.raises(SegmindBudgetError, match="Nothing was sent") as raised:
        guarded(month).reserve(MODEL, BODY, "digest")

    assert raised.value.ask_again_in == again
    assert raised.value.retryable == (again is not None)


@pytest.mark.parametrize(("age", "spent", "again"), [(80_000, 0, True), (90_000, 0, False), (90_000, 3, False)])
@pytest.mark.parametrize("accepted", [False, True])
def test_what_was_reserved_more_than_a_day_ago_is_not_waited_for(
    guarded: Guarded, clock: Clock, monkeypatch: pytest.MonkeyPatch, age: float, spent: int, again: bool, accepted: bool
) -> None:
    monkeypatch.setattr("airflow_provider_segmind.budget.guard.settle_orphans", lambda *_, **__: 0)
    month = BudgetRule("team", None, BOUND + 5)
    other = guarded(month, owner="other")
    if spent:
        billed = other.reserve(MODEL, BODY, "first")
        other.sending(billed)
        other.accepted(billed, "request")
        other.settled("request", spent / 1e6)
    lost = other.reserve(MODEL, BODY, "second")
    other.sending(lost)
    if accepted:
        other.accepted(lost, "lost")
    clock.now += age

    with pytest.raises(SegmindBudgetError, match="Nothing was sent") as raised:
        guarded(month).reserve(MODEL, BODY, "digest")

    assert raised.value.retryable == again


def test_a_request_above_one_of_its_limits_does_not_wait_for_another_to_turn(guarded: Guarded) -> None:
    used_up = BudgetRule("a", None, BOUND)
    guarded(used_up, owner="other").reserve(MODEL, BODY, "digest")

    with pytest.raises(SegmindBudgetError, match="is more than the day 2023-11-15 of budget 'b' allows") as raised:
        guarded(used_up, daily("b", 0.00001)).reserve(MODEL, BODY, "digest")

    assert raised.value.resets_at is None


def test_a_bound_beyond_all_reason_is_more_than_the_budget_allows(guarded: Guarded) -> None:
    with pytest.raises(SegmindBudgetError, match="is more than the day"):
        guarded(daily("team")).reserve("dear", BODY, "digest")


@pytest.mark.parametrize("cost", [1e6, 1e12, 1e300])
def test_a_bill_beyond_all_reason_uses_up_the_budget(guarded: Guarded, store: SqlBudgetStore, cost: float) -> None:
    guard = guarded(daily("team", 1_000_000))
    one = guard.reserve(MODEL, BODY, "digest")
    guard.sending(one)
    guard.accepted(one, "r1")

    guard.settled("r1", cost)

    assert store.open_reservations() == []
    with pytest.raises(SegmindBudgetError):
        guarded(daily("team", 1_000_000), owner="other").reserve(MODEL, BODY, "digest")


def test_a_bill_that_is_missing_stays_charged_at_its_bound(guarded: Guarded, store: SqlBudgetStore) -> None:
    guard = guarded(daily("team"), most=1)
    one = guard.reserve(MODEL, BODY, "digest")
    guard.sending(one)
    guard.accepted(one, "r1")

    guard.settled("r1", None)

    assert used(store, "team/2023-11-15") == Usage(0, BOUND)
    assert store.in_flight("a_connection") == 0


def test_a_request_that_was_taken_for_an_equal_one_that_never_arrived_is_billed_once(
    guarded: Guarded, store: SqlBudgetStore
) -> None:
    lost, arrived = guarded(daily("team"), owner="other"), guarded(daily("team"))
    one = lost.reserve(MODEL, BODY, "digest")
    lost.sending(one)
    other = arrived.reserve(MODEL, BODY, "digest")
    arrived.sending(other)
    # The history shows one request, and the oldest reservation is settled by it.
    assert one is not None
    assert other is not None
    store.accepted(one.id, "r1")
    store.settle(one.id, 10)

    # A retry of the task whose request it was finds it as well.
    retry = guarded(daily("team"))
    retry.found("r1", other.id)
    retry.settled("r1", 0.00001)

    assert used(store, "team/2023-11-15") == Usage(10, 0)
    assert store.open_reservations() == []


def test_a_bill_that_comes_after_midnight_counts_on_the_day_before(
    guarded: Guarded, store: SqlBudgetStore, clock: Clock
) -> None:
    guard = guarded(daily("team"))
    one = guard.reserve(MODEL, BODY, "digest")
    guard.sending(one)
    guard.accepted(one, "r1")
    clock.now += DAY

    guard.settled("r1", 0.00001)

    assert used(store, "team/2023-11-15") == Usage(10, 0)
    assert used(store, "team/2023-11-16") == Usage()


def test_a_clock_that_is_set_back_reserves_in_the_day_it_shows(
    guarded: Guarded, store: SqlBudgetStore, clock: Clock
) -> None:
    guard = guarded(daily("team"))
    one = guard.reserve(MODEL, BODY, "digest")
    clock.now -= DAY
    guard.sending(one)
    guard.accepted(one, "r1")
    guard.settled("r1", 0.00001)

    other = guarded(daily("team"), owner="other").reserve(MODEL, BODY, "digest")

    assert used(store, "team/2023-11-15") == Usage(10, 0)
    assert other is not None
    assert other.windows == ("team/2023-11-14",)


class Gone:
    """A store that went away after some calls."""

    name = "a store"

    def __init__(self, store: SqlBudgetStore, *answered: str) -> None:
        self._store, self._answered = store, answered

    def __getattr__(self, name: str) -> Any:
        if name in self._answered:
            return getattr(self._store, name)

        def silent(*_: Any, **__: Any) -> None:
            raise SegmindStateError("The store of budgets (a store) cannot be used: OperationalError.")

        return silent


class Counting:
    """A store that notes which reservations were read."""

    def __init__(self, store: SqlBudgetStore) -> None:
        self._store = store
        self.read: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        if name == "open_reservations":
            return lambda **which: self.read.append(which) or self._store.open_reservations(**which)  # type: ignore[func-returns-value]
        return getattr(self._store, name)


@pytest.mark.parametrize("billed", [True, False])
def test_a_refusal_does_not_read_every_open_reservation(guarded: Guarded, store: SqlBudgetStore, billed: bool) -> None:
    month = BudgetRule("team", None, BOUND + 5)
    other = guarded(month, owner="other")
    sent = other.reserve(MODEL, BODY, "first")
    if billed:
        other.sending(sent)
        other.accepted(sent, "request")
        other.settled("request", BOUND / 1e6)
    counting = Counting(store)

    with pytest.raises(SegmindBudgetError) as raised:
        guarded(month, store=counting).reserve(MODEL, BODY, "digest")

    assert (raised.value.ask_again_in is None) == billed
    assert counting.read
    assert all("owner" in which or "renewed_before" in which for which in counting.read)


RESERVING = ("open_reservations", "reserve", "forget")


def test_a_store_that_goes_away_before_the_call_stops_it(guarded: Guarded, store: SqlBudgetStore) -> None:
    guard = guarded(daily("team"), store=Gone(store, *RESERVING))
    one = guard.reserve(MODEL, BODY, "digest")

    with pytest.raises(SegmindStateError):
        guard.sending(one)
    guard.unsent(one)

    assert used(store, "team/2023-11-15") == Usage(0, BOUND)
    retry = guarded(daily("team"))
    retry.sending(retry.reserve(MODEL, BODY, "digest"))
    assert used(store, "team/2023-11-15") == Usage(0, BOUND)


def test_a_store_that_goes_away_after_the_call_leaves_the_bound_charged_and_warns(
    guarded: Guarded, store: SqlBudgetStore, caplog: pytest.LogCaptureFixture
) -> None:
    guard = guarded(daily("team"), store=Gone(store, *RESERVING, "sending"))
    one = guard.reserve(MODEL, BODY, "digest")
    guard.sending(one)

    guard.accepted(one, "r1")
    guard.settled("r1", 0.00001)

    assert "stays charged until a later task settles" in caplog.text
    assert used(store, "team/2023-11-15") == Usage(0, BOUND)


def test_a_connection_without_a_place_in_flight_refuses_for_a_while(guarded: Guarded) -> None:
    guarded(most=1, owner="other").reserve(MODEL, BODY, "digest")

    with pytest.raises(SegmindInFlightError, match=r"max_paid_in_flight allows \(1\)"):
        guarded(most=1).reserve(MODEL, BODY, "digest")


def test_a_model_without_a_price_has_no_bound() -> None:
    with pytest.raises(SegmindConfigError, match="its price is not known"):
        request_bound("unheard-of", BODY, {})


def test_a_request_that_asks_again_is_warned_of_once_that_it_has_no_output_cap(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    guard = guarded(daily("team", 1e-6))
    uncapped = {"prompt": "hi"}
    for _ in range(3):
        with pytest.raises(SegmindBudgetError):
            guard.reserve("gemini-3.1-flash-lite", uncapped, "digest")
    assert caplog.text.count("no output cap") == 1
    with pytest.raises(SegmindBudgetError):
        guard.reserve(MODEL, uncapped, "digest")
    assert caplog.text.count("no output cap") == 2
