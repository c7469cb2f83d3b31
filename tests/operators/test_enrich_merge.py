"""The shards of a table are merged, with no row missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.compat import AirflowFailException
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.enrichment.files.readers import open_source
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.operators.enrich import SegmindMergeOperator
from tests.support.airflow_fakes import Run
from tests.support.table_tasks import Table, read, things

NAMES = [f"thing {number % 9}" for number in range(20)]


@pytest.fixture
def shards(tmp_path: Path, segmind_emulator: SegmindEmulator) -> list[dict[str, Any]]:
    segmind_emulator.script(match="thing 4", fail="too odd")
    table = Table(tmp_path, segmind_emulator)
    source = table.write(things(*NAMES))
    returned = []
    for index in range(3):
        table.run = Run(map_index=index)
        returned.append(table.ask(source=source, shard_index=index, shard_count=3, max_failed_rows=None))
    # As XCom carries it.
    return list(json.loads(json.dumps(returned)))


def merge(manifests: Any, **fields: Any) -> Any:
    task = SegmindMergeOperator(task_id="merge", manifests=manifests, **fields)
    context = Run().context()
    task.render_template_fields(context)
    return task.execute(context)


def test_the_shards_become_one_table_with_one_manifest_and_one_report(
    shards: list[dict[str, Any]], tmp_path: Path
) -> None:
    # A mapped task's output is not a list until it is iterated over.
    whole = merge(tuple(shards), output_path=str(tmp_path / "whole.jsonl"))

    rows = read(tmp_path / "whole.jsonl")
    assert [row["id"] for row in rows] == list(range(20))
    assert "_segmind_row" not in rows[0]
    assert whole["rows_read"] == whole["rows_in_source"] == 20
    assert whole["distinct_rows"] == 9
    assert whole["outcomes"]["failed"] == 2
    assert whole["reasons"] == {"failed": {"too odd": 2}}
    assert whole["calls"] == sum(shard["calls"] for shard in shards)
    assert whole["cost"] == pytest.approx(sum(row["_segmind_cost"] for row in rows))
    assert whole["outputs"] == [str(tmp_path / "whole.jsonl")]
    assert whole["columns"] == list(rows[0])
    assert json.loads((tmp_path / "whole.manifest.json").read_text()) == whole
    assert [row["row"] for row in read(tmp_path / "whole.dead_letters.jsonl")] == [4, 13]
    assert "18 of 20 rows answered, 2 without an answer" in Path(whole["report"]).read_text()


def test_shards_whose_names_look_like_patterns_are_merged(tmp_path: Path, segmind_emulator: SegmindEmulator) -> None:
    table = Table(tmp_path, segmind_emulator)
    source, output = table.write(things("sky", "rose", "leaf"), "things[1].jsonl"), str(tmp_path / "out" / "a[1].jsonl")

    parts = [table.ask(source=source, output_path=output, shard_index=index, shard_count=2) for index in range(2)]
    whole = merge(parts, output_path=str(tmp_path / "whole[1].jsonl"))

    assert whole["rows_read"] == len(read(tmp_path / "whole[1].jsonl")) == 3


@pytest.mark.parametrize("name", ["whole.jsonl", "whole.csv", "whole.parquet"])
def test_one_shard_is_all_of_the_table(tmp_path: Path, segmind_emulator: SegmindEmulator, name: str) -> None:
    segmind_emulator.script(match="rose", fail="too red")
    table = Table(tmp_path, segmind_emulator)
    part = table.ask(source=table.write(things("sky", "rose", "leaf")), shard_count=1, max_failed_rows=None)

    whole = merge([part], output_path=str(tmp_path / name))

    rows = list(open_source(str(tmp_path / name)))
    assert [int(row["id"]) for row in rows] == [0, 1, 2]
    assert list(rows[0]) == whole["columns"] == part["columns"]
    assert [letter["row"] for letter in read(tmp_path / "whole.dead_letters.jsonl")] == [1]


def test_without_a_path_only_the_manifests_are_merged(shards: list[dict[str, Any]]) -> None:
    whole = merge(shards)

    assert whole["outputs"] == [shard["outputs"][0] for shard in shards]
    assert (whole["rows_read"], whole["shard_count"], whole["run_id"]) == (20, 1, "a_dag/manual__1/a_task")


def test_a_missing_shard_fails_and_writes_nothing(shards: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(AirflowFailException, match=r"Shards \[0, 1\] were given, but 0 to 2 are needed"):
        merge(shards[:2], output_path=str(tmp_path / "whole.jsonl"))
    assert not (tmp_path / "whole.jsonl").exists()


def test_a_row_missing_from_a_shard_fails_and_writes_nothing(shards: list[dict[str, Any]], tmp_path: Path) -> None:
    part = Path(shards[2]["outputs"][0])
    part.write_text("".join(part.read_text().splitlines(keepends=True)[:-1]))

    with pytest.raises(AirflowFailException, match=r"missing from the outputs of all shards|their manifests count 20"):
        merge(shards, output_path=str(tmp_path / "whole.jsonl"))
    assert not (tmp_path / "whole.jsonl").exists()


def test_the_output_of_a_shard_is_not_overwritten(shards: list[dict[str, Any]]) -> None:
    with pytest.raises(AirflowFailException, match="is the output of a shard"):
        merge(shards, output_path=shards[0]["outputs"][0])


def test_a_path_in_an_unknown_store_is_named(shards: list[dict[str, Any]]) -> None:
    with pytest.raises(
        AirflowFailException, match=r"'output_path' is 'nowhere://b/t\.csv', in a storage system that this Airflow"
    ):
        merge(shards, output_path="nowhere://b/t.csv")


def test_shards_that_wrote_into_a_database_have_no_files_to_merge(shards: list[dict[str, Any]], tmp_path: Path) -> None:
    into_a_table = [{**shard, "outputs": ["warehouse:answers"]} for shard in shards]

    assert merge(into_a_table)["outputs"] == ["warehouse:answers"]
    with pytest.raises(AirflowFailException, match="into warehouse:answers, not into files"):
        merge(into_a_table, output_path=str(tmp_path / "whole.jsonl"))


@pytest.mark.parametrize("given", ["a text", [None, None], [{"rows": 3, "low": 0.1}]])
def test_an_argument_that_is_not_a_manifest_is_named(given: Any) -> None:
    with pytest.raises(AirflowFailException, match="'manifests' contains"):
        merge(given)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"manifests": None}, "'manifests'"),
        ({"output_path": "out.xlsx"}, "out.xlsx"),
    ],
)
def test_an_invalid_argument_fails_when_the_dag_is_parsed(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(SegmindConfigError, match=named):
        SegmindMergeOperator(task_id="merge", **{"manifests": [], **fields})
