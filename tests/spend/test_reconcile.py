"""The spend record completed from Segmind's request history."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_segmind.client.models import RecordPage, RequestRecord
from airflow_provider_segmind.client.request_history import HISTORY_PAGES
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.exceptions import SegmindResponseError
from airflow_provider_segmind.operators.request import SegmindRunOperator
from airflow_provider_segmind.spend.files import FileStore
from airflow_provider_segmind.spend.reconcile import history, missing_entries, reconcile
from airflow_provider_segmind.spend.store import SpendStore
from tests.support.airflow_fakes import INPUTS, Clock, Run, by_hand, hook_by
from tests.support.spend import DAY, NOON, an_entry

MODEL = "gemini-3.1-flash-lite"
HOUR = 3600.0


def complete(record: SpendStore, clock: Clock) -> tuple[int, int]:
    done = reconcile(record, hook_by(clock), clock() - 2 * DAY, connection="segmind_default", now=clock())
    return done.added, done.priced


def task(clock: Clock) -> Any:
    return by_hand(SegmindRunOperator(task_id="a_task", model=MODEL, inputs=INPUTS, deferrable=False), clock)


def billed(emulator: SegmindEmulator) -> dict[str, float]:
    return {entry.request_id: round(entry.cost * 1e6, 6) for entry in emulator.bill}


def test_what_no_task_has_recorded_is_added_without_a_task(
    emulator: SegmindEmulator, clock: Clock, record: SpendStore
) -> None:
    for _ in range(3):
        hook_by(clock).submit(MODEL, INPUTS)
    clock.ahead += 2 * HOUR
    assert complete(record, clock) == (3, 0)
    assert {entry.request_id: entry.cost_micros for entry in record.read()} == billed(emulator)
    assert {(entry.dag_id, entry.outcome, entry.model) for entry in record.read()} == {("", "unknown", MODEL)}
    assert complete(record, clock) == (0, 0)


def test_requests_of_the_last_hour_are_left_to_their_tasks(
    emulator: SegmindEmulator, clock: Clock, record: SpendStore
) -> None:
    hook_by(clock).submit(MODEL, INPUTS)
    clock.ahead += 600
    assert complete(record, clock) == (0, 0)


def test_what_tasks_have_recorded_stays_theirs(
    emulator: SegmindEmulator, clock: Clock, run: Run, record: SpendStore
) -> None:
    task(clock).execute(run.context())
    before = list(record.read())
    clock.ahead += 2 * HOUR
    assert complete(record, clock) == (0, 0)
    assert list(record.read()) == before


def test_a_cost_that_no_task_was_told_is_added(
    emulator: SegmindEmulator, clock: Clock, run: Run, record: SpendStore
) -> None:
    task(clock).execute(run.context())
    [entry] = record.read()
    store = FileStore(record._root.parent / "other")  # type: ignore[attr-defined]
    store.write([replace(entry, cost_micros=None)])
    clock.ahead += 2 * HOUR
    assert complete(store, clock) == (0, 1)
    assert list(store.read()) == [entry]


def a_row(request_id: str = "r1", at: float = NOON, **fields: Any) -> RequestRecord:
    given = {"model_name": MODEL, "model_status": "COMPLETED", "credits_deduction": 0.04, "created_at": at, **fields}
    return RequestRecord.model_validate({"request_id": request_id, **given})


def added(*rows: RequestRecord, recorded: Any = ()) -> list[tuple[str, float | None]]:
    found = missing_entries(recorded, rows, since=NOON - DAY, until=NOON + DAY, connection="c")
    return [(entry.request_id, entry.cost_micros) for entry, _ in found]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (a_row(), [("r1", 40_000.0)]),
        (a_row(model_status="FAILED", credits_deduction=None), [("r1", 0.0)]),
        (a_row(model_status="completed"), [("r1", 40_000.0)]),
        (a_row(model_status="Failed", credits_deduction=None), [("r1", 0.0)]),
        (a_row(model_status="PENDING"), []),
        (a_row(at=NOON - 2 * DAY), []),
        (a_row(at=NOON + 2 * DAY), []),
        (a_row(credits_deduction=None), [("r1", None)]),
    ],
)
def test_a_row_of_the_history_is_one_entry_if_its_request_has_ended(row: RequestRecord, expected: Any) -> None:
    assert added(row) == expected


def test_a_request_with_several_outputs_is_added_once() -> None:
    assert added(a_row(), a_row(), a_row("r2")) == [("r1", 40_000.0), ("r2", 40_000.0)]


def test_a_price_does_not_move_an_entry_to_another_day() -> None:
    entry = an_entry("r1", at=NOON - HOUR, cost_micros=None)
    found = list(missing_entries([entry], [a_row()], since=NOON - DAY, until=NOON + DAY, connection="c"))
    assert found == [(replace(entry, cost_micros=40_000.0), False)]


def test_a_long_time_is_asked_about_in_spans_that_the_history_takes() -> None:
    asked: list[tuple[Any, Any, Any]] = []

    class Client:
        def list_request_records(self, **filters: Any) -> RecordPage:
            asked.append((filters["from_date"], filters["to_date"], filters["page"]))
            return RecordPage([a_row(f"r{len(asked)}")] if filters["page"] < 3 else ())

    rows = list(history(Client(), NOON - 70 * DAY, NOON))
    assert len(rows) == 6
    assert [page for _, _, page in asked] == [1, 2, 3] * 3
    assert all((last - first).days <= 30 for first, last, _ in asked)
    firsts, lasts = [first for first, _, _ in asked[::3]], [last for _, last, _ in asked[::3]]
    assert [(first - last).days for first, last in zip(firsts[:-1], lasts[1:], strict=True)] == [1, 1]


def test_a_history_of_more_pages_than_a_search_reads_is_read_to_its_end() -> None:
    class Client:
        def list_request_records(self, **filters: Any) -> RecordPage:
            return RecordPage([a_row(f"r{filters['page']}")] if filters["page"] <= 2 * HISTORY_PAGES else ())

    assert len(list(history(Client(), NOON, NOON))) == 2 * HISTORY_PAGES


def test_a_page_of_rows_without_an_id_does_not_end_the_history() -> None:
    class Client:
        def list_request_records(self, **filters: Any) -> RecordPage:
            return [RecordPage(rows=100), RecordPage([a_row()]), RecordPage()][filters["page"] - 1]

    assert len(list(history(Client(), NOON, NOON))) == 1


def test_a_history_that_repeats_a_page_is_not_read_for_ever() -> None:
    class Client:
        def list_request_records(self, **filters: Any) -> RecordPage:
            return RecordPage([a_row()])

    with pytest.raises(SegmindResponseError, match="the same page twice"):
        list(history(Client(), NOON, NOON))


def test_what_was_read_of_a_history_that_breaks_off_is_recorded(clock: Clock, record: SpendStore) -> None:
    class Client:
        def list_request_records(self, **filters: Any) -> RecordPage:
            if filters["page"] > 1:
                raise SegmindResponseError("The history is out of reach.", billed=False)
            return RecordPage([a_row()])

    with pytest.raises(SegmindResponseError, match="out of reach"):
        reconcile(record, Client(), NOON - DAY, connection="segmind_default", now=NOON + DAY)
    assert len(list(record.read())) == 1
