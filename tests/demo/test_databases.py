"""The template of Airflow's database, which later sessions copy."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from demo import databases
from demo.databases import SqliteDatabase


def test_the_template_has_the_tables_even_while_a_process_has_the_database_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "TEMPLATES", tmp_path / "templates")
    path = tmp_path / "airflow.db"
    with closing(sqlite3.connect(path)) as opened:
        # New pages stay in a file beside the database until the last process closes it.
        opened.execute("PRAGMA journal_mode=WAL").fetchall()
        opened.execute("SELECT * FROM sqlite_master").fetchall()

        def migrate() -> None:
            with closing(sqlite3.connect(path)) as migrating:
                migrating.execute("CREATE TABLE dag (id)")

        database = SqliteDatabase()
        database.create(tmp_path)
        database.migrate(migrate)

    other = SqliteDatabase()
    (tmp_path / "other").mkdir()
    other.create(tmp_path / "other")
    other.migrate(lambda: pytest.fail("there is a template"))
    with closing(sqlite3.connect(tmp_path / "other" / "airflow.db")) as copied:
        assert copied.execute("SELECT name FROM sqlite_master").fetchall() == [("dag",)]
    assert [file.suffix for file in sorted((tmp_path / "templates").iterdir())] == [".db", ".lock"]
