"""Pydantic models of Segmind's responses, and the JSON Schema of a model's parameters."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from airflow_provider_segmind.chat.json_values import clean_text, read_json, was_changed


class RequestStatus(StrEnum):
    """The documented states. Any other string means "in progress"."""

    QUEUED = "QUEUED"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


def _number(value: Any) -> float | None:
    """Read a number leniently; anything else is unknown, never 0."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


_MOST_COST = 1e6
"""USD above which a number is not the bill of a request: the highest limit of a budget. A spend record can store it."""


def _cost(value: Any) -> float | None:
    """Read a bill; a negative one counts as unknown, because it would raise a budget above its limit."""
    number = _number(value)
    return None if number is None or not 0 <= number <= _MOST_COST else number


def _message(value: Any) -> str | None:
    """Read a message of Segmind: usually a string, sometimes an object, null on success."""
    if not value:
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _strings(value: Any) -> tuple[str, ...]:
    """Return the strings in a list, each once."""
    return tuple(dict.fromkeys(item for item in value if item and isinstance(item, str)))


LenientFloat = Annotated[float | None, BeforeValidator(_number)]
LenientCost = Annotated[float | None, BeforeValidator(_cost)]
LenientText = Annotated[str | None, BeforeValidator(_message)]


class WireModel(BaseModel):
    """Frozen, and open to fields that Segmind adds. Prompts and outputs never appear in a ``repr``."""

    # pydantic's errors quote invalid values, and tracebacks end up in logs.
    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        populate_by_name=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
        ser_json_bytes="base64",
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, details in type(self).model_fields.items():
            if details.repr:
                yield name, getattr(self, name)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as Segmind sent them, ready for JSON."""
        try:
            return self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        except UnicodeEncodeError:
            # pydantic refuses the name of a field with half of a surrogate pair, which JSON can express.
            return self.model_dump(by_alias=True, exclude_unset=True)


class Metrics(WireModel):
    """
    Duration and cost of a request. Fields that Segmind did not send are None.

    :param cost: USD as billed. Absent on failure, because nothing is charged; None is never 0.
    :param remaining_credits: USD left on the account afterwards.
    :param inference_time: seconds on the model.
    :param queue_time: seconds waiting for a worker.
    :param total_time: seconds in total.
    """

    cost: LenientCost = None
    remaining_credits: LenientFloat = None
    inference_time: LenientFloat = None
    queue_time: LenientFloat = None
    total_time: LenientFloat = None
    retry_count: LenientFloat = None


def _metrics(value: Any) -> Any:
    return value if isinstance(value, (dict, Metrics)) else {}


AnyMetrics = Annotated[Metrics, BeforeValidator(_metrics)]


class SubmittedRequest(WireModel):
    """
    Segmind accepted a submit; it will be billed when it completes.

    :param request_id: opaque, seen as 32 hex characters and as a UUID.
    :param status: always QUEUED here.
    """

    request_id: str
    status: LenientText = RequestStatus.QUEUED.value


class _WithStatus(WireModel):
    """
    An object with a status: one of :class:`RequestStatus`, in any case. Any other string means that it is in progress.
    """

    @property
    @abstractmethod
    def _status(self) -> str | None:
        """The status as Segmind wrote it."""

    @property
    def completed(self) -> bool:
        """Whether the result is ready."""
        return (self._status or "").strip().upper() == RequestStatus.COMPLETED

    @property
    def failed(self) -> bool:
        """Whether Segmind reports FAILED."""
        return (self._status or "").strip().upper() == RequestStatus.FAILED

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self.completed or self.failed


class RequestState(_WithStatus):
    """
    The state of a request.

    :param status: see :class:`RequestStatus`; any other string means that it is in progress.
    :param error: Segmind's message about a failure, None otherwise.
    """

    request_id: str
    status: str
    error: LenientText = None
    metrics: AnyMetrics = Metrics()

    @property
    def _status(self) -> str:
        return self.status


class RequestResult(RequestState):
    """
    The body of a request; final only when :attr:`completed`.

    :param output: a URL, a string of JSON, plain text, an object, a list, or None.
    """

    output: Any = Field(default=None, repr=False)
    _raw_json: str | None = PrivateAttr(default=None)

    @property
    def raw_json(self) -> str | None:
        """Return the JSON as Segmind sent it where the fields contain a part of it in another form, else None."""
        return self._raw_json

    def with_raw_json(self, text: str) -> Self:
        """Return this result with the JSON from which it was read."""
        copy = self.model_copy()
        copy._raw_json = text  # noqa: SLF001
        return copy

    def encoded(self) -> bytes:
        """Return it as JSON, as it is stored: whatever :attr:`raw_json` has is kept."""
        text = json.dumps(self.to_json(), ensure_ascii=False) if self._raw_json is None else self._raw_json
        return clean_text(text).encode()

    @classmethod
    def decoded(cls, encoded: bytes) -> Self:
        """
        Read what :meth:`encoded` returned.

        :raises ValueError: it is not the JSON of a result.
        """
        body = read_json(encoded)
        if not isinstance(body, dict):
            raise ValueError("not the JSON of a result")
        result = cls.model_validate(body)
        return result.with_raw_json(encoded.decode()) if was_changed(encoded) else result


class Credits(WireModel):
    """The balance of the account in USD. In Segmind's JSON the key of the free part has a hyphen."""

    credits: LenientFloat = None
    free_credits: LenientFloat = Field(default=None, alias="free-credits")

    @property
    def total(self) -> float:
        """Both parts together."""
        return (self.credits or 0.0) + (self.free_credits or 0.0)


