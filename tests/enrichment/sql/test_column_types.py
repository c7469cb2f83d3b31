"""Columns hold what a schema promises, and a value that does not fit is told from one that does."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.enrichment.sql.answer_table import key_mark
from airflow_provider_segmind.enrichment.sql.column_types import (
    Kind,
    MisfitError,
    as_text,
    cell,
    compared,
    kind_of_schema,
    kind_of_values,
)

ROOT = {"$defs": {"Colour": {"enum": ["red", "blue"]}, "Loop": {"$ref": "#/$defs/Loop"}}}


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        ({"type": "string"}, Kind.TEXT),
        ({"type": "integer"}, Kind.INTEGER),
        ({"type": "number"}, Kind.NUMBER),
        ({"type": "boolean"}, Kind.BOOLEAN),
        ({"type": "string", "format": "date"}, Kind.DATE),
        ({"type": "string", "format": "date-time"}, Kind.MOMENT),
        ({"type": "string", "format": "uri"}, Kind.TEXT),
        ({"type": ["integer", "null"]}, Kind.INTEGER),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, Kind.NUMBER),
        ({"anyOf": [{"type": "number"}, {"type": "integer"}]}, Kind.NUMBER),
        ({"oneOf": [{"type": "number"}, {"type": "string"}]}, Kind.TEXT),
        ({"allOf": [{"type": "boolean"}]}, Kind.BOOLEAN),
        ({"enum": [1, 2, None]}, Kind.INTEGER),
        ({"enum": [1, "two"]}, Kind.TEXT),
        ({"const": True}, Kind.BOOLEAN),
        ({"$ref": "#/$defs/Colour"}, Kind.TEXT),
        ({"$ref": "#/$defs/Loop"}, Kind.TEXT),
        ({"type": "array", "items": {"type": "integer"}}, Kind.TEXT),
        ({"type": "object"}, Kind.TEXT),
        ({}, Kind.TEXT),
        (True, Kind.TEXT),
    ],
)
def test_a_schema_tells_the_kind_of_its_column(node: Any, kind: Kind) -> None:
    assert kind_of_schema(node, ROOT) is kind


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None, 2], Kind.INTEGER),
        ([1, 2.5], Kind.NUMBER),
        ([True], Kind.BOOLEAN),
        ([True, 2], Kind.TEXT),
        ([2**63], Kind.TEXT),
        ([Decimal("12.50"), 3], Kind.DECIMAL),
        ([Decimal("0.0000000001")], Kind.TEXT),
        ([Decimal("NaN")], Kind.TEXT),
        ([date(2026, 1, 1)], Kind.DATE),
        ([datetime(2026, 1, 1)], Kind.LOCAL),  # noqa: DTZ001
        ([datetime(2026, 1, 1, tzinfo=UTC)], Kind.MOMENT),
        ([UUID(int=1)], Kind.UUID),
        ([b"\x00"], Kind.BYTES),
        (["a"], Kind.TEXT),
        ([None], None),
        ([], None),
    ],
)
def test_values_tell_the_kind_of_their_column(values: list[Any], kind: Kind | None) -> None:
    assert kind_of_values(values) is kind


@pytest.mark.parametrize(
    ("kind", "value", "written"),
    [
        (Kind.TEXT, "a\x00b\ud83d", "a\ufffdb\ufffd"),
        (Kind.TEXT, "\ud83d\ude00", "😀"),
        (Kind.TEXT, ["ü", {"b": 1}], '["ü", {"b": 1}]'),
        (Kind.TEXT, True, "true"),
        (Kind.INTEGER, -(2**63) + 1, -(2**63) + 1),
        (Kind.INTEGER, 3.0, 3),
        (Kind.NUMBER, 3, 3.0),
        (Kind.BOOLEAN, False, False),
        (Kind.DATE, "2026-02-28", date(2026, 2, 28)),
        (Kind.MOMENT, "2026-02-28T12:00:00Z", datetime(2026, 2, 28, 12, tzinfo=UTC)),
        (Kind.MOMENT, "2026-02-28T12:00:00", datetime(2026, 2, 28, 12, tzinfo=UTC)),
        (Kind.DATE, None, None),
    ],
)
def test_a_cell_has_the_form_of_its_column(kind: Kind, value: Any, written: Any) -> None:
    assert cell(kind, value) == written


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Kind.INTEGER, 2**63),
        (Kind.INTEGER, 1.5),
        (Kind.INTEGER, "7"),
        (Kind.INTEGER, True),
        (Kind.NUMBER, 10**400),
        (Kind.NUMBER, "much"),
        (Kind.BOOLEAN, 1),
        (Kind.DATE, "soon"),
        (Kind.DATE, "2026-02-30"),
        (Kind.MOMENT, "noon"),
    ],
)
def test_what_does_not_fit_is_no_cell_and_is_not_shown(kind: Kind, value: Any) -> None:
    with pytest.raises(MisfitError) as caught:
        cell(kind, value)

    assert str(value) not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, Decimal(1)),
        (1, True),
        (1.0, 1),
        (Decimal("1.50"), 1.5),
        (UUID(int=5), str(UUID(int=5))),
        (date(2026, 1, 1), "2026-01-01"),
        (
            datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1))),
            datetime(2026, 1, 1, 12, tzinfo=UTC),
        ),
    ],
)
def test_a_key_is_the_same_whichever_database_it_comes_from(one: Any, other: Any) -> None:
    assert compared(one) == compared(other)
    assert key_mark({"id": one}) == key_mark({"id": other})


DECIMALS = st.builds(
    lambda sign, digits, exponent: Decimal((sign, tuple(digits), exponent)),
    *(st.integers(0, 1), st.lists(st.integers(0, 9), min_size=1, max_size=45), st.integers(-50, 50)),
)


@given(DECIMALS, DECIMALS, st.integers(0, 9))
def test_decimals_are_compared_by_value_and_exactly(one: Decimal, other: Decimal, zeros: int) -> None:
    sign, digits, exponent = one.as_tuple()
    padded = Decimal((sign, (*digits, *[0] * zeros), int(exponent) - zeros))

    assert (compared(one) == compared(other)) is (one == other)
    assert compared(padded) == compared(one)
    assert Decimal(str(compared(one))) == one


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_a_number_is_the_same_key_whatever_its_type(number: float) -> None:
    assert compared(number) == compared(Decimal(repr(number)))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal(12345678901234567890123456789001), "12345678901234567890123456789001"),
        (Decimal("-0"), "0"),
        (Decimal("0E-9"), "0"),
        (Decimal("1E+3"), "1000"),
        (Decimal("-1.500"), "-1.5"),
        (Decimal("NaN"), "NaN"),
        (Decimal("Infinity"), "Infinity"),
        (Decimal("1E+99999"), "1E+99999"),
    ],
)
def test_a_decimal_has_one_text(value: Decimal, text: str) -> None:
    assert compared(value) == text


@given(DECIMALS)
def test_a_decimal_is_bound_with_the_digits_it_has(value: Decimal) -> None:
    text = as_text(value)

    assert Decimal(text).compare_total(value if value.as_tuple().exponent <= 0 else Decimal(text)) == 0
    assert Decimal(text) == value


@pytest.mark.parametrize(
    ("values", "bounded", "unbounded"),
    [
        ([Decimal(10**31)], Kind.TEXT, Kind.DECIMAL),
        ([Decimal(1), 10**31], Kind.TEXT, Kind.DECIMAL),
        ([Decimal("1E-20")], Kind.TEXT, Kind.DECIMAL),
        ([Decimal("NaN")], Kind.TEXT, Kind.TEXT),
        ([Decimal(10**28)], Kind.DECIMAL, Kind.DECIMAL),
    ],
)
def test_a_decimal_of_any_size_is_one_where_the_database_has_such(
    values: list[Any], bounded: Kind, unbounded: Kind
) -> None:
    assert (kind_of_values(values), kind_of_values(values, unbounded=True)) == (bounded, unbounded)


def test_other_keys_are_other_keys() -> None:
    keys = [("a", "b"), ("ab", ""), ("a", None), (None, "a"), (1, "a")]

    assert len({key_mark(dict(enumerate(key))) for key in keys}) == len(keys)
