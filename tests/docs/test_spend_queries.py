"""The queries of docs/explanation/spend.md return what was recorded."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from airflow_provider_segmind.spend.files import FileStore
from airflow_provider_segmind.spend.sql_table import SqlStore
from tests.support.databases import DuckDb
from tests.support.spend import DAY, NOON, an_entry

PAGE = (Path(__file__).parents[2] / "docs" / "explanation" / "spend.md").read_text()
OF_FILES, OF_TABLE = re.findall(r"^```sql\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
ENTRIES = [
    an_entry("r1"),
    an_entry("r2", cost_micros=100.5),
    an_entry("r2", at=NOON + 60, try_number=2, cost_micros=100.5),
    replace(an_entry("r1", at=NOON - 60), dag_id="", task_id="", run_id="", outcome="unknown"),
    an_entry("r3", at=NOON + DAY, dag_id="b_dag", cost_micros=None),
]
EXPECTED = [("2026-11-26", "a_dag", 2, 0.000149), ("2026-11-27", "b_dag", 1, None)]


def test_the_files_add_up_by_day_dag_and_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in ENTRIES:
        FileStore(tmp_path / "spend").write([entry])
    monkeypatch.chdir(tmp_path)
    rows = duckdb.sql(OF_FILES).fetchall()
    assert [(str(day), dag, requests, usd) for day, dag, _, requests, usd in rows] == EXPECTED


def test_the_table_adds_up_by_day_dag_and_model(tmp_path: Path) -> None:
    database = DuckDb(tmp_path)

    class Hook:
        conn_type, placeholder = "duckdb", "?"
        get_conn = staticmethod(database.connect)

    store = SqlStore(Hook(), "a_database")
    for entry in ENTRIES:
        store.write([entry])
    rows = database.rows(OF_TABLE)
    found = [(day, dag, requests, None if usd is None else round(float(usd), 6)) for day, dag, _, requests, usd in rows]
    assert found == EXPECTED
