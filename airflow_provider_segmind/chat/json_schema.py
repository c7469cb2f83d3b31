"""
From any dialect of JSON Schema to the subset that each model family supports.

OpenAPI 3.0, Swagger and draft 4 are converted to JSON Schema draft 2020-12 or 7, because a validator ignores keywords
it does not know: a null that ``nullable`` allows would be refused after it was paid for. Keywords that a model family
does not support are not sent as such but added to the description.

======================================  =================================================================
keyword                                 becomes
======================================  =================================================================
``nullable``, ``x-nullable``            ``null`` among the types, or an ``anyOf``
``exclusiveMinimum: true`` (draft 4)    ``exclusiveMinimum`` with the value of ``minimum``; ``false`` is removed
``example``, ``xml``, ``discriminator``  removed: they validate nothing
``externalDocs``
``required: true`` in a property        refused (draft 3): it must be a list of names next to ``properties``
======================================  =================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import unquote

from airflow_provider_segmind.chat.model_families import ApiFormat
from airflow_provider_segmind.exceptions import SegmindConfigError, shorten

_SCHEMA = (
    *("not", "if", "then", "else", "contains", "propertyNames", "additionalItems", "additionalProperties"),
    *("unevaluatedItems", "unevaluatedProperties", "items", "contentSchema"),
)
_SCHEMA_LIST = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_SCHEMA_MAP = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_NULLABLE = ("nullable", "x-nullable")
_ANNOTATIONS = ("example", "xml", "discriminator", "externalDocs")
_DRAFT_7 = "http://json-schema.org/draft-07/schema#"
_OLD_DRAFTS = ("draft-03", "draft-04")
# Keywords of old drafts; a validator ignores them, and with them the constraints they express.
_REMOVED = {"extends": "allOf", "disallow": "not", "divisibleBy": "multipleOf"}


def as_json_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return a copy of a schema converted to JSON Schema.

    :raises SegmindConfigError: a keyword has an invalid value or was removed from JSON Schema; names its place.
    """
    translated: dict[str, Any] = _translated(schema, "$")
    if any(draft in str(translated.get("$schema", "")) for draft in _OLD_DRAFTS):
        translated["$schema"] = _DRAFT_7
    return translated


def _translated(node: Any, path: str) -> Any:
    if not isinstance(node, Mapping):
        return node
    found = {key: _within(key, value, f"{path}.{key}") for key, value in node.items()}
    for word, instead in _REMOVED.items():
        if word in found:
            raise _refusal(path, word, found[word], f"the keyword was removed in draft 4; use {instead!r}")
    if isinstance(found.get("required"), bool):
        raise _refusal(path, "required", found["required"], "it must be a list of names, next to 'properties'")
    _exclude(found, "exclusiveMinimum", "minimum")
    _exclude(found, "exclusiveMaximum", "maximum")
    nullable = _take_nullable(found, path)
    for word in _ANNOTATIONS:
        found.pop(word, None)
    return _or_null_type(found) if nullable else found


def _within(key: str, value: Any, path: str) -> Any:
    if key in _SCHEMA_MAP and isinstance(value, Mapping):
        return {name: _translated(one, f"{path}.{name}") for name, one in value.items()}
    if key in _SCHEMA_LIST and isinstance(value, list):
        return [_translated(one, f"{path}[{index}]") for index, one in enumerate(value)]
    if key == "components" and isinstance(value, Mapping):
        return {name: _within("definitions", inner, f"{path}.{name}") for name, inner in value.items()}
    return _translated(value, path) if key in _SCHEMA else value


def _exclude(found: dict[str, Any], word: str, bound: str) -> None:
    """Convert a boolean ``exclusiveMinimum`` or ``exclusiveMaximum`` (draft 4) to the number of draft 6 and later."""
    if not isinstance(found.get(word), bool):
        return
    if found.pop(word) and bound in found:
        found[word] = found.pop(bound)


def _take_nullable(found: dict[str, Any], path: str) -> bool:
    nullable = False
    for word in _NULLABLE:
        value = found.pop(word, False)
        if not isinstance(value, bool):
            raise _refusal(path, word, value, "it must be true or false")
        nullable = nullable or value
    return nullable


