"""
Structured output: from a type to the ``response_format`` of a request, from a reply to validated plain JSON.

The reply as a whole is tried as JSON, then the values in it, never those of its reasoning. The last one that matches
the type is taken. A value that a sentence only mentions comes after those that are presented: in a fenced block, after
a label, or alone on a line.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice
from typing import Any, Literal, NoReturn, TypeAlias, cast

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind

from airflow_provider_segmind.chat.exact_numbers import (
    ExactFloat,
    MarkedDecimal,
    contains_exact_floats,
    contains_rounded,
    with_decimals,
    with_exact_digits,
    with_written,
)
from airflow_provider_segmind.chat.json_schema import (
    as_json_schema,
    check_json_schema,
    check_references,
    dereferenced,
    schema_validator,
    wire_schema,
    without_added_nulls,
)
from airflow_provider_segmind.chat.json_values import MAX_DEPTH, MAX_DIGITS, clean_value, is_too_deep
from airflow_provider_segmind.chat.model_families import ApiFormat
from airflow_provider_segmind.chat.plain_data import PlainDump
from airflow_provider_segmind.exceptions import SegmindConfigError, shorten, type_name

JsonSource: TypeAlias = Literal["strict", "fenced", "embedded"]
MAX_PIECES = 20
"""How many fenced blocks, and how many embedded values, are tried, from the end."""
_FENCE = re.compile(r"```[A-Za-z0-9_-]*[ \t]*\r?\n(.*?)```", re.DOTALL)
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|["{}\[\]]', re.DOTALL)
_BRACKET = re.compile(r"[{\[]")
_JSON_START = re.compile(r'\{\s*(?:["}]|\Z)|\[\s*(?:["{\[\]\-\d]|(?:true|false|null)\b|\Z)')
_SPACE = re.compile(r"\s*")
_ANSWER_WORDS = r"(?:answer|result|output|response|correct|corrected|correction|final)"
_LABEL = re.compile(rf"\b{_ANSWER_WORDS}\b[\w \t]*[*_`]*[ \t]*(?:[:=>]|\bis\b|\bare\b)[*_`\s]*\Z", re.IGNORECASE)
_LABEL_LENGTH = 100
_OTHER_VALUE = re.compile(
    r"\b(?:example|sample|format|input|original|previous|earlier|first|initial|draft|wrong|incorrect|invalid|empty|if)\b"
    r"[^.,;:!?]*[:=>*_`\s]*\Z",
    re.IGNORECASE,
)
_LINE_START = re.compile(r"(?:.*<[\w/][^<>]*>|[ \t]*(?:[-+*•>]|\d+[.)])?)[*_`\s]*\Z")
_LINE_END = re.compile(rf"[ \t*_`.!]*(?:\r?\n(?!\s*</)|\s*\Z|\s*</(?:\w+[:_-])?{_ANSWER_WORDS}\w*\s*>)", re.IGNORECASE)
_OPENING = re.compile(r"\ufeff?\s*(?:```[A-Za-z0-9_-]*\s*)?[{\[]")
_CLOSES = {"{": "}", "[": "]"}
_REASONING_TAGS = (
    r"think|thinking|thought|thoughts|reason|reasoning|reflect|reflection|analysis|scratchpad|chain_of_thought|"
    r"internal_monologue|reasoning_content|reasoning_process|thinking_process|thought_process"
)
_MARKS = re.compile(
    rf"(?P<open><(?:\w+:)?(?:{_REASONING_TAGS})(?:\s[^<>]*)?>|\[THINK\]|◁think▷|<\|(?:begin_of_thought|start_thinking)\|>"
    r"|<\|channel\|>(?:analysis|commentary)\b[^<]*<\|message\|>)"
    rf"|(?P<close></(?:\w+:)?(?:{_REASONING_TAGS})\s*>|\[/THINK\]|◁/think▷|<\|(?:end_of_thought|end_thinking)\|>"
    r"|<\|channel\|>final\b[^<]*<\|message\|>)"
    r"|(?P<bracket>[{\[])",
    re.IGNORECASE,
)
"""Reasoning marks: XML tags of DeepSeek, Qwen and others; those of Mistral, Kimi, Cohere and OpenAI's open models."""


