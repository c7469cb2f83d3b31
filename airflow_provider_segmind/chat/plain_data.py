"""
Turn a value that a pydantic type has validated into plain JSON data, with the field names of its JSON Schema.

A field can have three names: its Python name, its validation alias and its serialization alias. The schema sent to a
model uses the second, so the model replies with it, the columns of a table have it, and it is what is stored: stored
data can be validated again with the same type. pydantic dumps with the third, omits fields (``exclude``,
``exclude_if``, ``InitVar``) and masks secrets; all of those were requested and paid for, so all of them are delivered.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from pydantic import RootModel, Secret, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from airflow_provider_segmind.exceptions import SegmindConfigError

_CLASSES = {"model", "dataclass"}
_FIELDS = {"model-fields", "dataclass-args", "typed-dict"}
_MASK = "**********"
_MISSING = object()
_GIVES_UP = (PydanticSerializationError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError)


@dataclass(frozen=True, slots=True)
class FieldNames:
    """
    The names of one field.

    :param own: its name in the class.
    :param schema: its name in the JSON Schema that is sent.
    :param dumped: its name in a dump.
    :param accepted: every key that validation accepts for it.
    :param omitted: whether pydantic may omit it from a dump.
    :param stored: whether an instance has it as an attribute; an ``InitVar`` is only passed through.
    """

    own: str
    schema: str
    dumped: str
    accepted: frozenset[str]
    omitted: bool
    stored: bool

    def of(self, value: Any) -> Any:
        """Return the value of this field in an instance, ``_MISSING`` when it has none."""
        return getattr(value, self.own, _MISSING) if self.stored else _MISSING


@dataclass(frozen=True, slots=True)
class TypeNames:
    """
    The names of all fields of a type.

    :param classes: the fields of each model and dataclass.
    :param by_name: whether Python names can be accepted too because none of them is the alias of another field.
    :param computed: the computed fields of the outermost class.
    :param simple: whether a dump already has the names of the schema, and masks nothing.
    """

    classes: Mapping[type, tuple[FieldNames, ...]]
    by_name: bool
    computed: frozenset[str] = frozenset()
    simple: bool = False

    @classmethod
    def of(cls, adapter: TypeAdapter[Any]) -> TypeNames:
        """
        Read the names from a type's core schema.

        :raises SegmindConfigError: a TypedDict validates and dumps a field under different names; its values are plain
            dicts, in which the field cannot be recognized.
        """
        classes: dict[type, tuple[FieldNames, ...]] = {}
        by_name = True
        for owner, fields in _owners(adapter.core_schema, None):
            names = tuple(_names(own, field) for own, field in fields)
            owned = {one.own for one in names}
            by_name = by_name and not any((one.accepted - {one.own}) & owned for one in names)
            if owner is not None:
                classes[owner] = names
            elif odd := next((one for one in names if one.omitted or one.schema != one.dumped), None):
                raise SegmindConfigError(
                    f"output_type has a TypedDict whose field {odd.own!r} is excluded from a dump, or has another name "
                    "in a dump than in validation: give it one alias, or make the TypedDict a model or a dataclass."
                )
        simple = not _has_own_dump(adapter.core_schema) and all(
            one.schema == one.dumped and one.stored and not one.omitted for names in classes.values() for one in names
        )
        return cls(classes, by_name, frozenset(_computed(adapter.core_schema)), simple)

    def of_value(self, value: Any) -> tuple[FieldNames, ...] | None:
        """Return the names of an instance's fields, None when it is not a model or dataclass of the type."""
        found = self.classes.get(type(value))
        return found or next((self.classes[kind] for kind in type(value).__mro__ if kind in self.classes), None)


def plain_data(adapter: TypeAdapter[Any], names: TypeNames, value: Any, source: Any) -> Any:
    """
    Return a validated value as plain JSON data.

    :param source: the data that was validated, for fields that the value itself does not store.
    """
    renaming = _Renaming(names)
    try:
        dumped = adapter.dump_python(value, mode="json", by_alias=True, warnings=False)
    except ValidationError:
        # pydantic validates the items of an Iterable only when they are dumped.
        raise
    except _GIVES_UP:
        # The type's own serializer fails, but the data was paid for.
        dumped = renaming.dumped(value)
    if names.simple:
        fields = names.of_value(value) or ()
        if not fields or (isinstance(dumped, dict) and all(one.schema in dumped for one in fields)):
            return _finite(dumped)
    return _completed(renaming, names, value, renaming.renamed(value, dumped), source)


def _finite(dumped: Any) -> Any:
    kind = type(dumped)
    if kind is dict:
        return {key: _finite(item) for key, item in dumped.items()}
    if kind is list:
        return [_finite(item) for item in dumped]
    return None if kind is float and not math.isfinite(dumped) else dumped


def _completed(renaming: _Renaming, names: TypeNames, value: Any, data: Any, source: Any) -> Any:
    """Add the fields that the outermost class's own serializer omitted."""
    while isinstance(value, RootModel):
        value = value.root
    fields = names.of_value(value)
    if fields is None:
        return data
    complete: dict[str, Any] = {}
    found = data if isinstance(data, dict) else {}
    for one in fields:
        if one.schema in found:
            complete[one.schema] = found[one.schema]
        elif (inner := one.of(value)) is not _MISSING:
            complete[one.schema] = renaming.filled(inner)
        elif isinstance(source, Mapping) and one.accepted & source.keys():
            complete[one.schema] = next(source[key] for key in source if key in one.accepted)
    return complete | found


