"""No two keys that a database takes as equal are taken for two; a key that would change is told before it is paid."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_segmind.enrichment.sql.answer_table import _key_kind
from airflow_provider_segmind.enrichment.sql.column_types import MisfitError, key_cell
from airflow_provider_segmind.enrichment.sql.dialects import TableName, dialect_of, may_be_a_row
from airflow_provider_segmind.enrichment.sql.key_forms import key_form
from airflow_provider_segmind.enrichment.sql.table_schema import Column, read_columns
from airflow_provider_segmind.exceptions import SegmindConfigError
from tests.support.databases import OneDatabase, opened
from tests.support.examples import examples

WORDS = st.text(alphabet="aAbBzZéÉßİiıIΣσς \t0", max_size=4)  # noqa: RUF001
NUMBERS = st.sampled_from(
    ["1", "01", "+1", " 1 ", "1.0", "1e0", "10e-1", "0x1", "1_0", "10", "-0", "0", "0.0", "-1", "1.5", "1.50", "x", ""]
)
LONG = st.sampled_from([12345678901234567890123456789001, 12345678901234567890123456789002])
DECIMALS = st.builds(
    lambda digits, exponent: Decimal(digits).scaleb(exponent),
    st.integers(-(10**38), 10**38) | st.sampled_from([0, 1, 10, 15, 150, 1500]),
    st.integers(-12, 3),
)
DATES = st.sampled_from(
    ["2026-01-02", "20260102", " 2026-01-02", "2 Jan 2026", "2026-1-2", date(2026, 1, 2), datetime(2026, 1, 2),  # noqa: DTZ001
     datetime(2026, 1, 2, 3), date(2026, 1, 3)]  # noqa: DTZ001
)  # fmt: skip
EAST = timezone(timedelta(hours=5))
MOMENTS = st.sampled_from(
    ["2026-01-02T03:00:00Z", "2026-01-02 08:00:00+05:00", "2026-01-02 03:00:00.000400+00:00",
     datetime(2026, 1, 2, 3, tzinfo=UTC), datetime(2026, 1, 2, 8, tzinfo=EAST), datetime(2026, 1, 2, 8, tzinfo=UTC),
     datetime(2026, 1, 2, 3, 0, 0, 400, tzinfo=UTC), "2026-01-02T03:00:00", datetime(2026, 1, 2, 3),  # noqa: DTZ001
     "2026-01-02", date(2026, 1, 2), "2026-01-02 00:00:00Z"]
)  # fmt: skip
IDS = st.sampled_from(
    [UUID(int=10), str(UUID(int=10)), str(UUID(int=10)).upper(), UUID(int=10).hex, f"{{{UUID(int=10)}}}", UUID(int=11)]
)
FLOATS = st.sampled_from([0.1, "0.1", Decimal("0.1"), "1e-1", 1e22, "1e22", 0.123456789012, 1 / 3, 2**53 + 1, 2**53])
FLAGS = st.sampled_from([True, False, "t", "TRUE", "yes", "0", "off", "maybe"])

COLUMNS: Mapping[str, list[tuple[str, st.SearchStrategy[Any]]]] = {
    "sqlite": [
        ("TEXT", WORDS), ("TEXT COLLATE NOCASE", WORDS), ("TEXT COLLATE RTRIM", WORDS), ("VARCHAR(2)", WORDS),
        ("INTEGER", NUMBERS | LONG), ("NUMERIC(38, 0)", NUMBERS | LONG | DECIMALS), ("REAL", NUMBERS | FLOATS),
        ("", NUMBERS | FLOATS | WORDS), ("TEXT", NUMBERS | DECIMALS), ("TEXT", MOMENTS), ("DATE", DATES),
    ],
    "duckdb": [
        ("VARCHAR", WORDS), ("VARCHAR COLLATE NOCASE", WORDS), ("BIGINT", NUMBERS | DECIMALS), ("HUGEINT", LONG),
        ("DECIMAL(38, 9)", NUMBERS | DECIMALS), ("DECIMAL(5, 2)", NUMBERS | DECIMALS), ("DOUBLE", FLOATS),
        ("FLOAT", FLOATS), ("DATE", DATES), ("UUID", IDS), ("BOOLEAN", FLAGS), ("TIMESTAMP WITH TIME ZONE", MOMENTS),
        ("TIMESTAMP", MOMENTS), ("TIMESTAMP_S", MOMENTS),
    ],
    "postgres": [
        ("TEXT", WORDS), ("CHAR(4)", WORDS), ("VARCHAR(2)", WORDS), ("citext", WORDS), ('TEXT COLLATE "C"', WORDS),
        ("lowered", WORDS), ("INT", NUMBERS), ("BIGINT", NUMBERS | DECIMALS), ("NUMERIC", NUMBERS | DECIMALS | LONG),
        ("NUMERIC(38, 0)", NUMBERS | DECIMALS | LONG), ("NUMERIC(5, 2)", NUMBERS | DECIMALS),
        ("DOUBLE PRECISION", FLOATS | NUMBERS), ("REAL", FLOATS), ("DATE", DATES), ("UUID", IDS), ("BOOLEAN", FLAGS),
        ("TIMESTAMPTZ", MOMENTS), ("TIMESTAMPTZ(0)", MOMENTS), ("TIMESTAMP", MOMENTS), ("name", WORDS),
        ("inet", st.sampled_from(["10.0.0.1", "10.0.0.1/32", "10.0.0.0/8", "::1", "0:0::1"])),
        ("BYTEA", st.sampled_from([b"a", "a", "\\x61", b"\x00", "\\x00", "\\141"])),
    ],
}  # fmt: skip
NEARLY = ("citext", "VARCHAR COLLATE NOCASE", "lowered")
"""Columns that compare by a locale: a few keys more than those it takes as equal are one."""


class Keys:
    """A table of keys, declared in some way."""

    def __init__(self, database: OneDatabase, declared: str) -> None:
        self.connection = database.connect()
        self.cursor = self.connection.cursor()
        self.dialect = dialect_of(database.conn_type)
        if database.conn_type == "postgres":
            self.cursor.execute("CREATE EXTENSION IF NOT EXISTS citext")
            self.cursor.execute("CREATE DOMAIN lowered AS citext")
        self.cursor.execute(f"CREATE TABLE answers (id {declared} PRIMARY KEY)")
        self.connection.commit()
        columns = read_columns(self.connection, self.dialect, TableName(("answers",)))
        assert columns is not None
        self.column = columns["id"]
        self.form = key_form(self.column, texts=self.dialect.texts, title="t")

    def empty(self) -> None:
        self.cursor.execute("DELETE FROM answers")
        self.connection.commit()

    def add(self, value: Any) -> bool:
        """Add a key, and tell whether it was not refused."""
        cell = key_cell(_key_kind(self.column), value, texts=self.dialect.texts)
        try:
            self.cursor.execute(
                f"INSERT INTO answers VALUES ({self.dialect.marker}) ON CONFLICT DO NOTHING", self.dialect.bind([cell])
            )
            self.connection.commit()
        except Exception as error:
            if not may_be_a_row(error):
                raise
            with contextlib.suppress(Exception):
                self.connection.rollback()
            return False
        return True

    def all(self) -> list[Any]:
        self.cursor.execute("SELECT id FROM answers")
        return [bytes(key) if isinstance(key, memoryview) else key for (key,) in self.cursor.fetchall()]


@pytest.mark.parametrize(
    ("database", "number"),
    [
        pytest.param(kind, number, marks=[pytest.mark.postgres] if kind == "postgres" else [])
        for kind, columns in COLUMNS.items()
        for number in range(len(columns))
    ],
    indirect=["database"],
)
def test_what_a_database_takes_as_equal_has_one_form(database: OneDatabase, number: int) -> None:
    declared, values = COLUMNS[database.conn_type][number]
    keys = Keys(database, declared)

    @settings(max_examples=examples(30), suppress_health_check=list(HealthCheck))
    @given(st.lists(values, min_size=2, max_size=8))
    def check(drawn: list[Any]) -> None:
        keys.empty()
        met: dict[str, Any] = {}
        for value in drawn:
            try:
                text = keys.form(value)
            except MisfitError:
                continue
            before = len(keys.all())
            if not keys.add(value):
                continue
            found = keys.all()
            if len(found) == before or declared not in NEARLY:
                assert (text in met) is (len(found) == before), (value, met)
            met[text] = value
            # What is read back, the next night, is known again.
            assert {keys.form(key) for key in found} <= set(met), (found, met)

    try:
        check()
    finally:
        keys.connection.close()


@pytest.mark.parametrize(
    ("conn_type", "column", "value"),
    [
        ("postgres", Column(name="id", type="numeric(5,2)"), Decimal("1.005")),
        ("postgres", Column(name="id", type="numeric(5,2)"), "1.005"),
        ("postgres", Column(name="id", type="integer"), 1.5),
        ("postgres", Column(name="id", type="real"), 0.123456789012),
        ("postgres", Column(name="id", type="double precision"), Decimal("0.12345678901234567890")),
        ("postgres", Column(name="id", type="date"), datetime(2026, 1, 1, 5, tzinfo=UTC)),
        ("postgres", Column(name="id", type="date"), "1 May 2026"),
        ("postgres", Column(name="id", type="timestamp(0) with time zone"), datetime(2026, 1, 1, 0, 0, 0, 1, UTC)),
        ("postgres", Column(name="id", type="integer"), date(2026, 1, 1)),
        ("postgres", Column(name="id", type="name"), "é" * 32),
        ("sqlite", Column(name="id", type="numeric", loose=True), 12345678901234567890123456789001),
        ("sqlite", Column(name="id", type="numeric", loose=True), "12345678901234567890123456789001"),
    ],
)
def test_a_key_that_the_column_would_change_without_a_word_is_a_misfit(
    conn_type: str, column: Column, value: Any
) -> None:
    with pytest.raises(MisfitError) as caught:
        key_form(column, texts=dialect_of(conn_type).texts, title="t")(value)

    assert str(value) not in str(caught.value)


@pytest.mark.parametrize(
    "column",
    [
        Column(name="id", type="text", collations=("und_ci",)),
        Column(name="id", type="varchar", collations=("DuckDB NOACCENT",)),
        Column(name="id", type="varchar", collations=("DuckDB NOCASE.NOACCENT",)),
        Column(name="id", type="int4range"),
        Column(name="id", type="integer[]"),
        Column(name="id", type="jsonb"),
    ],
)
def test_a_column_of_which_nothing_is_known_is_refused(column: Column) -> None:
    with pytest.raises(SegmindConfigError, match=r"key column 'id' of t .*Nothing was sent"):
        key_form(column, texts=False, title="t")


def test_the_collation_of_a_column_is_found(database: OneDatabase) -> None:
    odd = 'i"d'
    made = {
        "sqlite": ('"i""d" TEXT PRIMARY KEY COLLATE RTRIM', ("RTRIM",)),
        "duckdb": ('"i""d" VARCHAR COLLATE NOACCENT PRIMARY KEY', ("DuckDB NOACCENT",)),
        "postgres": ('"i""d" TEXT COLLATE loose PRIMARY KEY', ("loose",)),
    }
    declared, collations = made[database.conn_type]
    if database.conn_type == "postgres":
        database.run("CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    database.run(f"CREATE TABLE answers (other VARCHAR, {declared})")

    with contextlib.closing(database.connect()) as connection:
        columns = read_columns(connection, dialect_of(database.conn_type), TableName(("answers",)))

    assert columns is not None
    assert (columns[odd].collations, columns["other"].collations) == (collations, ())


@pytest.mark.parametrize("conn_type", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_the_collation_of_the_index_counts_too(tmp_path: Path, conn_type: str) -> None:
    with opened(conn_type, tmp_path) as database:
        loose = "NOCASE"
        if conn_type == "postgres":
            loose = "loose"
            database.run("CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
        database.run("CREATE TABLE answers (id TEXT)", f"CREATE UNIQUE INDEX one ON answers (id COLLATE {loose})")

        with contextlib.closing(database.connect()) as connection:
            columns = read_columns(connection, dialect_of(conn_type), TableName(("answers",)))

        assert columns is not None
        assert columns["id"].collations == (loose,)
