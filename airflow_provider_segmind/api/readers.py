"""Pure: turn a good answer into a typed value, leniently where the vendor documents nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from airflow_provider_segmind.api.answers import (
    Answer,
    Asked,
    BrokenAnswerError,
    broken,
    clock_offset,
    refusal,
    server_words,
    spoken,
)
from airflow_provider_segmind.api.json_values import was_changed
from airflow_provider_segmind.api.models import (
    Credits,
    ModelInfo,
    RequestRecord,
    RequestResult,
    RequestState,
    RequestStatus,
    SubmittedRequest,
    SyncResult,
    WireModel,
)
from airflow_provider_segmind.exceptions import shorten
from airflow_provider_segmind.masking import mask, mask_known, masked

T = TypeVar("T")
M = TypeVar("M", bound=WireModel)
S = TypeVar("S", bound=RequestState)

PATH_SEGMENT = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,200}")
"""What a model name or request id may hold; all 503 names of the vendor's directory fit."""
_PAGE = (b"<!doctype html", b"<html")
_RECORD_FIELDS = {"model_name", "model_status", "credits_deduction"}


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
        raise broken(asked, answer, error) from masked(error)


def _validate(kind: type[M], body: Mapping[str, Any]) -> M:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, problem["loc"])) for problem in error.errors()}))
        raise BrokenAnswerError(f"lacks a usable {fields}") from error


def credits(answer: Answer) -> Credits:
    """Read the balance; an answer that names none is not a balance of 0."""
    balance = _validate(Credits, answer.json_object())
    if balance.credits is None and balance.free_credits is None:
        raise BrokenAnswerError("names neither credits nor free-credits")
    return balance


def submitted(answer: Answer, *, secret: str = "") -> SubmittedRequest:
    """Read the answer to a submit, which is worth nothing without a usable id; one that holds the key is none."""
    body = answer.json_object()
    request_id = body.get("request_id")
    named = isinstance(request_id, str) and PATH_SEGMENT.fullmatch(request_id)
    if not named or not _usable(request_id, secret):
        raise BrokenAnswerError("names no usable request_id")
    return _validate(SubmittedRequest, body)


def state(request_id: str, kind: type[S], secret: str, answer: Answer) -> S:
    """Read where a request stands, whatever HTTP status carries it: FAILED comes as 422, and sometimes inside 200."""
    try:
        body = answer.json_object()
    except BrokenAnswerError:
        # A page is a proxy's; FAILED without a JSON body is still Segmind's word.
        if answer.status_code != 422 or _is_page(answer):
            raise
        body = {}
    # The id is the one we asked about: some answers leave it out or write it differently.
    known: dict[str, Any] = {"request_id": request_id}
    if isinstance(body.get("status"), str):
        known["status"] = shorten(mask(body["status"], secret))
    elif answer.status_code == 422:
        known |= {"status": RequestStatus.FAILED.value, "error": server_words(answer, secret)}
    if "error" in body:
        known["error"] = spoken({"error": body["error"]}, secret)
    found = _validate(kind, {**body, **known})
    if isinstance(found, RequestResult) and was_changed(answer.content):
        found = found.written_as(answer.text)
    if found.failed and not found.error:
        # Only of a failure: a result may hold a message of its own.
        found = found.model_copy(update={"error": spoken(body, secret)})
    return found


def sync_result(answer: Answer) -> SyncResult:
    """Read a v1 answer by its media type, never by the model's name."""
    if _is_page(answer):
        raise BrokenAnswerError("is a web page", cut=True)
    is_json = answer.content_type == "application/json" or answer.content_type.endswith("+json")
    return SyncResult(
        content_type=answer.content_type or "application/octet-stream",
        json_body=answer.json() if is_json else None,
        content=None if is_json else answer.content,
        request_id=mask_known(answer.headers.get("x-request-id") or "") or None,
        cost=answer.headers.get("x-cost"),
        remaining_credits=answer.headers.get("x-remaining-credits"),
    )


def _is_page(answer: Answer) -> bool:
    return answer.content_type == "text/html" or answer.content[:200].lstrip().lower().startswith(_PAGE)


def _rows(body: Any) -> list[Any]:
    """
    Find the rows in an envelope: the body itself, or a list one or two objects down.

    A list that holds objects goes before one that does not, so that an empty list of warnings is not "no rows".
    """
    if isinstance(body, list):
        return body
    outer = list(body.values()) if isinstance(body, dict) else []
    inner = [value for envelope in outer if isinstance(envelope, dict) for value in envelope.values()]
    lists = [value for value in (*outer, *inner) if isinstance(value, list)]
    if not lists:
        raise BrokenAnswerError("holds no list")
    return next((rows for rows in lists if any(isinstance(row, dict) for row in rows)), lists[0])


def model_list(answer: Answer) -> list[ModelInfo]:
    """Read the model list, whatever its key is called."""
    return [_validate(ModelInfo, row) for row in _rows(answer.json()) if isinstance(row, dict)]


def record_list(secret: str, answer: Answer) -> list[RequestRecord]:
    """Read a page of the request history; its envelope is undocumented."""
    rows, offset = _rows(answer.json()), clock_offset(answer)
    found = (row for row in rows if isinstance(row, dict) and _usable(row.get("request_id"), secret))
    return [_record(row, secret, offset) for row in found]


def record(request_id: str, secret: str, answer: Answer) -> RequestRecord:
    """Read one row of the request history; an object or a list are both plausible envelopes."""
    body = answer.json()
    outer = list(body.values()) if isinstance(body, dict) else []
    inner = [item for value in (body, *outer) if isinstance(value, list) for item in value]
    rows = [row for row in (body, *outer, *inner) if isinstance(row, dict)]
    found = next((row for row in rows if row.get("request_id") == request_id), None)
    if found is None:
        found = next((row for row in rows if not row.get("request_id") and _RECORD_FIELDS & row.keys()), None)
    if found is None:
        raise BrokenAnswerError(f"holds no record of request {request_id!r}")
    return _record({**found, "request_id": request_id}, secret)


def _usable(request_id: Any, secret: str) -> bool:
    return bool(request_id) and mask(str(request_id), secret) == str(request_id)


def _record(row: Mapping[str, Any], secret: str, offset: float | None = None) -> RequestRecord:
    words = spoken({"error": row.get("error")}, secret)
    named = {name: mask(row[name], secret) for name in _RECORD_FIELDS if isinstance(row.get(name), str)}
    return _validate(RequestRecord, {**row, **named, "error": words, "clock_offset": offset})


def urls(count: int, answer: Answer) -> list[str]:
    """Read the URLs of uploaded files, under ``file_urls`` or, as older pages say, ``urls``."""
    body = answer.json_object()
    found = body.get("file_urls") or body.get("urls")
    if not isinstance(found, list) or len(found) != count or not all(isinstance(url, str) for url in found):
        raise BrokenAnswerError(f"names no {count} file_urls")
    return found
