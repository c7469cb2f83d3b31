"""A type becomes the response_format of each family: no references, only supported keywords, always satisfiable."""

from __future__ import annotations

import json
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from airflow_provider_segmind.chat.json_schema import RECURSION_LEVELS, wire_schema
from airflow_provider_segmind.chat.model_families import ApiFormat
from airflow_provider_segmind.chat.output_type import OutputType
from airflow_provider_segmind.exceptions import SegmindConfigError

GEMINI, OPENAI, ANTHROPIC = ApiFormat.GEMINI, ApiFormat.OPENAI, ApiFormat.ANTHROPIC


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class Address(BaseModel):
    street: str
    zip_code: Annotated[str, Field(min_length=5, pattern=r"^\d+$")] | None = None


class Person(BaseModel):
    name: str = Field(description="Full name")
    age: Annotated[int, Field(ge=0, lt=150)]
    mood: Mood
    home: Address
    others: list[Address] = []
    born: date | None = None
    size: Literal["s", "m"] = "s"


class Node(BaseModel):
    label: str
    children: list[Node] = []
    parent: Node | None = None


class Endless(BaseModel):
    next: Endless


def sent(output_type: Any, family: ApiFormat) -> dict[str, Any]:
    return OutputType.from_(output_type).response_format(family)["json_schema"]


def keywords(schema: Any) -> set[str]:
    """Every keyword used anywhere; property names are not keywords."""
    if isinstance(schema, list):
        return set().union(*map(keywords, schema))
    if not isinstance(schema, dict):
        return set()
    found = set(schema)
    for key, value in schema.items():
        if key == "properties":
            found |= set().union(*map(keywords, value.values()), set())
        elif key not in ("enum", "required"):
            found |= keywords(value)
    return found


def objects(schema: Any) -> list[dict[str, Any]]:
    found = [schema] if isinstance(schema, dict) and schema.get("type") == "object" else []
    inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    return found + [one for value in inner for one in objects(value)]


def test_the_response_format_is_as_segmind_documents_it():
    assert OutputType.from_(Address).response_format("openai") == {
        "type": "json_schema",
        "json_schema": {
            "name": "Address",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {
                    "street": {"type": "string"},
                    "zip_code": {
                        "anyOf": [
                            {"type": "string", "description": '(minLength: 5, pattern: "^\\\\d+$")'},
                            {"type": "null"},
                        ]
                    },
                },
                "required": ["street", "zip_code"],
                "additionalProperties": False,
            },
        },
    }


@pytest.mark.parametrize("output_type", [Person, Node, list[Person], dict[str, Address], Person | Node])
@pytest.mark.parametrize("family", list(ApiFormat))
def test_no_reference_and_no_unknown_keyword_is_sent(output_type, family):
    everywhere = {"type", "properties", "required", "items", "enum", "anyOf", "description", "additionalProperties"}
    also = {
        GEMINI: {"format", "minimum", "maximum", "minItems", "maxItems"},
        OPENAI: {"format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"},
        ANTHROPIC: {"format"},
    }

    assert keywords(sent(output_type, family)["schema"]) <= everywhere | also[family]


def test_openai_gets_closed_objects_with_every_property_required():
    found = objects(sent(Person, OPENAI)["schema"])

    assert len(found) == 3
    assert all(one["additionalProperties"] is False for one in found)
    assert all(one["required"] == list(one["properties"]) for one in found)


def test_an_optional_property_stays_optional_if_the_family_supports_it():
    for family in (GEMINI, ANTHROPIC):
        assert sent(Person, family)["schema"]["required"] == ["name", "age", "mood", "home"]
    assert sent(Person, OPENAI)["schema"]["properties"]["size"] == {
        "anyOf": [{"type": "string", "enum": ["s", "m"]}, {"type": "null"}]
    }


def test_gemini_gets_no_closed_objects():
    assert "additionalProperties" not in keywords(sent(Person, GEMINI)["schema"])


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (GEMINI, {"type": "integer", "minimum": 0, "description": "(exclusiveMaximum: 150)"}),
        (OPENAI, {"type": "integer", "minimum": 0, "exclusiveMaximum": 150}),
        (ANTHROPIC, {"type": "integer", "description": "(minimum: 0, exclusiveMaximum: 150)"}),
    ],
)
def test_limits_that_a_family_does_not_support_go_into_the_description(family, expected):
    assert sent(Person, family)["schema"]["properties"]["age"] == expected


