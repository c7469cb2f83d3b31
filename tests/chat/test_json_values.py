"""A JSON value that cannot be stored is refused or converted, and never raises an error of Python's own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.chat.json_values import (
    MAX_DEPTH,
    MAX_DIGITS,
    body_for_xcom,
    clean_text,
    clean_value,
    for_xcom,
    is_too_deep,
    json_text,
    read_json,
    was_changed,
)
from airflow_provider_segmind.client.models import RequestResult
from airflow_provider_segmind.client.responses import Response

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None) | st.just("\x00"))
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


def nested(depth: int, opening: str = "[", closing: str = "]", core: str = "") -> str:
    return opening * depth + core + closing * depth


def depth_of(value: object) -> int:
    found, layer = 0, [value]
    while layer:
        found += any(isinstance(node, dict | list) for node in layer)
        layer = [
            item
            for node in layer
            if isinstance(node, dict | list)
            for item in (node.values() if isinstance(node, dict) else node)
        ]
    return found


@given(values)
def test_any_json_value_is_converted_for_every_xcom_backend(value):
    carried = for_xcom(value).value

    text = json.dumps(carried, ensure_ascii=False, allow_nan=False)
    assert "\x00" not in text
    text.encode("utf-8")
    assert for_xcom(carried).replaced == 0


@pytest.mark.parametrize("depth", [101, 250, 990, 5000, 300_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a": ', "}"), ('[{"a\\"[": ', "}]")])
def test_a_field_that_is_nested_too_deeply_stays_a_string_of_json(depth, opening, closing):
    deep = nested(depth, opening, closing, "1")
    body = read_json(f'{{"request_id": "r", "output": {deep}, "metrics": {{"cost": 1.5}}}}')

    assert body == {"request_id": "r", "output": deep, "metrics": {"cost": 1.5}}
    assert RequestResult.model_validate({"status": "COMPLETED", **body}).to_json()["output"] == deep


def test_data_within_the_depth_limit_stays_data():
    body = read_json(f'{{"output": {nested(MAX_DEPTH - 1)}}}')

    assert depth_of(body) == MAX_DEPTH
    assert not is_too_deep(body)
    assert for_xcom(body).value == body


@pytest.mark.parametrize("digits", [MAX_DIGITS + 1, 400, 4301, 100_000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_an_integer_of_hundreds_of_digits_becomes_a_string_of_them(digits, sign):
    assert read_json(f'{{"output": {sign}{"7" * digits}}}') == {"output": sign + "7" * digits}


def test_nan_and_infinity_are_read_as_null():
    assert read_json('[NaN, -Infinity, 1e999, 1.5, 12345678901234567890123]') == [
        None, None, None, 1.5, 12345678901234567890123,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "clean"),
    [("a\x00b", "a\ufffdb"), ("half \ud83d pair", "half \ufffd pair"), ("\udc00", "\ufffd"), ("\ud83d\ude00", "😀"),
     ("plain", "plain"), ("ü", "ü")],
)  # fmt: skip
def test_characters_that_stores_refuse_become_the_replacement_character(text, clean):
    assert clean_text(text) == clean
    assert clean_value({text: [text]}).value == {clean: [clean]}
    assert bool(clean_value(text).replaced) is (text != clean)


def test_integers_beyond_64_bits_are_strings_in_an_xcom_and_numbers_elsewhere():
    assert for_xcom([2**64 - 1, 2**64, -(2**63), -(2**63) - 1]).value == [
        2**64 - 1, "18446744073709551616", -(2**63), "-9223372036854775809",
    ]  # fmt: skip
    assert clean_value(2**64).value == 2**64
    assert for_xcom(10**5000).value == "1" + "0" * 5000


def test_a_deep_value_becomes_a_string_of_json_in_an_xcom():
    deep = json.loads(nested(900))

    assert for_xcom({"a": deep, "b": [1]}).value == {"a": nested(900), "b": [1]}
    assert for_xcom(deep).value == nested(900)


@pytest.mark.parametrize(
    "own", [{"__classname__": "x.Y"}, {"__id__": 1}, {"__type": "dict", "__var": {"a": 1}}], ids=str
)
def test_an_object_that_airflow_would_take_for_its_own_becomes_a_string_of_json_in_an_xcom(own):
    value = {"a": [own, 1], "__type": "x"}

    assert for_xcom(value).value == {"a": [json.dumps(own), 1], "__type": "x"}
    assert json.loads(body_for_xcom(value).value) == value
    assert clean_value(value).value == value


@pytest.mark.parametrize("depth", [99, 100, 101, 102, 900])
def test_a_value_can_be_stored_up_to_the_depth_limit(depth):
    value = json.loads(nested(depth))
    assert is_too_deep(value) is not (depth <= MAX_DEPTH)


@given(values)
def test_json_is_with_raw_json_python_writes_it(value):
    expected = json.loads(json.dumps(value), parse_constant=lambda _: None)
    assert read_json(json_text(value).encode("utf-8", "surrogatepass")) == expected


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[1," * 5000, "[" * 900 + '"'])
def test_json_with_unclosed_brackets_is_an_error(text):
    with pytest.raises(ValueError, match=r"not JSON|Expecting|delimiter|Unterminated"):
        read_json(text)


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b"{",
            b'{"a"',
            b"[" * 500_000,
            b'{"a":' * 200_000,
            b"]" * 300,
            b"\xff\xfe",
            b'{"output": [' + b"[" * 900,
        ),
        *(b'{"a": "\xf0\x9f', b"<h1>\xfcber</h1>", b"\xff\xfe{"),
    ],
)
def test_a_response_that_is_not_json_is_a_broken_answer(content):
    from airflow_provider_segmind.client.responses import MalformedResponseError

    with pytest.raises(MalformedResponseError, match="is not JSON") as caught:
        Response(200, content).json()
    assert caught.value.cut


@pytest.mark.parametrize("content", [b'{"output": "caf\xe9"}', b"\x89PNG\r\n", b"\xff\xfe{"])
def test_undecodable_bytes_are_an_error_and_were_not_changed(content):
    with pytest.raises(ValueError, match="codec"):
        read_json(content)
    assert not was_changed(content)
