"""
Describe a product catalogue every night: table in, table out; only new and changed products are submitted and paid for.

It runs without any setup, in a DuckDB file (``pip install airflow-provider-duckdb``); SEGMIND_EXAMPLE_DUCKDB names
another one, and SEGMIND_EXAMPLE_ROWS another number of products. To use your own PostgreSQL, set
SEGMIND_EXAMPLE_DATABASE to the id of its Connection.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.operators.enrich import SegmindEnrichSqlOperator

try:
    from airflow.sdk import DAG, BaseHook, task
except ImportError:  # Airflow 2.11
    from airflow import DAG
    from airflow.decorators import task
    from airflow.hooks.base import BaseHook

# Any ObjectStoragePath URI, such as "s3://aws_default@my-bucket/segmind"; without one a folder of this Airflow.
HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
FOLDER = os.environ.get("SEGMIND_EXAMPLE_OUTPUT", (HOME / "segmind").as_uri()) + "/catalogue"
ROWS = int(os.environ.get("SEGMIND_EXAMPLE_ROWS", "100"))
DATABASE = os.environ.get("SEGMIND_EXAMPLE_DATABASE", "segmind_catalogue")
if DATABASE == "segmind_catalogue":
    # Instead of a Connection that would have to be created first.
    path = os.environ.get("SEGMIND_EXAMPLE_DUCKDB", str(HOME / "segmind_catalogue.duckdb"))
    os.environ["AIRFLOW_CONN_SEGMIND_CATALOGUE"] = json.dumps({"conn_type": "duckdb", "host": path})

TABLE = "CREATE TABLE IF NOT EXISTS segmind_products (sku BIGINT PRIMARY KEY, name TEXT, material TEXT)"
# Every tenth product is a duplicate of the one before it, with another number.
PRODUCTS = """
INSERT INTO segmind_products
SELECT i, 'Chair no. ' || CASE WHEN MOD(i, 10) = 0 THEN i - 1 ELSE i END, 'oak' FROM generate_series(1, {}) AS t(i)
ON CONFLICT (sku) DO NOTHING
"""


class Product(BaseModel):
    room: Literal["kitchen", "office", "garden"]
    outdoor: bool
    text: str = Field(description="One sentence that sells it.")
    words: list[str] = Field(description="Search terms.")


with DAG("example_segmind_catalogue", schedule=None, params={"rows": ROWS}, tags=["segmind", "example"]):

    @task
    def make_catalogue(params: dict[str, Any] | None = None) -> int:
        rows = int((params or {})["rows"])
        BaseHook.get_connection(DATABASE).get_hook().run([TABLE, PRODUCTS.format(rows)])
        return rows

    describe = SegmindEnrichSqlOperator(
        task_id="describe",
        model="gemini-3.1-flash-lite",
        sql_conn_id=DATABASE,
        sql="SELECT sku, name, material FROM segmind_products WHERE sku <= {{ params.rows }} ORDER BY sku",
        key="sku",
        target_table="segmind_product_texts",
        system="You write the catalogue of a furniture shop.",
        prompt="Describe {name}, made of {material}.",
        output_type=Product,
        ledger_path=f"{FOLDER}/ledger",
        max_cost=10.0,
        retries=2,
    )

    @task
    def report(manifest: dict[str, Any]) -> str:
        count = "SELECT COUNT(*), SUM(_segmind_cost) FROM segmind_product_texts WHERE _segmind_status = 'success'"
        described, cost = BaseHook.get_connection(DATABASE).get_hook().get_first(count)
        return (
            f"{manifest['outcomes']['success']} of {manifest['rows_read']} products described: "
            f"{manifest['rows_unchanged']} unchanged, {manifest['posts']} submitted for "
            f"{format_usd(manifest['cost'])}. The table contains {described}, for {format_usd(cost)}"
        )

    make_catalogue() >> describe
    report(describe.output)
