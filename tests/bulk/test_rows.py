from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.bulk.rows import (
    Row,
    canonical_json,
    digest,
    fingerprint,
    json_value,
    placeholders,
    plain_text,
)
from airflow_provider_segmind.exceptions import SegmindConfigError


def row(**values: object) -> Row:
    return Row(0, values)


def test_a_placeholder_is_filled_from_its_column() -> None:
    assert row(title="Ein Tisch", price=3).fill("{title} costs {price}.") == "Ein Tisch costs 3."


def test_a_missing_column_is_named() -> None:
    with pytest.raises(SegmindConfigError, match=r"no column 'colour'.*Its columns are: title"):
        row(title="x").fill("{title} {colour}")


def test_braces_that_are_no_placeholder_stay_byte_for_byte() -> None:
    text = 'Answer {"tags": ["a"], "deep": {"b": {}}} {} {0} { title } {a.b} {a!r} {a:>3} {{ title }}'
    assert row(title="x").fill(text) == text


def test_doubled_braces_write_a_literal_placeholder() -> None:
    assert row(title="x").fill("{{title}} is {title}") == "{title} is x"


def test_a_column_whose_name_is_no_identifier_can_be_named() -> None:
    assert Row(0, {"Product Name": "Stuhl"}).fill("{Product Name}, {Other Name}") == "Stuhl, {Other Name}"


def test_what_stands_in_a_row_is_never_read_as_a_placeholder() -> None:
    assert row(title="{secret} {{secret}}", secret="s").fill("{title}") == "{secret} {{secret}}"


def test_a_whole_placeholder_in_inputs_keeps_the_type_of_its_column() -> None:
    given = row(seed=7, url="u", gone=None)
    filled = given.fill_inputs({"seed": "{seed}", "urls": ["{url}", "a {seed}"], "x": "{gone}"})
    assert filled == {"seed": 7, "urls": ["u", "a 7"], "x": None}


def test_the_needed_columns_can_be_known_before_the_first_row() -> None:
    assert placeholders({"a": "{title} {{no}}", "b": ["{price}", '{"x": 1}']}) == {"title", "price"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (True, "true"),
        (1.0, "1.0"),
        (0.1, "0.1"),
        (Decimal("1.10"), "1.10"),
        (Decimal("1E+3"), "1000"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "2026-01-02T03:04:00+00:00"),
        (b"\x00\x01", "AAE="),
        ({"b": 1, "a": [None]}, '{"a":[null],"b":1}'),
    ],
)
def test_values_are_written_plainly(value: object, text: str) -> None:
    assert plain_text(value) == text


def test_decimals_travel_as_numbers_where_json_holds_them_exactly() -> None:
    assert json_value([Decimal(5), Decimal("0.5"), Decimal("0.12345678901234567890123")]) == [
        5,
        0.5,
        "0.12345678901234567890123",
    ]


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)))
def test_the_fingerprint_does_not_depend_on_the_order_of_names(inputs: dict[str, object]) -> None:
    turned = dict(reversed(inputs.items()))
    assert fingerprint(model="m", inputs=inputs) == fingerprint(model="m", inputs=turned)
    assert json.loads(canonical_json(inputs)) == inputs


def test_the_fingerprint_is_that_of_the_whole_question() -> None:
    inputs, schema = {"prompt": "Grüße", "n": Decimal("0.5")}, {"type": "object"}
    whole = {"version": 1, "model": "m", "inputs": inputs, "schema": schema, "options": None}
    assert fingerprint(model="m", inputs=inputs, schema=schema) == digest(whole)
    # Ledgers written by any version are read by this one.
    assert fingerprint(model="m", inputs={"a": 1}).hex().startswith("7baf8cb61bdd4baf")


def test_the_fingerprint_changes_with_everything_the_answer_depends_on() -> None:
    variants = [
        fingerprint(model="m", inputs={"a": 1}),
        fingerprint(model="n", inputs={"a": 1}),
        fingerprint(model="m", inputs={"a": 2}),
        fingerprint(model="m", inputs={"a": 1}, schema={"type": "object"}),
        fingerprint(model="m", inputs={"a": 1}, options={"repair": 1}),
    ]
    assert len(set(variants)) == len(variants)


@given(st.text())
def test_a_text_without_braces_is_untouched(text: str) -> None:
    cleaned = text.replace("{", "").replace("}", "")
    assert row().fill(cleaned) == cleaned
