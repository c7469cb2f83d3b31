"""A number of a reply keeps every digit that the model wrote."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Optional
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
)

from airflow_provider_segmind.chat.exact_numbers import ExactFloat
from airflow_provider_segmind.chat.output_type import (
    OutputType,
    load_json,
)


class Money(BaseModel):
    total: Decimal
    maybe: Decimal | None = None
    either: Decimal | str = "none"
    many: list[Decimal] = []
    named: dict[str, Decimal] = {}
    keys: dict[Decimal, Decimal] = {}
    pair: tuple[Decimal, float] | None = None
    several: set[Decimal] = set()
    rounded: Annotated[Decimal, PlainSerializer(lambda value: f"{value:.2f}")] = Decimal(0)
    bounded: Decimal = Field(Decimal(0), max_digits=20, decimal_places=4)
    plain: float = 0.5
    anything: Any = None


N = "90071992547409.9301"


@pytest.mark.parametrize("strict", [False, True])
def test_a_decimal_keeps_the_digits_the_model_wrote(strict):
    class Strict(Money):
        model_config = ConfigDict(strict=strict)
        day: date
        made: UUID = Field(default_factory=uuid4)

    text = (
        f'{{"total": {N}, "maybe": {N}, "either": {N}, "many": [{N}, 1.50], "named": {{"a": {N}}}, '
        f'"keys": {{"{N}": {N}}}, "pair": [{N}, {N}], "several": [{N}], "rounded": {N}, "bounded": {N}, '
        f'"plain": {N}, "anything": {N}, "day": "2026-01-02"}}'
    )
    data = OutputType.from_(Strict).parse(text).data

    assert data.pop("made")
    assert data == {
        "total": N, "maybe": N, "either": N, "many": [N, "1.50"], "named": {"a": N}, "keys": {N: N},
        "pair": [N, float(N)], "several": [N], "rounded": "90071992547409.93", "bounded": N, "plain": float(N),
        "anything": float(N), "day": "2026-01-02",
    }  # fmt: skip
    assert type(data["anything"]) is float


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=Decimal("-1e300"), max_value=Decimal("1e300")))
def test_every_decimal_is_returned_digit_by_digit(number):
    written = format(number, "f")

    data = OutputType.from_(Money).parse(f'{{"total": {written}}}').data

    assert Decimal(data["total"]).as_tuple() == Decimal(written).as_tuple()
    assert OutputType.from_(Decimal).parse(f'{{"value": {written}}}').data == str(Decimal(written))


class Either(BaseModel):
    u: int | Decimal
    v: float | Decimal = 0.5
    w: Decimal | float = 0.5
    maybe: Optional[int | Decimal] = None  # noqa: UP045 (as users write it)
    texts: int | str | Decimal = 0
    many: list[int | Decimal] = []
    named: dict[str, float | Decimal] = {}
    pair: tuple[int | Decimal, float] | None = None
    other: int | Decimal = Field(0, alias="otherName")
    bounded: int | Annotated[Decimal, Field(le=Decimal("1e25"))] = 0
    anything: Any = None
    loose: dict[str, Any] = {}
    inner: Either | None = None


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    "number", ["123456789012345678.5", "9007199254740993.0", "-123456789012345678.25", "0.10000000000000000001", N]
)
def test_a_decimal_in_a_union_keeps_the_digits_the_model_wrote(number: str, strict: bool) -> None:
    class Strict(Either):
        model_config = ConfigDict(strict=strict)

    inner = f'{{"u": {number}, "v": {number}}}'
    text = (
        f'{{"u": {number}, "v": {number}, "w": {number}, "maybe": {number}, "texts": {number}, '
        f'"many": [{number}, 5, {number}], "named": {{"a": {number}}}, "pair": [{number}, {number}], '
        f'"otherName": {number}, "bounded": {number}, "anything": {number}, "loose": {{"a": [{number}]}}, '
        f'"inner": {inner}}}'
    )
    data = OutputType.from_(Strict).parse(text).data

    assert {name: data[name] for name in ("u", "v", "w", "maybe", "texts", "otherName", "bounded")} == dict.fromkeys(
        ("u", "v", "w", "maybe", "texts", "otherName", "bounded"), number
    )
    assert (data["many"], data["named"], data["pair"]) == ([number, 5, number], {"a": number}, [number, float(number)])
    assert (data["inner"]["u"], data["inner"]["v"]) == (number, number)
    assert (data["anything"], data["loose"]) == (float(number), {"a": [float(number)]})
    assert type(data["anything"]) is type(data["loose"]["a"][0]) is float
    for output_type in (int | Decimal, float | Decimal, Decimal | float):
        assert OutputType.from_(output_type).parse(f'{{"value": {number}}}').data == number


@example(Decimal(53269139342491648))
@example(Decimal(10**22))
@given(
    st.decimals(allow_nan=False, allow_infinity=False, min_value=Decimal("-1e300"), max_value=Decimal("1e300"))
    | st.integers(-(10**40), 10**40).map(Decimal)
)
def test_no_digit_of_a_number_in_a_union_is_lost(number: Decimal) -> None:
    written = format(number, "f")
    for output_type in (int | Decimal, float | Decimal, Decimal | float, list[int | Decimal]):
        reply = f"[{written}]" if output_type == list[int | Decimal] else f'{{"value": {written}}}'
        data = OutputType.from_(output_type).parse(reply).data
        found = data[0] if isinstance(data, list) else data
        assert Decimal(str(found)) == number, (output_type, data)


def test_a_large_integer_keeps_its_digits_in_a_union_with_float() -> None:
    digits = "123456789012345678"
    text = f'{{"u": {digits}, "v": {digits}, "w": {digits}, "anything": {digits}, "pair": [{digits}, {digits}]}}'
    data = OutputType.from_(Either).parse(text).data

    assert (data["u"], data["v"], data["w"], data["anything"]) == (int(digits), digits, digits, int(digits))
    assert data["pair"] == [int(digits), float(digits)]


def test_a_number_that_a_float_represents_stays_a_number_in_a_union_with_float() -> None:
    data = OutputType.from_(Either).parse('{"u": 5, "v": 1.50, "named": {"a": 0.1, "b": 1e22}}').data

    assert (data["u"], data["v"], data["named"]) == (5, 1.5, {"a": 0.1, "b": 1e22})


def test_a_bound_is_checked_against_the_exact_number():
    class Bounded(BaseModel):
        total: Decimal = Field(le=Decimal(N))

    assert OutputType.from_(Bounded).parse(f'{{"total": {N}}}').data == {"total": N}
    assert not OutputType.from_(Bounded).parse(f'{{"total": {N}1}}').ok


def test_a_strict_model_stays_strict_with_a_long_number():
    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)
        total: Decimal
        count: int

    assert OutputType.from_(Strict).parse(f'{{"total": {N}, "count": "3"}}').path == "$.count"


def test_a_large_integer_keeps_its_digits():
    digits = "123456789012345678901234567890"

    assert OutputType.from_(Money).parse(f'{{"total": {digits}}}').data["total"] == digits
    assert OutputType.from_(int).parse(digits).data == int(digits)


def test_a_number_that_a_float_rounds_keeps_its_digits():
    [whole, long, short] = load_json("[1.5, 90071992547409.9301, 1.50]")

    assert (type(whole), str(whole)) == (float, "1.5")
    assert (type(long), str(long), long) == (ExactFloat, "90071992547409.9301", 90071992547409.94)
    assert str(short) == "1.50"
    assert json.dumps(long) == "90071992547409.94"
