"""Keywords of OpenAPI and of old drafts are converted, or refused before anything is paid for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_segmind.chat.json_schema import as_json_schema
from airflow_provider_segmind.chat.model_families import ApiFormat
from airflow_provider_segmind.chat.output_type import OutputType
from airflow_provider_segmind.exceptions import SegmindConfigError

DEFS = {"A": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}


def of(node: dict[str, Any], **more: Any) -> OutputType:
    """Return a type with one required field."""
    return OutputType.from_({"type": "object", "properties": {"f": node}, "required": ["f"], "$defs": DEFS, **more})


NULLABLE: list[tuple[dict[str, Any], Any]] = [
    ({"type": "string"}, "x"),
    ({"type": "string", "minLength": 1, "format": "date"}, "2026-01-02"),
    ({"type": ["string", "integer"]}, 1),
    ({"type": "string", "enum": ["a", "b"]}, "a"),
    ({"const": 3}, 3),
    ({"$ref": "#/$defs/A"}, {"n": 1}),
    ({"allOf": [{"$ref": "#/$defs/A"}], "description": "an A"}, {"n": 1}),
    ({"oneOf": [{"type": "string"}, {"type": "integer"}], "discriminator": {"propertyName": "t"}}, 1),
    ({"anyOf": [{"type": "string"}]}, "x"),
    ({"type": "array", "items": {"type": "string"}}, ["x"]),
    ({"type": "object", "properties": {"n": {"type": "integer"}}}, {"n": 1}),
]


@pytest.mark.parametrize("word", ["nullable", "x-nullable"])
@pytest.mark.parametrize(("node", "value"), NULLABLE)
def test_only_a_nullable_value_may_be_null(word, node, value):
    types = ((of({**node, word: True}), True), (of({**node, word: False}), False), (of(node), False))
    for output_type, may_be_null in types:
        assert output_type.parse(json.dumps({"f": value})).data == {"f": value}
        assert output_type.parse('{"f": null}').ok is may_be_null
        for family in ApiFormat:
            assert "nullable" not in json.dumps(output_type.response_format(family))


def test_nullable_is_supported_in_every_sub_schema():
    text = {"type": "string", "nullable": True}
    schema = {
        "type": "object",
        "properties": {"list": {"type": "array", "items": text},
                       "map": {"type": "object", "additionalProperties": text},
                       "ref": {"$ref": "#/components/schemas/T"}, "any": {"anyOf": [text, {"type": "integer"}]}},
        "required": ["list", "map", "ref", "any"],
        "components": {"schemas": {"T": text}},
    }  # fmt: skip
    answer = {"list": [None, "x"], "map": {"k": None}, "ref": None, "any": None}

    assert OutputType.from_(schema).parse(json.dumps(answer)).data == answer


def test_a_type_that_is_nullable_as_a_whole_keeps_its_definitions():
    schema = {"$ref": "#/definitions/A", "nullable": True, "definitions": DEFS}
    output_type = OutputType.from_(schema)

    assert output_type.parse('{"value": null}').data is None
    assert output_type.parse('{"value": {"n": 1}}').data == {"n": 1}


def test_fields_may_have_the_names_of_these_keywords():
    names = ["nullable", "example", "discriminator", "xml", "required", "exclusiveMinimum", "items"]
    schema = {"type": "object", "properties": {name: {"type": "boolean"} for name in names}, "required": names}
    answer = dict.fromkeys(names, True)

    assert as_json_schema(schema) == schema
    assert OutputType.from_(schema).parse(json.dumps(answer)).data == answer
    assert as_json_schema({"enum": [{"nullable": True}], "default": {"example": 1}}) == {
        "enum": [{"nullable": True}], "default": {"example": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    "dialect", [None, "http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-03/schema"]
)
@pytest.mark.parametrize(
    ("node", "good", "bad"),
    [
        ({"type": "number", "minimum": 3, "exclusiveMinimum": True}, 3.5, 3),
        ({"type": "number", "minimum": 3, "exclusiveMinimum": False}, 3, 2.9),
        ({"type": "number", "maximum": 3, "exclusiveMaximum": True}, 2, 3),
        ({"type": "number", "maximum": 3, "exclusiveMaximum": False, "minimum": 1, "exclusiveMinimum": True}, 3, 1),
        ({"type": "number", "exclusiveMinimum": True, "maximum": 9}, 9, 10),
        ({"type": "number", "exclusiveMinimum": 3}, 4, 3),
    ],
)  # fmt: skip
def test_bounds_of_draft_4_are_converted_to_later_drafts(dialect, node, good, bad):
    output_type = of(node, **({"$schema": dialect} if dialect else {}))

    assert output_type.parse(json.dumps({"f": good})).ok
    assert not output_type.parse(json.dumps({"f": bad})).ok
    sent = output_type.response_format("openai")["json_schema"]["schema"]["properties"]["f"]
    assert not any(isinstance(value, bool) for value in sent.values())


@pytest.mark.parametrize(
    "words",
    [
        {"example": 3}, {"example": {"type": 5}}, {"xml": {"name": "a"}}, {"externalDocs": {"url": "x"}},
        {"discriminator": {"propertyName": "t", "mapping": {"a": "#/nowhere"}}}, {"discriminator": "t"},
        {"format": "int32"}, {"format": "double"}, {"readOnly": True, "deprecated": True}, {"x-order": 1},
    ],
)  # fmt: skip
def test_annotations_change_nothing(words):
    assert of({"type": "integer", **words}).parse('{"f": 3}').data == {"f": 3}
    assert not of({"type": "integer", **words}).parse('{"f": "x"}').ok


@pytest.mark.parametrize(
    ("node", "path"),
    [
        ({"type": "string", "nullable": "yes"}, "$.properties.f.nullable"),
        ({"type": "string", "required": True}, "$.properties.f.required"),
        ({"type": "integer", "divisibleBy": 3}, "$.properties.f.divisibleBy"),
        ({"extends": {"type": "string"}}, "$.properties.f.extends"),
        ({"type": "any"}, "$.properties.f.type"),
        ({"type": "array", "items": {"type": "string", "nullable": 1}}, "$.properties.f.items.nullable"),
        ({"type": "float"}, "$.properties.f.type"),
        ({"type": "file"}, "$.properties.f.type"),
    ],
)
def test_a_meaningless_keyword_is_refused_at_parse_time_with_its_place(node, path):
    with pytest.raises(SegmindConfigError) as caught:
        of(node)

    assert path in str(caught.value)