def _or_null_type(node: dict[str, Any]) -> dict[str, Any]:
    kinds = node.get("type")
    if isinstance(kinds, str) and not {"enum", "const", "$ref", "anyOf", "oneOf", "allOf", "not", "if"} & node.keys():
        return node if kinds == "null" else {**node, "type": [kinds, "null"]}
    if not node.keys() - {"title", "description", "default"}:
        return node
    # Definitions stay where references point.
    kept = ("$schema", "$id", "$defs", "definitions", "components", "title", "description", "default")
    outside = {key: node[key] for key in node if key in kept}
    inside = {key: value for key, value in node.items() if key not in outside}
    return {**outside, "anyOf": [inside, {"type": "null"}]}


def _refusal(path: str, word: str, value: Any, reason: str) -> SegmindConfigError:
    return SegmindConfigError(
        f"output_type is not a JSON Schema: {path}.{word} is {shorten(repr(value), 80)}; {reason}."
    )


Schema: TypeAlias = Mapping[str, Any]
RECURSION_LEVELS = 3
"""How many levels of a recursive definition are written out."""
MAX_NODES = 5000
"""Largest schema with its references written out, in sub-schemas (OpenAI's limit for properties)."""
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

    :param schema: without references.
    :param strict: False if it contains what strict decoding does not support: free keys, or values of any type.
    """

    schema: dict[str, Any]
    strict: bool


def wire_schema(schema: Schema, family: ApiFormat) -> WireSchema:
    """
    Rewrite a schema in the subset of JSON Schema that a family supports.

    :raises SegmindConfigError: a reference cannot be resolved, or the schema requires infinite data.
    """
    writer = _Writer(schema, family)
    written = writer.write(schema, ())
    if written is None:
        raise SegmindConfigError("output_type requires infinite data: make the recursive field optional or a list.")
    return WireSchema(schema=written, strict=writer.strict)


def resolve(root: Schema, ref: object) -> Any:
    """
    Resolve a reference within a schema.

    :param ref: for example ``#/$defs/Address``.
    :raises SegmindConfigError: it points outside the schema, or to nothing.
    """
    if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
        raise SegmindConfigError(
            f"output_type has the reference {ref!r}: only references within the schema are supported."
        )
    found: Any = root
    for piece in unquote(ref).split("/")[1:]:
        key = piece.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and key in found:
            found = found[key]
        elif isinstance(found, list) and key.isdigit() and int(key) < len(found):
            found = found[int(key)]
        else:
            raise SegmindConfigError(f"output_type has the reference {ref!r}, which points to nothing in it.")
    return found


def dereferenced(schema: Schema) -> Schema:
    """Follow the references of the root of a schema to an object; empty if they end at true or false."""
    node: Any = schema
    while isinstance(node, Mapping) and "$ref" in node:
        node = resolve(schema, node["$ref"])
    return node if isinstance(node, Mapping) else {}


def schema_validator(schema: Schema) -> Any:
    """Return the jsonschema validator of a schema, which never fetches a reference from the network."""
    # Imported late: it takes longer than this package's core, and few tasks need it.
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    empty: Any = Registry()
    return validator_for(schema, default=Draft202012Validator)(schema, registry=empty)


def check_json_schema(schema: Schema, name: str) -> None:
    """
    Check that a mapping is a JSON Schema.

    :raises SegmindConfigError: it is not; names the place.
    """
    from jsonschema import SchemaError

    try:
        schema_validator(schema).check_schema(dict(schema))
    except SchemaError as error:
        raise SegmindConfigError(
            f"{name} is not a JSON Schema: {error.json_path}: {shorten(error.message)}."
        ) from error
    except (AttributeError, TypeError, RecursionError) as error:
        # Raised for a "$schema" that is not a string and for a schema that is nested too deeply.
        raise SegmindConfigError(f"{name} is not a JSON Schema ({type(error).__name__}).") from error


def check_references(schema: Schema) -> None:
    """
    Check the references of a schema.

    :raises SegmindConfigError: one cannot be resolved, is dynamic, or leads back to itself for the same value.
    """
    finished: set[int] = set()
    for path, node in _nodes_with_paths(schema, "$"):
        if not {"$dynamicRef", "$recursiveRef"}.isdisjoint(node):
            raise SegmindConfigError(f"output_type has a dynamic reference at {path}: write it as $ref.")
        if isinstance(node.get("$ref"), str) and _is_circular(node, schema, set(), finished):
            raise SegmindConfigError(
                f"output_type has the reference {node['$ref']!r} at {path}, which leads back to itself: put a property "
                "or a list item in between."
            )


def _nodes_with_paths(node: Any, path: str) -> Iterator[tuple[str, Schema]]:
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _nodes_with_paths(item, f"{path}[{index}]")
    if not isinstance(node, Mapping):
        return
    yield path, node
    for key, value in node.items():
        if key not in ("enum", "const", "default", "examples"):
            yield from _nodes_with_paths(value, f"{path}.{key}")


def _is_circular(node: Any, root: Schema, followed: set[int], finished: set[int]) -> bool:
    """Return whether a schema applies itself again to the same value, endlessly in a validator."""
    if not isinstance(node, Mapping) or id(node) in finished:
        return False
    if id(node) in followed:
        return True
    followed.add(id(node))
    applied = [resolve(root, node["$ref"])] if isinstance(node.get("$ref"), str) else []
    for key in ("allOf", "anyOf", "oneOf"):
        applied += node[key] if isinstance(node.get(key), list) else ()
    applied += [node[key] for key in ("not", "if", "then", "else") if key in node]
    for key in ("dependentSchemas", "dependencies"):
        applied += node[key].values() if isinstance(node.get(key), Mapping) else ()
    if any(_is_circular(one, root, followed, finished) for one in applied):
        return True
    followed.remove(id(node))
    finished.add(id(node))
    return False


class _Writer:
    """Rewrites one schema; None in place of a sub-schema means that no finite data matches it."""

    def __init__(self, root: Schema, family: ApiFormat) -> None:
        self._root = root
        self._family = family
        self._nodes = 0
        self.strict = True

    def write(self, node: Any, seen: tuple[str, ...]) -> dict[str, Any] | None:
        """Rewrite one sub-schema; ``seen`` lists the references followed to reach it."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise SegmindConfigError(
                f"output_type is too large: with its references written out it has more than {MAX_NODES} sub-schemas."
            )
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
        # Keywords next to the alternatives apply to each of them; only those of objects are worth copying into each.
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
        limits: list[str] = []
        for key in _LIMITS:
            if key not in node or node[key] is False:
                continue
            if key in _KEPT[self._family] or (key == "format" and node[key] in _FORMATS[self._family]):
                written[key] = node[key]
            else:
                limits.append(f"{key}: {json.dumps(node[key], ensure_ascii=False, default=str)}")
        description = str(written.get("description") or node.get("description") or "")
        if limits:
            description = f"{description} ({', '.join(limits)})".strip()
        if description:
            written["description"] = description
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


