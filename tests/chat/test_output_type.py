"""A reply becomes validated plain data, or an error that says where it is invalid."""

from __future__ import annotations

import json
from datetime import date
from functools import partial
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, PlainSerializer, field_validator
from typing_extensions import TypedDict

from airflow_provider_segmind.chat.output_type import OutputType, ParsedReply, is_cut_short, json_candidates
from tests.support.counting import calls_made


class Item(BaseModel):
    name: str
    price: float
    due: date | None = None
    tags: list[str] = []
    note: str = "none"


class Named(TypedDict):
    a: str


ITEM = OutputType.from_(Item)
GOOD = '{"name": "tea", "price": 2.5, "due": "2026-01-02"}'
DATA = {"name": "tea", "price": 2.5, "due": "2026-01-02", "tags": [], "note": "none"}
FINDINGS = {
    "strict": (GOOD, "strict"),
    "blanks around": (f"\n\ufeff  {GOOD}\n", "strict"),
    "fenced": (f"Sure!\n```json\n{GOOD}\n```\nBye.", "fenced"),
    "fenced without a language": (f"```\n{GOOD}\n```", "fenced"),
    "fence never closed": (f"```json\n{GOOD}", "embedded"),
    "inside prose": (f"Here it is: {GOOD} I hope it helps.", "embedded"),
    "after other braces": (f"For {{x}} and [1]: {GOOD}", "embedded"),
    "an example of another form first": (f'Not {{"a": 1}} but {GOOD}', "embedded"),
}


@pytest.mark.parametrize("around", ["{}", "```json\n{}\n```", "Here it is: {} I hope it helps."])
def test_line_breaks_in_strings_cost_no_further_request(around):
    written = GOOD.replace('"tea"', '"green\ntea\t"')
    assert ITEM.parse(around.format(written)).data == {**DATA, "name": "green\ntea\t"}


@pytest.mark.parametrize(("text", "source"), FINDINGS.values(), ids=FINDINGS.keys())
def test_data_is_found_wherever_the_model_put_it(text, source):
    assert ITEM.parse(text) == ParsedReply(data=DATA, source=source)


FAULTS = {
    "prose": ("I cannot say.", "$", "not JSON: Expecting value at line 1 column 1", False),
    "nothing": ("", "$", "not JSON: Expecting value", False),
    "cut off": (GOOD[:-9], "$", "not JSON: Unterminated string", True),
    "cut off in a fence": ("```json\n" + GOOD[:-1], "$", "not JSON", True),
    "cut off in a list": (f"[{GOOD}, {GOOD}, ", "$", "not JSON", True),
    "broken inside": ('{"items": [{"name": "a", "price": 1}], bad}', "$", "not JSON: Expecting property name", False),
    "missing": ('{"name": "tea"}', "$.price", "$.price: Field required", False),
    "wrong type": ('{"name": 1, "price": 2}', "$.name", "$.name: Input should be a valid string", False),
    "deep": ('{"name": "a", "price": 1, "tags": ["b", 3]}', "$.tags[1]", "$.tags[1]: Input should be", False),
    "a list": (f"[{GOOD}]", "$", "$: Input should be an object", False),
    "not a number": ('{"name": "a", "price": NaN}', "$", "not JSON: NaN is not a JSON number", False),
    "too large a number": ('{"name": "a", "price": 1e999}', "$", "not JSON: a number is too large", False),
    "nested without end": ("[" * 100_000, "$", "not JSON: nested too deeply", True),
    "JSON in a JSON text": (json.dumps(GOOD), "$", "$: Input should be an object", False),
}


@pytest.mark.parametrize(("text", "path", "error", "short"), FAULTS.values(), ids=FAULTS.keys())
def test_an_error_is_reported_with_its_path(text, path, error, short):
    parsed = ITEM.parse(text)

    assert not parsed.ok
    assert parsed.data is None
    assert (parsed.path, parsed.cut_short) == (path, short)
    assert parsed.error is not None
    assert error in parsed.error


def test_no_part_of_a_broken_reply_is_taken_as_the_data():
    loose = OutputType.from_({"type": "object"})

    assert not loose.parse('{"items": [{"a": 1}], bad}').ok
    assert not loose.parse('[{"a": 1}, {"a": 2}, {"a"').ok


def test_several_errors_are_shown_and_the_rest_are_counted():
    class Many(BaseModel):
        a: int
        b: int
        c: int
        d: int

    error = OutputType.from_(Many).parse("{}").error

    assert error == "$.a: Field required; $.b: Field required; $.c: Field required; and 1 more"


def test_a_long_error_is_shortened():
    parsed = OutputType.from_({"type": "object", "properties": {"a": {"type": "integer"}}}).parse(
        json.dumps({"a": "x" * 5000})
    )

    assert parsed.path == "$.a"
    assert parsed.error is not None
    assert len(parsed.error) < 260


@pytest.mark.parametrize(
    ("output_type", "text", "data"),
    [
        (list[Item], f'{{"value": [{GOOD}]}}', [DATA]),
        (list[Item], f"[{GOOD}]", [DATA]),
        (int, '{"value": 3}', 3),
        (int, "3", 3),
        (Literal["a", "b"], '"a"', "a"),
        (dict[str, int], '{"value": 3}', {"value": 3}),
        (list[int] | dict[str, int], '{"value": 3}', {"value": 3}),
        (tuple[int, str], '{"value": [1, "a"]}', [1, "a"]),
        (set[int], "[1, 1]", [1]),
        (Any, '{"value": {"a": null}}', {"a": None}),
        ({"type": "array", "items": {"type": "integer"}}, '{"value": [1]}', [1]),
    ],
)
def test_data_is_accepted_wrapped_or_not(output_type, text, data):
    assert OutputType.from_(output_type).parse(text).data == data


