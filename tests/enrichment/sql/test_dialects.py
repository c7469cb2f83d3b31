"""Values reach a driver in a form that it binds exactly."""

from __future__ import annotations

import contextlib
from decimal import Decimal

import duckdb
import pytest

from airflow_provider_segmind.enrichment.sql.dialects import TableName, dialect_of


@pytest.mark.parametrize(
    ("number", "declared"),
    [
        (2**63, "HUGEINT"),
        (-(2**64), "HUGEINT"),
        (10**38 - 1, "HUGEINT"),
        (Decimal("1E+1"), "DECIMAL(38, 2)"),
        (Decimal("-25E+3"), "DECIMAL(38, 2)"),
        (Decimal("1.50"), "DECIMAL(38, 2)"),
        (7, "BIGINT"),
    ],
)
def test_every_version_of_duckdb_binds_a_number_exactly(number: int | Decimal, declared: str) -> None:
    [bound] = dialect_of("duckdb").bind([number])

    with contextlib.closing(duckdb.connect()) as connection:
        assert connection.execute(f"SELECT ?::{declared}", [bound]).fetchone() == (number,)


@pytest.mark.parametrize("text", ["t", "s.t", '"My table"', 's."a.b"', '"a""b"."c d"', "größe.t-1$"])
def test_the_name_of_a_table_is_written_as_it_is_read(text: str) -> None:
    name = TableName.parse(text, "target_table")

    assert str(name) == text
    assert TableName.parse(str(name), "target_table") == name
