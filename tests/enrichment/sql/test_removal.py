"""Rows of a table of answers are found and deleted by key columns, and by nothing else."""

from __future__ import annotations

import pytest

from airflow_provider_segmind.enrichment.sql.dialects import TableName, dialect_of
from airflow_provider_segmind.enrichment.sql.removal import AnswerRows
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from tests.support.databases import OWN, OneDatabase, database, postgres_server

__all__ = ["database", "postgres_server"]


def rows_of(database: OneDatabase, table: str = "answers", **key: object) -> AnswerRows:
    return AnswerRows(
        database.connect,
        dialect=dialect_of(database.conn_type),
        name=TableName((table,)),
        place=f"shop:{table}",
        key=key,
    )


@pytest.fixture
def answers(database: OneDatabase) -> OneDatabase:
    database.run(
        f"CREATE TABLE answers (customer INTEGER, name VARCHAR(20), answer TEXT, {OWN})",
        "INSERT INTO answers (customer, name, _segmind_fingerprint, _segmind_request_id) VALUES "
        "(7, 'o''hara', 'f1', 'r1'), (7, 'x', 'f2', NULL), (8, 'o''hara', 'f3', 'r3')",
    )
    return database


def test_the_rows_of_a_key_are_found_and_deleted(answers: OneDatabase) -> None:
    rows = rows_of(answers, customer=7)

    assert sorted(rows.marks(), key=str) == [("f1", "r1"), ("f2", None)]
    rows.delete()

    assert rows.marks() == []
    assert answers.rows("SELECT customer FROM answers") == [(8,)]


@pytest.mark.parametrize("customer", [7, "7"])
def test_several_columns_narrow_it_down_and_values_are_not_part_of_the_statement(
    customer: object, answers: OneDatabase
) -> None:
    rows = rows_of(answers, customer=customer, name="o'hara")

    assert rows.marks() == [("f1", "r1")]
    assert "hara" not in rows.delete_statement
    rows.delete()
    assert len(answers.rows("SELECT customer FROM answers")) == 2


def test_a_table_that_is_not_there_is_an_error_that_names_it(database: OneDatabase) -> None:
    with pytest.raises(SegmindEnrichmentError, match="shop:gone"):
        rows_of(database, "gone", customer=7).marks()
