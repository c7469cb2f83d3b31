"""
Ask for data and get data: from a type to the ``response_format`` of a request, from a reply to validated plain JSON.

The JSON is looked for in the text itself, then in a fenced block, then in whole values within the prose, never in the
reasoning before the answer; the last value that fits the type is taken.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NoReturn, TypeAlias, cast

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind

from airflow_provider_segmind.chat.json_schema import Schema, as_json_schema, resolve, wire_schema
from airflow_provider_segmind.chat.json_values import MAX_DIGITS, Carried, cleaned, fault, is_carried
from airflow_provider_segmind.chat.model_families import ApiFormat
from airflow_provider_segmind.chat.plain_data import Names, plain_data
from airflow_provider_segmind.exceptions import SegmindConfigError, shorten

Rung: TypeAlias = Literal["strict", "fenced", "embedded"]
MAX_PIECES = 20
"""How many values of a rung are looked at, from the end."""
_FENCE = re.compile(r"```[A-Za-z0-9_-]*[ \t]*\r?\n(.*?)```", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|["{}\[\]]', re.DOTALL)
_BRACKET = re.compile(r"[{\[]")
_OPENING = re.compile(r"\ufeff?\s*(?:```[A-Za-z0-9_-]*\s*)?[{\[]")
_CLOSES = {"{": "}", "[": "]"}
_WORDS = (
    r"think|thinking|thought|thoughts|reason|reasoning|reflect|reflection|analysis|scratchpad|chain_of_thought|"
    r"internal_monologue"
)
_MARKS = re.compile(
    rf"(?P<open><(?:\w+:)?(?:{_WORDS})(?:\s[^<>]*)?>|\[THINK\]|◁think▷|<\|(?:begin_of_thought|start_thinking)\|>"
    r"|<\|channel\|>(?:analysis|commentary)\b[^<]*<\|message\|>)"
    rf"|(?P<close></(?:\w+:)?(?:{_WORDS})\s*>|\[/THINK\]|◁/think▷|<\|(?:end_of_thought|end_thinking)\|>"
    r"|<\|channel\|>final\b[^<]*<\|message\|>)"
    r"|(?P<bracket>[{\[])",
    re.IGNORECASE,
)
"""Marks of DeepSeek, Qwen and others in XML, of Mistral, Kimi, Cohere and OpenAI's open models in their own form."""


class Digits(float):
    """A number that a double cannot hold as it was written; ``str`` returns what was written."""

    __slots__ = ("_written",)
    _written: str

    @classmethod
    def of(cls, written: str) -> float:
        """
        Read a number, as a plain float where that keeps every digit.

        :raises ValueError: it is too large for a double.
        """
        number = float(written)
        if number in (float("inf"), float("-inf")):
            raise ValueError("a number is too large")
        if repr(number) == written:
            return number
        kept = cls(number)
        kept._written = written
        return kept

    def __str__(self) -> str:
        return self._written


def holds_digits(value: Any) -> bool:
    """Tell whether :class:`Digits` stand anywhere in a value."""
    if isinstance(value, dict):
        return any(map(holds_digits, value.values()))
    return any(map(holds_digits, value)) if isinstance(value, list) else isinstance(value, Digits)


def plain_floats(value: Any) -> Any:
    """Return a value with plain floats in the place of :class:`Digits`."""
    if isinstance(value, dict):
        return {key: plain_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain_floats(item) for item in value]
    return float(value) if isinstance(value, Digits) else value


@dataclass(frozen=True, slots=True)
class Found:
    """
    JSON found in a text.

    :param rung: where on the ladder.
    """

    rung: Rung
    value: Any


def climb(text: str) -> Iterator[Found]:
    """
    Yield the JSON values a text may mean, best first. A text that is JSON as a whole means nothing else.

    :param text: what the model wrote.
    """
    stripped = text.strip("\ufeff \t\r\n")
    try:
        yield Found("strict", load(stripped))
        return
    except (ValueError, RecursionError):
        pass
    answer = after_reasoning(stripped)[0]
    if answer != stripped:
        yield from climb(answer)
        return
    for rung, piece in _pieces(stripped):
        try:
            yield Found(rung, load(piece))
        except (ValueError, RecursionError):
            continue


def load(text: str) -> Any:
    """
    Read JSON and nothing but JSON: no NaN, no Infinity, no number too large for a float.

    :param text: the JSON.
    :returns: plain data; numbers that a float would round are :class:`Digits`.
    :raises ValueError: it is not JSON.
    """
    return _DECODER.decode(text)