@dataclass(frozen=True, slots=True)
class JsonCandidate:
    """A JSON value found in a text."""

    source: JsonSource
    value: Any


def json_candidates(text: str) -> Iterator[JsonCandidate]:
    """Yield the JSON values in a text, the most likely first; if the whole text is JSON, only that."""
    stripped = text.strip("\ufeff \t\r\n")
    try:
        yield JsonCandidate("strict", load_json(stripped))
        return
    except (ValueError, RecursionError):
        pass
    answer = without_reasoning(stripped)[0]
    if answer != stripped:
        yield from json_candidates(answer)
        return
    for source, piece in _pieces(stripped):
        try:
            yield JsonCandidate(source, load_json(piece))
        except (ValueError, RecursionError):
            continue


def load_json(text: str) -> Any:
    """
    Read JSON without NaN, Infinity, and numbers too large for a float.

    Line breaks and other control characters in strings, which JSON wants escaped, leave no doubt about what is meant.

    :returns: plain data; numbers that a float would round are :class:`ExactFloat`.
    :raises ValueError: it is not JSON.
    """
    return _DECODER.decode(text)


def json_error(text: str) -> str:
    """Explain in one line why a text is not JSON; empty if it is."""
    answer, unended = without_reasoning(text.strip("\ufeff \t\r\n"))
    if unended:
        return "not JSON: it is reasoning that does not end"
    try:
        load_json(answer)
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at line {error.lineno} column {error.colno}"
    except RecursionError:
        return "not JSON: nested too deeply"
    except ValueError as error:
        return f"not JSON: {error}"
    return ""


def is_cut_short(text: str) -> bool:
    """Return whether a text starts as JSON, fenced or not, and ends inside it, or ends inside reasoning."""
    answer, unended = without_reasoning(text)
    opened = _OPENING.match(answer)
    return unended or (opened is not None and _end_of_value(answer, opened.end() - 1) is None)


def without_reasoning(text: str) -> tuple[str, bool]:
    """
    Return a text without the model's reasoning.

    A reasoning mark inside a complete JSON value is data and does not count.

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
            # Chat templates often open the reasoning themselves, so only its end is in the text.
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
    Return where to continue the search for marks after a bracket: after the JSON value it opens, else right after it.

    :returns: that position, and the position before which other brackets need not be checked.
    """
    end = _end_of_value(text, start)
    if end is None:
        return start + 1, len(text)
    try:
        load_json(text[start:end])
    except (ValueError, RecursionError):
        return start + 1, end
    return end, end


def _pieces(text: str) -> Iterator[tuple[JsonSource, str]]:
    """Yield what may be the data, the most likely first."""
    blocks = deque(((match.end(1), match[1].strip()) for match in _FENCE.finditer(text)), maxlen=MAX_PIECES)
    fenced = {end: block for end, block in blocks if _is_json(block)}
    values = deque(_embedded(text), maxlen=MAX_PIECES)
    presented: list[tuple[int, JsonSource, str]] = [(end, "fenced", block) for end, block in fenced.items()]
    mentioned: list[str] = []
    for start, end in values:
        piece = text[start:end]
        if fenced.get(cast("re.Match[str]", _SPACE.match(text, end)).end()) == piece:
            continue
        # Without a fenced block all values are alike.
        if not fenced or _is_presented(text, start, end):
            presented.append((end, "embedded", piece))
        else:
            mentioned.append(piece)
    for _, source, piece in sorted(presented, reverse=True):
        yield source, piece
    yield from (("embedded", piece) for piece in reversed(mentioned))


