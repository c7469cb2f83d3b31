"""The spend record as a table of a database."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from airflow_provider_segmind.client.models import Metrics
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindStateError
from airflow_provider_segmind.money import exact_micros
from airflow_provider_segmind.spend.sql_table import MOST_ROWS, SqlStore
from airflow_provider_segmind.spend.store import SpendStore, configured_store
from tests.support.databases import OneDatabase, database, postgres_server
from tests.support.spend import NOON, an_entry

__all__ = ["database", "postgres_server"]


@pytest.fixture
def store(database: OneDatabase, monkeypatch: pytest.MonkeyPatch) -> SpendStore:
    monkeypatch.setenv("AIRFLOW_CONN_A_DATABASE", json.dumps(database.airflow))
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_CONN_ID", "a_database")
    store = configured_store()
    assert isinstance(store, SqlStore)
    return store


def test_an_empty_record_has_no_entries(store: SpendStore) -> None:
    assert list(store.read()) == []
    assert store.known(["r1"]) == set()


def test_entries_are_read_back_as_they_were_written(store: SpendStore) -> None:
    entries = [
        an_entry("r1"),
        an_entry("r2", tokens=None, cost_micros=None, map_index=3, reused=True),
        an_entry("r3", outcome="failed", cost_micros=0.0, dag_id="", task_id="", run_id=""),
    ]
    store.write(entries)
    assert sorted(store.read(), key=lambda entry: entry.request_id) == entries
    assert store.known(["r1", "r3", "r4"]) == {"r1", "r3"}


def test_a_database_that_refuses_is_named_without_its_values(store: SpendStore) -> None:
    refused = replace(an_entry("a-secret"), model=None)  # type: ignore[arg-type]

    with pytest.raises(SegmindStateError, match=r"spend record .*'a_database'\) cannot be used: \w+") as caught:
        store.write([refused])
    assert "a-secret" not in str(caught.value)


def test_the_highest_bill_that_is_read_can_be_stored(store: SpendStore) -> None:
    highest = Metrics.model_validate({"cost": 1e6}).cost
    assert highest is not None
    store.write([an_entry(cost_micros=exact_micros(highest))])
    assert [entry.cost_micros for entry in store.read()] == [1e12]


def test_a_request_counts_once_however_often_it_is_written(store: SpendStore) -> None:
    for entry in (an_entry(), an_entry(), an_entry(try_number=2, at=NOON + 60)):
        store.write([entry, entry])
    assert list(store.read()) == [an_entry()]


def test_a_cost_that_came_later_is_added(store: SpendStore) -> None:
    store.write([replace(an_entry(), cost_micros=None)])
    store.write([an_entry()])
    assert [entry.cost_micros for entry in store.read()] == [48.25]


def test_a_time_limits_what_is_read(store: SpendStore) -> None:
    store.write([an_entry(f"r{hour}", at=NOON + 3600 * hour) for hour in range(5)])
    found = {entry.request_id for entry in store.read(since=NOON + 3600, until=NOON + 3 * 3600)}
    assert found == {"r1", "r2"}


def test_more_entries_than_one_statement_takes_are_all_written(store: SpendStore) -> None:
    store.write([an_entry(f"r{number}") for number in range(2 * MOST_ROWS + 7)])
    assert len(list(store.read())) == 2 * MOST_ROWS + 7


def test_the_table_can_be_queried_by_day(store: SpendStore, database: OneDatabase) -> None:
    store.write([an_entry("r1"), an_entry("r2"), an_entry("r3", at=NOON + 86_400)])
    rows = database.rows("SELECT finished_day, SUM(cost_micros) FROM segmind_spend GROUP BY 1 ORDER BY 1")
    assert [(day, float(cost)) for day, cost in rows] == [("2026-11-26", 96.5), ("2026-11-27", 48.25)]


@pytest.mark.postgres
@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_tasks_that_write_at_the_same_time_lose_nothing(store: SpendStore) -> None:
    def write(first: int) -> None:
        for number in range(first, first + 40, 5):
            store.write([an_entry(f"r{number + more}") for more in range(10)])

    threads = [threading.Thread(target=write, args=(5 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.request_id for entry in store.read()} == {f"r{number}" for number in range(60)}


def test_two_places_for_one_record_are_refused(store: SpendStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_PATH", "file:///somewhere")
    with pytest.raises(SegmindConfigError, match="both set"):
        configured_store()
