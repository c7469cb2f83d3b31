"""A table file loses the rows that are meant, and nothing else of it changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.files import removal
from airflow_provider_segmind.enrichment.files.readers import open_source
from airflow_provider_segmind.enrichment.files.removal import count_rows, remove_rows
from airflow_provider_segmind.enrichment.files.writers import open_sink

COLUMNS = ["id", "said", "cost"]
ROWS = [{"id": number, "said": f'"{number}",\n', "cost": None if number % 2 else 0.5} for number in range(6)]
ENDINGS = pytest.mark.parametrize("ending", ["csv", "csv.gz", "jsonl", "jsonl.gz", "parquet"])


def written(path: Path) -> Path:
    if path.name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with open_sink(path, COLUMNS) as write:
        for row in ROWS:
            write(row)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [dict(row) for row in open_source(path)]


def of_ids(*wanted: int) -> removal.Drop:
    return lambda row: int(row["id"]) in wanted


@ENDINGS
@pytest.mark.parametrize("ids", [(0,), (1, 4), (5,), tuple(range(6))])
def test_the_other_rows_stay_as_they_are_and_in_their_order(tmp_path: Path, ending: str, ids: tuple[int, ...]) -> None:
    path = written(tmp_path / f"out.{ending}")
    expected = [row for row in read(path) if int(row["id"]) not in ids]

    assert count_rows(path, of_ids(*ids)) == len(ids)
    remove_rows(path, of_ids(*ids))

    assert read(path) == expected
    assert count_rows(path, of_ids(*ids)) == 0
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@ENDINGS
def test_a_file_without_such_a_row_is_not_written_again(tmp_path: Path, ending: str) -> None:
    path = written(tmp_path / f"out.{ending}")
    before = path.stat().st_ino, path.read_bytes()

    remove_rows(path, of_ids(77))

    assert (path.stat().st_ino, path.read_bytes()) == before


def test_a_file_that_does_not_exist_has_no_such_row(tmp_path: Path) -> None:
    remove_rows(tmp_path / "none.jsonl", of_ids(1))

    assert list(tmp_path.iterdir()) == []


def test_the_columns_of_a_parquet_file_keep_their_types_also_where_no_value_is_left(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = written(tmp_path / "out.parquet")
    schema = parquet.read_schema(path)

    remove_rows(path, of_ids(0, 2, 4))

    assert parquet.read_schema(path).equals(schema)
    assert [row["cost"] for row in read(path)] == [None] * 3


def test_the_row_of_a_large_parquet_file_that_is_meant_is_the_one_removed(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path, count = tmp_path / "out.parquet", (1 << 16) + 10
    parquet.write_table(pyarrow.table({"id": list(range(count))}), path)

    remove_rows(path, of_ids(3, count - 3))

    assert parquet.read_table(path)["id"].to_pylist() == [n for n in range(count) if n not in (3, count - 3)]


@ENDINGS
def test_an_interrupted_removal_leaves_the_file_and_may_be_repeated(tmp_path: Path, ending: str) -> None:
    path = written(tmp_path / f"out.{ending}")
    before, counted = path.read_bytes(), 0

    def interrupted(row: Mapping[str, Any]) -> bool:
        nonlocal counted
        counted += 1
        if counted > len(ROWS) + 3:
            raise KeyboardInterrupt
        return int(row["id"]) == 1

    with pytest.raises(KeyboardInterrupt):
        remove_rows(path, interrupted)
    assert path.read_bytes() == before

    remove_rows(path, of_ids(1))
    assert [int(row["id"]) for row in read(path)] == [0, 2, 3, 4, 5]
