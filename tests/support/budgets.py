"""Stores of budgets as tests use them, each empty and removed at the end."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.budget.redis_store import RedisBudgetStore
from airflow_provider_segmind.budget.sql_store import COUNTERS, REQUESTS, RESERVATIONS, SqlBudgetStore
from airflow_provider_segmind.budget.store import BudgetStore, Reservation, log_warning
from tests.support.databases import Postgres, Sqlite, opened

REDIS = "redis://127.0.0.1:6379/0"
KINDS = [
    "sqlite",
    pytest.param("postgres", marks=pytest.mark.postgres),
    pytest.param("mariadb", marks=pytest.mark.mariadb),
    pytest.param("redis", marks=pytest.mark.redis),
]
"""Parameters of a test for every store."""


@dataclass
class DriverHook:
    """The part of Airflow's hooks of databases that stores use, over a driver alone."""

    conn_type: str
    placeholder: str
    address: dict[str, Any]

    def get_conn(self) -> Any:
        if self.conn_type == "sqlite":
            import sqlite3

            return sqlite3.connect(**self.address)
        if self.conn_type == "postgres":
            import psycopg2

            return psycopg2.connect(**self.address)
        import pymysql

        return pymysql.connect(**self.address)


@contextlib.contextmanager
def opened_store(kind: str, folder: Path) -> Iterator[Address]:
    """Make an empty store of a kind, and always remove it."""
    name = f"segmind_budget_{uuid.uuid4().hex[:8]}"
    if kind == "redis":
        address = Address(kind, f"{{{name}}}:")
        try:
            yield address
        finally:
            address.empty()
    elif kind == "mariadb":
        import pymysql

        server = {"host": "127.0.0.1", "user": "root", "password": ""}
        with contextlib.closing(pymysql.connect(**server)) as connection:
            connection.cursor().execute(f"CREATE DATABASE {name}")
        try:
            yield Address(kind, name)
        finally:
            with contextlib.closing(pymysql.connect(**server)) as connection:
                connection.cursor().execute(f"DROP DATABASE {name}")
    else:
        with opened(kind, folder) as database:
            assert isinstance(database, Postgres | Sqlite)
            yield Address(kind, database.url if isinstance(database, Postgres) else str(database.path))


@pytest.fixture(scope="session")
def budget_places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Address]]:
    """Return a store of a kind, emptied; to create a database takes half a second, so each is made once."""
    made: dict[str, Address] = {}
    with contextlib.ExitStack() as stack:

        def place(kind: str) -> Address:
            if kind not in made:
                made[kind] = stack.enter_context(opened_store(kind, tmp_path_factory.mktemp("budgets")))
            made[kind].empty()
            return made[kind]

        yield place


@dataclass(frozen=True)
class Address:
    """Where a store is; another process can open it from this."""

    kind: str
    place: str

    def open(self, *, warn: Callable[[str], None] = log_warning) -> BudgetStore:
        if self.kind == "redis":
            return RedisBudgetStore(REDIS, prefix=self.place, warn=warn)
        return SqlBudgetStore(self.hook(), "a_database", warn=warn)

    def empty(self) -> None:
        if self.kind == "redis":
            import redis

            with redis.Redis.from_url(REDIS) as client:
                for key in client.scan_iter(f"{self.place}*"):
                    client.delete(key)
            return
        with contextlib.closing(self.hook().get_conn()) as connection:
            for table in (COUNTERS, RESERVATIONS, REQUESTS):
                connection.cursor().execute(f"DROP TABLE IF EXISTS {table}")
            connection.commit()

    def hook(self) -> DriverHook:
        if self.kind == "sqlite":
            return DriverHook("sqlite", "?", {"database": self.place})
        if self.kind == "postgres":
            return DriverHook("postgres", "%s", {"dsn": self.place})
        server = {"host": "127.0.0.1", "user": "root", "password": "", "database": self.place}
        return DriverHook("mysql", "%s", server)


def a_reservation(number: int | str = 1, **fields: Any) -> Reservation:
    """Return a reservation of 10 micro-dollars in the window ``a/day``."""
    given = {
        "id": f"id-{number}",
        "owner": "dag/run/task/-1",
        "kind": "request",
        "amount": 10,
        "windows": ("a/day",),
        "connection": "segmind_default",
        "model": "gemini-3.1-flash-lite",
        "reserved_at": 1000.25,
        "renewed_at": 1000.25,
    }
    return Reservation(**{**given, **fields})


def close(store: BudgetStore) -> None:
    """Close the connection of this thread, where the store has one."""
    if isinstance(store, SqlBudgetStore):
        store.close()
