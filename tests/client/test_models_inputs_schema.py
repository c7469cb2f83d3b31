"""What the model list says of a model's parameters, in every plausible shape."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from airflow_provider_segmind.client.models import schema_of_parameters

SEED = {"type": "integer", "minimum": -1, "maximum": 10}


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {"prompt": {"type": "string"}, "seed": SEED}, "required": ["prompt"]},
        {"prompt": {"type": "str", "required": True}, "seed": {"type": "int", "min": -1, "max": 10}},
        [{"name": "prompt", "type": "String", "required": "true"}, {"key": "seed", **SEED}],
        json.dumps([{"field": "prompt", "type": "text", "required": True}, {"parameter": "seed", **SEED}]),
    ],
)
def test_every_plausible_shape_becomes_the_same_schema(parameters: Any) -> None:
    schema = schema_of_parameters(parameters)

    assert schema == {
        "type": "object",
        "properties": {"prompt": {"type": "string"}, "seed": SEED},
        "required": ["prompt"],
    }
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("parameters", [None, "", "no JSON", {}, [], 7, [1, 2], {"prompt": "a text"}, [{"type": "x"}]])
def test_unreadable_parameters_have_no_schema(parameters: Any) -> None:
    assert schema_of_parameters(parameters) is None


def test_unknown_keywords_are_ignored_and_unlisted_parameters_allowed() -> None:
    schema = schema_of_parameters({"style": {"type": "enum!", "options": ["a", "b"], "min": "low"}, "n": {"min": 3}})

    assert schema is not None
    assert schema["properties"] == {"style": {"enum": ["a", "b"]}, "n": {}}
    jsonschema.validate({"style": "a", "other": 1}, schema)


def test_messages_are_never_checked_because_the_listed_type_contradicts_the_working_sample() -> None:
    schema = schema_of_parameters({"messages": {"type": "array", "required": True}})

    assert schema is not None
    jsonschema.validate({"messages": {"contents": []}}, schema)
    with pytest.raises(jsonschema.ValidationError, match="required"):
        jsonschema.validate({}, schema)
