"""
Take out of an answer the nulls that only the wire form asked for.

OpenAI's strict form has no optional properties: each is required and may be null (see :mod:`.schema`). A property that
is optional in the original schema but not nullable must then be absent again before the original is validated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_segmind.api.schema import Schema, resolve


def without_added_nulls(value: Any, schema: Any, root: Schema) -> Any:
    """
    Return the value without nulls under optional properties that do not allow them.

    :param value: the answer.
    :param schema: the original schema of this value.
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
    """Walk references and alternatives down to the schemas that say something about the value itself."""
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