def test_the_path_of_wrapped_data_includes_the_wrapper():
    assert OutputType.from_(list[int]).parse('{"value": [1, "x"]}').path == "$.value[1]"
    assert OutputType.from_({"type": "array", "items": {"type": "integer"}}).parse('["x"]').path == "$[0]"


def test_nulls_added_by_the_strict_schema_are_removed():
    answer = '{"name": "tea", "price": 1, "due": null, "tags": null, "note": null}'

    assert ITEM.parse(answer).data == {**DATA, "price": 1.0, "due": None}


def test_added_nulls_are_removed_from_nested_data_and_allowed_ones_are_kept():
    schema = {
        "type": "object",
        "properties": {
            "rows": {"type": "array", "items": {"$ref": "#/$defs/Row"}},
            "any": {},
            "maybe": {"type": ["string", "null"]},
        },
        "$defs": {
            "Row": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "next": {"$ref": "#/$defs/Row"}},
                "required": ["a"],
            }
        },
    }
    answer = {"rows": [{"a": 1, "b": None, "next": {"a": 2, "b": None, "next": None}}], "any": None, "maybe": None}

    parsed = OutputType.from_(schema).parse(json.dumps(answer))

    assert parsed.data == {"rows": [{"a": 1, "next": {"a": 2}}], "any": None, "maybe": None}
    assert (
        OutputType.from_(schema).parse('{"rows": [{"a": null}]}').error == "$.rows[0].a: None is not of type 'integer'"
    )


def test_a_strict_model_accepts_the_json_form_of_its_types():
    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)
        due: date
        ids: set[int]

    assert OutputType.from_(Strict).parse('{"due": "2026-01-02", "ids": [1]}').data == {"due": "2026-01-02", "ids": [1]}


def test_validators_of_the_model_run():
    class Even(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def even(cls, n: int) -> int:
            if n % 2:
                raise ValueError("must be even")
            return n

    assert OutputType.from_(Even).parse('{"n": 3}').error == "$.n: Value error, must be even"


def test_data_is_validated_with_the_original_schema():
    schema = {"type": "object", "properties": {"a": {"type": "string", "minLength": 3}}, "minProperties": 1}

    assert OutputType.from_(schema).parse('{"a": "ab"}').error == "$.a: 'ab' is too short"
    assert not OutputType.from_(schema).parse("{}").ok


@pytest.mark.parametrize("text", ["[1, 2]", '"x"', "3", "null", '[{"a": "x"}]'])
@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"type": "string"}}},
        {"$ref": "#/$defs/it", "$defs": {"it": {"properties": {"a": {}}}}},
        Annotated[Named, PlainSerializer(str)],
    ],
    ids=["no type", "no type behind a reference", "a serializer that makes a string of it"],
)
def test_data_whose_fields_become_columns_must_be_an_object(schema, text):
    text = '{"a": "x"}' if not isinstance(schema, dict) else text
    parsed = OutputType.from_(schema).parse(text)
    assert (parsed.ok, parsed.path) == (False, "$")
    assert str(parsed.error).endswith("it is not an object")


def test_braces_in_data_are_kept():
    name = '{{ 7*7 }} {% sale \\ " ``` \u2028 👩‍🚀'
    text = json.dumps({"name": name, "price": 1})

    assert ITEM.parse(text).data["name"] == name
    assert ITEM.parse(f"Here:\n```json\n{text}\n```").data["name"] == name
    assert ITEM.parse(f"Here: {text}.").data["name"] == name


@pytest.mark.parametrize("repeated", ["[", '{"a":', '["', "{}", '"', "```\n", "[1,"])
def test_parsing_nonsense_takes_linear_work(repeated):
    short, long = (calls_made(partial(ITEM.parse, repeated * count)) for count in (2_000, 8_000))

    assert long <= 5 * short


@pytest.mark.parametrize(
    ("text", "short"),
    [("I [think", False), ('{"a": "b}', True), ('  {"a": "b', True), ("[1]", False), ("```\n[", True)],
)
def test_a_text_is_cut_short_only_if_it_starts_as_json(text, short):
    assert is_cut_short(text) is short


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@given(value=json_values, before=st.text(alphabet="abc \n.:"), after=st.text(alphabet="abc \n.:"))
def test_any_json_value_is_found_anywhere_in_a_text(value, before, after):
    text = json.dumps(value)

    assert [found.value for found in json_candidates(text)] == [value]
    assert next(json_candidates(f"{before}x\n```json\n{text}\n```\n{after}")).value == value or "```" in text
    if isinstance(value, dict | list):
        assert next(json_candidates(f"{before}x {text} y{after}")).value == value


@given(text=st.text() | st.text(alphabet='{}[]",:`\\ \nabc1'))
def test_no_text_makes_parsing_raise(text):
    for output_type in (ITEM, OutputType.from_(list[int]), OutputType.from_({"type": "object"})):
        parsed = output_type.parse("{{ 7*7 }} {% sale " + text)
        assert parsed.ok or parsed.error
        parsed = output_type.parse(text)
        assert parsed.ok or parsed.error
        json.dumps(parsed.data, allow_nan=False)
