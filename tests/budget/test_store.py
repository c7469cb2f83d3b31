"""What every store of budgets does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from airflow_provider_segmind.budget.limits import Window, spent_warning
from airflow_provider_segmind.budget.store import (
    BudgetStore,
    Granted,
    Refused,
    ReservedInWindow,
    Usage,
    flight_key,
    from_parts,
    in_parts,
)
from tests.support.budgets import KINDS, Address, a_reservation, budget_places, close

__all__ = ["budget_places"]


def test_a_bill_keeps_six_decimals_of_a_micro_dollar() -> None:
    assert in_parts(1051.09) == 1_051_090_000
    assert in_parts(26.75) == 26_750_000
    assert in_parts(0.0000004) == 0
    assert in_parts(5) == 5_000_000


def test_bills_add_up_to_the_micro_dollar() -> None:
    bills = [0.1 + number * 0.35 for number in range(100_000)]

    assert from_parts(sum(map(in_parts, bills))) == round(100_000 * 0.1 + 0.35 * 99_999 * 100_000 / 2, 6)


def test_what_was_billed_of_a_reservation_is_no_longer_reserved() -> None:
    reservation = a_reservation()

    assert reservation.left == 10
    assert replace(reservation, spent=2.5).left == 7.5
    assert replace(reservation, spent=11.0).left == 0


def test_requests_in_flight_are_counted_for_each_connection() -> None:
    assert flight_key("segmind_default") == "in-flight:segmind_default"


DAY = Window("a/day", "a", 100, 2000.0)
MONTH = Window("b/month", "b", 25, 3000.0)


@pytest.fixture(params=KINDS)
def address(request: pytest.FixtureRequest, budget_places: Callable[[str], Address]) -> Address:
    return budget_places(request.param)


@pytest.fixture
def warned() -> list[str]:
    """What the store has warned of."""
    return []


@pytest.fixture
def store(address: Address, warned: list[str]) -> Iterator[BudgetStore]:
    store = address.open(warn=warned.append)
    yield store
    close(store)


def test_what_is_reserved_is_counted_in_every_window(store: BudgetStore) -> None:
    one = a_reservation(windows=("a/day", "b/month"), slots=1)

    assert store.reserve(one, [DAY, MONTH], max_in_flight=2) == Granted()

    assert store.usage(["a/day", "b/month", "c"]) == {"a/day": Usage(0, 10), "b/month": Usage(0, 10)}
    assert store.in_flight("segmind_default") == 1
    assert store.open_reservations() == [one]


def test_a_window_without_room_refuses_and_nothing_is_reserved_in_any(store: BudgetStore) -> None:
    store.reserve(a_reservation(1, amount=20), [DAY, MONTH], max_in_flight=None)

    refused = store.reserve(a_reservation(2, slots=1, amount=6), [DAY, MONTH], max_in_flight=5)

    assert refused == Refused(MONTH, 5, 6)
    assert store.usage(["a/day"]) == {"a/day": Usage(0, 20)}
    assert [one.id for one in store.open_reservations()] == ["id-1"]
    assert store.in_flight("segmind_default") == 0


def test_a_window_may_be_filled_to_its_limit_and_no_further(store: BudgetStore) -> None:
    for number in range(10):
        assert isinstance(store.reserve(a_reservation(number), [DAY], max_in_flight=None), Granted)

    assert store.reserve(a_reservation("x", amount=1), [DAY], max_in_flight=None) == Refused(DAY, 0, 1)


OF_DAY, OF_MONTH = (spent_warning(window.key, window.limit) for window in (DAY, MONTH))


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize(
    ("bill", "said"), [(19.999999, []), (20, [OF_MONTH]), (30, [OF_MONTH]), (85, [OF_DAY, OF_MONTH])]
)
def test_the_bill_that_brings_a_window_to_80_percent_warns_of_it(
    store: BudgetStore, warned: list[str], bill: float, said: list[str], closes: bool
) -> None:
    store.reserve(a_reservation(1, amount=10, windows=("a/day", "b/month")), [DAY, MONTH], max_in_flight=None)
    assert warned == []

    assert store.settle("id-1", bill) if closes else store.spend("id-1", bill)

    assert warned == said


def test_a_window_is_warned_of_once_whatever_comes_after(store: BudgetStore, warned: list[str]) -> None:
    for number in (1, 2):
        store.reserve(a_reservation(number, amount=10, windows=("b/month",)), [MONTH], max_in_flight=None)
    store.spend("id-1", 20)
    assert warned == [OF_MONTH]

    store.spend("id-1", 1)
    store.settle("id-2", 2)
    store.extend("id-1", 1, [MONTH], max_in_flight=None)
    store.extend("id-1", 7, [MONTH], max_in_flight=None)
    store.settle("id-1", 3)
    store.reserve(a_reservation(3, windows=("b/month",)), [MONTH], max_in_flight=None)
    store.reserve(a_reservation(4, amount=0, windows=("b/month",)), [MONTH], max_in_flight=None)

    assert warned == [OF_MONTH]


def test_what_is_only_reserved_is_not_warned_of(store: BudgetStore, warned: list[str]) -> None:
    store.reserve(a_reservation(1, amount=100), [DAY], max_in_flight=None)
    store.reserve(a_reservation(2, amount=1), [DAY], max_in_flight=None)
    store.settle("id-1", 0)

    assert warned == []


@pytest.mark.parametrize("amount", [2, 30])
def test_a_limit_that_was_lowered_is_warned_of_by_the_next_to_reserve_or_to_be_refused(
    store: BudgetStore, warned: list[str], amount: int
) -> None:
    store.reserve(a_reservation(1, amount=30), [DAY], max_in_flight=None)
    store.settle("id-1", 24)
    assert warned == []

    lowered = replace(DAY, limit=30)
    outcomes = [store.reserve(a_reservation(n, amount=amount), [lowered], max_in_flight=None) for n in (2, 3)]

    assert {type(outcome) for outcome in outcomes} == {Granted if amount == 2 else Refused}
    assert warned == [spent_warning("a/day", 30)]


def test_a_bill_is_compared_with_the_limit_of_the_latest_reservation(store: BudgetStore, warned: list[str]) -> None:
    store.reserve(a_reservation(1), [DAY], max_in_flight=None)
    store.reserve(a_reservation(2), [replace(DAY, limit=1000)], max_in_flight=None)

    store.spend("id-1", 799)
    assert warned == []
    store.spend("id-1", 1)

    assert warned == [spent_warning("a/day", 1000)]


def test_of_tasks_that_settle_at_the_same_time_one_warns(address: Address, store: BudgetStore) -> None:
    windows = [Window("a/day", "a", 100, 2000.0), Window("b/month", "b", 120, 3000.0)]
    for number in range(24):
        store.reserve(a_reservation(number, amount=4, windows=("a/day", "b/month")), windows, max_in_flight=None)
    said: list[str] = []
    start = threading.Barrier(6)

    def settle(worker: int) -> None:
        mine = address.open(warn=said.append)
        start.wait()
        for number in range(worker, 24, 6):
            mine.settle(f"id-{number}", 4.5)
        close(mine)

    threads = [threading.Thread(target=settle, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(said) == [spent_warning("a/day", 100), spent_warning("b/month", 120)]


def test_a_limit_of_nothing_refuses_everything_but_free_requests(store: BudgetStore, warned: list[str]) -> None:
    nothing = Window("a/day", "a", 0, 2000.0)

    assert store.reserve(a_reservation(1, amount=1), [nothing], max_in_flight=None) == Refused(nothing, 0, 1)
    assert store.reserve(a_reservation(2, amount=0), [nothing], max_in_flight=None) == Granted()
    # There is no part of nothing that could be spent.
    assert warned == []


def test_the_requests_in_flight_of_a_connection_are_limited(store: BudgetStore) -> None:
    store.reserve(a_reservation(1, slots=2), [DAY], max_in_flight=3)

    assert store.reserve(a_reservation(2, slots=2), [DAY], max_in_flight=3) == Refused(None, 1, 2)
    assert store.reserve(a_reservation(3, slots=2, connection="other"), [DAY], max_in_flight=3) == Granted()
    assert store.release_slots("id-1")
    assert not store.release_slots("id-1")
    assert store.reserve(a_reservation(2, slots=2), [DAY], max_in_flight=3) == Granted()
    assert (store.in_flight("segmind_default"), store.in_flight("other"), store.in_flight("none")) == (2, 2, 0)
    assert store.usage(["a/day"]) == {"a/day": Usage(0, 30)}


def test_slots_are_counted_without_a_limit_too(store: BudgetStore) -> None:
    store.reserve(a_reservation(1, slots=2), [], max_in_flight=None)

    assert store.in_flight("segmind_default") == 2
    assert store.settle("id-1", 0)
    assert store.in_flight("segmind_default") == 0


def test_reserving_again_for_the_same_id_reserves_once(store: BudgetStore) -> None:
    full = Window("a/day", "a", 10, 2000.0)
    one = a_reservation(slots=1)

    assert store.reserve(one, [full], max_in_flight=1) == Granted()
    assert store.reserve(one, [full], max_in_flight=1) == Granted()
    assert store.reserve(one, [DAY], max_in_flight=5) == Granted()

    assert store.usage(["a/day"]) == {"a/day": Usage(0, 10)}
    assert store.in_flight("segmind_default") == 1


def test_settling_spends_the_bill_and_returns_the_rest(store: BudgetStore) -> None:
    store.reserve(a_reservation(slots=1, windows=("a/day", "b/month")), [DAY, MONTH], max_in_flight=1)

    assert store.settle("id-1", 4.000001)

    assert store.usage(["a/day", "b/month"]) == {"a/day": Usage(4.000001, 0), "b/month": Usage(4.000001, 0)}
    assert store.in_flight("segmind_default") == 0
    assert store.open_reservations() == []


def test_a_late_second_settlement_changes_nothing(store: BudgetStore) -> None:
    store.reserve(a_reservation(), [DAY], max_in_flight=None)
    store.settle("id-1", 3)

    assert not store.settle("id-1", 3)
    assert not store.spend("id-1", 3)
    assert not store.sending("id-1", 1003.5)
    assert not store.release_slots("id-1")
    store.accepted("id-1", "r1")

    assert store.usage(["a/day"]) == {"a/day": Usage(3, 0)}
    assert store.find("r1") is None


def test_a_bill_above_its_bound_is_counted_and_blocks_what_follows(store: BudgetStore) -> None:
    store.reserve(a_reservation(), [DAY], max_in_flight=None)

    assert store.settle("id-1", 150)

    assert store.usage(["a/day"]) == {"a/day": Usage(150, 0)}
    assert store.reserve(a_reservation(2, amount=1), [DAY], max_in_flight=None) == Refused(DAY, 0, 1)


def test_a_slice_is_spent_bill_by_bill_and_its_rest_returns(store: BudgetStore) -> None:
    store.reserve(a_reservation(amount=50, slots=3, kind="slice", ledger="file:///l"), [DAY], max_in_flight=3)

    assert store.spend("id-1", 20.5, release_slots=1)
    assert store.spend("id-1", 10)

    (one,) = store.open_reservations()
    assert (one.spent, one.left, one.slots, one.ledger) == (30.5, 19.5, 2, "file:///l")
    assert store.usage(["a/day"]) == {"a/day": Usage(30.5, 19.5)}
    assert store.settle("id-1", 0.25)
    assert store.usage(["a/day"]) == {"a/day": Usage(30.75, 0)}
    assert store.in_flight("segmind_default") == 0


def test_a_bill_above_the_rest_of_a_slice_leaves_nothing_reserved(store: BudgetStore) -> None:
    store.reserve(a_reservation(amount=10, kind="slice"), [DAY], max_in_flight=None)

    store.spend("id-1", 12)
    assert store.usage(["a/day"]) == {"a/day": Usage(12, 0)}
    store.settle("id-1", 1)

    assert store.usage(["a/day"]) == {"a/day": Usage(13, 0)}


def test_a_slice_is_extended_where_there_is_room_and_not_at_all_elsewhere(store: BudgetStore) -> None:
    slice_of = a_reservation(id="s", kind="slice", amount=10, slots=1)
    assert store.reserve(slice_of, [DAY, MONTH], max_in_flight=3) == Granted()

    grown = store.extend("s", 5, [DAY, MONTH], slots=1, max_in_flight=3)
    assert isinstance(grown, Granted)
    assert grown.left == 10
    refused = store.extend("s", 11, [DAY, MONTH], max_in_flight=3)
    assert refused == Refused(MONTH, 10, 11)
    assert store.extend("s", 1, [DAY, MONTH], slots=2, max_in_flight=3) == Refused(None, 1, 2)

    (found,) = store.open_reservations()
    assert (found.amount, found.slots) == (15, 2)
    assert store.usage(["a/day", "b/month"]) == {"a/day": Usage(0, 15), "b/month": Usage(0, 15)}
    assert store.settle("s", 4.0)
    assert store.extend("s", 1, [DAY, MONTH], max_in_flight=3) is None
    assert store.usage(["a/day"]) == {"a/day": Usage(4, 0)}
    assert store.in_flight("segmind_default") == 0


def test_what_a_slice_does_not_need_is_returned_while_it_is_open(store: BudgetStore) -> None:
    store.reserve(a_reservation(id="s", kind="slice", amount=20, base=7.25), [DAY], max_in_flight=None)

    assert store.spend("s", 2.5, returned=9, now=77.0)
    assert store.usage(["a/day"]) == {"a/day": Usage(2.5, 8.5)}
    assert store.spend("s", 0.0, returned=100)
    assert store.usage(["a/day"]) == {"a/day": Usage(2.5, 0)}
    (found,) = store.open_reservations()
    assert (found.spent, found.left, found.base, found.renewed_at) == (2.5, 0, 7.25, 77.0)


def test_who_takes_a_reservation_over_has_it_alone(store: BudgetStore) -> None:
    store.reserve(a_reservation(id="old", kind="slice", amount=20, slots=2), [DAY], max_in_flight=None)

    assert store.take_over("old", "new")
    assert not store.take_over("old", "newer")
    assert not store.spend("old", 1.0)
    assert not store.settle("old", 1.0)
    assert store.extend("old", 1, [DAY], max_in_flight=None) is None
    assert [one.id for one in store.open_reservations()] == ["new"]
    assert store.settle("new", 3.0)
    assert store.usage(["a/day"]) == {"a/day": Usage(3, 0)}
    assert store.in_flight("segmind_default") == 0


def test_a_reservation_is_found_by_the_id_of_its_request(store: BudgetStore) -> None:
    store.reserve(a_reservation(1), [DAY], max_in_flight=None)
    store.reserve(a_reservation(2), [DAY], max_in_flight=None)

    assert store.sending("id-2", 1003.5)
    store.accepted("id-2", "r2")

    assert store.find("r2") == a_reservation(2, request_id="r2", sending=True, reserved_at=1003.5, renewed_at=1003.5)
    assert store.find("r1") is None


def test_the_bill_of_a_request_is_settled_for_one_of_two_reservations_in_the_same_windows(store: BudgetStore) -> None:
    for number in (1, 2):
        store.reserve(a_reservation(number), [DAY], max_in_flight=None)
        store.sending(f"id-{number}", 1003.5)
    other_day = replace(DAY, key="a/other")
    store.reserve(a_reservation(3, windows=("a/other",)), [other_day], max_in_flight=None)

    assert store.accepted("id-1", "r")
    assert store.accepted("id-1", "r")
    assert not store.accepted("id-2", "r")
    found = store.find("r")
    assert found is not None
    assert found.id == "id-1"
    store.settle("id-1", 4)
    assert not store.accepted("id-2", "r")
    # What is counted on another day is not counted on this one.
    assert store.accepted("id-3", "r")
    store.settle("id-3", 4)
    # Closed by now.
    assert store.accepted("id-3", "r")
    assert store.known(["r", "s"]) == {"r"}


def test_open_reservations_are_selected_by_owner_connection_and_age(store: BudgetStore) -> None:
    store.reserve(a_reservation(2, reserved_at=1002.0, renewed_at=1002.0), [DAY], max_in_flight=None)
    store.reserve(a_reservation(1, owner="other"), [DAY], max_in_flight=None)
    store.reserve(a_reservation(3, connection="other", reserved_at=1003.0, renewed_at=1003.0), [], max_in_flight=None)

    def ids(**which: object) -> list[str]:
        return [one.id for one in store.open_reservations(**which)]  # type: ignore[arg-type]

    assert ids() == ["id-1", "id-2", "id-3"]
    assert ids(owner="dag/run/task/-1") == ["id-2", "id-3"]
    assert ids(connection="other") == ["id-3"]
    assert ids(renewed_before=1002.5) == ["id-1", "id-2"]
    assert store.claim(store.open_reservations()[0], 2000.125)
    assert ids(renewed_before=1002.5) == ["id-2"]


def test_what_is_reserved_in_a_window_is_summed_up_by_the_store(store: BudgetStore) -> None:
    other = Window("A/day", "A", 100, 2000.0)
    assert store.reserved_in("a/day", 1002.0) == ReservedInWindow()
    store.reserve(a_reservation(1, windows=("a/day", "b/month")), [DAY, MONTH], max_in_flight=None)
    store.reserve(a_reservation(2, reserved_at=1001.0), [DAY], max_in_flight=None)
    store.reserve(a_reservation(3, reserved_at=1001.0, kind="slice"), [DAY], max_in_flight=None)
    store.reserve(a_reservation(4, reserved_at=1003.5), [DAY], max_in_flight=None)
    for number in range(5, 250):
        # Many of another budget are newer.
        one = a_reservation(number, amount=0, reserved_at=2000.0 + number, windows=("A/day",))
        store.reserve(one, [other], max_in_flight=None)
    store.spend("id-1", 2.5)
    store.spend("id-2", 11)

    assert store.reserved_in("a/day", 1002.0) == ReservedInWindow(7.5, 1003.5)
    assert store.reserved_in("a/day", 1000.25) == ReservedInWindow(0, 1003.5)
    assert store.reserved_in("a/day", 1004.0) == ReservedInWindow(17.5, 1003.5)
    assert store.reserved_in("b/month", 1002.0) == ReservedInWindow(7.5, 1000.25)
    assert store.reserved_in("A/day", 1002.0) == ReservedInWindow(0, 2249.0)
    assert store.sending("id-1", 1010.0)
    store.settle("id-4", 0)
    assert store.reserved_in("a/day", 1002.0) == ReservedInWindow(0, 1010.0)


@pytest.mark.parametrize("name", ['connection:a "b"/2026-11-27', "connection:ü%_\\/2026-11"])
def test_a_window_of_any_name_is_found(store: BudgetStore, name: str) -> None:
    window = Window(name, "a", 100, 2000.0)
    store.reserve(a_reservation(windows=(name,)), [window], max_in_flight=None)

    assert store.reserved_in(name, 2000.0) == ReservedInWindow(10, 1000.25)


def test_only_one_of_two_claims_an_orphan(store: BudgetStore) -> None:
    store.reserve(a_reservation(), [DAY], max_in_flight=None)
    (seen,) = store.open_reservations()

    assert store.claim(seen, 5000.0)
    assert not store.claim(seen, 5001.0)
    assert store.open_reservations()[0].renewed_at == 5000.0


def test_two_reservers_of_one_place_get_it_once(address: Address, store: BudgetStore) -> None:
    window = Window("a/day", "a", 10 * 20, 2000.0)
    outcomes: list[object] = []
    start = threading.Barrier(8)

    def reserve(worker: int) -> None:
        store = address.open()
        start.wait()
        for number in range(10):
            one = a_reservation(f"{worker}-{number}", slots=1)
            outcomes.append(store.reserve(one, [window], max_in_flight=1000))
        close(store)

    threads = [threading.Thread(target=reserve, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(isinstance(one, Granted) for one in outcomes) == 20
    assert len(outcomes) == 80
    assert store.usage(["a/day"]) == {"a/day": Usage(0, 200)}
    assert store.in_flight("segmind_default") == 20


def test_settlements_at_the_same_time_are_all_counted_once(address: Address, store: BudgetStore) -> None:
    windows = [Window("a/day", "a", 10_000, 2000.0), Window("b/month", "b", 10_000, 3000.0)]
    for number in range(20):
        store.reserve(a_reservation(number, windows=("a/day", "b/month"), slots=1), windows, max_in_flight=100)
    settled: list[bool] = []

    def settle() -> None:
        mine = address.open()
        settled.extend(mine.settle(f"id-{number}", 0.1) for number in range(20))
        close(mine)

    threads = [threading.Thread(target=settle) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(settled) == [False] * 40 + [True] * 20
    assert store.usage(["a/day", "b/month"]) == {"a/day": Usage(2.0, 0), "b/month": Usage(2.0, 0)}
    assert store.in_flight("segmind_default") == 0
