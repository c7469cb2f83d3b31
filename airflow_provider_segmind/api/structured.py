"""
Ask for data and get data: from a type to the ``response_format`` of a request, from a reply to validated plain JSON.

The type is a pydantic model, a type pydantic can adapt, or a JSON Schema. Segmind takes an OpenAI-style
``response_format`` for every chat model (changelog of the SDK 1.3.0). Data that is no object at its root (a list, a
number, a choice of words) travels as ``{"value": …}``, which all families can express, and is unwrapped after.
Validation always runs against what the user gave, never against the form that was sent. What comes out is named as in
the JSON Schema (see :mod:`.plain_data`), and fit for every reader downstream (see :mod:`.json_values`); a ``Decimal``
keeps the digits that the model wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind

from airflow_provider_segmind.api.families import ApiFormat
from airflow_provider_segmind.api.json_values import Carried, cleaned, fault, is_carried
from airflow_provider_segmind.api.ladder import Rung, climb, cut_short, holds_digits, plain_floats, why_not
from airflow_provider_segmind.api.nulls import without_added_nulls
from airflow_provider_segmind.api.openapi import as_json_schema
from airflow_provider_segmind.api.plain_data import Names, plain_data
from airflow_provider_segmind.api.schema import resolve, wire_schema
from airflow_provider_segmind.exceptions import SegmindConfigError, shorten

SHOWN_ERRORS = 3
"""How many of a validator's errors are told, to the reader and to the model."""

_TYPES_OWN_ERRORS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, AssertionError)
"""What the validators and serializers of a user's type may raise; the reply was paid for, and is "invalid" then."""

_SCHEMA_WORDS = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "prefixItems", "enum", "const"}
    | {"$ref", "anyOf", "oneOf", "allOf"}
)