def without_added_nulls(value: Any, schema: Any, root: Schema) -> Any:
    """
    Return the value without nulls in optional properties that do not allow them.

    :param root: the whole original schema, for its references.
    """
    branches = list(_branches(schema, root, ()))
    if isinstance(value, list):
        return [
            without_added_nulls(item, {"anyOf": _items_at(index, branches)}, root) for index, item in enumerate(value)
        ]
    if not isinstance(value, dict):
        return value
    kept: dict[str, Any] = {}
    for key, item in value.items():
        subs = [branch["properties"][key] for branch in branches if key in branch.get("properties", {})]
        if item is None and subs and not _needs_null(key, subs, branches, root):
            continue
        extra = [branch["additionalProperties"] for branch in branches if "additionalProperties" in branch]
        kept[key] = without_added_nulls(item, {"anyOf": subs or extra}, root)
    return kept


def _needs_null(key: str, subs: list[Any], branches: list[Schema], root: Schema) -> bool:
    required = any(key in branch.get("required", ()) for branch in branches)
    return required or any(_allows_null(branch) for sub in subs for branch in _branches(sub, root, ()))


def _allows_null(node: Schema) -> bool:
    if "enum" in node:
        return None in node["enum"]
    if "const" in node:
        return node["const"] is None
    kind = node.get("type")
    return kind is None or kind == "null" or (isinstance(kind, list) and "null" in kind)


def _items_at(index: int, branches: list[Schema]) -> list[Any]:
    found: list[Any] = []
    for branch in branches:
        prefix = branch.get("prefixItems", ())
        if index < len(prefix):
            found.append(prefix[index])
        elif "items" in branch:
            found.append(branch["items"])
    return found


def _branches(schema: Any, root: Schema, seen: tuple[str, ...]) -> Iterator[Schema]:
    """Follow references and alternatives to the schemas that describe the value itself."""
    if not isinstance(schema, Mapping):
        return
    if "$ref" in schema:
        if schema["$ref"] not in seen:
            yield from _branches(resolve(root, schema["$ref"]), root, (*seen, schema["$ref"]))
        return
    choices = [choice for key in ("anyOf", "oneOf", "allOf") for choice in schema.get(key, ())]
    if not choices or "properties" in schema:
        yield schema
    for choice in choices:
        yield from _branches(choice, root, seen)
