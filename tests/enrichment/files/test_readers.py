from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.files.readers import kind_of, known_kind, open_source
from airflow_provider_segmind.enrichment.files.writers import Kinds, open_sink
from airflow_provider_segmind.exceptions import SegmindConfigError
from tests.support.object_stores import ObjectStore
from tests.support.table_files import write_table

ROWS: list[dict[str, Any]] = [
    {"id": 1, "text": 'Grün, "so"\nzweite Zeile', "tags": ["a", "b"]},
    {"id": 2, "text": None, "tags": []},
]


def written(path: Any, rows: list[dict[str, Any]], columns: tuple[str, ...] = ("id", "text", "tags")) -> None:
    write_table(path, rows, columns)


def read(source: Any) -> list[Mapping[str, Any]]:
    return list(open_source(source))


@pytest.mark.parametrize("name", ["t.jsonl", "t.ndjson", "t.jsonl.gz"])
def test_jsonl_comes_back_as_it_was_written(tmp_path: Path, name: str) -> None:
    written(tmp_path / name, ROWS)
    assert read(tmp_path / name) == ROWS


@pytest.mark.parametrize("name", ["t[1].csv", "what?.csv", "a*.csv"])
def test_a_file_with_exactly_the_name_is_not_a_pattern(tmp_path: Path, name: str) -> None:
    for other in ("t1.csv", "whats.csv", "ab.csv"):
        (tmp_path / other).write_text("id\n0\n")
    assert read(tmp_path / name) == [{"id": "0"}]

    (tmp_path / name).write_text("id\n1\n")

    assert read(tmp_path / name) == read([str(tmp_path / name)]) == [{"id": "1"}]


@pytest.mark.parametrize("name", ["t.csv", "t.CSV", "t.csv.gz"])
def test_csv_comes_back_as_texts(tmp_path: Path, name: str) -> None:
    written(tmp_path / name, ROWS)
    assert read(tmp_path / name) == [
        {"id": "1", "text": 'Grün, "so"\nzweite Zeile', "tags": '["a","b"]'},
        {"id": "2", "text": "", "tags": "[]"},
    ]


def test_parquet_keeps_types_and_writes_lists_as_text(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = [
        {"i": 1, "f": 1, "b": True, "d": date(2026, 1, 2), "n": Decimal("1.50"), "t": datetime(2026, 1, 2, tzinfo=UTC)},
        {"i": None, "f": 0.5, "b": None, "d": None, "n": Decimal("12.345"), "t": None},
    ]
    written(tmp_path / "t.parquet", rows, ("i", "f", "b", "d", "n", "t"))
    assert read(tmp_path / "t.parquet") == rows
    written(tmp_path / "u.parquet", ROWS)
    assert read(tmp_path / "u.parquet")[0]["tags"] == '["a","b"]'


def test_a_rare_type_in_the_last_row_turns_a_parquet_column_into_text(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    written(tmp_path / "t.parquet", [{"a": 1}, {"a": "x"}, {"a": 2**70}], ("a",))
    assert [row["a"] for row in read(tmp_path / "t.parquet")] == ["1", "x", str(2**70)]


def test_an_empty_table_still_has_its_columns(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    written(tmp_path / "t.parquet", [])
    assert read(tmp_path / "t.parquet") == []
    written(tmp_path / "t.csv", [])
    assert (tmp_path / "t.csv").read_text() == "id,text,tags\n"


def test_a_table_that_fails_half_way_does_not_appear(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for name in ("t.jsonl", "t.csv", "t.csv.gz", "t.parquet"):

        def fail(path: Path = tmp_path / name) -> None:
            with open_sink(path, ("id",), Kinds(("id",))) as write:
                write({"id": None})
                raise OSError("disk")

        with pytest.raises(OSError, match="disk"):
            fail()
    assert list(tmp_path.iterdir()) == []


def test_equal_rows_make_equal_bytes_also_when_packed(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        written(tmp_path / name, ROWS)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_a_table_is_read_from_and_written_to_an_object_store() -> None:
    path = ObjectStore().path("b/t.jsonl")
    written(path, ROWS)
    assert read(path) == ROWS
    assert read(path.parent) == ROWS


def test_a_folder_is_read_in_the_order_of_names_without_what_is_no_table(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "_SUCCESS", ".hidden.jsonl", "_old.jsonl", "readme.txt"):
        (tmp_path / name).write_text(json.dumps({"from": name}))
    assert read(tmp_path) == [{"from": "a.jsonl"}, {"from": "b.jsonl"}]
    assert read(str(tmp_path / "[b-z]*.jsonl")) == [{"from": "b.jsonl"}]
    assert read([tmp_path / "b.jsonl", str(tmp_path / "a.jsonl")]) == [{"from": "b.jsonl"}, {"from": "a.jsonl"}]


@pytest.mark.parametrize("name", ["b.csv.bz2", "b.JSONL.zst", "b.parquet.gz"])
@pytest.mark.parametrize("source", ["", "*"])
def test_a_table_that_cannot_be_read_is_named_before_the_rows_of_others(tmp_path: Path, name: str, source: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SegmindConfigError, match=f"The format of '{name}' is unknown"):
        next(open_source(tmp_path / source))


def test_a_list_of_rows_is_a_table() -> None:
    assert read(iter(ROWS)) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.jsonl", b'{"a": 1}\nnot json\n', "Line 2"),
        ("t.jsonl", b"[1]\n", "is not a JSON object"),
        ("t.csv", b"a,b\n1\n", "Line 2 .* has 1 cells, but its header has 2"),
        ("t.csv", b"a,a\n1,2\n", "Line 1 .* twice"),
        ("t.csv", b"\n\na,a\n1,2\n", "Line 3 .* twice"),
        ("t.csv", b"a\n\xff\n", "UTF-8"),
        ("t.parquet", b"PAR1 not", "Parquet"),
        ("t.txt", b"x", "The format of 't.txt' is unknown"),
    ],
)
def test_what_is_no_table_is_refused_without_showing_it(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SegmindConfigError, match=words) as caught:
        read(tmp_path / name)
    assert "not json" not in str(caught.value)


@pytest.mark.parametrize("source", ["missing.jsonl", "none-*.jsonl", ".", {"a": 1}, [3]])
def test_a_source_that_is_not_there_is_refused(tmp_path: Path, source: Any) -> None:
    if isinstance(source, str):
        source = tmp_path / source
    with pytest.raises(SegmindConfigError):
        read(source)


def test_a_byte_order_mark_and_blank_lines_are_no_content(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a": 2}')
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf\r\n\na\n1\n\n2\n")
    assert read(tmp_path / "t.jsonl") == [{"a": 1}, {"a": 2}]
    assert read(tmp_path / "t.csv") == [{"a": "1"}, {"a": "2"}]


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "t.csv.gz", "wt", newline="") as file:
        csv.writer(file).writerows([["a"], ["x" * 300_000]])
    assert len(read(tmp_path / "t.csv.gz")[0]["a"]) == 300_000


def test_a_name_says_the_format() -> None:
    assert kind_of("t.parquet") is not None
    assert kind_of("t.txt") is None
    with pytest.raises(SegmindConfigError):
        known_kind("t.parquet.gz")
