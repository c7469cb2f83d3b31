"""Parquet: only what is asked about is decoded, and a value nobody can read is the trouble of its row."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.files.readers import open_source
from airflow_provider_segmind.enrichment.rows import Row, Undecoded, column_names
from airflow_provider_segmind.exceptions import SegmindConfigError

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
NANOSECONDS = 1_700_000_000_123_456_789


def write(path: Path, names: list[str], columns: list[Any]) -> Path:
    parquet.write_table(
        arrow.Table.from_arrays([arrow.array(one) if isinstance(one, list) else one for one in columns], names), path
    )
    return path


def bad_text(*texts: bytes) -> Any:
    data = b"".join(texts)
    offsets = [sum(map(len, texts[:number])) for number in range(len(texts) + 1)]
    buffers = [None, arrow.py_buffer(arrow.array(offsets, arrow.int32()).buffers()[1]), arrow.py_buffer(data)]
    return arrow.StringArray.from_buffers(len(texts), *buffers[1:])


def undecodable() -> dict[str, Any]:
    """Return columns with a value in their second row that Python cannot hold."""
    far = 2**62
    return {
        "text": bad_text(b"good", b"\xff\xfe"),
        "date": arrow.array([0, 2**31 - 1], arrow.int32()).cast(arrow.date32()),
        "moment": arrow.array([0, far], arrow.int64()).cast(arrow.timestamp("us")),
        "inside": arrow.ListArray.from_arrays(
            [0, 1, 2], arrow.array([0, far], arrow.int64()).cast(arrow.timestamp("us"))
        ),
    }


@pytest.mark.parametrize("name", list(undecodable()))
def test_a_column_nobody_asks_about_is_not_decoded(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "t.parquet", ["id", name], [[1, 2], undecodable()[name]])
    rows = list(open_source(path, frozenset({"id", "other"})))
    assert rows == [{"id": 1}, {"id": 2}]
    assert set(column_names(rows[0])) == {"id", name}


@pytest.mark.parametrize("name", list(undecodable()))
def test_a_value_that_cannot_be_decoded_fails_its_row_only(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "t.parquet", ["id", name], [[1, 2], undecodable()[name]])
    first, second = open_source(path)
    assert not isinstance(first[name], Undecoded)
    assert isinstance(second[name], Undecoded)
    with pytest.raises(SegmindConfigError, match=rf"The column '{name}' of row 1, which a placeholder names"):
        Row(1, second).fill(f"{{{name}}}")


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_nanoseconds_are_kept_as_text_and_whole_microseconds_as_moments(tmp_path: Path, zone: str | None) -> None:
    kind = arrow.timestamp("ns", tz=zone)
    column = arrow.array([NANOSECONDS, NANOSECONDS // 1000 * 1000, None, -1], kind)
    path = write(tmp_path / "t.parquet", ["at"], [column])
    fine, whole, none, before = (row["at"] for row in open_source(path))
    offset = {None: "", "UTC": "+00:00", "Europe/Berlin": "+01:00"}[zone]
    hour = "23" if offset == "+01:00" else "22"
    assert fine == f"2023-11-14T{hour}:13:20.123456789{offset}"
    assert whole.replace(tzinfo=whole.tzinfo or UTC) == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
    assert (whole.tzinfo is None, none) == (zone is None, None)
    assert before.endswith(f".999999999{offset}")


@pytest.mark.parametrize("names", [["id", "text", "text"], ["a", "a", "a"]])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, names: list[str]) -> None:
    path = write(tmp_path / "t.parquet", names, [[1], ["left"], ["right"]])
    with pytest.raises(SegmindConfigError, match=r"t\.parquet.*twice"):
        list(open_source(path, frozenset({"id"})))


def test_names_with_dots_choose_their_own_column(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", ["a", "a.b", "c"], [[{"b": 1}], [2], [3]])
    assert list(open_source(path, frozenset({"a.b"}))) == [{"a.b": 2}]
    assert list(open_source(path, frozenset({"a"}))) == [{"a": {"b": 1}}]
    assert list(open_source(path, frozenset({"none"}))) == [{}]


def test_damage_in_the_middle_is_named_and_the_rows_before_it_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = arrow.table({"id": list(range(6000)), "text": [f"t{number}" for number in range(6000)]})
    parquet.write_table(table, path, row_group_size=2000, use_dictionary=False)
    content = bytearray(path.read_bytes())
    start = parquet.ParquetFile(path).metadata.row_group(1).column(1).data_page_offset
    content[start : start + 200] = b"\xff" * 200
    path.write_bytes(content)
    rows = []
    with pytest.raises(SegmindConfigError, match=r"t\.parquet', after row \d+, cannot be read") as caught:  # noqa: PT012
        for row in open_source(path):
            rows.append(row)
    assert f"after row {len(rows)}," in str(caught.value)
    assert [row["id"] for row in rows] == list(range(len(rows)))
    assert rows
