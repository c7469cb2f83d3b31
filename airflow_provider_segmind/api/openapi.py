"""
Write the dialects that people take for JSON Schema as JSON Schema of draft 2020-12 or 7.

OpenAPI 3.0 and Swagger describe data in words of their own. A validator of JSON Schema passes over words it does not
know, so that ``nullable`` would refuse the null it allows, after it was paid for.

======================================  =================================================================
word                                    becomes
======================================  =================================================================
``nullable``, ``x-nullable``            ``null`` among the types, or an ``anyOf``
``exclusiveMinimum: true`` (draft 4)    ``exclusiveMinimum`` with the value of ``minimum``; ``false`` nothing
``example``, ``xml``, ``discriminator``  nothing: they describe, and decide about no value
``externalDocs``
``required: true`` in a property        refused (draft 3): a list of names beside ``properties`` is meant
``$schema`` of draft 3 or 4             that of draft 7, which takes all that is left of theirs
======================================  =================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_segmind.exceptions import SegmindConfigError, shorten

_ONE = (
    *("not", "if", "then", "else", "contains", "propertyNames", "additionalItems", "additionalProperties"),
    *("unevaluatedItems", "unevaluatedProperties", "items", "contentSchema"),
)
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_NULLABLE = ("nullable", "x-nullable")
_TELLING = ("example", "xml", "discriminator", "externalDocs")
_DRAFT_7 = "http://json-schema.org/draft-07/schema#"
_OLD_DRAFTS = ("draft-03", "draft-04")
# Words of the drafts that were dropped since; a validator passes over them, and with them over what they ask for.
_GONE = {"extends": "allOf", "disallow": "not", "divisibleBy": "multipleOf"}


def as_json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return a schema in the words of JSON Schema; the one given stays as it is.

    :raises SegmindConfigError: a word cannot mean anything; names its place.
    """
    translated: dict[str, Any] = _translated(schema, "$")
    if any(draft in str(translated.get("$schema", "")) for draft in _OLD_DRAFTS):
        translated["$schema"] = _DRAFT_7
    return translated


def _translated(node: Any, path: str) -> Any:
    if not isinstance(node, Mapping):
        return node
    found = {key: _within(key, value, f"{path}.{key}") for key, value in node.items()}
    for word, instead in _GONE.items():
        if word in found:
            raise SegmindConfigError(_refusal(path, word, found[word], f"it was dropped in draft 4; write {instead!r}"))
    if isinstance(found.get("required"), bool):
        told = "it must be a list of names, beside the 'properties' that it is about"
        raise SegmindConfigError(_refusal(path, "required", found["required"], told))
    _exclude(found, "exclusiveMinimum", "minimum")
    _exclude(found, "exclusiveMaximum", "maximum")
    nullable = _take_nullable(found, path)
    for word in _TELLING:
        found.pop(word, None)
    return _or_null(found) if nullable else found


def _within(key: str, value: Any, path: str) -> Any:
    if key in _NAMED and isinstance(value, Mapping):
        return {name: _translated(one, f"{path}.{name}") for name, one in value.items()}
    if key in _MANY and isinstance(value, list):
        return [_translated(one, f"{path}[{index}]") for index, one in enumerate(value)]
    if key == "components" and isinstance(value, Mapping):
        return {name: _within("definitions", inner, f"{path}.{name}") for name, inner in value.items()}
    return _translated(value, path) if key in _ONE else value


def _exclude(found: dict[str, Any], word: str, bound: str) -> None:
    """Write a bound of draft 4, whose exclusiveness is a word beside it, as draft 6 and later do."""
    if not isinstance(found.get(word), bool):
        return
    if found.pop(word) and bound in found:
        found[word] = found.pop(bound)


def _take_nullable(found: dict[str, Any], path: str) -> bool:
    nullable = False
    for word in _NULLABLE:
        said = found.pop(word, False)
        if not isinstance(said, bool):
            raise SegmindConfigError(_refusal(path, word, said, "it must be true or false"))
        nullable = nullable or said
    return nullable


def _or_null(node: dict[str, Any]) -> dict[str, Any]:
    kinds = node.get("type")
    if isinstance(kinds, str) and not {"enum", "const", "$ref", "anyOf", "oneOf", "allOf", "not", "if"} & node.keys():
        return node if kinds == "null" else {**node, "type": [kinds, "null"]}
    if not node.keys() - {"title", "description", "default"}:
        return node
    # Definitions stay where references look for them.
    outside = {key: node[key] for key in node if key in ("$schema", "$id", "$defs", "definitions", "components")}
    told: dict[str, Any] = {key: node[key] for key in ("title", "description", "default") if key in node}
    inside = {key: value for key, value in node.items() if key not in outside and key not in told}
    return {**outside, **told, "anyOf": [inside, {"type": "null"}]}


def _refusal(path: str, word: str, said: Any, told: str) -> str:
    return f"output_type is no JSON Schema: {path}.{word} is {shorten(repr(said), 80)}; {told}."
