"""Every argument that is a path takes a string, a pathlib.Path and an ObjectStoragePath."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.compat import ObjectStoragePath
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.enrich import (
    SegmindEnrichFileOperator,
    SegmindEnrichSqlOperator,
    SegmindMergeOperator,
)
from airflow_provider_segmind.operators.request import SegmindResultOperator, SegmindRunOperator, SegmindSubmitOperator
from airflow_provider_segmind.sensors.request import SegmindRequestSensor
from tests.support.airflow_fakes import Run
from tests.support.table_tasks import Table, things

KINDS: list[Callable[[str], Any]] = [str, Path, lambda text: ObjectStoragePath(f"file://{text}")]
kinds = pytest.mark.parametrize("path", KINDS, ids=["text", "Path", "ObjectStoragePath"])
SQL = {"sql_conn_id": "db", "sql": "SELECT 1", "target_table": "t", "key": "id", "prompt": "{a}", "ledger_path": "/l"}
FILE = {"source": "/t.csv", "key": "id", "prompt": "{a}", "output_path": "/o.csv"}
ARGUMENTS: list[tuple[Any, dict[str, Any], str]] = [
    (SegmindSubmitOperator, {"inputs": {}}, "state_path"),
    (SegmindSubmitOperator, {"inputs": {}}, "inputs_schema"),
    (SegmindRunOperator, {"inputs": {}}, "output_path"),
    (SegmindRunOperator, {"inputs": {}}, "state_path"),
    (SegmindChatOperator, {"prompt": "a"}, "output_path"),
    (SegmindChatOperator, {"prompt": "a"}, "state_path"),
    (SegmindResultOperator, {"request_id": "a"}, "output_path"),
    (SegmindRequestSensor, {"request_id": "a"}, "output_path"),
    (SegmindMergeOperator, {"manifests": []}, "output_path"),
    (SegmindEnrichFileOperator, FILE, "source"),
    (SegmindEnrichFileOperator, FILE, "output_path"),
    (SegmindEnrichFileOperator, FILE, "ledger_path"),
    (SegmindEnrichSqlOperator, SQL, "ledger_path"),
]


@kinds
@pytest.mark.parametrize(("operator", "fields", "name"), ARGUMENTS)
def test_every_kind_of_path_is_accepted_at_dag_parse(
    operator: Any, fields: dict[str, Any], name: str, path: Any
) -> None:
    given = path("/tmp/x.jsonl")
    assert getattr(operator(task_id="a", **{**fields, name: given}), name) == given


@pytest.mark.parametrize(("operator", "fields", "name"), [one for one in ARGUMENTS if one[2] != "source"])
@pytest.mark.parametrize("wrong", [3, b"/tmp/x.jsonl"])
def test_what_is_not_a_path_is_named(operator: Any, fields: dict[str, Any], name: str, wrong: Any) -> None:
    with pytest.raises(SegmindConfigError, match=f"'{name}'"):
        operator(task_id="a", **{**fields, name: wrong})


@kinds
@pytest.mark.parametrize(("operator", "fields", "name"), [one for one in ARGUMENTS if one[2].endswith("_path")])
def test_a_path_with_nul_is_refused_at_parse(operator: Any, fields: dict[str, Any], name: str, path: Any) -> None:
    with pytest.raises(SegmindConfigError, match=f"'{name}' contains a NUL"):
        operator(task_id="a", **{**fields, name: path("/tmp/a\0b.jsonl")})


@kinds
@pytest.mark.parametrize("many", [False, True])
def test_a_table_is_read_and_written_wherever_its_paths_are_of_any_kind(
    tmp_path: Path, segmind_emulator: SegmindEmulator, path: Any, many: bool
) -> None:
    table = Table(tmp_path, segmind_emulator)
    source = path(table.write(things("sky")))
    manifest = table.ask(
        source=[source] if many else source,
        output_path=path(str(table.output)),
        ledger_path=path(str(tmp_path / "ledger")),
    )
    assert [row["answer"] for row in table.rows] == ["echo: The colour of sky?"]
    assert list((tmp_path / "ledger").iterdir())
    shards = [
        table.ask(source=source, output_path=path(str(tmp_path / "part.jsonl")), shard_index=index, shard_count=2)
        for index in (0, 1)
    ]
    assert manifest["rows_read"] == 1
    merged = tmp_path / "merged.jsonl"
    SegmindMergeOperator(task_id="m", manifests=shards, output_path=path(str(merged))).execute(table.run.context())
    assert len(merged.read_text().splitlines()) == 1


@kinds
def test_results_files_and_schemas_are_found_at_paths_of_any_kind(
    tmp_path: Path, segmind_emulator: SegmindEmulator, path: Any
) -> None:
    (tmp_path / "schema.json").write_text(json.dumps({"type": "object", "required": ["prompt"]}))
    (tmp_path / "note.png").write_bytes(b"\x89PNG\r\n\x1a\n123")
    run = SegmindRunOperator(
        task_id="a", model="gemini-3.1-flash-lite", inputs={"prompt": "a"}, output_path=path(str(tmp_path / "out")),
        inputs_schema=path(str(tmp_path / "schema.json")), state_path=path(str(tmp_path / "state")), max_xcom_bytes=0,
    )  # fmt: skip
    found = run.execute(Run().context())
    assert "/out/" in found["uri"]
    ask = SegmindChatOperator(
        task_id="b", model="gemini-3.1-flash-lite", prompt="What?", files=[path(str(tmp_path / "note.png"))],
        output_path=path(str(tmp_path / "answers")),
    )  # fmt: skip
    assert ask.execute(Run().context())
    for task in (run, ask):
        task.hook.close()
    assert list((tmp_path / "answers").iterdir())
