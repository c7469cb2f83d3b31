"""Errors of drivers say what to do next, and what another transaction was in the way of is done again."""

from __future__ import annotations

import contextlib
import sqlite3
from itertools import islice
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.sql.dialects import (
    MOST_TRIES,
    again_after_conflicts,
    driver_errors,
    may_be_a_row,
)
from airflow_provider_segmind.enrichment.sql.query import FETCH_ROWS, Query
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from tests.support.databases import OneDatabase


class DatabaseError(Exception):
    """As PEP 249 names it."""


class OperationalError(DatabaseError):
    """As PEP 249 names it."""


class InternalError(DatabaseError):
    """As PEP 249 names it."""


class DataError(DatabaseError):
    """As PEP 249 names it."""


class TransactionException(OperationalError):  # noqa: N818 (its name in DuckDB)
    """As DuckDB names it."""


def error(kind: type[Exception], *args: Any, **attributes: str) -> Exception:
    made = kind(*args)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


CONFLICTS = {
    "serialization": error(OperationalError, "canary", sqlstate="40001"),
    "deadlock": error(OperationalError, "canary", pgcode="40P01"),
    "lock timeout": error(OperationalError, "canary", sqlstate="55P03"),
    "mysql deadlock": error(OperationalError, 1213, "canary"),
    "mysql lock timeout": error(OperationalError, 1205, "canary"),
    "duckdb": error(TransactionException, "canary"),
}
OTHERS = {
    "lost": error(OperationalError, 2013, "canary"),
    "flag": error(OperationalError, True),
    "shutdown": error(OperationalError, "canary", sqlstate="57P01"),
    "unique": error(DatabaseError, "canary", sqlstate="23505"),
    "value": ValueError(),
}


class Work:
    """Fails some times, then returns."""

    def __init__(self, failure: Exception, times: int) -> None:
        self.failure, self.left, self.pauses = failure, times, list[float]()

    def __call__(self) -> str:
        if self.left:
            self.left -= 1
            raise self.failure
        return "done"

    def run(self) -> str:
        return again_after_conflicts(self, sleep=self.pauses.append, chance=lambda: 1.0)


@pytest.mark.parametrize("failure", CONFLICTS.values(), ids=CONFLICTS)
def test_a_transaction_that_met_another_is_done_again(failure: Exception) -> None:
    work = Work(failure, MOST_TRIES - 1)

    assert work.run() == "done"
    assert work.pauses == sorted(work.pauses)
    assert 0 < sum(work.pauses) < 10


@pytest.mark.parametrize("failure", CONFLICTS.values(), ids=CONFLICTS)
def test_patience_with_other_transactions_ends(failure: Exception) -> None:
    work = Work(failure, MOST_TRIES)

    with pytest.raises(type(failure)):
        work.run()


@pytest.mark.parametrize("failure", OTHERS.values(), ids=OTHERS)
def test_other_errors_are_not_tried_again(failure: Exception) -> None:
    work = Work(failure, 1)

    with pytest.raises(type(failure)):
        work.run()
    assert not work.pauses


@pytest.mark.parametrize(
    ("failure", "row"),
    [
        (error(DatabaseError, sqlstate="22P02"), True),
        (error(DatabaseError, sqlstate="23502"), True),
        (error(InternalError, sqlstate="P0001"), True),
        (error(OperationalError, sqlstate="54000"), True),
        (error(DatabaseError, sqlstate="44000"), True),
        (error(DataError), True),
        (error(DatabaseError, sqlstate="42804"), True),
        (error(OperationalError, sqlstate="53100"), False),
        (error(OperationalError, sqlstate="57014"), False),
        (error(InternalError, sqlstate="25P02"), False),
        (error(OperationalError), False),
    ],
)
def test_what_a_row_may_be_the_reason_for(failure: Exception, row: bool) -> None:
    assert may_be_a_row(failure) is row


