"""Pure: turn a good answer into a typed value, leniently where the vendor documents nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from airflow_provider_segmind.api.answers import Answer, Asked, BrokenAnswerError, broken, mask, refusal, server_words
from airflow_provider_segmind.api.models import (
    ModelInfo,
    RequestRecord,
    RequestState,
    RequestStatus,
    SubmittedRequest,
    SyncResult,
    WireModel,
)

T = TypeVar("T")
M = TypeVar("M", bound=WireModel)
S = TypeVar("S", bound=RequestState)

PATH_SEGMENT = re.compile(r"(?!\.+$)[A-Za-z0-9._-]+")
"""What a model name or request id may hold; all 503 names of the vendor's directory fit."""


def checked(asked: Asked, read: Callable[[Answer], T], answer: Answer) -> T:
    """
    Read ``answer`` with ``read``, or raise the error it is.

    :raises SegmindError: the status refuses, or the body breaks the contract.
    """
    if not 200 <= answer.status_code < 300 and answer.status_code not in asked.accepts:
        raise refusal(asked, answer)
    try:
        return read(answer)
    except BrokenAnswerError as error:
        raise broken(asked, answer, error) from error


def _validate(kind: type[M], body: Mapping[str, Any]) -> M:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, problem["loc"])) for problem in error.errors()}))
        raise BrokenAnswerError(f"lacks a usable {fields}") from error


def model(kind: type[M], answer: Answer) -> M:
    """Read a JSON object as ``kind``."""
    return _validate(kind, answer.json_object())


def submitted(answer: Answer) -> SubmittedRequest:
    """Read the answer to a submit, which is worth nothing without a usable id."""
    body = answer.json_object()
    request_id = body.get("request_id")
    if not isinstance(request_id, str) or not PATH_SEGMENT.fullmatch(request_id):
        raise BrokenAnswerError("names no usable request_id")
    return _validate(SubmittedRequest, body)


def state(request_id: str, kind: type[S], secret: str, answer: Answer) -> S:
    """Read where a request stands, whatever HTTP status carries it: FAILED comes as 422, and sometimes inside 200."""
    if answer.status_code == 422:
        try:
            body = answer.json_object()
        except BrokenAnswerError:
            body = {}
        if not isinstance(body.get("status"), str):
            words = server_words(answer, secret) or "no reason given"
            body = {**body, "status": RequestStatus.FAILED.value, "error": words}
    else:
        body = answer.json_object()
    # The id is the one we asked about: some answers leave it out, and another one would be somebody else's.
    if isinstance(body.get("error"), str):
        body = {**body, "error": mask(body["error"], secret)}
    return _validate(kind, {**body, "request_id": request_id})


def sync_result(answer: Answer) -> SyncResult:
    """Read a v1 answer by its media type, never by the model's name."""
    is_json = answer.content_type == "application/json" or answer.content_type.endswith("+json")
    return SyncResult(
        content_type=answer.content_type or "application/octet-stream",
        json_body=answer.json() if is_json else None,
        content=None if is_json else answer.content,
        request_id=answer.headers.get("x-request-id"),
        cost=answer.headers.get("x-cost"),
        remaining_credits=answer.headers.get("x-remaining-credits"),
    )


def _rows(body: Any) -> list[Any]:
    """Find the list in an envelope: the body itself, or the first list one or two objects down."""
    if isinstance(body, list):
        return body
    if isinstance(body, dict):
        for value in body.values():
            if isinstance(value, list):
                return value
        for value in body.values():
            if isinstance(value, dict):
                for inner in value.values():
                    if isinstance(inner, list):
                        return inner
    raise BrokenAnswerError("holds no list")


def model_list(answer: Answer) -> list[ModelInfo]:
    """Read the model list, whatever its key is called."""
    return [_validate(ModelInfo, row) for row in _rows(answer.json()) if isinstance(row, dict)]


def record_list(answer: Answer) -> list[RequestRecord]:
    """Read a page of the request history; its envelope is undocumented."""
    rows = _rows(answer.json())
    return [_validate(RequestRecord, row) for row in rows if isinstance(row, dict) and row.get("request_id")]


def record(request_id: str, answer: Answer) -> RequestRecord:
    """Read one row of the request history."""
    body = answer.json()
    if isinstance(body, dict) and not body.get("request_id"):
        # The envelope is undocumented: an object or a list one level down are both plausible.
        body = next((value for value in body.values() if isinstance(value, (dict, list)) and value), body)
    if isinstance(body, list):
        body = next((row for row in body if isinstance(row, dict) and row.get("request_id") == request_id), None)
    if not isinstance(body, dict):
        raise BrokenAnswerError(f"holds no record of request {request_id!r}")
    return _validate(RequestRecord, {**body, "request_id": request_id})


def urls(count: int, answer: Answer) -> list[str]:
    """Read the URLs of uploaded files, under ``file_urls`` or, as older pages say, ``urls``."""
    body = answer.json_object()
    found = body.get("file_urls") or body.get("urls")
    if not isinstance(found, list) or len(found) != count or not all(isinstance(url, str) for url in found):
        raise BrokenAnswerError(f"names no {count} file_urls")
    return found