@pytest.mark.parametrize("family", list(ApiFormat))
def test_a_recursive_model_is_written_out_to_a_depth_and_stays_satisfiable(family):
    schema = sent(Node, family)["schema"]
    value: dict[str, Any] = {"label": "a", "children": [{"label": "b", "children": [{"label": "c", "children": []}]}]}
    if family is OPENAI:
        value = {"label": "a", "children": [], "parent": None}

    jsonschema.validate(value, schema)
    level, depth = schema, 0
    while "children" in level.get("properties", {}):
        items = level["properties"]["children"]
        level = next(one for one in items.get("anyOf", [items]) if one["type"] == "array")["items"]
        depth += 1
    assert depth == RECURSION_LEVELS
    assert level == {"type": "null"}


def test_a_model_that_requires_infinite_data_is_an_error():
    with pytest.raises(SegmindConfigError, match="output_type requires infinite data"):
        OutputType.from_(Endless)


def test_exponentially_growing_definitions_are_an_error_and_not_a_hang():
    wide = {f"p{i}": {"$ref": "#/$defs/A"} for i in range(40)}
    schema = {"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": wide}}}

    with pytest.raises(SegmindConfigError, match="has more than 5000 sub-schemas"):
        OutputType.from_(schema)


@pytest.mark.parametrize(
    ("output_type", "name", "inner"),
    [
        (int, "int", {"type": "integer"}),
        (list[int], "reply", {"type": "array", "items": {"type": "integer"}}),
        (Literal["a", "b"], "reply", {"type": "string", "enum": ["a", "b"]}),
        (Mood, "Mood", {"type": "string", "enum": ["good", "bad"]}),
        ({"type": ["string", "null"]}, "reply", {"anyOf": [{"type": "string"}, {"type": "null"}]}),
    ],
)
def test_data_that_is_not_an_object_is_sent_under_value(output_type, name, inner):
    assert sent(output_type, ANTHROPIC) == {
        "name": name,
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"value": inner},
            "required": ["value"],
            "additionalProperties": False,
        },
    }


def test_a_union_of_models_is_sent_under_value():
    schema = sent(Person | Node, OPENAI)["schema"]

    assert list(schema["properties"]) == ["value"]
    assert len(schema["properties"]["value"]["anyOf"]) == 2


@pytest.mark.parametrize("output_type", [dict[str, int], Any, list[dict[str, str]], {"type": "array"}])
def test_free_keys_and_free_values_are_not_strict(output_type):
    assert sent(output_type, OPENAI)["strict"] is False


def test_a_tuple_becomes_a_list_of_its_types():
    assert sent(tuple[int, str], OPENAI)["schema"]["properties"]["value"] == {
        "type": "array",
        "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "minItems": 2,
        "maxItems": 2,
    }


def test_a_tuple_in_the_form_of_old_drafts_is_supported():
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"type": "string"}]}

    assert sent(schema, GEMINI)["schema"]["properties"]["value"] == {"type": "array", "items": {"type": "string"}}


def test_all_of_is_merged_and_one_of_becomes_any_of():
    schema = {
        "allOf": [{"$ref": "#/$defs/A"}, {"properties": {"b": {"oneOf": [{"const": 1}, {"const": "x"}]}}}],
        "type": "object",
        "$defs": {"A": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}},
    }

    assert sent(schema, GEMINI)["schema"] == {
        "type": "object",
        "properties": {
            "a": {"type": "string"},
            "b": {"anyOf": [{"type": "integer", "enum": [1]}, {"type": "string", "enum": ["x"]}]},
        },
        "required": ["a"],
    }


def test_a_list_of_types_with_an_enum_is_split():
    written = wire_schema({"type": ["string", "null"], "enum": ["a", None]}, GEMINI).schema

    assert written == {"anyOf": [{"type": "string", "enum": ["a"]}, {"type": "null", "enum": [None]}]}


def test_a_property_may_have_the_name_of_a_keyword():
    class Odd(BaseModel):
        model_config = ConfigDict(extra="allow")
        title: str
        default: int
        type: Literal["x"]

    assert list(sent(Odd, OPENAI)["schema"]["properties"]) == ["title", "default", "type"]


def test_escaped_references_are_followed():
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/x~1y%20z"}},
        "$defs": {"x/y z": {"type": "string"}},
    }

    assert sent(schema, GEMINI)["schema"]["properties"]["a"] == {"type": "string"}


