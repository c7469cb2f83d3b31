"""Pydantic models of Segmind's responses."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr


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


def _message(value: Any) -> str | None:
    """Read a message of Segmind: usually a string, sometimes an object, null on success."""
    if not value:
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


LenientFloat = Annotated[float | None, BeforeValidator(_number)]
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
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Metrics(WireModel):
    """
    Duration and cost of a request. Fields that Segmind did not send are None.

    :param cost: USD as billed. Absent on failure, because nothing is charged; None is never 0.
    :param remaining_credits: USD left on the account afterwards.
    :param inference_time: seconds on the model.
    :param queue_time: seconds waiting for a worker.
    :param total_time: seconds in total.
    """

    cost: LenientFloat = None
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


class RequestState(WireModel):
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
    def completed(self) -> bool:
        """Whether the result is ready."""
        return self.status.upper() == RequestStatus.COMPLETED

    @property
    def failed(self) -> bool:
        """Whether Segmind reports FAILED."""
        return self.status.upper() == RequestStatus.FAILED

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self.completed or self.failed


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


class RequestRecord(WireModel):
    """
    One row of the request history, which Segmind keeps far longer than a result.

    :param model_status: COMPLETED, FAILED or PENDING (the history's own vocabulary).
    :param credits_deduction: USD as billed.
    :param generation_url: where the output file is, for seven days.
    :param clock_offset: seconds by which the Date header of the response was ahead of our clock, None without one.
    """

    request_id: str
    model_name: LenientText = None
    model_status: LenientText = None
    credits_deduction: LenientFloat = None
    request_body: Any = Field(default=None, repr=False)
    generation_url: LenientText = Field(default=None, repr=False)
    latency_ms: LenientFloat = None
    error: LenientText = None
    clock_offset: float | None = Field(default=None, exclude=True, repr=False)


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
    cost: LenientFloat = None
    remaining_credits: LenientFloat = None
