"""Metadata databases, each for one stack."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POSTGRES = os.environ.get("SEGMIND_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/postgres")

# Migrating an empty SQLite database takes about 12 s, copying the result nothing.
TEMPLATES = Path(__file__).resolve().parent.parent / ".tmp"

LOCK_TIMEOUT = 8
"""
Seconds for which the API server waits for the others' writes to SQLite.

Two calls inside it can block each other for all of this time, so it is well below the heartbeat timeout of a task; the
call that gives up is answered 500 and made again.
"""
PATIENT_LOCK_TIMEOUT = 30
"""Seconds for all other processes: they outlast such a block, which ends a scheduler that gives up with it."""


class Database(Protocol):
    """The interface of a metadata database."""

    def create(self, home: Path) -> str:
        """Create the database and return its SQLAlchemy URL."""
        ...

    def migrate(self, run: Callable[[], None]) -> None:
        """Create Airflow's tables; ``run`` executes ``airflow db migrate``."""
        ...

    def drop(self) -> None:
        """Remove the database."""
        ...


class SqliteDatabase:
    """A file in the home of the stack, copied from a template that was migrated once per version of Airflow."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def create(self, home: Path) -> str:
        """Choose the file."""
        self._path = home / "airflow.db"
        # Many processes write: the default of five seconds is not always enough.
        return f"sqlite:///{self._path}?timeout={LOCK_TIMEOUT}"

    def migrate(self, run: Callable[[], None]) -> None:
        """Copy the template, or create it."""
        assert self._path is not None, "create() comes first"
        TEMPLATES.mkdir(exist_ok=True)
        template = TEMPLATES / f"airflow-{version('apache-airflow')}.db"
        # Several test processes may need it at the same time.
        with template.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not template.exists():
                run()
                copy = template.with_suffix(f".{uuid.uuid4().hex}")
                _copy(self._path, copy)
                copy.replace(template)
                return
        _copy(template, self._path)

    def drop(self) -> None:
        """Do nothing: the file is removed with the home."""


def _copy(database: Path, to: Path) -> None:
    """Copy a database, but not as a file: while a process has it open, its tables may be in a file beside it."""
    with (
        contextlib.closing(sqlite3.connect(database, timeout=LOCK_TIMEOUT)) as source,
        contextlib.closing(sqlite3.connect(to, timeout=LOCK_TIMEOUT)) as target,
    ):
        source.backup(target)


class PostgresDatabase:
    """
    A database with a unique name on a running PostgreSQL server.

    :param server: libpq URL of a database whose user may create databases.
    """

    def __init__(self, *, server: str = POSTGRES) -> None:
        self._server = server
        self._name = f"segmind_{uuid.uuid4().hex[:12]}"

    def create(self, home: Path) -> str:
        """Create the database."""
        self._execute(f'CREATE DATABASE "{self._name}"')
        prefix = self._server.rpartition("/")[0].partition("://")[2]
        return f"postgresql+psycopg2://{prefix}/{self._name}"

    def migrate(self, run: Callable[[], None]) -> None:
        """Create Airflow's tables."""
        run()

    def drop(self) -> None:
        """Drop the database, even if there are connections to it."""
        self._execute(f'DROP DATABASE IF EXISTS "{self._name}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        import psycopg2

        with contextlib.closing(psycopg2.connect(self._server)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)


@contextlib.contextmanager
def temporary_database(database: Database, home: Path) -> Iterator[str]:
    """Create a database, yield its URL, and always drop it."""
    url = database.create(home)
    try:
        yield url
    finally:
        database.drop()
