"""
From any dialect of JSON Schema to what each model family can be asked for, and back.

OpenAPI 3.0, Swagger and draft 4 are rewritten as JSON Schema of draft 2020-12 or 7, because a validator passes over
words it does not know: ``nullable`` would refuse the null it allows, after it was paid for. What a model family does
not take is left out of the schema that is sent, and what the rewriting added is removed from the answer.

======================================  =================================================================
word                                    becomes
======================================  =================================================================
``nullable``, ``x-nullable``            ``null`` among the types, or an ``anyOf``
``exclusiveMinimum: true`` (draft 4)    ``exclusiveMinimum`` with the value of ``minimum``; ``false`` nothing
``example``, ``xml``, ``discriminator``  nothing: they describe, and decide about no value
``externalDocs``
``required: true`` in a property        refused (draft 3): a list of names beside ``properties`` is meant
======================================  =================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import unquote

from airflow_provider_segmind.chat.model_families import ApiFormat
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
    return _or_null_type(found) if nullable else found


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


def _or_null_type(node: dict[str, Any]) -> dict[str, Any]:
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
    return f"output_type is not a JSON Schema: {path}.{word} is {shorten(repr(said), 80)}; {told}."


Schema: TypeAlias = Mapping[str, Any]
RECURSION_LEVELS = 3
"""How often a definition may stand inside itself when it is written out."""
MAX_NODES = 5000
"""Largest schema written out, in sub-schemas (OpenAI's limit for properties)."""
_KEPT = {
    ApiFormat.GEMINI: frozenset({"minimum", "maximum", "minItems", "maxItems"}),
    ApiFormat.OPENAI: frozenset(
        {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems"}
    ),
    ApiFormat.ANTHROPIC: frozenset[str](),
}
_TEXT_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
)  # fmt: skip
_FORMATS = {
    ApiFormat.GEMINI: frozenset({"date-time", "time", "date"}),
    ApiFormat.OPENAI: _TEXT_FORMATS,
    ApiFormat.ANTHROPIC: _TEXT_FORMATS | {"uri"},
}
_LIMITS = (
    *("minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("multipleOf", "minItems", "maxItems", "uniqueItems", "format"),
)
_JSON_TYPES: Mapping[type, str] = {
    bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null", list: "array", dict: "object",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class WireSchema:
    """
    A schema as it is sent.

    :param schema: free of references.
    :param strict: False when it holds what strict decoding cannot express: free keys, or values of any type.
    """

    schema: dict[str, Any]
    strict: bool


def wire_schema(schema: Schema, family: ApiFormat) -> WireSchema:
    """
    Rewrite a schema for a family.

    :param schema: the original.
    :param family: whose subset of JSON Schema to keep to.
    :raises SegmindConfigError: a reference leads nowhere, or the schema asks for endless data.
    """
    writer = _Writer(schema, family)
    written = writer.write(schema, ())
    if written is None:
        raise SegmindConfigError("output_type asks for data without end: make the recursive field optional or a list.")
    return WireSchema(schema=written, strict=writer.strict)


def resolve(root: Schema, ref: object) -> Any:
    """
    Follow a reference inside a schema.

    :param root: the whole schema.
    :param ref: for example ``#/$defs/Address``.
    :raises SegmindConfigError: it leads out of the schema or nowhere.
    """
    if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
        raise SegmindConfigError(f"output_type has the reference {ref!r}: only references into the schema itself work.")
    found: Any = root
    for piece in unquote(ref).split("/")[1:]:
        key = piece.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and key in found:
            found = found[key]
        elif isinstance(found, list) and key.isdigit() and int(key) < len(found):
            found = found[int(key)]
        else:
            raise SegmindConfigError(f"output_type has the reference {ref!r}, which leads nowhere.")
    return found


class _Writer:
    """One rewriting; ``None`` in place of a schema stands for one no finite data can meet."""

    def __init__(self, root: Schema, family: ApiFormat) -> None:
        self._root = root
        self._family = family
        self._nodes = 0
        self.strict = True

    def write(self, node: Any, seen: tuple[str, ...]) -> dict[str, Any] | None:
        """Rewrite one sub-schema; ``seen`` are the references on the way to it."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise SegmindConfigError(f"output_type grows over {MAX_NODES} parts once its references are written out.")
        if node is False:
            return None
        if not isinstance(node, Mapping):
            node = {}
        if "$ref" in node:
            ref = node["$ref"]
            if seen.count(ref) >= RECURSION_LEVELS:
                return None
            target = resolve(self._root, ref)
            siblings = {key: value for key, value in node.items() if key != "$ref"}
            if not isinstance(target, Mapping):
                return self.write(target, (*seen, ref))
            return self.write({**target, **siblings}, (*seen, ref))
        if "allOf" in node:
            return self.write(self._merged(node), seen)
        choices = node.get("anyOf") or node.get("oneOf")
        if choices:
            return self._any_of(node, choices, seen)
        return self._plain(node, seen)

    def _merged(self, node: Schema) -> Schema:
        merged: dict[str, Any] = {key: value for key, value in node.items() if key != "allOf"}
        for part in node["allOf"]:
            hops = 0
            while isinstance(part, Mapping) and "$ref" in part and hops < RECURSION_LEVELS:
                part = {**resolve(self._root, part["$ref"]), **{k: v for k, v in part.items() if k != "$ref"}}
                hops += 1
            for key, value in part.items() if isinstance(part, Mapping) else ():
                if key == "properties":
                    merged[key] = {**value, **merged.get(key, {})}
                elif key in ("required", "allOf"):
                    merged[key] = [*merged.get(key, []), *(one for one in value if one not in merged.get(key, []))]
                else:
                    merged.setdefault(key, value)
        return merged

    def _any_of(self, node: Schema, choices: Sequence[Any], seen: tuple[str, ...]) -> dict[str, Any] | None:
        # Keywords beside the alternatives hold for each of them; only an object's are worth carrying into each.
        shared = {key: node[key] for key in ("properties", "required") if key in node}
        branches: list[dict[str, Any]] = []
        for choice in choices:
            joined = {"allOf": [choice, shared]} if shared else choice
            written = self.write(joined, seen)
            if written is not None and written not in branches:
                branches.append(written)
        if not branches:
            return None
        described = {"description": node["description"]} if "description" in node else {}
        if len(branches) == 1:
            return {**branches[0], **described}
        return {**described, "anyOf": branches}

    def _plain(self, node: Schema, seen: tuple[str, ...]) -> dict[str, Any] | None:
        if "const" in node:
            node = {**node, "enum": [node["const"]]}
        kind = node.get("type") or _implied_type(node)
        if isinstance(kind, list):
            split = [{**node, "type": one, **_enum_of(node, one)} for one in kind]
            return self._any_of({}, [one for one in split if one.get("enum", True)], seen)
        if kind is None and "enum" not in node:
            self.strict = False
            return self._described(node, {})
        written: dict[str, Any] = {} if kind is None else {"type": kind}
        if "enum" in node:
            written["enum"] = list(node["enum"])
        if kind == "object" and not self._write_object(node, written, seen):
            return None
        if kind == "array" and not self._write_array(node, written, seen):
            return None
        return self._described(node, written)

    def _write_object(self, node: Schema, written: dict[str, Any], seen: tuple[str, ...]) -> bool:
        required = [key for key in node.get("required", ()) if isinstance(key, str)]
        properties: dict[str, Any] = {}
        for key, value in node.get("properties", {}).items():
            sub = self.write(value, seen)
            if sub is not None:
                optional = self._family is ApiFormat.OPENAI and key not in required
                properties[key] = _or_null(sub) if optional else sub
            elif key in required:
                return False
        if not properties:
            rest = node.get("additionalProperties")
            self.strict = self.strict and rest is False
            if isinstance(rest, Mapping) and (sub := self.write(rest, seen)) is not None:
                written["additionalProperties"] = sub
            elif rest is False and self._family is not ApiFormat.GEMINI:
                written.update(properties={}, required=[], additionalProperties=False)
            return True
        written["properties"] = properties
        written["required"] = [
            key for key in properties if key in required or self._family is ApiFormat.OPENAI
        ]  # fmt: skip
        if self._family is not ApiFormat.GEMINI:
            written["additionalProperties"] = False
        return True

    def _write_array(self, node: Schema, written: dict[str, Any], seen: tuple[str, ...]) -> bool:
        rest = node.get("items", {})
        # Until draft 2019-09 a tuple was a list under items.
        tuple_items = rest if isinstance(rest, list) else node.get("prefixItems")
        if tuple_items:
            more = [node["items"]] if isinstance(node.get("items"), Mapping) else []
            items = self._any_of({}, [*tuple_items, *more], seen)
            if items is None:
                return False
        else:
            items = self.write(rest, seen)
        if items is not None:
            written["items"] = items
            return True
        if node.get("minItems"):
            return False
        written["items"] = {"type": "null"}
        written["description"] = f"{node.get('description', '')} Leave this list empty.".strip()
        return True

    def _described(self, node: Schema, written: dict[str, Any]) -> dict[str, Any]:
        told: list[str] = []
        for key in _LIMITS:
            if key not in node or node[key] is False:
                continue
            if key in _KEPT[self._family] or (key == "format" and node[key] in _FORMATS[self._family]):
                written[key] = node[key]
            else:
                told.append(f"{key}: {json.dumps(node[key], ensure_ascii=False, default=str)}")
        words = str(written.get("description") or node.get("description") or "")
        if told:
            words = f"{words} ({', '.join(told)})".strip()
        if words:
            written["description"] = words
        return written


def _implied_type(node: Schema) -> str | list[str] | None:
    if "enum" in node:
        kinds = list(dict.fromkeys(_JSON_TYPES.get(type(value), "string") for value in node["enum"]))
        return kinds[0] if len(kinds) == 1 else kinds
    if "properties" in node or "additionalProperties" in node:
        return "object"
    return "array" if "items" in node or "prefixItems" in node else None


def _enum_of(node: Schema, kind: str) -> dict[str, list[Any]]:
    if "enum" not in node:
        return {}
    fits = {kind, "integer"} if kind == "number" else {kind}
    return {"enum": [value for value in node["enum"] if _JSON_TYPES.get(type(value)) in fits]}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    null = {"type": "null"}
    if schema == null or null in schema.get("anyOf", ()):
        return schema
    if set(schema) <= {"anyOf", "description"} and "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], null]}
    return {"anyOf": [schema, null]}
