"""
Turn a value that a pydantic type has validated into plain JSON data, with the field names of its JSON Schema.

A field can have three names: its Python name, its validation alias and its serialization alias. The schema sent to a
model uses the second, so the model replies with it, the columns of a table have it, and it is what is stored: stored
data can be validated again with the same type. pydantic dumps with the third, omits fields (``exclude``,
``exclude_if``, ``InitVar``) and masks secrets; all of those were requested and paid for, so all of them are delivered.

So a value is dumped by a copy of its type's core schema in which every field has the second name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import RootModel, Secret, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, SchemaSerializer

from airflow_provider_segmind.chat.json_values import clean_value

_FIELD_TYPES = ("model-field", "dataclass-field", "typed-dict-field")
_GIVES_UP = (PydanticSerializationError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError)


@dataclass(frozen=True, slots=True)
class _Field:
    """
    The names of one field.

    :param schema: its name in the JSON Schema that is sent.
    :param accepted: every key that validation accepts for it.
    :param passed: whether it is an ``InitVar``, which an instance does not store.
    """

    schema: str
    accepted: frozenset[str]
    passed: bool

    @classmethod
    def of(cls, own: str, field: Mapping[str, Any]) -> _Field:
        alias = field.get("validation_alias", own)
        paths = [[alias]] if isinstance(alias, str) else alias if alias and isinstance(alias[0], list) else [alias]
        # The same choice as pydantic's JSON Schema: the first alias that is a single key; a path has no name there.
        schema = next((path[0] for path in paths if len(path) == 1 and isinstance(path[0], str)), own)
        accepted = frozenset({own, *(path[0] for path in paths if isinstance(path[0], str))})
        return cls(schema, accepted, bool(field.get("init_only")))


class PlainDump:
    """
    Dumps the values of a type with the names of its JSON Schema.

    :ivar by_name: whether Python names can be accepted too because none of them is the alias of another field.
    :ivar computed: the computed fields of the outermost class, by their names in a dump.
    """

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        schema = adapter.core_schema
        self._classes: dict[type, list[_Field]] = {}
        self.by_name = True
        for owner, fields in _owners(schema, None):
            self.by_name = self.by_name and not any(
                (one.accepted - {own}) & fields.keys() for own, one in fields.items()
            )
            if owner is not None:
                self._classes[owner] = list(fields.values())
        self.computed = frozenset(_computed(schema))
        self._schema = schema
        self._as_typed = SchemaSerializer(self._renamed(schema, complete=False))

    def __call__(self, value: Any, source: Any) -> Any:
        """
        Return a validated value as plain JSON data.

        :param source: the data that was validated, for fields that the value itself does not store.
        """
        try:
            data = _dumped(self._as_typed, value)
        except ValidationError:
            # pydantic validates the items of an Iterable only when they are dumped.
            raise
        except _GIVES_UP:
            # The type's own serializer fails, but the data was paid for.
            data = _dumped(self._complete, value)
        inner = value
        while isinstance(inner, RootModel):
            inner = inner.root
        fields = self._classes.get(self._class_of(inner) or object)
        if fields is None or (isinstance(data, dict) and all(one.schema in data for one in fields)):
            return data
        found = data if isinstance(data, dict) else {}
        given = source if isinstance(source, Mapping) else {}
        passed = {one.schema: given[key] for one in fields if one.passed for key in given if key in one.accepted}
        return _dumped(self._complete, value) | passed | found

    @cached_property
    def _complete(self) -> SchemaSerializer:
        return SchemaSerializer(self._renamed(self._schema, complete=True))

    def _class_of(self, value: Any) -> type | None:
        kind = type(value)
        return kind if kind in self._classes else next((one for one in kind.__mro__ if one in self._classes), None)

    def _renamed(self, node: Any, *, complete: bool, own: str = "") -> Any:
        """Copy a core schema with other names, and for ``complete`` without the serializers that a user wrote."""
        if isinstance(node, (list, tuple)):
            return [self._renamed(item, complete=complete) for item in node]
        if not isinstance(node, dict):
            return node
        copy = {
            key: item if key in ("metadata", "config") else self._renamed(item, complete=complete, own=key)
            for key, item in node.items()
            if not key.startswith("serialization_exclude")
        }
        kind = node.get("type")
        if kind in _FIELD_TYPES:
            copy["serialization_alias"] = _Field.of(node.get("name", own), node).schema
        elif kind in ("model", "dataclass"):
            copy["cls"] = _SameInstances("SameInstances", (), {"of": node["cls"], "class_of": self._class_of})
        elif kind == "function-plain" and getattr(node["function"], "__module__", "") == "pydantic.types":
            copy["function"] = _unmasked(node["function"])
        written = node.get("serialization") or {}
        if complete and not getattr(written.get("function"), "__module__", "pydantic").startswith("pydantic"):
            del copy["serialization"]
        return copy


class _SameInstances(type):
    """
    The class of a class with the instances of another one.

    pydantic would dump the instances of a class with the serializer in that class, which has the other names.
    """

    of: type
    class_of: Callable[[Any], type | None]

    def __instancecheck__(cls, value: Any) -> bool:
        return cls.class_of(value) is cls.of


def _unmasked(function: Callable[..., Any]) -> Callable[..., Any]:
    def dump(value: Any, *info: Any) -> Any:
        if isinstance(value, (Secret, SecretStr, SecretBytes)):
            return value.get_secret_value()
        return function(value, *info)

    return dump


def _dumped(serializer: SchemaSerializer, value: Any) -> Any:
    plain = serializer.to_python(value, mode="json", by_alias=True, warnings=False, fallback=str)
    try:
        json.dumps(plain, allow_nan=False)
    except ValueError:
        return clean_value(plain).value
    return plain


def _owners(node: Any, owner: type | None) -> Iterator[tuple[type | None, dict[str, _Field]]]:
    """Yield the classes of a core schema, each with its fields; None for a TypedDict."""
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _owners(item, owner)
    if not isinstance(node, Mapping):
        return
    kind = node.get("type")
    if kind in ("model", "dataclass"):
        owner = node["cls"]
    elif kind in ("model-fields", "dataclass-args", "typed-dict"):
        fields = node["fields"]
        named = fields.items() if isinstance(fields, Mapping) else [(field["name"], field) for field in fields]
        yield None if kind == "typed-dict" else owner, {own: _Field.of(own, field) for own, field in named}
    for key, item in node.items():
        if key not in ("metadata", "serialization", "cls", "config"):
            yield from _owners(item, owner)


def _computed(schema: Any) -> Iterator[str]:
    definitions = {one["ref"]: one for one in schema.get("definitions", ())} if schema["type"] == "definitions" else {}
    node = schema
    while isinstance(node, Mapping) and node.get("type") not in ("model-fields", "dataclass-args"):
        node = definitions.get(node["schema_ref"]) if node.get("type") == "definition-ref" else node.get("schema")
    for one in node.get("computed_fields") or () if isinstance(node, Mapping) else ():
        yield one.get("alias") or one["property_name"]