class ModelInfo(WireModel):
    """One row of the model list. ``is_depreciated`` is Segmind's spelling."""

    slug: LenientText = None
    title: LenientText = None
    type: LenientText = None
    description: LenientText = None
    parameters: Any = Field(default=None, repr=False)
    is_depreciated: Any = None


class RequestRecord(_WithStatus):
    """
    One row of the request history, which Segmind keeps far longer than a result.

    :param model_status: COMPLETED, FAILED or PENDING (the history's own vocabulary).
    :param credits_deduction: USD as billed; see :attr:`cost`.
    :param generation_url: where the output file is, for seven days.
    :param generation_urls: where all of them are, of a request with several.
    :param clock_offset: seconds by which the Date header of the response was ahead of our clock, None without one.
    """

    request_id: str
    model_name: LenientText = None
    model_status: LenientText = None
    credits_deduction: LenientCost = None
    request_body: Any = Field(default=None, repr=False)
    generation_url: LenientText = Field(default=None, repr=False)
    generation_urls: Annotated[tuple[str, ...], BeforeValidator(_strings)] = Field(default=(), exclude=True, repr=False)
    latency_ms: LenientFloat = None
    error: LenientText = None
    clock_offset: float | None = Field(default=None, exclude=True, repr=False)

    @property
    def _status(self) -> str | None:
        return self.model_status

    @property
    def cost(self) -> float | None:
        """USD as billed: 0 if it FAILED; None if unknown, as 0 is until the request has finished."""
        if self.failed:
            return 0.0
        return self.credits_deduction if self.completed else self.credits_deduction or None


class RecordPage(list[RequestRecord]):
    """
    A page of the request history: its rows that have a usable id.

    :param without_id: the others; each of them belongs to a request too.
    :param rows: how many rows Segmind sent, unreadable ones included.
    """

    def __init__(
        self,
        records: Iterable[RequestRecord] = (),
        *,
        without_id: Iterable[RequestRecord] = (),
        rows: int | None = None,
    ) -> None:
        super().__init__(records)
        self.without_id = tuple(without_id)
        self.rows = len(self) + len(self.without_id) if rows is None else rows


class SyncResult(WireModel):
    """
    The response of the blocking v1 call.

    :param content_type: the media type Segmind named.
    :param json_body: the decoded body when it is JSON.
    :param content: the bytes when it is not.
    """

    content_type: str
    json_body: Any = Field(default=None, repr=False)
    content: bytes | None = Field(default=None, repr=False)
    request_id: LenientText = None
    cost: LenientCost = None
    remaining_credits: LenientFloat = None


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
    Return the JSON Schema of a model's body from ``parameters`` of the model list, None when nothing can be read.

    The shape of ``parameters`` is not documented, so every plausible one is read: a JSON Schema, a mapping of names to
    descriptions, a list of descriptions with names, and any of them as a string of JSON. Unreadable parts are ignored,
    and parameters that are not listed stay allowed: a check that accepts too much costs less than one that refuses what
    would have worked.
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
