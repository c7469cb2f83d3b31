from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.files.readers import open_source
from airflow_provider_segmind.enrichment.manifest import Manifest, merge
from airflow_provider_segmind.enrichment.output import merge_dead_letters, merge_outputs
from airflow_provider_segmind.enrichment.settings import Shard
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from tests.support.enrichment import table
from tests.support.enrichment_output import landed

ROWS = [*table(*(str(number % 30) for number in range(50)), "bad"), {"id": 51, "other": "no text"}, *table("a", "bad")]
COUNT = 3


async def in_shards(folder: Path, rows: list[dict[str, Any]], ending: str = ".jsonl") -> tuple[Manifest, list[Path]]:
    shards = []
    for index in range(COUNT):
        shard = Shard(index=index, count=COUNT)
        shards.append(await landed(folder / f"{index}", rows, f"out{ending}", shard=shard))
    whole = merge(shards)
    return whole, [Path(part) for part in whole.outputs]


def read(path: Path) -> list[dict[str, Any]]:
    return [dict(row) for row in open_source(path)]


def without_requests(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows without their request ids, which differ because every shard has its own emulator here."""
    return [{**row, "_segmind_request_id": bool(row["_segmind_request_id"])} for row in rows]


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".jsonl.gz", ".parquet"])
async def test_merged_shards_equal_the_output_of_one_task(tmp_path: Path, ending: str) -> None:
    alone = await landed(tmp_path / "alone", ROWS, f"out{ending}")
    whole, parts = await in_shards(tmp_path, ROWS, ending)

    columns = merge_outputs(whole, parts, tmp_path / "new" / f"out{ending}")

    assert columns == alone.columns
    joined = read(tmp_path / "new" / f"out{ending}")
    assert without_requests(joined) == without_requests(read(tmp_path / "alone" / "out" / f"out{ending}"))
    assert list(joined[0]) == alone.columns


@pytest.mark.parametrize("target", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
async def test_columns_whose_names_a_format_cannot_tell_apart_keep_their_values_when_merged(
    tmp_path: Path, ending: str, target: str
) -> None:
    key = ("a\ud83d", "a\udc00", "a\ufffd")
    rows = [{"text": str(row), **{column: f"{row}-{place}" for place, column in enumerate(key)}} for row in range(9)]
    shards = []
    for index in range(COUNT):
        shard = Shard(index=index, count=COUNT)
        shards.append(await landed(tmp_path / f"{index}", rows, f"out{ending}", shard=shard, key=key))
    whole = merge(shards)

    merge_outputs(whole, [Path(part) for part in whole.outputs], tmp_path / f"out{target}")

    joined = read(tmp_path / f"out{target}")
    assert [list(row.values())[:3] for row in joined] == [[row[column] for column in key] for row in rows]


async def test_the_output_may_have_another_format_than_the_shards(tmp_path: Path) -> None:
    whole, parts = await in_shards(tmp_path, ROWS)

    merge_outputs(whole, parts, tmp_path / "out.parquet")

    assert [row["id"] for row in read(tmp_path / "out.parquet")] == [row["id"] for row in ROWS]


async def test_dead_letters_are_put_in_the_order_of_the_source(tmp_path: Path) -> None:
    whole, _ = await in_shards(tmp_path, ROWS)

    merge_dead_letters([Path(part) for part in whole.dead_letters], tmp_path / "dead.jsonl")

    assert [(row["row"], row["outcome"]) for row in read(tmp_path / "dead.jsonl")] == [
        (50, "failed"),
        (51, "skipped"),
        (53, "failed"),
    ]


async def test_a_table_without_rows_is_joined_as_well(tmp_path: Path) -> None:
    whole, parts = await in_shards(tmp_path, [], ".csv")

    merge_outputs(whole, parts, tmp_path / "out.csv")

    assert (tmp_path / "out.csv").read_text().startswith("id,said,_segmind_status")


async def test_a_missing_or_duplicated_row_leaves_no_output(tmp_path: Path) -> None:
    whole, parts = await in_shards(tmp_path, ROWS)
    target = tmp_path / "out.jsonl"
    lines = parts[1].read_text().splitlines(keepends=True)

    parts[1].write_text("".join(lines[1:]))
    with pytest.raises(
        SegmindEnrichmentError,
        match=f"Row {json.loads(lines[0])['_segmind_row']} is missing from the outputs of all shards",
    ):
        merge_outputs(whole, parts, target)
    parts[1].write_text("".join([lines[0], *lines]))
    with pytest.raises(SegmindEnrichmentError, match="twice in the outputs of the shards, or is out of order"):
        merge_outputs(whole, parts, target)
    parts[1].write_text("".join(lines))
    with pytest.raises(
        SegmindEnrichmentError, match=f"contain {len(ROWS)} rows, but their manifests count {len(ROWS) - 1}"
    ):
        merge_outputs(replace(whole, rows_read=len(ROWS) - 1), parts, target)
    with pytest.raises(SegmindEnrichmentError, match="twice in the outputs of the shards, or is out of order"):
        merge_outputs(whole, [*parts, parts[0]], target)
    assert not target.exists()


async def test_a_file_that_no_shard_wrote_is_refused(tmp_path: Path) -> None:
    (tmp_path / "alone.jsonl").write_text('{"id": 1}\n')

    with pytest.raises(SegmindEnrichmentError, match="no shard has written it"):
        merge_outputs(merge([Manifest(run_id="r", model="m")]), [tmp_path / "alone.jsonl"], tmp_path / "out.jsonl")