WRONG = {
    "nothing": (None, "output_type is None"),
    "a string": ("Person", "output_type is a str"),
    "a number": (5, "output_type 5 is not a type that pydantic supports"),
    "an instance": (Address(street="x"), "is not a type that pydantic supports"),
    "a class that pydantic cannot adapt": (type("Plain", (), {}), "is not a type that pydantic supports"),
    "no schema": ({"name": "string"}, "without any JSON Schema keyword"),
    "an empty mapping": ({}, "without any JSON Schema keyword"),
    "an unknown type": ({"type": "text"}, r"output_type is not a JSON Schema: \$\.type: 'text' is not valid"),
    "properties as a list": ({"type": "object", "properties": ["a"]}, r"not a JSON Schema: \$\.properties"),
    "an external reference": ({"$ref": "https://x.test/a.json"}, "only references within the schema"),
    "an unresolved reference": ({"type": "array", "items": {"$ref": "#/$defs/A"}}, "points to nothing"),
    "an unresolved reference under not": ({"type": "array", "not": {"$ref": "#/$defs/A"}}, "points to nothing"),
    "a $schema that is a number": (
        {"type": "string", "$schema": 7},
        r"output_type is not a JSON Schema \(AttributeError",
    ),
    "an invalid pattern": ({"type": "string", "pattern": "("}, "output_type is not a JSON Schema"),
    "a reference to itself": ({"$ref": "#"}, r"'#' at \$, which leads back to itself"),
    "a definition that is itself": (
        {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"$ref": "#/$defs/A"}}},
        r"'#/\$defs/A' at \$\.properties\.a, which leads back to itself",
    ),
    "definitions in a circle": (
        {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}},
        "leads back to itself",
    ),
    "a property that is itself": (
        {"$ref": "#/$defs/A", "$defs": {"A": {"properties": {"a": {"$ref": "#/$defs/A/properties/a"}}}}},
        r"'#/\$defs/A/properties/a' at .*, which leads back to itself",
    ),
    "alternatives that include themselves": (
        {
            "properties": {"a": {"$ref": "#/$defs/A"}},
            "$defs": {"A": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/A"}]}},
        },
        "leads back to itself",
    ),
    "a dependent schema that is itself": (
        {"properties": {"a": {"type": "object", "dependentSchemas": {"x": {"$ref": "#/properties/a"}}}}},
        "leads back to itself",
    ),
    "only infinite alternatives": (
        {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#"}]}}, "required": ["a"]},
        "infinite data",
    ),
}


@pytest.mark.parametrize(("output_type", "message"), WRONG.values(), ids=WRONG.keys())
def test_an_invalid_output_type_is_an_error_at_parse_time(output_type, message):
    with pytest.raises(SegmindConfigError, match=message):
        OutputType.from_(output_type)


class Opaque:
    pass


def test_a_definition_may_contain_itself_and_a_property_may_have_the_name_of_a_keyword():
    tree = {"type": "object", "properties": {"$ref": {"type": "string"}, "$defs": {"items": {"$ref": "#/$defs/Tree"}}}}
    output_type = OutputType.from_({"$ref": "#/$defs/Tree", "$defs": {"Tree": tree}})

    assert output_type.parse('{"$ref": "a", "$defs": [{"$ref": "b"}]}').data == {"$ref": "a", "$defs": [{"$ref": "b"}]}
    assert not output_type.parse('{"$ref": "a", "$defs": [{"$ref": 1}]}').ok


def test_a_class_with_an_annotation_that_does_not_exist_is_an_error_that_says_so():
    incomplete = type("Incomplete", (BaseModel,), {"__annotations__": {"team": "Absent"}, "__module__": __name__})

    with pytest.raises(SegmindConfigError, match="is not fully defined: an annotation names something"):
        OutputType.from_(incomplete)


def test_a_field_that_no_schema_can_describe_is_an_error():
    class Raw(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        thing: Opaque

    with pytest.raises(SegmindConfigError, match="no JSON Schema can describe"):
        OutputType.from_(Raw)


def test_names_are_made_valid_for_the_api():
    assert OutputType.from_({"title": "my type: ü!", "type": "object"}).name == "my_type"
    assert OutputType.from_({"type": "object", "title": "x" * 100}).name == "x" * 64


types = st.recursive(
    st.sampled_from(["string", "integer", "number", "boolean", "null"]).map(lambda kind: {"type": kind}),
    lambda inner: (
        inner.map(lambda items: {"type": "array", "items": items})
        | st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some})
        | st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3).flatmap(
            lambda properties: st.lists(st.sampled_from(sorted(properties)), unique=True).map(
                lambda required: {"type": "object", "properties": properties, "required": required}
            )
        )
    ),
    max_leaves=8,
)


def example(schema: dict[str, Any]) -> Any:
    """The smallest value that a sent schema allows."""
    if "anyOf" in schema:
        return example(schema["anyOf"][-1])
    kind = schema["type"]
    if kind == "object":
        return {key: example(schema["properties"][key]) for key in schema["required"]}
    return {"array": [], "string": "", "integer": 0, "number": 0.5, "boolean": True, "null": None}[kind]


@given(schema=types, family=st.sampled_from(list(ApiFormat)))
def test_data_that_matches_the_sent_schema_matches_the_original(schema, family):
    output_type = OutputType.from_(schema)
    wire = output_type.response_format(family)["json_schema"]["schema"]

    answer = example(wire)
    jsonschema.validate(answer, wire)

    assert output_type.parse(json.dumps(answer)).error is None