@pytest.mark.parametrize(
    ("failure", "said", "retryable"),
    [
        (error(OperationalError, "gone", sqlstate="57P01"), "gone", True),
        (error(OperationalError, 2013, "gone"), "gone", True),
        (error(DataError, "canary", sqlstate="22P02"), "22P02", False),
        (error(OperationalError, "could not decode canary"), "OperationalError", True),
        (UnicodeDecodeError("utf-8", b"canary", 0, 1, "no"), "UnicodeDecodeError", False),
        (ConnectionResetError("canary"), "ConnectionResetError", True),
    ],
)
def test_the_text_of_an_error_is_told_where_no_row_can_be_in_it(failure: Exception, said: str, retryable: bool) -> None:
    with (
        pytest.raises(SegmindEnrichmentError, match=said) as caught,
        driver_errors("Reading", meaning="So.", values=True),
    ):
        raise failure

    assert caught.value.retryable is retryable
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("made", "statement", "said"),
    [
        ("a INTEGER NOT NULL", "INSERT INTO t VALUES (NULL)", "NOT NULL of t.a"),
        ("a TEXT UNIQUE", "INSERT INTO t VALUES ('canary'), ('canary')", "UNIQUE of t.a"),
        ("a TEXT CHECK (a <> 'canary')", "INSERT INTO t VALUES ('canary')", "SQLITE_CONSTRAINT_CHECK"),
    ],
)
def test_a_constraint_of_sqlite_is_named(made: str, statement: str, said: str) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE TABLE t ({made})")
        with (
            pytest.raises(SegmindEnrichmentError, match=said) as caught,
            driver_errors("Writing", meaning="", values=True),
        ):
            connection.execute(statement)

    assert "canary" not in str(caught.value)


def test_a_sentence_of_a_driver_ends_with_one_full_stop() -> None:
    with (
        pytest.raises(SegmindEnrichmentError, match=r"The server is gone\. Nothing was sent\.$"),
        driver_errors("Reading", meaning="Nothing was sent."),
    ):
        raise OperationalError("The server is gone.")


class TestASessionThatEnds:
    @pytest.fixture
    def reading(self, postgres: OneDatabase) -> Query:
        postgres.fill("things", "id INTEGER, thing TEXT", [(number, "canary") for number in range(3 * FETCH_ROWS)])
        return Query(postgres.connect, "SELECT * FROM things", name="the source at 'db'", conn_type="postgres")

    @pytest.mark.postgres
    def test_in_the_middle_names_the_place_the_cause_and_the_money(self, reading: Query, postgres: OneDatabase) -> None:
        rows = iter(reading)
        before = list(islice(rows, FETCH_ROWS))

        postgres.rows(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

        with pytest.raises(
            SegmindEnrichmentError,
            match=rf"the source at 'db' failed after {FETCH_ROWS:,} rows.*terminat.*not paid for again",
        ) as caught:
            list(rows)
        assert len(before) == FETCH_ROWS
        assert caught.value.retryable
        assert "canary" not in str(caught.value)
        reading.close()

    @pytest.mark.postgres
    @pytest.mark.parametrize(
        ("sql", "state"),
        [
            ("SELECT 1 / (1500 - id) AS canary FROM things ORDER BY id", "22012"),
            ("SELECT CAST(CASE id WHEN 1500 THEN thing ELSE '1' END AS INTEGER) AS n FROM things", "22P02"),
        ],
    )
    def test_a_value_that_cannot_be_computed_is_no_reason_to_try_again(
        self, reading: Query, postgres: OneDatabase, sql: str, state: str
    ) -> None:
        with pytest.raises(SegmindEnrichmentError, match=state) as caught:
            list(Query(postgres.connect, sql, name="the source", hold=False, conn_type="postgres"))

        assert not caught.value.retryable


@pytest.mark.postgres
def test_a_query_that_meets_another_transaction_is_opened_again(
    postgres: OneDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_segmind.enrichment.sql.dialects.FIRST_PAUSE", 0.0)
    met: list[int] = []

    def connect() -> Any:
        met.append(1)
        if len(met) < 3:
            raise CONFLICTS["serialization"]
        return postgres.connect()

    assert list(Query(connect, "SELECT 1 AS one", name="db")) == [{"one": 1}]
