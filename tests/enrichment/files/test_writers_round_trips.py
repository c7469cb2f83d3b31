"""What is written is read back: equal, or in the form that docs/how-to/enrichment.md defines for it."""

from __future__ import annotations

import csv
import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_segmind.enrichment.files.readers import open_source
from airflow_provider_segmind.enrichment.files.writers import written_names
from airflow_provider_segmind.enrichment.rows import json_value, plain_text
from tests.support.examples import examples
from tests.support.table_files import write_table

ANY_TEXT = st.text(st.characters(codec=None))
"""Surrogates, NUL and all line ends among the characters."""
NASTY = st.text(st.sampled_from("\r\n\",\x00\x0b\x0c\x1c\x85\u2028\ud83d\ude00 a\\'")) | ANY_TEXT
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | NASTY
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NASTY, inner, max_size=3))
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False) | st.builds(
    lambda digits, scale: Decimal(digits).scaleb(-scale), st.integers(-(10**40), 10**40), st.integers(-50, 50)
)
MOMENTS = st.datetimes() | st.datetimes(timezones=st.just(UTC) | st.just(timezone(timedelta(hours=14))))
KEYS = JSON | DECIMALS | MOMENTS | st.dates() | st.times() | st.binary() | st.integers(-(10**30), 10**30)
QUICK = settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])


def rows_of(values: Any) -> Any:
    return st.lists(st.fixed_dictionaries({"a": values, "b": values}), max_size=6)


def written(path: Path, rows: list[dict[str, Any]], columns: tuple[str, ...] = ("a", "b")) -> list[Any]:
    write_table(path, rows, columns)
    return list(open_source(path))


def unicode_of(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@QUICK
@given(rows_of(KEYS))
@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_jsonl_holds_every_value(tmp_path: Path, name: str, rows: list[dict[str, Any]]) -> None:
    assert written(tmp_path / name, rows) == json.loads(json.dumps([json_value(row) for row in rows]))


@QUICK
@given(rows_of(KEYS))
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_csv_holds_every_value_as_text(tmp_path: Path, name: str, rows: list[dict[str, Any]]) -> None:
    expected = [{column: unicode_of(plain_text(value)) for column, value in row.items()} for row in rows]
    assert written(tmp_path / name, rows) == expected


@QUICK
@given(st.lists(st.text(st.sampled_from("\ud83d\udc00\ufffda_23")), unique=True, max_size=8))
def test_names_of_columns_stay_distinct(columns: list[str]) -> None:
    called = written_names(columns)
    assert list(called) == columns
    assert len(set(called.values())) == len(columns)
    assert written_names(columns) == called
    for name, written in called.items():
        written.encode()
        assert written == name if unicode_of(name) == name else written.startswith(unicode_of(name))


@QUICK
@given(st.lists(NASTY, min_size=1, max_size=4), NASTY)
def test_every_reader_of_csv_finds_the_same_rows(tmp_path: Path, values: list[str], name: str) -> None:
    path = tmp_path / "t.csv"
    # A header with NULs is one in UTF-16, and refused.
    column = f"x{name}x".replace("\x00", "")
    written(path, [{column: value} for value in values], (column,))
    expected = [[unicode_of(column)], *([unicode_of(value)] for value in values)]
    with path.open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file, strict=True)) == expected
    text = path.read_bytes().decode()
    # Nothing outside quotes may end a line in the eyes of any reader.
    bare = "".join(part for number, part in enumerate(text.split('"')) if number % 2 == 0)
    assert len(bare.splitlines()) == bare.count("\n") <= len(expected)


def same(found: Any, given_value: Any) -> bool:
    if isinstance(given_value, float) and math.isnan(given_value):
        return isinstance(found, float) and math.isnan(found)
    return bool(found == given_value)


PURE = {
    "bool": st.booleans(), "int": st.integers(-(2**63) + 1, 2**63 - 1), "float": st.floats(),
    "date": st.dates(), "moment": st.datetimes(timezones=st.just(UTC)), "local": st.datetimes(), "bytes": st.binary(),
    "mixed numbers": st.integers(-(2**53), 2**53) | st.floats(),
}  # fmt: skip


@QUICK
@given(st.data())
@pytest.mark.parametrize("kind", list(PURE))
def test_parquet_keeps_values_of_one_type(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    pytest.importorskip("pyarrow")
    rows = data.draw(rows_of(st.none() | PURE[kind]))
    found = written(tmp_path / "t.parquet", rows)
    assert all(same(one[name], row[name]) for one, row in zip(found, rows, strict=True) for name in row)


@QUICK
@given(rows_of(st.none() | DECIMALS))
def test_parquet_keeps_decimals_of_any_scale(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    pytest.importorskip("pyarrow")
    for one, row in zip(written(tmp_path / "t.parquet", rows), rows, strict=True):
        for name, value in row.items():
            assert one[name] == value or one[name] == plain_text(value)


@QUICK
@given(rows_of(KEYS))
def test_parquet_holds_every_mixture(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    pytest.importorskip("pyarrow")
    for one, row in zip(written(tmp_path / "t.parquet", rows), rows, strict=True):
        for name, value in row.items():
            text = None if value is None else unicode_of(plain_text(value))
            assert same(one[name], value) or one[name] == text


def nested(levels: int) -> Any:
    value: Any = {"b": 'half \ud83d "pair"', "a": [1, None]}
    for number in range(levels):
        value = [value] if number % 2 else {"in": value}
    return value


@pytest.mark.parametrize("levels", [0, 98, 99, 150, 400, 5000])
@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet"])
def test_data_nested_however_deep_is_written_and_read_back(tmp_path: Path, name: str, levels: int) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    cell = written(tmp_path / name, [{"a": nested(levels), "b": 1}])[0]["a"]
    if levels <= 98 and name == "t.jsonl":
        assert cell == nested(levels)
    else:
        assert isinstance(cell, str)
        assert cell.count("[") + cell.count("{") == levels + 2
        assert levels > 400 or json.loads(cell) is not None


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet"])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10**400, str(10**400)),
        (10**5000, hex(10**5000)),
        ([10**5000], f'["{hex(10**5000)}"]'),
        (Decimal("1E+999999"), "1E+999999"),
        (Decimal("1E-999999"), "1E-999999"),
        (Decimal("NaN"), ""),
    ],
    ids=["400 digits", "5000 digits", "5000 digits in a list", "a long decimal", "a fine decimal", "not a number"],
)
def test_numbers_of_any_size_are_written(tmp_path: Path, name: str, value: Any, text: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    cell = written(tmp_path / name, [{"a": value, "b": 1}])[0]["a"]
    assert cell == (json.loads(json.dumps(json_value(value))) if name == "t.jsonl" else text)


def test_a_last_row_of_another_scale_or_beyond_a_float_is_not_rounded(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = [{"a": Decimal("1" * 36), "b": 2**53 + 1}, {"a": Decimal("0.001"), "b": 0.5}]
    assert written(tmp_path / "t.parquet", rows) == [
        {"a": "1" * 36, "b": "9007199254740993"},
        {"a": "0.001", "b": "0.5"},
    ]
    assert written(tmp_path / "u.parquet", [{"a": date(2026, 1, 2), "b": datetime.max.replace(tzinfo=UTC)}])
