"""Invalid arguments for a database fail when the DAG is parsed, and are named."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.operators.enrich import SegmindEnrichSqlOperator

GOOD = {
    "sql_conn_id": "db",
    "sql": "products",
    "key": "id",
    "target_table": "answers",
    "ledger_path": "/tmp/ledger",
    "prompt": "Name {it}.",
}


def make(**fields: Any) -> SegmindEnrichSqlOperator:
    return SegmindEnrichSqlOperator(task_id="a_task", **{**GOOD, **fields})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sql": None}, "'sql'"),
        ({"sql": " "}, "'sql'"),
        ({"sql": ["SELECT 1"]}, "'sql'"),
        ({"target_table": "answers; --"}, "'target_table'"),
        ({"target_table": None}, "'target_table'"),
        ({"target_table": "products"}, "'target_table' is the source"),
        ({"sql_conn_id": ""}, "'sql_conn_id'"),
        ({"ledger_path": None}, "'ledger_path'"),
        ({"incremental": "yes"}, "'incremental'"),
        ({"batch_rows": 0}, "'batch_rows'"),
        ({"key": []}, "'key'"),
        ({"key": "_segmind_status"}, "'_segmind_status'"),
        ({"prompt": "Name it."}, "'prompt'"),
        ({"max_cost": -1}, "'max_cost'"),
    ],
)
def test_an_invalid_argument_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(SegmindConfigError) as caught:
        make(**fields)

    assert named in str(caught.value)


def test_a_templated_argument_is_checked_when_the_task_runs() -> None:
    task = make(sql="{{ params.sql }}", target_table="answers_{{ ds_nodash }}")

    task.render_template_fields({"params": {"sql": "SELECT 1"}, "ds_nodash": "20261125"})

    assert (task.sql, task.target_table) == ("SELECT 1", "answers_20261125")


def test_another_database_may_have_a_table_of_the_same_name() -> None:
    assert make(target_table="products", target_conn_id="other").target_conn_id == "other"