class _QuietSchema(GenerateJsonSchema):
    # A default that JSON cannot carry costs nothing here: defaults are not sent.
    ignored_warning_kinds: set[JsonSchemaWarningKind] = {  # noqa: RUF012 (pydantic's own declaration)
        "skipped-choice",
        "non-serializable-default",
        "skipped-discriminator",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedReply:
    """
    Data out of a reply, or why there is none.

    :param data: plain JSON data when ``ok``.
    :param error: what the validator says, shortened, with JSON paths; None when ``ok``.
    :param path: the JSON path of the first error.
    :param rung: where the JSON was found: the whole text, a fenced block, or inside the prose.
    :param cut_short: the text looks like JSON that ends in the middle.
    :param replaced: how many of its texts held NUL or half a surrogate pair, which became U+FFFD.
    """

    data: Any = None
    error: str | None = None
    path: str | None = None
    rung: Rung | None = None
    cut_short: bool = False
    replaced: int = 0

    @property
    def ok(self) -> bool:
        """Whether the data is valid."""
        return self.error is None


@dataclass(frozen=True, slots=True)
class _Fault:
    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputType:
    """
    What the answer must be.

    :param name: what the model is told the data is called.
    :param schema: the original JSON Schema.
    :param wrapped: whether it travels as ``{"value": …}``.
    """

    name: str
    schema: Mapping[str, Any]
    wrapped: bool
    adapter: TypeAdapter[Any] | None = field(default=None, repr=False, compare=False)
    names: Names | None = field(default=None, repr=False, compare=False)

    @property
    def fields(self) -> dict[str, Any]:
        """
        Return the fields of an answer that is an object, each with its JSON Schema; none for any other answer.

        They are named as the model answers them; fields that the type computes come last.
        """
        if self.wrapped:
            return {}
        node: Any = self.schema
        while isinstance(node, Mapping) and "$ref" in node:
            node = resolve(self.schema, node["$ref"])
        found = dict(node.get("properties") or {})
        return found | {name: item for name, item in self._computed().items() if name not in found}

    def _computed(self) -> dict[str, Any]:
        if self.adapter is None or self.names is None:
            return {}
        if not self.names.computed:
            return {}
        told = self.adapter.json_schema(by_alias=True, mode="serialization", schema_generator=_QuietSchema)
        node: Any = told
        while "$ref" in node:
            node = resolve(told, node["$ref"])
        properties = node.get("properties") or {}
        # A reference would lead into the schema of what is dumped.
        return {
            name: {} if "$ref" in json.dumps(item) else item
            for name, item in properties.items()
            if name in self.names.computed
        }

    @classmethod
    def from_(cls, output_type: Any, *, name: str | None = None) -> OutputType:
        """
        Read what a user gave as ``output_type``.

        :param output_type: a pydantic model class, a type pydantic can adapt, or a JSON Schema as a mapping.
        :param name: what the model is told the data is called; the class's own name by default.
        :raises SegmindConfigError: it is neither, or the schema is none. Meant to be called at DAG parse.
        """
        if isinstance(output_type, Mapping):
            schema, adapter = _checked_schema(output_type), None
            names = None
            title = output_type.get("title")
        else:
            adapter = _adapted(output_type)
            schema = _schema_of(adapter, output_type)
            names = Names.of(adapter)
            title = output_type.__name__ if isinstance(output_type, type) else None
        wrapped = not _is_object(schema)
        found = cls(name=_safe_name(name or title), schema=schema, wrapped=wrapped, adapter=adapter, names=names)
        # Writes it out once, so that a reference that leads nowhere shows at DAG parse.
        found.response_format(ApiFormat.OPENAI)
        return found

    def response_format(self, api_format: ApiFormat | str) -> dict[str, Any]:
        """
        Return what to send as ``response_format``.

        ``strict`` is False where the data has free keys or values of any type, which no strict form can express.

        :param api_format: the family of the model.
        """
        family = ApiFormat(api_format)
        wire = wire_schema(self.schema, family)
        sent = wire.schema
        if self.wrapped:
            closed = {} if family is ApiFormat.GEMINI else {"additionalProperties": False}
            sent = {"type": "object", "properties": {"value": sent}, "required": ["value"], **closed}
        return {"type": "json_schema", "json_schema": {"name": self.name, "strict": wire.strict, "schema": sent}}

    def parse(self, text: str) -> ParsedReply:
        """
        Read and validate what a model wrote. Never raises for what it wrote.

        :param text: the text of a reply.
        """
        first: tuple[Rung, _Fault] | None = None
        for found in climb(text):
            carried, fault = self._carried(found.value)
            if fault is None:
                data, fault = self._validated(carried.value)
            if fault is None:
                return ParsedReply(data=data, rung=found.rung, replaced=carried.replaced)
            first = first or (found.rung, fault)
        if first is not None:
            return ParsedReply(error=first[1].text, path=first[1].path, rung=first[0])
        return ParsedReply(error=why_not(text) or "no JSON found", path="$", cut_short=cut_short(text))

    def _carried(self, value: Any) -> tuple[Carried, _Fault | None]:
        if is_carried(value):
            return Carried(value), None
        found = fault(value)
        if found is not None:
            return Carried(None), _Fault(found[0], f"{found[0]}: {found[1]}, which no store carries")
        return cleaned(value), None

    def _validated(self, value: Any) -> tuple[Any, _Fault | None]:
        if self.wrapped and isinstance(value, dict) and set(value) == {"value"}:
            data, fault = self._validated_at("$.value", value["value"])
            if fault is None:
                return data, None
            # The type itself may be one that takes such an object.
            whole, whole_fault = self._validated_at("$", value)
            return (whole, None) if whole_fault is None else (None, fault)
        return self._validated_at("$", value)

    def _validated_at(self, path: str, value: Any) -> tuple[Any, _Fault | None]:
        try:
            data, fault = self._checked(path, value)
            if fault is None:
                return data, None
            pruned = without_added_nulls(value, self.schema, self.schema)
            if pruned == value:
                return None, fault
            return self._checked(path, pruned)
        except RecursionError:
            return None, _Fault(path, f"{path}: nested too deeply")

    def _checked(self, path: str, value: Any) -> tuple[Any, _Fault | None]:
        rounded = holds_digits(value)
        plain = plain_floats(value) if rounded else value
        if self.adapter is None or self.names is None:
            return plain, _schema_fault(self.schema, path, plain)
        # Through JSON, so that strict models take dates and sets in the form JSON has for them.
        checked = self._tried(plain, as_json=True)
        if rounded:
            checked = self._exact(checked, value, plain)
        if isinstance(checked, ValidationError):
            told = checked.errors(include_url=False, include_context=False, include_input=False)
            faults = [_Fault(path + _json_path(one["loc"]), str(one["msg"])) for one in told[:SHOWN_ERRORS]]
            return None, _joined(faults, checked.error_count())
        if isinstance(checked, Exception):
            return None, _Fault(path, f"{path}: output_type itself raised {type(checked).__name__}")
        return checked, None

    def _exact(self, checked: Any, value: Any, plain: Any) -> Any:
        """
        Return what was checked with every digit that the model wrote.

        pydantic reads a JSON number as a float before it makes a Decimal of it, but takes the text of a Python float.
        As it takes other things from Python than from JSON, this only counts where both agree but for the digits.
        """
        exact, same = self._tried(value, as_json=False), self._tried(plain, as_json=False)
        if isinstance(checked, Exception) or isinstance(same, Exception):
            alike = _places(checked) == _places(same) != []
            return exact if alike and not isinstance(exact, Exception) else checked
        return checked if isinstance(exact, Exception) else _merged(checked, plain_floats(exact), same)

    def _tried(self, value: Any, *, as_json: bool) -> Any:
        """Return the plain data of a value, or the error that validating it raised."""
        adapter, names = cast("TypeAdapter[Any]", self.adapter), cast(Names, self.names)
        try:
            if as_json:
                checked = adapter.validate_json(json.dumps(value), by_alias=True, by_name=names.by_name)
            else:
                checked = adapter.validate_python(value, strict=False, by_alias=True, by_name=names.by_name)
            return plain_data(adapter, names, checked, value)
        except _TYPES_OWN_ERRORS as error:
            return error


def _adapted(output_type: Any) -> TypeAdapter[Any]:
    if output_type is None or isinstance(output_type, str):
        raise SegmindConfigError(
            f"output_type is a {type(output_type).__name__}: give a pydantic model, a type, or a JSON Schema."
        )
    try:
        return TypeAdapter(output_type)
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        why = shorten(str(error).partition("\n")[0])
        raise SegmindConfigError(
            f"output_type {shorten(repr(output_type), 80)} is no type pydantic takes: {why}"
        ) from error


def _schema_of(adapter: TypeAdapter[Any], output_type: Any) -> dict[str, Any]:
    try:
        return adapter.json_schema(by_alias=True, mode="validation", schema_generator=_QuietSchema)
    except PydanticUserError as error:
        shown = shorten(repr(output_type), 80)
        raise SegmindConfigError(f"output_type {shown} has a field that no JSON Schema can describe.") from error


def _checked_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    if _SCHEMA_WORDS.isdisjoint(schema):
        raise SegmindConfigError("output_type is a mapping without any JSON Schema keyword such as type or properties.")
    # Imported late: it takes longer than all of this package's core, and only schemas given as mappings need it.
    schema = as_json_schema(schema)
    from jsonschema import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    try:
        validator_for(schema, default=Draft202012Validator).check_schema(dict(schema))
    except SchemaError as error:
        raise SegmindConfigError(
            f"output_type is no JSON Schema: {error.json_path}: {shorten(error.message)}."
        ) from error
    _check_references(schema, schema, "$")
    return dict(schema)


def _check_references(node: Any, root: Mapping[str, Any], path: str) -> None:
    # The validator would stumble over these only once a reply is there and paid.
    if isinstance(node, list):
        for index, item in enumerate(node):
            _check_references(item, root, f"{path}[{index}]")
    if not isinstance(node, Mapping):
        return
    if isinstance(node.get("$ref"), str):
        resolve(root, node["$ref"])
    if not {"$dynamicRef", "$recursiveRef"}.isdisjoint(node):
        raise SegmindConfigError(f"output_type has a dynamic reference at {path}: write it as $ref.")
    for key, value in node.items():
        if key not in ("enum", "const", "default", "examples"):
            _check_references(value, root, f"{path}.{key}")


def _schema_fault(schema: Mapping[str, Any], path: str, value: Any) -> _Fault | None:
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    # An empty registry, as the default one fetches references from the network.
    registry: Any = Registry()
    validator = validator_for(schema, default=Draft202012Validator)(schema, registry=registry)
    errors = list(islice(validator.iter_errors(value), 50))
    if not errors:
        return None
    errors.sort(key=lambda error: (len(error.absolute_path), error.json_path))
    faults = [_Fault(path + error.json_path[1:], error.message) for error in errors[:SHOWN_ERRORS]]
    return _joined(faults, len(errors))


def _places(error: Any) -> list[tuple[int | str, ...]]:
    if not isinstance(error, ValidationError):
        return []
    return [one["loc"] for one in error.errors(include_url=False, include_context=False, include_input=False)]


def _merged(data: Any, exact: Any, same: Any) -> Any:
    """Return the exact data wherever reading from Python changes nothing but digits."""
    if _same_number(data, same):
        return exact
    objects = all(isinstance(one, dict) for one in (data, exact, same))
    if objects and data.keys() == exact.keys() == same.keys():
        return {key: _merged(item, exact[key], same[key]) for key, item in data.items()}
    lists = all(isinstance(one, list) for one in (data, exact, same))
    if lists and len(data) == len(exact) == len(same):
        return list(map(_merged, data, exact, same))
    return data


def _same_number(data: Any, same: Any) -> bool:
    if data == same:
        return True
    try:
        # The same float reads differently as a text of Python's and of pydantic's: exponents, last digits.
        return isinstance(data, str) and isinstance(same, str) and float(data) == float(same)
    except ValueError:
        return False


def _joined(faults: list[_Fault], total: int) -> _Fault:
    told = "; ".join(f"{fault.path}: {shorten(fault.text)}" for fault in faults)
    more = f"; and {total - len(faults)} more" if total > len(faults) else ""
    return _Fault(faults[0].path, told + more)


def _json_path(loc: tuple[int | str, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc)


def _is_object(schema: Mapping[str, Any]) -> bool:
    node: Any = schema
    for _ in range(8):
        if not isinstance(node, Mapping) or "$ref" not in node:
            break
        node = resolve(schema, node["$ref"])
    if not isinstance(node, Mapping) or not {"anyOf", "oneOf"}.isdisjoint(node):
        return False
    kind = node.get("type")
    return kind == "object" or (kind is None and "properties" in node)


def _safe_name(name: Any) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name if isinstance(name, str) else "").strip("_")[:64] or "reply"
