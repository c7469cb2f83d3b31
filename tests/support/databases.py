"""Temporary databases for tests, reached as users reach them."""

from __future__ import annotations

import contextlib
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from demo.databases import PostgresDatabase, temporary_database

OWN = (
    "_segmind_fingerprint TEXT, _segmind_status TEXT, _segmind_error TEXT, _segmind_request_id TEXT, "
    "_segmind_model TEXT, _segmind_cost REAL, _segmind_tokens BIGINT"
)
"""The columns of a target table that are neither key nor results."""


class OneDatabase(ABC):
    """A database; ``conn_type`` is the type of its Airflow connection."""

    conn_type: str

    @abstractmethod
    def connect(self) -> Any:
        """Open a connection of PEP 249."""

    @property
    @abstractmethod
    def airflow(self) -> dict[str, Any]:
        """The fields of its Airflow connection."""

    def run(self, *statements: str) -> None:
        """Run statements and commit."""
        with contextlib.closing(self.connect()) as connection:
            for statement in statements:
                connection.cursor().execute(statement)
            connection.commit()

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with contextlib.closing(self.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(statement)
            return [tuple(row) for row in cursor.fetchall()]

    def dicts(self, table: str, order: str) -> list[dict[str, Any]]:
        """Return a whole table."""
        with contextlib.closing(self.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(f"SELECT * FROM {table} ORDER BY {order}")
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def fill(self, table: str, columns: str, rows: Sequence[Sequence[Any]]) -> None:
        """Create a table and insert rows."""
        marker = "%s" if self.conn_type == "postgres" else "?"
        with contextlib.closing(self.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(f"CREATE TABLE {table} ({columns})")
            for start in range(0, len(rows), 1000):
                part = rows[start : start + 1000]
                one = f"({', '.join([marker] * len(part[0]))})"
                values = [value for row in part for value in row]
                cursor.execute(f"INSERT INTO {table} VALUES {', '.join([one] * len(part))}", values)
            connection.commit()


def make_answers(database: OneDatabase, columns: str) -> None:
    """Make a table of answers whose key is ``id``."""
    database.run(f"CREATE TABLE answers (id BIGINT PRIMARY KEY, {columns}, {OWN})")


class Sqlite(OneDatabase):
    conn_type = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "test.sqlite"

    def connect(self) -> Any:
        return sqlite3.connect(self.path)

    @property
    def airflow(self) -> dict[str, Any]:
        return {"conn_type": "sqlite", "host": str(self.path)}


class DuckDb(OneDatabase):
    conn_type = "duckdb"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "test.duckdb"

    def connect(self) -> Any:
        import duckdb

        return duckdb.connect(str(self.path))

    @property
    def airflow(self) -> dict[str, Any]:
        return {"conn_type": "duckdb", "host": str(self.path)}


class Postgres(OneDatabase):
    conn_type = "postgres"

    def __init__(self, url: str) -> None:
        self.url = url.replace("+psycopg2", "")

    def connect(self) -> Any:
        import psycopg2

        return psycopg2.connect(self.url)

    @property
    def airflow(self) -> dict[str, Any]:
        parts = urlsplit(self.url)
        return {
            "conn_type": "postgres",
            "host": parts.hostname,
            "port": parts.port,
            "login": parts.username,
            "password": parts.password or "",
            "schema": parts.path.lstrip("/"),
        }


@contextlib.contextmanager
def opened(kind: str, folder: Path) -> Iterator[OneDatabase]:
    """Create a database of a kind, and always remove it."""
    if kind == "postgres":
        with temporary_database(PostgresDatabase(), folder) as url:
            yield Postgres(url)
    else:
        yield {"sqlite": Sqlite, "duckdb": DuckDb}[kind](folder)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[OneDatabase]:
    """One PostgreSQL database for all tests of a session; creating one takes half a second."""
    with opened("postgres", Path()) as made:
        yield made


@pytest.fixture(params=["sqlite", "duckdb", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OneDatabase]:
    """An empty database of each kind."""
    if request.param == "postgres":
        made = request.getfixturevalue("postgres_server")
        made.run("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
        yield made
    else:
        with opened(request.param, tmp_path) as made:
            yield made


@pytest.fixture
def postgres(request: pytest.FixtureRequest) -> OneDatabase:
    """An empty PostgreSQL database."""
    # Not as an argument: it would be created before the test can be skipped.
    made: OneDatabase = request.getfixturevalue("postgres_server")
    made.run("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    return made