def why_not(text: str) -> str:
    """
    Say in one line why a text is not JSON.

    :param text: what the model wrote.
    """
    answer, unended = after_reasoning(text.strip("\ufeff \t\r\n"))
    if unended:
        return "not JSON: it is reasoning that does not end"
    try:
        load(answer)
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at line {error.lineno} column {error.colno}"
    except RecursionError:
        return "not JSON: nested too deeply"
    except ValueError as error:
        return f"not JSON: {error}"
    return ""


def cut_short(text: str) -> bool:
    """
    Tell whether a text begins as JSON, fenced or not, and ends in the middle of it, or in the middle of reasoning.

    :param text: what the model wrote.
    """
    answer, unended = after_reasoning(text)
    opened = _OPENING.match(answer)
    return unended or (opened is not None and _end_of_value(answer, opened.end() - 1) is None)


def after_reasoning(text: str) -> tuple[str, bool]:
    """
    Return a text without what its model wrote while it thought.

    A mark inside a whole JSON value is data and no mark.

    :returns: the rest, and whether the text ends inside reasoning.
    """
    kept: list[str] = []
    at = searched = plain_until = 0
    while (mark := _MARKS.search(text, searched)) is not None:
        searched = mark.end()
        if mark.lastgroup == "bracket":
            if mark.start() >= plain_until:
                searched, plain_until = _protected(text, mark.start())
        elif mark.lastgroup == "close":
            # Chat templates often open the reasoning themselves, so that only its end is seen.
            kept, at = [], mark.end()
        else:
            kept.append(text[at : mark.start()])
            closed = next((one for one in _MARKS.finditer(text, searched) if one.lastgroup == "close"), None)
            if closed is None:
                return "".join(kept).strip(), True
            at = searched = closed.end()
    return ("".join([*kept, text[at:]]).strip() if at else text), False


def _protected(text: str, start: int) -> tuple[int, int]:
    """
    Tell where to look for marks after a bracket: behind the whole value it opens, else right behind the bracket.

    :returns: that place, and up to where other brackets need no look.
    """
    end = _end_of_value(text, start)
    if end is None:
        return start + 1, len(text)
    try:
        load(text[start:end])
    except (ValueError, RecursionError):
        return start + 1, end
    return end, end


def _pieces(text: str) -> Iterator[tuple[Rung, str]]:
    fenced = deque((match.group(1).strip() for match in _FENCE.finditer(text)), maxlen=MAX_PIECES)
    yield from (("fenced", piece) for piece in reversed(fenced))
    yield from (("embedded", piece) for piece in reversed(deque(_embedded(text), maxlen=MAX_PIECES)))


def _embedded(text: str) -> Iterator[str]:
    at = 0
    while (start := _BRACKET.search(text, at)) is not None and (end := _end_of_value(text, start.start())) is not None:
        yield text[start.start() : end]
        at = end


def _end_of_value(text: str, start: int) -> int | None:
    """Return where the bracket at ``start`` is closed again, None when it never is."""
    waiting: list[str] = []
    for match in _TOKEN.finditer(text, start):
        mark = match.group()
        if mark in _CLOSES:
            waiting.append(_CLOSES[mark])
        elif mark == '"':
            return None
        elif mark in "}]" and (mark != waiting.pop() or not waiting):
            return match.end()
    return None


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON number")


def _integer(digits: str) -> int:
    if len(digits.removeprefix("-")) > MAX_DIGITS:
        raise ValueError("a number is too large")
    return int(digits)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=Digits.of, parse_int=_integer)


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


SHOWN_ERRORS = 3
"""How many of a validator's errors are told, to the reader and to the model."""
_NOT_ABOUT_THE_REPLY = (OSError, MemoryError, RecursionError)
"""What validating may raise for reasons of the machine or the network; the same reply may pass the next time."""
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
            if fault is not None:
                pruned = without_added_nulls(value, self.schema, self.schema)
                if pruned != value:
                    data, fault = self._checked(path, pruned)
        except RecursionError:
            return None, _Fault(path, f"{path}: nested too deeply")
        if fault is None and not isinstance(data, dict) and self.fields:
            # "properties" without a type lets a validator pass whatever is not an object.
            fault = _Fault(path, f"{path}: it is not an object")
        return (data, None) if fault is None else (None, fault)

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
        except _NOT_ABOUT_THE_REPLY:
            raise
        except Exception as error:  # noqa: BLE001
            # The validators of a user's type may raise anything; the reply was paid for, and is "invalid" then.
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
            f"output_type is not a JSON Schema: {error.json_path}: {shorten(error.message)}."
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
