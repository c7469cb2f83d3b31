"""
Converts the parameters in Segmind's model list to a JSON Schema for ``inputs``.

The shape of ``parameters`` is not documented, so every plausible one is read: a JSON Schema, a mapping of names to
descriptions, a list of descriptions with names, and any of them as a string of JSON. Unreadable parts are ignored: a
check that accepts too much costs less than one that refuses what would have worked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_TYPES = {
    "string": "string", "str": "string", "text": "string", "url": "string",
    "integer": "integer", "int": "integer",
    "number": "number", "float": "number", "double": "number",
    "boolean": "boolean", "bool": "boolean",
    "object": "object", "dict": "object",
    "array": "array", "list": "array",
}  # fmt: skip
_BOUNDS = {"minimum": "minimum", "min": "minimum", "maximum": "maximum", "max": "maximum"}
_NAMES = ("name", "key", "field", "parameter", "id")
_FREE = frozenset({"messages"})
"""The page of gemini-3.1-flash-lite calls ``messages`` an array; its own sample, which works, has an object."""


def schema_of_parameters(parameters: object) -> dict[str, Any] | None:
    """
    Return the JSON Schema of a model's body, None when nothing can be read.

    Parameters that are not listed stay allowed.

    :param parameters: the field ``parameters`` of a row of the model list.
    """
    if isinstance(parameters, str):
        try:
            parameters = json.loads(parameters)
        except ValueError:
            return None
    listed = list(_listed(parameters))
    if not listed:
        return None
    wanted = {str(name) for name in _required_list(parameters)}
    wanted |= {name for name, about in listed if about.get("required") in (True, "true", "required")}
    properties = {name: {} if name in _FREE else _property(about) for name, about in listed}
    return {"type": "object", "properties": properties, "required": sorted(wanted & properties.keys())}


def _required_list(parameters: object) -> list[Any]:
    required = parameters.get("required") if isinstance(parameters, Mapping) else None
    return required if isinstance(required, list) else []


def _listed(parameters: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(parameters, Mapping):
        inner = parameters.get("properties")
        named = inner if isinstance(inner, Mapping) else parameters
        for name, about in named.items():
            if isinstance(about, Mapping):
                yield str(name), about
    elif isinstance(parameters, list):
        for about in parameters:
            name = next((about[key] for key in _NAMES if about.get(key)), None) if isinstance(about, Mapping) else None
            if isinstance(name, str):
                yield name, about


def _property(about: Mapping[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    kind = about.get("type")
    known = _TYPES.get(kind.lower()) if isinstance(kind, str) else None
    if known:
        schema["type"] = known
    choices: list[Any] = next(
        (about[key] for key in ("enum", "options", "choices") if isinstance(about.get(key), list)), []
    )
    if choices and all(isinstance(choice, str | int | float) for choice in choices):
        schema["enum"] = choices
    for word, keyword in _BOUNDS.items():
        bound = about.get(word)
        if known in ("integer", "number") and isinstance(bound, int | float) and not isinstance(bound, bool):
            schema[keyword] = bound
    return schema
