"""An empty metadata database for tests, migrated once and copied for each test, and the settings that go with it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

MIGRATION_TIMEOUT = 300
"""Timeout in seconds; a migration takes about 12."""


class DatabaseError(RuntimeError):
    """Airflow's database could not be created."""


def migrated_database(folder: Path) -> Path:
    """
    Return a SQLite database with Airflow's tables, created if the folder has none.

    :param folder: shared by the processes of a test session.
    :raises DatabaseError: with the last line of what ``airflow db migrate`` says.
    """
    database = folder / "segmind-airflow.db"
    with (folder / "segmind-airflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not database.exists():
            unfinished = folder / "segmind-airflow.unfinished.db"
            unfinished.unlink(missing_ok=True)
            _migrate(unfinished, home=folder / "segmind-airflow-home")
            unfinished.replace(database)
    return database


def _migrate(database: Path, *, home: Path) -> None:
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    environment = {**os.environ, **settings_for(database), "AIRFLOW_HOME": str(home)}
    try:
        done = subprocess.run(  # noqa: S603 - the command of the installed Airflow
            command, env=environment, capture_output=True, text=True, timeout=MIGRATION_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DatabaseError(f"`airflow db migrate` took more than {MIGRATION_TIMEOUT} s.") from error
    if done.returncode or not database.exists():
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise DatabaseError(f"Airflow's database could not be created; `airflow db migrate` said: {said}")


def settings_for(database: Path) -> dict[str, str]:
    """Return the settings of Airflow for tests, as environment variables."""
    # Airflow 2 refuses SQLite with any other executor, and knows no LocalExecutor for it; dag.test() uses neither.
    executor = "SequentialExecutor" if version("apache-airflow").startswith("2.") else "LocalExecutor"
    return {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{database}",
        "AIRFLOW__CORE__EXECUTOR": executor,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def copy_database(template: Path, folder: Path) -> Path:
    """Return a copy of the empty database for one test."""
    database = folder / "segmind-airflow.db"
    shutil.copyfile(template, database)
    return database
