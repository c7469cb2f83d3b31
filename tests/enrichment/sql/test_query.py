"""Rows are read block by block, by one thread, with nothing left open that would be in the way of others."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from airflow_provider_segmind.enrichment.rows import Undecoded
from airflow_provider_segmind.enrichment.sql.query import FETCH_ROWS, Query
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindEnrichmentError
from tests.support.databases import OneDatabase, Postgres, Sqlite

ROWS = 2 * FETCH_ROWS + 7
MANY = 100_000
GROWTH = """
import re, sys
from pathlib import Path
from airflow_provider_segmind.enrichment.sql.query import Query

def connect():
    if sys.argv[1] == "sqlite":
        import sqlite3
        return sqlite3.connect(sys.argv[2])
    if sys.argv[1] == "duckdb":
        import duckdb
        # What it keeps of the file is its own affair.
        return duckdb.connect(sys.argv[2], config={"memory_limit": "30MB", "threads": 1})
    import psycopg2
    return psycopg2.connect(sys.argv[2])

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

for _ in Query(connect, "SELECT 1 AS one", name="db"):
    pass
before = peak()
rows = 0
for row in Query(connect, "SELECT * FROM things", name="db"):
    rows += 1
print(rows, peak() - before)
"""


@pytest.fixture
def things(database: OneDatabase) -> OneDatabase:
    database.fill("things", "id INTEGER, thing VARCHAR(10)", [(number, "ü") for number in range(ROWS)])
    return database


def query(database: OneDatabase, sql: str = "SELECT id, thing FROM things ORDER BY id ;\n") -> Query:
    return Query(database.connect, sql, name="the source at 'db'")


def test_every_row_comes_once_whichever_thread_asks(things: OneDatabase) -> None:
    rows = iter(query(things))

    found = []
    for size in (1, FETCH_ROWS, ROWS):
        with ThreadPoolExecutor(1) as thread:
            found += thread.submit(list, islice(rows, size)).result()

    assert [row["id"] for row in found] == list(range(ROWS))
    assert found[0] == {"id": 0, "thing": "ü"}


def test_a_wrong_query_is_told_in_the_words_of_the_database(things: OneDatabase) -> None:
    with pytest.raises(
        SegmindEnrichmentError, match=r"Reading the source at 'db' failed: .*nothings.*Nothing was sent"
    ):
        query(things, "SELECT * FROM nothings").open()


def test_two_columns_of_one_name_are_refused(things: OneDatabase) -> None:
    with pytest.raises(SegmindConfigError, match=r"\['id'\] twice"):
        list(query(things, "SELECT id, id FROM things"))


def test_a_query_can_be_closed_in_the_middle_and_the_table_dropped(things: OneDatabase) -> None:
    made = query(things)
    list(islice(made, 3))

    made.close()

    things.run("DROP TABLE things")


@pytest.mark.postgres
def test_no_transaction_stays_open_at_postgresql_while_rows_are_read(postgres: OneDatabase) -> None:
    postgres.fill("things", "id INTEGER, thing VARCHAR(10)", [(number, "a") for number in range(ROWS)])
    made = query(postgres)
    list(islice(made, 3))

    states = postgres.rows("SELECT state, query FROM pg_stat_activity WHERE datname = current_database()")

    assert ("idle", 'FETCH FORWARD 1000 FROM "segmind_rows"') in states
    postgres.run("DROP TABLE things")
    made.close()


def test_memory_does_not_grow_with_the_table(database: OneDatabase) -> None:
    kind = database.conn_type
    text = {"sqlite": "hex(zeroblob(1000))", "duckdb": "repeat('x', 2000)", "postgres": "repeat('x', 2000)"}[kind]
    numbers = {
        "sqlite": f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY})",
        "duckdb": f"WITH n AS (SELECT i FROM range({MANY}) t(i))",
        "postgres": f"WITH n AS (SELECT i FROM generate_series(1, {MANY}) t(i))",
    }[kind]
    database.run(f"CREATE TABLE things AS {numbers} SELECT i AS id, {text} AS thing FROM n")
    where = database.url if isinstance(database, Postgres) else str(database.airflow["host"])

    done = subprocess.run(
        [sys.executable, "-c", GROWTH, kind, where], capture_output=True, text=True, check=True, timeout=60
    )

    rows, growth = done.stdout.split()
    assert int(rows) == MANY
    # All of it is 200 MB; a block of it two. DuckDB 1.5 keeps up to 90 MB of its own.
    assert float(growth) < 120


def test_others_can_write_into_a_sqlite_file_while_its_rows_are_read(tmp_path: Path) -> None:
    database = Sqlite(tmp_path)
    database.run("CREATE TABLE things (id, thing, thing2)")
    values = [1, 2.5, "ü", b"\x00", None, 2**62]
    database.fill("more", "id, thing", [(number, value) for number, value in enumerate(values * FETCH_ROWS)])
    rows = iter(query(database, "SELECT id, thing FROM more ORDER BY id DESC"))
    first = next(rows)

    database.run("UPDATE more SET thing = 0", "DROP TABLE things")
    others = list(rows)

    assert first == {"id": len(values) * FETCH_ROWS - 1, "thing": values[-1]}
    assert [row["thing"] for row in reversed(others)] == (values * FETCH_ROWS)[:-1]


def test_a_text_of_sqlite_that_is_not_utf8_is_an_undecoded_value_of_its_row(tmp_path: Path) -> None:
    database = Sqlite(tmp_path)
    database.fill("things", "id INTEGER, thing", [(number, "ü") for number in range(ROWS)])
    database.run(f"UPDATE things SET thing = CAST(x'ff' AS TEXT) WHERE id = {ROWS - 2}")

    found = list(query(database))

    assert [row["id"] for row in found] == list(range(ROWS))
    assert [row["thing"] for row in found[-3:]] == ["ü", Undecoded("text that is not UTF-8"), "ü"]


@pytest.mark.postgres
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("date 'infinity'", "infinity"),
        ("timestamp '-infinity'", "-infinity"),
        ("date '0044-03-15 BC'", "0044-03-15 BC"),
        ("timestamp '20240-01-01'", "20240-01-01 00:00:00"),
        ("time '24:00'", "24:00:00"),
        ("timetz '24:00+01'", "24:00:00+01"),
        ("interval '100000000 years'", "100000000 years"),
        ("ARRAY[date 'infinity', date '2024-01-02']", ["infinity", date(2024, 1, 2)]),
        ("date '2024-01-02'", date(2024, 1, 2)),
        ("timestamptz '2024-01-02 00:00+02'", datetime(2024, 1, 1, 22, tzinfo=UTC)),
        ("NULL::date", None),
    ],
)
def test_a_time_that_python_does_not_have_is_a_string(
    postgres: Postgres, driver: str, value: str, read: object
) -> None:
    connect = partial(pytest.importorskip(driver).connect, postgres.url)

    rows = list(Query(connect, f"SELECT 1 AS id, {value} AS at UNION ALL SELECT 2, NULL ORDER BY id", name="it"))

    assert rows == [{"id": 1, "at": read}, {"id": 2, "at": None}]
