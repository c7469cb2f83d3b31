"""What a table, or a name, cannot hold is told before anything is made or paid, and names the column."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_segmind.enrichment.sql.answer_table import check_names
from airflow_provider_segmind.enrichment.sql.column_types import Kind
from airflow_provider_segmind.enrichment.sql.dialects import TableName, dialect_of
from airflow_provider_segmind.enrichment.sql.statements import Statements
from airflow_provider_segmind.exceptions import SegmindConfigError
from tests.enrichment.sql.test_answer_table import row, target, write_all
from tests.support.databases import OWN, OneDatabase, Sqlite, make_answers
from tests.support.examples import examples


class TestTypesOfColumns:
    @pytest.mark.parametrize(
        ("kind", "column"),
        [
            (Kind.TEXT, "INTEGER"), (Kind.TEXT, "DOUBLE PRECISION"), (Kind.TEXT, "DATE"), (Kind.TEXT, "BOOLEAN"),
            (Kind.INTEGER, "DATE"), (Kind.INTEGER, "BOOLEAN"), (Kind.NUMBER, "INTEGER"), (Kind.NUMBER, "BIGINT"),
            (Kind.NUMBER, "DATE"), (Kind.BOOLEAN, "DATE"), (Kind.DATE, "INTEGER"), (Kind.MOMENT, "DATE"),
            (Kind.MOMENT, "INTEGER"),
        ],
    )  # fmt: skip
    def test_one_that_cannot_hold_the_answers_is_named(self, database: OneDatabase, kind: Kind, column: str) -> None:
        make_answers(database, f"team {column}")
        made = target(database, answers={"team": kind})

        if database.conn_type == "sqlite":
            assert made.prepare(None)
            return
        with pytest.raises(SegmindConfigError, match=rf"'team' is of type .*answers of type {kind} need.*Nothing was"):
            made.prepare(None)

    @pytest.mark.parametrize(
        ("kind", "column", "value"),
        [
            (Kind.TEXT, "VARCHAR(20)", "a"), (Kind.INTEGER, "SMALLINT", 7), (Kind.INTEGER, "NUMERIC(10, 2)", 7),
            (Kind.INTEGER, "TEXT", 7), (Kind.NUMBER, "REAL", 0.5), (Kind.NUMBER, "NUMERIC(10, 2)", 0.5),
            (Kind.NUMBER, "TEXT", 0.5), (Kind.BOOLEAN, "BOOLEAN", True), (Kind.DATE, "DATE", "2026-01-01"),
            (Kind.DATE, "TIMESTAMP", "2026-01-01"), (Kind.DATE, "TEXT", "2026-01-01"),
            (Kind.MOMENT, "TIMESTAMP WITH TIME ZONE", "2026-01-01T00:00:00Z"),
        ],
    )  # fmt: skip
    def test_others_are_written(self, database: OneDatabase, kind: Kind, column: str, value: Any) -> None:
        make_answers(database, f"team {column}")
        made = target(database, answers={"team": kind})

        assert made.prepare(None)
        assert write_all(made, row(1, value)) == {}
        assert database.rows("SELECT COUNT(*) FROM answers WHERE team IS NOT NULL") == [(1,)]

    def test_a_strict_table_of_sqlite_has_types(self, tmp_path: Path) -> None:
        database = Sqlite(tmp_path)
        database.run(f"CREATE TABLE answers (id INT PRIMARY KEY, team INT, {OWN.replace('BIGINT', 'INT')}) STRICT")

        with pytest.raises(SegmindConfigError, match="'team' is of type int"):
            target(database).prepare(None)

    @pytest.mark.postgres
    def test_types_that_have_no_kind_are_left_to_the_database(self, postgres: OneDatabase) -> None:
        postgres.run("CREATE TYPE colour AS ENUM ('red')")
        make_answers(postgres, "team colour, words JSONB")
        made = target(postgres, answers={"team": Kind.TEXT, "words": Kind.TEXT})

        assert made.prepare(None)
        assert write_all(made, row(1, "red", words=["a"])) == {}

    @pytest.mark.postgres
    @pytest.mark.parametrize("made", ["UNIQUE (id)", "PRIMARY KEY (id)", "UNIQUE (id) INCLUDE (team)"])
    def test_a_deferrable_key_is_refused_before_anything_is_sent(self, postgres: OneDatabase, made: str) -> None:
        postgres.run(f"CREATE TABLE answers (id BIGINT, team TEXT, {OWN}, CONSTRAINT late {made} DEFERRABLE)")

        with pytest.raises(SegmindConfigError, match=r"'late' is DEFERRABLE\. Nothing was sent"):
            target(postgres).prepare(None)

    @pytest.mark.postgres
    def test_a_deferrable_constraint_on_other_columns_is_not_in_the_way(self, postgres: OneDatabase) -> None:
        other = "UNIQUE (id, team) DEFERRABLE, UNIQUE (team) DEFERRABLE"
        postgres.run(f"CREATE TABLE answers (id BIGINT PRIMARY KEY, team TEXT, {OWN}, {other})")
        made = target(postgres)

        assert made.prepare(None)
        assert write_all(made, row(1)) == {}


def statements(conn_type: str, *, key: str = "id", answer: str = "team", table: str = "answers") -> Statements:
    return Statements(
        dialect=dialect_of(conn_type),
        name=TableName((table,)),
        key={key: None},
        answers={answer: Kind.TEXT},
    )


class TestNames:
    @pytest.mark.parametrize(
        ("conn_type", "fields", "named"),
        [
            ("postgres", {"answer": "a" * 64}, "a" * 64),
            ("postgres", {"answer": "é" * 32}, "é" * 32),
            ("postgres", {"key": "😀" * 16}, "😀" * 16),
            ("postgres", {"table": "t" * 64}, "t" * 64),
            ("postgres", {"answer": "ctid"}, "ctid"),
            ("snowflake", {"answer": "a" * 256}, "a" * 256),
            ("gcpbigquery", {"answer": "a" * 301}, "a" * 301),
            ("gcpbigquery", {"answer": "ID"}, "ID"),
            ("sqlite", {"answer": "ID"}, "ID"),
            ("duckdb", {"answer": "ID"}, "ID"),
            ("sqlite", {"answer": "_SEGMIND_status"}, "_SEGMIND_status"),
            ("postgres", {"answer": "_segmind_cost"}, "_segmind_cost"),
            ("postgres", {"key": "_segmind_cost"}, "_segmind_cost"),
            ("postgres", {"answer": ""}, "''"),
            ("sqlite", {"answer": "a\x00"}, "a\\x00"),
            ("sqlite", {"answer": "a\ud800"}, "a\\ud800"),
        ],
    )
    def test_one_that_the_database_changes_is_named(self, conn_type: str, fields: dict[str, str], named: str) -> None:
        with pytest.raises(SegmindConfigError, match="Nothing was sent") as caught:
            check_names(statements(conn_type, **fields), "t")

        assert named in str(caught.value)

    @pytest.mark.parametrize(
        ("conn_type", "fields"),
        [
            ("postgres", {"answer": "a" * 63}), ("postgres", {"answer": "é" * 31}), ("postgres", {"answer": "ID"}),
            ("postgres", {"answer": "select"}), ("sqlite", {"answer": "a" * 300}),
            ("sqlite", {"key": "É", "answer": "é"}),
            ("postgres", {"answer": "_SEGMIND_COST"}), ("snowflake", {"answer": "é" * 255}),
        ],
    )  # fmt: skip
    def test_one_that_stays_as_it_is_is_taken(self, conn_type: str, fields: dict[str, str]) -> None:
        check_names(statements(conn_type, **fields), "t")

    def test_nothing_is_made_for_a_name_that_cannot_be(self, database: OneDatabase) -> None:
        name = {"postgres": "a" * 70}.get(database.conn_type, "Id")

        with pytest.raises(SegmindConfigError, match=name):
            target(database, answers={name: Kind.TEXT}).prepare(lambda: [{"id": 1}])

        with pytest.raises(Exception, match=r"(?i)answers"):
            database.rows("SELECT * FROM answers")

    @settings(max_examples=examples(40), suppress_health_check=list(HealthCheck))
    @given(key=st.text(max_size=70), answer=st.text(max_size=70))
    def test_whatever_name_is_taken_is_the_name_of_the_column(
        self, database: OneDatabase, key: str, answer: str
    ) -> None:
        try:
            check_names(statements(database.conn_type, key=key, answer=answer), "t")
        except SegmindConfigError:
            return
        database.run("DROP TABLE IF EXISTS answers")
        assert target(database, key=[key], answers={answer: Kind.TEXT}).prepare(lambda: [{key: 1}])

        with contextlib.closing(database.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT * FROM answers")
            assert [column[0] for column in cursor.description][:2] == [key, answer]

    def test_a_column_of_another_case_is_the_same_where_the_database_says_so(self, database: OneDatabase) -> None:
        database.run(f'CREATE TABLE answers ("ID" BIGINT PRIMARY KEY, "Team" TEXT, {OWN})')
        made = target(database)

        if database.conn_type == "postgres":
            with pytest.raises(SegmindConfigError, match="Names are case-sensitive: it has 'ID', 'Team'"):
                made.prepare(None)
            return
        assert made.prepare(None)
        write_all(made, row(1))
        assert database.rows('SELECT "ID", "Team" FROM answers') == [(1, "shop")]
