"""Names of datasets and the columns behind a query; whole events are in ``tests/dags/test_lineage.py``."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk.io import ObjectStoragePath, attach
from airflow.sdk.lineage import HookLineageCollector
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.enrichment.settings import Shard
from airflow_provider_segmind.enrichment.storage import make_folder, write_whole
from airflow_provider_segmind.operators.enrich import SegmindEnrichSqlOperator
from airflow_provider_segmind.stores import locate
from tests.support.airflow_fakes import Run
from tests.support.databases import OneDatabase, postgres, postgres_server
from tests.support.httpx2 import with_httpx2
from tests.support.manifests import manifest_of

# The client of OpenLineage needs httpx2, which tests/conftest.py withholds from ours.
with with_httpx2():
    from airflow_provider_segmind.execution.lineage import (
        Database,
        Tables,
        file_dataset,
        file_tables,
        on_end,
        sql_tables,
    )


__all__ = ["postgres", "postgres_server"]


@pytest.mark.parametrize(
    ("address", "namespace", "name"),
    [
        ("/data/in.jsonl", "file", "/data/in.jsonl"),
        ("file:///data/in.jsonl", "file", "/data/in.jsonl"),
        ("s3://bucket/a/b.csv", "s3://bucket", "a/b.csv"),
        ("s3://aws_default@bucket/a/b.csv", "s3://bucket", "a/b.csv"),
        ("gcs://bucket/b.csv", "gs://bucket", "b.csv"),
        ("abfss://box@account.dfs.core.windows.net/b.csv", "abfss://box@account.dfs.core.windows.net", "b.csv"),
        ("s3://bucket/day=*/b.csv", "s3://bucket", "/"),
        ("/data/2026/*.jsonl", "file", "/data/2026"),
        ("s3://bucket/a b#1.csv", "s3://bucket", "a b#1.csv"),
    ],
)
def test_a_file_is_named_as_openlineage_specifies(address: str, namespace: str, name: str) -> None:
    found = file_dataset(address)

    assert (found.namespace, found.name) == (namespace, name)


def test_rows_of_a_list_are_no_dataset_and_a_sample_has_its_own_output(tmp_path: Path) -> None:
    tables = file_tables([{"id": 1}], str(tmp_path / "out.jsonl"), shard=Shard(), sample=5)

    assert tables.inputs == []
    assert tables.output is not None
    assert tables.output.name == str(tmp_path / "out.sample.jsonl")


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    warehouse = {"conn_type": "postgres", "host": "127.0.0.1", "schema": "shop", "login": "u", "password": "p"}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(warehouse))
    # The hook asks the database.
    monkeypatch.setattr(PostgresHook, "get_openlineage_default_schema", lambda _: "public")
    monkeypatch.setenv("AIRFLOW_CONN_LITE", json.dumps({"conn_type": "sqlite", "host": str(tmp_path / "a.db")}))


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("items",), "shop.public.items"),
        (("sales", "items"), "shop.sales.items"),
        (("old", "sales", "items"), "old.sales.items"),
    ],
)
def test_a_table_is_named_with_what_its_hook_knows(connected: None, parts: tuple[str, ...], name: str) -> None:
    found = Database.of("warehouse", "sql_conn_id").dataset(parts)

    assert (found.namespace, found.name) == ("postgres://127.0.0.1:5432", name)


def test_a_database_whose_hook_knows_no_openlineage_is_named_by_its_file(connected: None, tmp_path: Path) -> None:
    found = Database.of("lite", "sql_conn_id").dataset(("items",))

    assert (found.namespace, found.name) == (f"sqlite://{tmp_path / 'a.db'}", "main.items")


def tables_of(**changes: Any) -> Tables:
    given: dict[str, Any] = {
        "sql_conn_id": "warehouse",
        "target_conn_id": "lite",
        "sql": "items",
        "target_table": "answers",
        "sample": None,
    }
    return sql_tables(**{**given, **changes})


def test_the_columns_of_a_join_come_from_the_tables_that_have_them(connected: None) -> None:
    query = "SELECT i.id, i.title AS name, v.name AS vendor FROM items i JOIN crm.vendors v ON v.id = i.vendor_id"

    tables = tables_of(sql=query)

    assert {one.name for one in tables.inputs} == {"shop.public.items", "shop.crm.vendors"}
    found = {column: [(one.name, name) for one, name in tables.origins(column)] for column in ("name", "vendor")}
    assert found == {"name": [("shop.public.items", "title")], "vendor": [("shop.crm.vendors", "name")]}


def test_a_query_that_cannot_be_parsed_has_no_inputs(connected: None) -> None:
    tables = tables_of(sql="EXPLAIN ~~ 1")

    assert tables.inputs == []
    assert list(tables.origins("name")) == []


def test_a_table_read_whole_has_its_own_columns(connected: None) -> None:
    tables = tables_of(sql="sales.items", sample=3)

    assert [(one.name, name) for one, name in tables.origins("name")] == [("shop.sales.items", "name")]
    assert tables.output is not None
    assert tables.output.name == "main.answers_sample"


def schema_of_source(tables: Tables, *columns: str) -> dict[str, str | None]:
    manifest = manifest_of(2, columns=[*columns, "answer"])
    (one, *_) = on_end(tables, manifest, source_columns=columns).inputs
    return types_of(one)


def types_of(dataset: Any) -> dict[str, str | None]:
    return {column.name: column.type for column in dataset.facets["schema"].fields}


def test_columns_of_parquet_files_have_the_types_that_the_first_one_declares(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for number in range(2):
        parquet.write_table(arrow.table({"id": [number], "made": [date(2026, 11, 27)]}), tmp_path / f"{number}.parquet")
    tables = file_tables(str(tmp_path), str(tmp_path / "out.jsonl"), shard=Shard(), sample=None)

    assert schema_of_source(tables, "id", "made", "other") == {"id": "int64", "made": "date32[day]", "other": None}


@pytest.mark.parametrize("name", ["rows.csv", "damaged.parquet", "missing.jsonl"])
def test_columns_of_other_files_and_of_those_that_cannot_be_read_have_none(tmp_path: Path, name: str) -> None:
    if not name.startswith("missing"):
        (tmp_path / name).write_text("id,made\n1,2026-11-27\n")
    tables = file_tables(str(tmp_path / name), str(tmp_path / "out.jsonl"), shard=Shard(), sample=None)

    assert schema_of_source(tables, "id", "made") == {"id": None, "made": None}


def test_columns_of_a_table_have_the_types_of_its_database(connected: None, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as lite:
        lite.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, title VARCHAR(80), anything)")
    tables = tables_of(sql_conn_id="lite", sql="items")

    found = schema_of_source(tables, "id", "title", "anything")

    assert found == {"id": "integer", "title": "varchar(80)", "anything": None}
    # A database that cannot be opened.
    assert schema_of_source(tables_of(sql="items"), "id") == {"id": None}


def test_the_tables_of_a_query_and_copied_keys_have_the_types_of_their_database(
    connected: None, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as lite:
        lite.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, title VARCHAR(80), anything)")
        lite.execute("CREATE TABLE vendors (id BIGINT, name TEXT)")
        lite.execute("CREATE TABLE answers (id BIGINT PRIMARY KEY, answer TEXT)")
    query = "SELECT i.id, i.title FROM items i JOIN vendors v ON v.id = i.id"

    found = on_end(tables_of(sql_conn_id="lite", sql=query), manifest_of(2, columns=["id", "answer"]))

    assert {one.name: types_of(one) for one in found.inputs} == {
        "main.items": {"id": "integer", "title": "varchar(80)", "anything": None},
        "main.vendors": {"id": "bigint", "name": "text"},
    }
    assert types_of(found.outputs[0])["id"] == "bigint"
    # A database that cannot be opened.
    unknown = on_end(tables_of(sql=query), manifest_of(2, columns=["id", "answer"]))
    assert [one.facets for one in unknown.inputs] == [{}, {}]


def test_files_of_a_ledger_in_an_object_store_are_not_reported_to_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = HookLineageCollector()
    monkeypatch.setattr("airflow.sdk.lineage.get_hook_lineage_collector", lambda: collector)
    attach("memory", fs=MemoryFileSystem())
    folder = locate("memory://bucket/ledger")
    make_folder(folder)
    with write_whole(folder / "segment.jsonl") as file:
        file.write(b"{}")
    for path in folder.iterdir():
        with path.open("rb") as file:
            assert file.read() == b"{}"

    with ObjectStoragePath("memory://bucket/tracked.jsonl").open("w") as file:
        file.write("{}")

    collected = collector.collected_assets
    found = [one.asset.uri for one in (*collected.inputs, *collected.outputs)]
    assert [uri for uri in found if "tracked" in uri]
    assert not [uri for uri in found if "ledger" in uri]


@pytest.mark.postgres
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_table_task_on_postgresql_names_what_it_read_and_wrote(
    postgres: OneDatabase,
    segmind_emulator: SegmindEmulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dry_run: bool,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(postgres.airflow))
    postgres.run("CREATE TABLE items (id INT PRIMARY KEY, title TEXT)", "INSERT INTO items VALUES (1, 'a chair')")
    task = SegmindEnrichSqlOperator(
        task_id="ask",
        model="gemini-3.1-flash-lite",
        sql_conn_id="shop",
        sql="SELECT id, title AS name FROM items",
        key="id",
        target_table="answers",
        prompt="Describe {name}.",
        ledger_path=str(tmp_path),
        dry_run=dry_run,
    )
    task.execute(Run().context())

    found = task.get_openlineage_facets_on_complete(None)

    fields = postgres.airflow
    namespace = f"postgres://{fields['host']}:{fields['port']}"
    assert [(one.namespace, one.name) for one in found.inputs] == [(namespace, f"{fields['schema']}.public.items")]
    if dry_run:
        assert found.outputs == []
        return
    assert types_of(found.inputs[0]) == {"id": "integer", "title": "text"}
    assert types_of(found.outputs[0])["id"] == "bigint"
    (output,) = found.outputs
    assert (output.namespace, output.name) == (namespace, f"{fields['schema']}.public.answers")
    lineage: Any = output.facets["columnLineage"]
    assert [one.field for one in lineage.fields["answer"].inputFields] == ["title"]
    assert output.outputFacets["outputStatistics"].rowCount == 1
