"""Reservations that nobody settles: what the history, or the ledger of a table, decides about them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.budget.limits import Window
from airflow_provider_segmind.budget.orphaned_reservations import IDS_KEPT, settle_orphans
from airflow_provider_segmind.budget.sql_store import SqlBudgetStore
from airflow_provider_segmind.budget.store import Reservation, Usage
from airflow_provider_segmind.client.models import RecordPage, RequestRecord
from airflow_provider_segmind.client.request_history import HISTORY_COMPLETE_AFTER, HISTORY_PAGES
from airflow_provider_segmind.client.submission import json_digest
from airflow_provider_segmind.enrichment.run_limits import LONGEST_FLIGHT
from airflow_provider_segmind.exceptions import SegmindServerError
from tests.support.budgets import DriverHook, a_reservation

NOW = 1_700_049_600.0
DAY = Window("a/day", "a", 1000, NOW + 9999)
MODEL = "gemini-3.1-flash-lite"
BODY = {"prompt": "question"}
LOG = logging.getLogger("a_task")


class History:
    """A request history; ``asked`` counts the look-ups."""

    def __init__(self, *rows: dict[str, Any], page_size: int = 100) -> None:
        self.rows = [RequestRecord.model_validate(row) for row in rows]
        self.page_size = page_size
        self.asked = 0
        self.error: Exception | None = None

    def get_request_record(self, request_id: str) -> RequestRecord:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return next(row for row in self.rows if row.request_id == request_id)

    def list_request_records(self, **filters: Any) -> RecordPage:
        self.asked += 1
        if self.error is not None:
            raise self.error
        start = (filters["page"] - 1) * self.page_size
        shown = self.rows[start : start + self.page_size]
        return RecordPage(
            [row for row in shown if row.request_id], without_id=[row for row in shown if not row.request_id]
        )


def row(number: int = 1, **fields: Any) -> dict[str, Any]:
    sent_at = datetime.fromtimestamp(NOW, UTC).isoformat()
    given = {"model_name": MODEL, "model_status": "COMPLETED", "credits_deduction": 0.000004, "request_body": BODY}
    return {"request_id": f"r{number}", "created_at": sent_at, **given, **fields}


Settle = Callable[..., int]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlBudgetStore]:
    made = SqlBudgetStore(DriverHook("sqlite", "?", {"database": str(tmp_path / "budgets.sqlite")}), "a_database")
    yield made
    made.close()


@pytest.fixture
def settle(store: SqlBudgetStore) -> Settle:
    def settled(history: History, after: float, ledgers: Any = None) -> int:
        return settle_orphans(
            store, "segmind_default", history=history, ledgers=ledgers or (lambda _: pytest.fail("no table")),
            now=NOW + after, log=LOG, chance=lambda: 1.0,
        )  # fmt: skip

    return settled


def sent(store: SqlBudgetStore, number: int = 1, *, request_id: str = "", **fields: Any) -> Reservation:
    """Reserve, and note that the request may have been sent."""
    given = {"digest": json_digest(BODY), "reserved_at": NOW, "renewed_at": NOW, **fields}
    one = a_reservation(number, **given)
    store.reserve(one, [DAY], max_in_flight=None)
    store.sending(one.id, NOW)
    if request_id:
        store.accepted(one.id, request_id)
    return one


def used(store: SqlBudgetStore) -> Usage:
    return store.usage(["a/day"])["a/day"]


def test_what_was_never_sent_is_returned(store: SqlBudgetStore, settle: Settle) -> None:
    store.reserve(a_reservation(reserved_at=NOW, renewed_at=NOW), [DAY], max_in_flight=None)

    assert settle(History(), 899.0) == 0
    assert settle(History(), 901.0) == 1
    assert used(store) == Usage(0, 0)


@pytest.mark.parametrize(
    ("entry", "usage"),
    [
        (row(), Usage(4, 0)),
        (row(model_status="FAILED", credits_deduction=None), Usage(0, 0)),
        (row(model_status="Completed"), Usage(4, 0)),
        (row(model_status="failed", credits_deduction=None), Usage(0, 0)),
        (row(model_status="PENDING"), Usage(0, 10)),
        (row(model_status="PENDING", credits_deduction=0), Usage(0, 10)),
        (row(credits_deduction=None), Usage(0, 10)),
        (row(credits_deduction=-5), Usage(0, 10)),
        (row(credits_deduction="NaN"), Usage(0, 10)),
        (row(credits_deduction=2.0), Usage(2e6, 0)),
        (row(credits_deduction=1e300), Usage(0, 10)),
    ],
)
def test_a_request_is_settled_by_its_entry(
    store: SqlBudgetStore, settle: Settle, entry: dict[str, Any], usage: Usage
) -> None:
    sent(store, request_id="r1")

    settle(History(entry), 901.0)

    assert used(store) == usage


def test_a_lost_request_is_found_by_its_body_when_the_history_shows_everything(
    store: SqlBudgetStore, settle: Settle
) -> None:
    sent(store)

    assert settle(History(row()), 901.0) == 0
    assert settle(History(row()), HISTORY_COMPLETE_AFTER) == 1
    assert used(store) == Usage(4, 0)


def test_of_two_equal_lost_requests_each_gets_another_entry(store: SqlBudgetStore, settle: Settle) -> None:
    sent(store, 1)
    sent(store, 2)

    settle(History(row(1), row(2, credits_deduction=0.000007)), HISTORY_COMPLETE_AFTER)

    assert used(store) == Usage(11, 0)


def test_a_request_of_a_model_with_a_longer_name_settles_nothing(store: SqlBudgetStore, settle: Settle) -> None:
    sent(store)

    assert settle(History(row(model_name=f"{MODEL}-preview")), HISTORY_COMPLETE_AFTER) == 0

    assert used(store) == Usage(0, 10)


def test_the_dearest_of_equal_requests_is_taken_however_small_the_pages_are(
    store: SqlBudgetStore, settle: Settle
) -> None:
    sent(store)
    others = [row(number, request_body={"prompt": "other"}) for number in range(10, 15)]

    settle(History(row(1), *others, row(2, credits_deduction=0.000007), page_size=3), HISTORY_COMPLETE_AFTER)

    assert used(store) == Usage(7, 0)


def test_a_history_that_is_not_read_to_its_end_settles_nothing(store: SqlBudgetStore, settle: Settle) -> None:
    sent(store)
    others = [row(number, request_body={"prompt": "other"}) for number in range(10, 10 + HISTORY_PAGES)]

    assert settle(History(row(1), *others, page_size=1), HISTORY_COMPLETE_AFTER) == 0
    assert settle(History(row(1), *others[2:], page_size=1), 2 * HISTORY_COMPLETE_AFTER) == 1


def test_an_equal_entry_without_a_usable_id_leaves_the_bill_open(store: SqlBudgetStore, settle: Settle) -> None:
    sent(store)

    assert settle(History(row(), row(request_id="")), HISTORY_COMPLETE_AFTER) == 0
    assert settle(History(row(), row(request_id="", request_body={})), 2 * HISTORY_COMPLETE_AFTER) == 1


def test_a_retry_that_sends_long_after_it_reserved_is_looked_for_where_it_sent(
    store: SqlBudgetStore, settle: Settle
) -> None:
    hours = 5 * 3600.0
    sent(store, reserved_at=NOW - hours, renewed_at=NOW - hours, slots=1)

    settle(History(row()), 901.0)
    assert store.in_flight("segmind_default") == 1
    settle(History(row()), HISTORY_COMPLETE_AFTER)

    assert used(store) == Usage(4, 0)


def test_a_place_in_flight_is_free_once_segmind_has_dropped_the_result(store: SqlBudgetStore, settle: Settle) -> None:
    sent(store, slots=1)

    settle(History(), LONGEST_FLIGHT + 1)

    assert store.in_flight("segmind_default") == 0
    assert used(store) == Usage(0, 10)


def test_a_history_that_does_not_answer_is_not_asked_again_by_the_same_task(
    store: SqlBudgetStore, settle: Settle
) -> None:
    history = History()
    history.error = SegmindServerError("502", status_code=502)
    for number in range(3):
        sent(store, number, request_id=f"r{number}")

    assert settle(history, 901.0) == 0

    assert history.asked == 1
    assert used(store) == Usage(0, 30)


def test_what_the_history_does_not_decide_is_looked_up_ever_more_rarely(store: SqlBudgetStore, settle: Settle) -> None:
    sent(store, request_id="r1")
    history = History(row(credits_deduction=None))

    for minute in range(0, 3 * 24 * 60, 5):
        settle(history, minute * 60.0)

    assert 20 < history.asked < 60


def test_what_is_not_decided_when_all_windows_have_turned_is_closed_at_its_bound(
    store: SqlBudgetStore, settle: Settle
) -> None:
    sent(store, request_id="r1")

    assert settle(History(), IDS_KEPT + 1) == 1

    assert store.open_reservations() == []
    assert used(store) == Usage(10, 0)


def test_a_table_whose_ledger_cannot_be_reached_stays_charged_and_stops_nobody(
    store: SqlBudgetStore, settle: Settle
) -> None:
    class ConnectionIsGoneError(Exception):
        pass

    def ledgers(_: str) -> Any:
        raise ConnectionIsGoneError

    table = a_reservation(1, kind="slice", ledger="s3://gone@bucket/l", reserved_at=NOW, renewed_at=NOW)
    store.reserve(table, [DAY], max_in_flight=None)
    sent(store, 2, request_id="r1")

    assert settle(History(row()), 901.0, ledgers) == 1

    assert used(store) == Usage(4, 10)