def _is_json(text: str) -> bool:
    try:
        load_json(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_presented(text: str, start: int, end: int) -> bool:
    """Return whether a value is what its line is about: after a label such as "Answer:", or alone on the line."""
    line = text.rfind("\n", 0, start) + 1
    before = text[max(line, start - _LABEL_LENGTH) : start]
    ends_line = _LINE_END.match(text, end) is not None
    # After any other label, lists are often citations, and empty objects often mean that there is nothing.
    is_object = text[start] == "{" and text[start + 1 : end - 1].strip() != ""
    if _LABEL.search(before) or (is_object and ends_line and before.rstrip(" \t*_`").endswith(":")):
        return _OTHER_VALUE.search(before) is None
    return ends_line and _LINE_START.match(before) is not None


def _embedded(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the values in brackets begin and end; a bracket of the prose need not be closed."""
    at = unclosed = 0
    while unclosed < MAX_PIECES and (bracket := _BRACKET.search(text, at)) is not None:
        start = bracket.start()
        end = _end_of_value(text, start)
        if end is not None:
            yield start, end
            at = end
        elif _JSON_START.match(text, start):
            # What it contains is a part of data that is not complete.
            return
        else:
            at, unclosed = start + 1, unclosed + 1


def _end_of_value(text: str, start: int) -> int | None:
    """Return the position after the bracket that closes the one at ``start``, None if there is none."""
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
    raise ValueError(f"{word} is not a JSON number")


def _integer(digits: str) -> int:
    if len(digits.removeprefix("-")) > MAX_DIGITS:
        raise ValueError("a number is too large")
    return int(digits)


_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=ExactFloat.parse, parse_int=_integer, strict=False
)


SHOWN_ERRORS = 3
"""How many validation errors are shown, to the user and to the model."""
_NOT_ABOUT_THE_REPLY = (OSError, MemoryError, RecursionError)
"""What validation may raise because of the machine or the network; the same reply may pass the next time."""
_SCHEMA_WORDS = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "prefixItems", "enum", "const"}
    | {"$ref", "anyOf", "oneOf", "allOf"}
)


class _QuietSchema(GenerateJsonSchema):
    # A default that JSON cannot represent does not matter here: defaults are not sent.
    ignored_warning_kinds: set[JsonSchemaWarningKind] = {  # noqa: RUF012 (pydantic's own declaration)
        "skipped-choice",
        "non-serializable-default",
        "skipped-discriminator",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedReply:
    """
    The data in a reply, or why there is none.

    :param data: plain JSON data when ``ok``.
    :param error: the validation errors, shortened, with JSON paths; None when ``ok``.
    :param path: the JSON path of the first error.
    :param source: where the JSON was found: the whole text, a fenced block, or inside the prose.
    :param cut_short: whether the text is JSON that ends in the middle.
    :param replaced: how many of its strings contained NUL or a lone surrogate, which became U+FFFD.
    """

    data: Any = None
    error: str | None = None
    path: str | None = None
    source: JsonSource | None = None
    cut_short: bool = False
    replaced: int = 0

    @property
    def ok(self) -> bool:
        """Whether the data is valid."""
        return self.error is None


class _Invalid(Exception):  # noqa: N818
    """Why a value is not of the type, with the JSON path."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputType:
    """
    The type of the data that a reply must contain.

    :param wrapped: whether the data is sent and received as ``{"value": …}``.
    """

    name: str
    schema: Mapping[str, Any]
    wrapped: bool
    adapter: TypeAdapter[Any] | None = field(default=None, repr=False, compare=False)
    dump: PlainDump | None = field(default=None, repr=False, compare=False)

    @property
    def fields(self) -> dict[str, Any]:
        """
        Return the fields of an object, each with its JSON Schema; none if the data is not an object.

        They have the names of the schema; computed fields come last.
        """
        if self.wrapped:
            return {}
        found = dict(dereferenced(self.schema).get("properties") or {})
        return found | {name: item for name, item in self._computed().items() if name not in found}

    def _computed(self) -> dict[str, Any]:
        if self.adapter is None or self.dump is None or not self.dump.computed:
            return {}
        dumped = self.adapter.json_schema(by_alias=True, mode="serialization", schema_generator=_QuietSchema)
        properties = dereferenced(dumped).get("properties") or {}
        # A reference here points into the serialization schema, which is not sent.
        return {
            name: {} if "$ref" in json.dumps(item) else item
            for name, item in properties.items()
            if name in self.dump.computed
        }

    @classmethod
    def from_(cls, output_type: Any) -> OutputType:
        """
        Read the ``output_type`` that a user gave, at parse time.

        :param output_type: a pydantic model class, a type pydantic can adapt, or a JSON Schema as a mapping.
        :raises SegmindConfigError: it is none of these, or the schema is invalid.
        """
        if isinstance(output_type, Mapping):
            schema, adapter = _checked_schema(output_type), None
            dump = None
            title = output_type.get("title")
        else:
            adapter = _adapted(output_type)
            schema = _schema_of(adapter, output_type)
            dump = PlainDump(adapter)
            title = output_type.__name__ if isinstance(output_type, type) else None
        wrapped = not _is_object(schema)
        found = cls(name=_safe_name(title), schema=schema, wrapped=wrapped, adapter=adapter, dump=dump)
        # Expands the schema once, so that a schema that cannot be sent fails at parse time.
        found.response_format(ApiFormat.OPENAI)
        return found

    def response_format(self, api_format: ApiFormat | str) -> dict[str, Any]:
        """
        Return the ``response_format`` to send.

        ``strict`` is False if the data has free keys or values of any type, which strict decoding does not support.
        """
        family = ApiFormat(api_format)
        wire = wire_schema(self.schema, family)
        sent = wire.schema
        if self.wrapped:
            closed = {} if family is ApiFormat.GEMINI else {"additionalProperties": False}
            sent = {"type": "object", "properties": {"value": sent}, "required": ["value"], **closed}
        return {"type": "json_schema", "json_schema": {"name": self.name, "strict": wire.strict, "schema": sent}}

    def parse(self, text: str) -> ParsedReply:
        """Read and validate what a model wrote; an invalid reply does not raise."""
        first: ParsedReply | None = None
        for candidate in json_candidates(text):
            try:
                data, replaced = self._validated(candidate.value)
                return ParsedReply(data=data, source=candidate.source, replaced=replaced)
            except _Invalid as invalid:
                first = first or ParsedReply(error=invalid.reason, path=invalid.path, source=candidate.source)
        return first or ParsedReply(error=json_error(text) or "no JSON found", path="$", cut_short=is_cut_short(text))

    def _validated(self, value: Any) -> tuple[Any, int]:
        if is_too_deep(value):
            raise _Invalid("$", f"$: it is nested more than {MAX_DEPTH} levels deep, so it cannot be stored")
        clean = clean_value(value)
        value = clean.value
        if self.wrapped and isinstance(value, dict) and set(value) == {"value"}:
            try:
                return self._validated_at("$.value", value["value"]), clean.replaced
            except _Invalid:
                # The type itself may accept such an object.
                with suppress(_Invalid):
                    return self._validated_at("$", value), clean.replaced
                raise
        return self._validated_at("$", value), clean.replaced

    def _validated_at(self, path: str, value: Any) -> Any:
        try:
            try:
                data = self._checked(path, value)
            except _Invalid:
                pruned = without_added_nulls(value, self.schema, self.schema)
                if pruned == value:
                    raise
                data = self._checked(path, pruned)
        except RecursionError:
            raise _Invalid(path, f"{path}: nested too deeply") from None
        if not isinstance(data, dict) and self.fields:
            # A schema with "properties" but no type accepts every value that is not an object.
            raise _Invalid(path, f"{path}: it is not an object")
        return data

    def _checked(self, path: str, value: Any) -> Any:
        exact = contains_exact_floats(value)
        inexact = exact or contains_rounded(value)
        plain = json.loads(json.dumps(value)) if exact else value
        if self.adapter is None:
            _check_schema(self.schema, path, plain)
            return plain
        # As JSON, so that strict models accept dates and sets in their JSON form.
        checked = self._tried(plain, as_json=True)
        if inexact:
            checked = self._exact(checked, value, plain)
        if isinstance(checked, ValidationError):
            errors = checked.errors(include_url=False, include_context=False, include_input=False)
            raise _joined(
                [(path + _json_path(one["loc"]), str(one["msg"])) for one in errors[:SHOWN_ERRORS]], len(errors)
            )
        if isinstance(checked, Exception):
            raise _Invalid(path, f"{path}: output_type itself raised {type(checked).__name__}")
        return checked

    def _exact(self, checked: Any, value: Any, plain: Any) -> Any:
        """
        Return the validated data with every digit that the model wrote.

        pydantic reads a JSON number as a float before it converts it to a Decimal, but converts a Python float through
        its ``str``. Since it validates Python values by other rules than JSON, the exact data is used only where both
        results differ in nothing but digits.
        """
        found = checked
        if contains_exact_floats(value):
            exact, same = self._tried(value, as_json=False), self._tried(plain, as_json=False)
            if isinstance(checked, Exception) or isinstance(same, Exception):
                alike = _error_locations(checked) == _error_locations(same) != []
                found = exact if alike and not isinstance(exact, Exception) else checked
            elif not isinstance(exact, Exception):
                found = with_exact_digits(checked, exact, same)
        if isinstance(found, Exception) or not contains_rounded(value):
            return found
        # A union with int or float takes a Python float as one of these, but a Decimal as a Decimal.
        written, marked = (self._tried(with_decimals(value, kind), as_json=False) for kind in (Decimal, MarkedDecimal))
        failed = isinstance(written, Exception) or isinstance(marked, Exception)
        return found if failed else with_written(found, written, marked)

    def _tried(self, value: Any, *, as_json: bool) -> Any:
        """Return the plain data of a value, or the error that validation raised."""
        adapter, dump = cast("TypeAdapter[Any]", self.adapter), cast(PlainDump, self.dump)
        try:
            if as_json:
                checked = adapter.validate_json(json.dumps(value), by_alias=True, by_name=dump.by_name)
            else:
                checked = adapter.validate_python(value, strict=False, by_alias=True, by_name=dump.by_name)
            return dump(checked, value)
        except _NOT_ABOUT_THE_REPLY:
            raise
        except Exception as error:  # noqa: BLE001
            # The validators of a user's type may raise anything; the reply was paid for and counts as invalid.
            return error


def _adapted(output_type: Any) -> TypeAdapter[Any]:
    if output_type is None or isinstance(output_type, str):
        raise SegmindConfigError(
            f"output_type is {type_name(output_type)}: give a pydantic model, a type, or a JSON Schema."
        )
    try:
        return TypeAdapter(output_type)
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        why = shorten(str(error).partition("\n")[0])
        raise SegmindConfigError(
            f"output_type {shorten(repr(output_type), 80)} is not a type that pydantic supports: {why}"
        ) from error


def _schema_of(adapter: TypeAdapter[Any], output_type: Any) -> dict[str, Any]:
    try:
        return adapter.json_schema(by_alias=True, mode="validation", schema_generator=_QuietSchema)
    except PydanticUserError as error:
        shown = shorten(repr(output_type), 80)
        if error.code == "class-not-fully-defined":
            why = "is not fully defined: an annotation names something that its module does not have"
        else:
            why = "has a field that no JSON Schema can describe"
        raise SegmindConfigError(f"output_type {shown} {why}.") from error


def _checked_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    if _SCHEMA_WORDS.isdisjoint(schema):
        raise SegmindConfigError("output_type is a mapping without any JSON Schema keyword such as type or properties.")
    schema = as_json_schema(schema)
    check_json_schema(schema, "output_type")
    # The validator would find these only when a reply has been paid for.
    check_references(schema)
    return dict(schema)


def _check_schema(schema: Mapping[str, Any], path: str, value: Any) -> None:
    errors = list(islice(schema_validator(schema).iter_errors(value), 50))
    if errors:
        errors.sort(key=lambda error: (len(error.absolute_path), error.json_path))
        shown = [(path + error.json_path[1:], error.message) for error in errors[:SHOWN_ERRORS]]
        raise _joined(shown, len(errors))


def _error_locations(error: Any) -> list[tuple[int | str, ...]]:
    if not isinstance(error, ValidationError):
        return []
    return [one["loc"] for one in error.errors(include_url=False, include_context=False, include_input=False)]


def _joined(shown: list[tuple[str, str]], total: int) -> _Invalid:
    reasons = "; ".join(f"{path}: {shorten(reason)}" for path, reason in shown)
    more = f"; and {total - len(shown)} more" if total > len(shown) else ""
    return _Invalid(shown[0][0], reasons + more)


def _json_path(loc: tuple[int | str, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc)


def _is_object(schema: Mapping[str, Any]) -> bool:
    node = dereferenced(schema)
    if not {"anyOf", "oneOf"}.isdisjoint(node):
        return False
    kind = node.get("type")
    return kind == "object" or (kind is None and "properties" in node)


def _safe_name(name: Any) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name if isinstance(name, str) else "").strip("_")[:64] or "reply"
