"""Budgets in a database: what only a database can do wrong."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

import psycopg2.errors
import pymysql
import pytest

from airflow_provider_segmind.budget import sql_store
from airflow_provider_segmind.budget.limits import Window
from airflow_provider_segmind.budget.sql_store import COUNTERS, RESERVATIONS, SqlBudgetStore
from airflow_provider_segmind.budget.store import Granted, Usage
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindStateError
from tests.support.budgets import DriverHook, a_reservation

DAY = Window("a/day", "a", 100, 2000.0)


def hook(folder: Path) -> DriverHook:
    return DriverHook("sqlite", "?", {"database": str(folder / "budgets.sqlite")})


def test_a_database_without_row_locks_is_refused(tmp_path: Path) -> None:
    other = DriverHook("duckdb", "?", {})

    with pytest.raises(SegmindConfigError, match="'lake' of type 'duckdb': they need PostgreSQL") as raised:
        SqlBudgetStore(other, "lake")

    assert "Nothing was sent." in str(raised.value)


def test_a_database_that_does_not_answer_is_an_error_that_may_be_retried(tmp_path: Path) -> None:
    store = SqlBudgetStore(DriverHook("sqlite", "?", {"database": str(tmp_path)}), "a_database", sleep=lambda _: None)

    with pytest.raises(SegmindStateError, match=r"connection 'a_database'.*cannot be used: OperationalError") as raised:
        store.reserve(a_reservation(), [DAY], max_in_flight=None)

    assert raised.value.retryable
    assert raised.value.billed is False


def test_a_lost_connection_is_opened_again(tmp_path: Path) -> None:
    lost: list[Any] = []

    class Losing(DriverHook):
        def get_conn(self) -> Any:
            if len(lost) < 2:
                lost.append(None)
                raise sqlite3.OperationalError("server closed the connection unexpectedly")
            return super().get_conn()

    store = SqlBudgetStore(Losing("sqlite", "?", hook(tmp_path).address), "a_database", sleep=lambda _: None)

    assert store.reserve(a_reservation(), [DAY], max_in_flight=None) == Granted()
    assert len(lost) == 2
    store.close()


def test_a_bill_is_not_spent_twice_where_the_commit_was_not_answered(tmp_path: Path) -> None:
    class Losing(DriverHook):
        def get_conn(self) -> Any:
            class Connection(sqlite3.Connection):
                def commit(self) -> None:
                    super().commit()
                    if armed:
                        armed.clear()
                        raise sqlite3.OperationalError("server closed the connection unexpectedly")

            return sqlite3.connect(self.address["database"], factory=Connection)

    armed: list[bool] = []
    store = SqlBudgetStore(Losing("sqlite", "?", hook(tmp_path).address), "a_database", sleep=lambda _: None)
    armed.append(True)
    assert store.reserve(a_reservation(), [DAY], max_in_flight=None) == Granted()
    armed.append(True)
    with pytest.raises(SegmindStateError):
        store.spend("id-1", 4)
    armed.append(True)
    assert store.settle("id-1", 3) is False

    assert store.usage(["a/day"]) == {"a/day": Usage(7, 0)}
    store.close()


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("postgres", psycopg2.errors.DeadlockDetected("deadlock detected")),
        ("postgres", psycopg2.errors.SerializationFailure("could not serialize access due to concurrent update")),
        ("mysql", pymysql.err.OperationalError(1213, "Deadlock found when trying to get lock")),
        ("mysql", pymysql.err.OperationalError(1205, "Lock wait timeout exceeded")),
        ("sqlite", sqlite3.OperationalError("database is locked")),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_transaction_that_another_one_broke_is_repeated_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, error: Exception
) -> None:
    broken: list[Exception] = [error]

    class Conflicting(DriverHook):
        """SQLite with the errors of another driver."""

        def get_conn(self) -> Any:
            class Cursor(sqlite3.Cursor):
                def execute(self, statement: str, *values: Any) -> Any:
                    # After the first counter was changed, and before the reservation is there.
                    if statement.startswith("INSERT") and RESERVATIONS in statement and broken:
                        raise broken.pop()
                    return super().execute(statement.replace("INSERT IGNORE", "INSERT OR IGNORE"), *values)

            class Connection(sqlite3.Connection):
                def cursor(self, factory: Any = Cursor) -> Any:
                    return super().cursor(factory)

            return sqlite3.connect(self.address["database"], factory=Connection)

    monkeypatch.setitem(sql_store._BEGIN, kind, ((), "BEGIN IMMEDIATE"))
    monkeypatch.setattr(sql_store, "_MYSQL_TEXT", "VARCHAR({})")
    store = SqlBudgetStore(Conflicting(kind, "?", hook(tmp_path).address), "a_database", sleep=lambda _: None)
    # Its tables are made as for SQLite.
    SqlBudgetStore(hook(tmp_path), "a_database").usage(["a/day"])

    assert store.reserve(a_reservation(), [DAY], max_in_flight=None) == Granted()

    assert broken == []
    assert store.usage(["a/day"]) == {"a/day": Usage(0, 10)}
    store.close()


def test_a_locked_database_is_waited_for(tmp_path: Path) -> None:
    store = SqlBudgetStore(hook(tmp_path), "a_database")
    store.usage(["a/day"])
    other = hook(tmp_path).get_conn()
    other.execute("BEGIN IMMEDIATE")
    granted: list[object] = []

    def reserve() -> None:
        mine = SqlBudgetStore(hook(tmp_path), "a_database")
        granted.append(mine.reserve(a_reservation(), [DAY], max_in_flight=None))
        mine.close()

    waiting = threading.Thread(target=reserve)
    waiting.start()
    waiting.join(0.5)
    assert granted == []
    other.commit()
    other.close()
    waiting.join(30)

    assert granted == [Granted()]
    store.close()


def test_an_interrupted_transaction_leaves_nothing(tmp_path: Path) -> None:
    class Interrupted(BaseException):
        pass

    class Stopping(SqlBudgetStore):
        def _insert(self, cursor: Any, one: Any) -> bool:
            raise Interrupted

    stopping = Stopping(hook(tmp_path), "a_database")
    with pytest.raises(Interrupted):
        stopping.reserve(a_reservation(), [DAY], max_in_flight=None)

    store = SqlBudgetStore(hook(tmp_path), "a_database")
    assert store.usage(["a/day"]) == {"a/day": Usage(0, 0)}
    store.close()


def test_counters_are_kept_as_whole_numbers(tmp_path: Path) -> None:
    store = SqlBudgetStore(hook(tmp_path), "a_database")
    for number in range(3):
        store.reserve(a_reservation(number), [DAY], max_in_flight=None)
        store.settle(f"id-{number}", 0.1)
    store.close()

    with sqlite3.connect(tmp_path / "budgets.sqlite") as connection:
        rows = connection.execute(f"SELECT spent, typeof(spent), reserved FROM {COUNTERS}").fetchall()
    connection.close()
    assert rows == [(300_000, "integer", 0)]