class _Renaming:
    """Walks a value and its dump in parallel."""

    def __init__(self, names: TypeNames) -> None:
        self._names = names

    def renamed(self, value: Any, dumped: Any) -> Any:
        """Return the dump with the names of the schema."""
        if isinstance(value, (Secret, SecretStr, SecretBytes)):
            secret = value.get_secret_value()
            return self.filled(secret) if dumped in (str(value), _MASK) else dumped
        if isinstance(value, RootModel):
            return self.renamed(value.root, dumped)
        fields = self._names.of_value(value)
        if fields is not None and isinstance(dumped, dict):
            return self._object(value, dumped, fields)
        if isinstance(value, Mapping) and isinstance(dumped, dict) and len(value) == len(dumped):
            pairs = zip(value.items(), dumped.items(), strict=True)
            return {self._key(own, key): self.renamed(item, other) for (own, item), (key, other) in pairs}
        if isinstance(dumped, list) and _is_list(value) and len(value) == len(dumped):
            return [self.renamed(item, other) for item, other in zip(value, dumped, strict=True)]
        return None if isinstance(dumped, float) and not math.isfinite(dumped) else dumped

    def filled(self, value: Any) -> Any:
        """Dump a value with the names of the schema."""
        return self.renamed(value, self.dumped(value))

    def dumped(self, value: Any) -> Any:
        """Dump a value without using its type adapter."""
        try:
            return to_jsonable_python(value, by_alias=True, fallback=str)
        except _GIVES_UP:
            fields = self._names.of_value(value)
        if fields is not None:
            return {one.dumped: self.dumped(getattr(value, one.own, None)) for one in fields}
        if isinstance(value, Mapping):
            return {str(key): self.dumped(item) for key, item in value.items()}
        if _is_list(value):
            return [self.dumped(item) for item in value]
        return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)

    def _object(self, value: Any, dumped: dict[str, Any], fields: Sequence[FieldNames]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for one in fields:
            inner = one.of(value)
            if one.dumped in dumped:
                other = dumped[one.dumped]
                found[one.schema] = other if inner is _MISSING else self.renamed(inner, other)
            elif one.omitted and inner is not _MISSING:
                found[one.schema] = self.filled(inner)
        used = {one.dumped for one in fields}
        beside = _beside(value)
        rest = {key: item for key, item in dumped.items() if key not in used}
        return found | {key: self.renamed(beside[key], item) if key in beside else item for key, item in rest.items()}

    def _key(self, own: Any, key: str) -> str:
        return str(self.renamed(own, key)) if isinstance(own, (Secret, SecretStr, SecretBytes)) else key


def _beside(value: Any) -> dict[str, Any]:
    """Return the entries of a model's dump that are not fields: extra keys and computed fields."""
    computed = getattr(type(value), "model_computed_fields", None) or {}
    named = {info.alias or name: getattr(value, name, None) for name, info in computed.items()}
    return {**(getattr(value, "model_extra", None) or {}), **named}


def _is_list(value: Any) -> bool:
    return isinstance(value, Collection) and isinstance(value, (Sequence, Set)) and not isinstance(value, (str, bytes))


def _owners(node: Any, owner: type | None) -> Iterator[tuple[type | None, list[tuple[str, Mapping[str, Any]]]]]:
    """Yield the classes of a core schema, each with its fields; None for a TypedDict."""
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _owners(item, owner)
    if not isinstance(node, Mapping):
        return
    kind = node.get("type")
    if isinstance(kind, str) and kind in _CLASSES and isinstance(node.get("cls"), type):
        owner = node["cls"]
    elif isinstance(kind, str) and kind in _FIELDS and "fields" in node:
        fields = node["fields"]
        named = fields.items() if isinstance(fields, Mapping) else [(field["name"], field) for field in fields]
        yield None if kind == "typed-dict" else owner, list(named)
    for key, item in node.items():
        if key not in ("metadata", "serialization", "cls", "config"):
            yield from _owners(item, owner)


def _has_own_dump(node: Any) -> bool:
    """Return whether a core schema contains computed fields or custom serializers, which secrets have."""
    if isinstance(node, (list, tuple)):
        return any(map(_has_own_dump, node))
    if not isinstance(node, Mapping):
        return False
    if node.get("computed_fields") or str((node.get("serialization") or {}).get("type", "")).startswith("function"):
        return True
    return any(_has_own_dump(item) for key, item in node.items() if key not in ("metadata", "serialization"))


def _computed(schema: Any) -> Iterator[str]:
    """Yield the computed fields of the outermost class of a core schema, by their names in a dump."""
    definitions = {one["ref"]: one for one in schema.get("definitions", ())} if schema["type"] == "definitions" else {}
    node = schema
    while isinstance(node, Mapping) and node.get("type") != "model-fields":
        if node.get("type") == "dataclass-args":
            break
        node = definitions.get(node["schema_ref"]) if node.get("type") == "definition-ref" else node.get("schema")
    for one in node.get("computed_fields") or () if isinstance(node, Mapping) else ():
        yield one.get("alias") or one["property_name"]


def _names(own: str, field: Mapping[str, Any]) -> FieldNames:
    alias = field.get("validation_alias", own)
    paths = [[alias]] if isinstance(alias, str) else alias if alias and isinstance(alias[0], list) else [alias]
    # The same choice as pydantic's JSON Schema: the first alias that is a single key; a path has no name in a schema.
    schema = next((path[0] for path in paths if len(path) == 1 and isinstance(path[0], str)), own)
    return FieldNames(
        own=own,
        schema=schema,
        dumped=field.get("serialization_alias") or own,
        accepted=frozenset({own, *(path[0] for path in paths if isinstance(path[0], str))}),
        omitted=bool(field.get("serialization_exclude") or field.get("serialization_exclude_if")),
        stored=not field.get("init_only"),
    )
