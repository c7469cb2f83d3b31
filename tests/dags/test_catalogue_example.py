"""The example of a product catalogue runs unchanged, twice, from and to a database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.dag_runs import run_dags
from tests.support.databases import DuckDb, OneDatabase, postgres, postgres_server

pytestmark = pytest.mark.airflow
__all__ = ["postgres", "postgres_server"]

NAME = "example_segmind_catalogue"
DAG = (f"dags_examples/{NAME}.py", NAME)


def check(database: OneDatabase, emulator: SegmindEmulator) -> None:
    assert len(emulator.posts()) == len(emulator.bill) == 36
    rows = database.dicts("segmind_product_texts", "sku")
    assert [row["sku"] for row in rows] == list(range(1, 41))
    assert rows[9]["text"] == rows[8]["text"]
    assert {type(row["outdoor"]) for row in rows} == {bool}
    assert all(isinstance(json.loads(row["words"]), list) for row in rows)
    assert sum(row["_segmind_cost"] for row in rows) == pytest.approx(sum(entry.cost for entry in emulator.bill))


def test_in_duckdb_without_setup_and_a_second_run_costs_nothing(
    airflow_database: Path, segmind_emulator: SegmindEmulator, tmp_path: Path
) -> None:
    database = DuckDb(tmp_path)

    second = run_dags(
        *(DAG, DAG),
        connection=segmind_emulator.connection_json,
        SEGMIND_EXAMPLE_OUTPUT=tmp_path.as_uri(),
        SEGMIND_EXAMPLE_DUCKDB=str(database.path),
        SEGMIND_EXAMPLE_ROWS="40",
    )[NAME]

    assert second["state"] == "success", second["log"]
    assert second["values"]["report"].startswith("40 of 40 products described: 40 unchanged, 0 submitted for $0.00")
    check(database, segmind_emulator)


@pytest.mark.postgres
def test_from_and_to_postgresql(
    airflow_database: Path, segmind_emulator: SegmindEmulator, tmp_path: Path, postgres: OneDatabase
) -> None:
    ended = run_dags(
        DAG,
        connection=segmind_emulator.connection_json,
        SEGMIND_EXAMPLE_OUTPUT=tmp_path.as_uri(),
        SEGMIND_EXAMPLE_ROWS="40",
        SEGMIND_EXAMPLE_DATABASE="warehouse",
        AIRFLOW_CONN_WAREHOUSE=json.dumps(postgres.airflow),
    )[NAME]

    assert ended["state"] == "success", ended["log"]
    assert ended["values"]["report"].startswith("40 of 40 products described: 0 unchanged, 36 submitted for $0.00")
    check(postgres, segmind_emulator)
