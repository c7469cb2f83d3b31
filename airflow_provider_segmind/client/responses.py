"""Reads HTTP responses into typed values or errors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from airflow_provider_segmind.chat.json_values import read_json, was_changed
from airflow_provider_segmind.client.models import (
    Credits,
    ModelInfo,
    RecordPage,
    RequestRecord,
    RequestResult,
    RequestState,
    RequestStatus,
    SubmittedRequest,
    SyncResult,
    WireModel,
)
from airflow_provider_segmind.exceptions import (
    SegmindAPIError,
    SegmindAuthenticationError,
    SegmindBadRequestError,
    SegmindCreditsError,
    SegmindError,
    SegmindModelNotFoundError,
    SegmindModelRetiredError,
    SegmindPermissionError,
    SegmindRateLimitError,
    SegmindRequestExpiredError,
    SegmindResponseError,
    SegmindServerError,
    SegmindSubmissionUnknownError,
    shorten,
)
from airflow_provider_segmind.masking import mask, mask_known, masked, without_markup

NOT_BILLED = "Nothing was billed"
OUTCOME_UNKNOWN = (
    "It is unknown whether the request was created and will be billed, so it was not sent again: search "
    "Segmind's request history before you submit it again"
)
_MONEY_PATTERN = re.compile(r"\bcredits?\b|\bbalance\b|\bfunds\b|\bspend(?:ing)?[ _-](?:limit|cap)", re.IGNORECASE)
_MEDIA_TYPE_PATTERN = re.compile(r"content[ -]?type", re.IGNORECASE)
_SURROGATE_PATTERN = re.compile(rb"\\u[dD][89a-fA-F]")
_SINGLE_BYTES = re.compile(r"charset\s*=\s*\"?(iso-8859-1|latin1|windows-1252)\b", re.IGNORECASE)
_MESSAGE_KEYS = ("error", "error_message", "message", "detail")
LONGEST_RESET_WAIT = 65.0
"""Longest reset time in seconds that is trusted; Segmind's windows are a minute long."""
_ABOUT_THE_CALL = frozenset({402, 413, 414, 429, 431})
"""Statuses that concern the call itself, even if a proxy sends them with an HTML page."""
_EPOCH_FLOOR = 1e8
_EPOCH_MILLISECONDS = 1e11


class MalformedResponseError(Exception):
    """A 2xx response whose body breaks the contract; :func:`malformed_error` turns it into the public error."""

    def __init__(self, message: str, *, cut: bool = False) -> None:
        super().__init__(message)
        self.cut = cut


@dataclass(frozen=True, slots=True)
class Response:
    """
    An HTTP response that was read completely.

    :param headers: names in lower case.
    :param received_at: epoch seconds, for headers that contain a time.
    """

    status_code: int
    content: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    received_at: float = 0.0

    @property
    def content_type(self) -> str:
        """Return the media type without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def text(self) -> str:
        """Return the body of a JSON response, with U+FFFD for what is unreadable: it may be paid for."""
        encoding = json.detect_encoding(self.content)
        try:
            text = self.content.decode(encoding, "surrogatepass")
        except UnicodeDecodeError:
            named = _SINGLE_BYTES.search(self.headers.get("content-type", ""))
            text = self.content.decode(named[1] if named else encoding, "replace")
        return text.removeprefix("\ufeff")

    def json(self) -> Any:
        """
        Decode the body.

        NaN and infinity, which JSON does not have, become null. Half of a surrogate pair, as in a reply that was cut in
        the middle of an emoji, becomes a question mark, because UTF-8 cannot encode it. Numbers of hundreds of digits
        and values nested too deeply for other readers become strings: see :func:`.json_values.read_json`.

        :raises MalformedResponseError: it is not JSON, or was cut off.
        """
        try:
            body = read_json(self.text)
            if b"\\u" in self.content and _SURROGATE_PATTERN.search(self.content):
                body = json.loads(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))
        except (ValueError, RecursionError) as error:
            raise MalformedResponseError("is not JSON", cut=True) from error
        return body

    def json_object(self) -> dict[str, Any]:
        """
        Decode the body, which must be a JSON object.

        :raises MalformedResponseError: it is not.
        """
        body = self.json()
        if not isinstance(body, dict):
            raise MalformedResponseError(f"is a JSON {type(body).__name__}, not an object")
        return body


def from_gateway(response: Response) -> bool:
    """
    Return whether something in front of Segmind responded: a redirect, a gateway's 5xx, a body that is not JSON.

    Segmind's own errors are JSON; 405 is the documented exception, and the client never uses a wrong method. So such a
    response says nothing about the call, its inputs or its request, and is waited out like an outage.
    """
    code = response.status_code
    if 300 <= code < 400 or code > 500:
        return True
    first = response.content[:1000].lstrip()[:1]
    if code in _ABOUT_THE_CALL or first == b"" or first in b'{["':
        return False
    return code != 406 or not _MONEY_PATTERN.search(response.text[:1000])


@dataclass(frozen=True, slots=True)
class CallContext:
    """
    What a call is about: decides how its response is read and how errors are worded.

    :param what: what was tried, for messages.
    :param secret: the API key, masked wherever a server echoes it.
    :param names: what the path names, which decides what a 404 means; a record is a row of the request history.
    :param accepts: statuses besides 2xx whose body the reader understands.
    """

    what: str
    secret: str = field(repr=False)
    paid: bool = False
    names: Literal["model", "request", "record", "account", "path"] = "path"
    request_id: str | None = None
    accepts: tuple[int, ...] = ()

    @property
    def costs(self) -> str:
        """Return what an error means for money, for messages; a failed poll does not end the request."""
        return NOT_BILLED if self.paid else "The call itself costs nothing"


def error_message(body: Mapping[str, Any], secret: str) -> str | None:
    """Return the error message in a JSON object, masked; None when there is none."""
    found = next((body[key] for key in _MESSAGE_KEYS if body.get(key)), None)
    if found is None:
        return None
    return mask(found if isinstance(found, str) else json.dumps(found, ensure_ascii=False), secret)


def server_message(response: Response, secret: str) -> str:
    """Return the server's message, masked and shortened: the ``error`` of a JSON body, else the text of the page."""
    # Masked before any cut, which could leave half a key that no pattern matches.
    text = mask(response.content[:40_000].decode("utf-8", "replace"), secret)[:20_000]
    try:
        body = response.json()
    except MalformedResponseError:
        text = without_markup(text)
    else:
        if isinstance(body, dict):
            text = error_message(body, secret) or text
    return shorten(" ".join(text.split()))


def status_error(context: CallContext, response: Response) -> SegmindError:
    """Return the error of a status outside 2xx."""
    error = _status_error(context, response)
    if isinstance(error, SegmindAPIError):
        error.gateway = from_gateway(response)
    return error


def _status_error(context: CallContext, response: Response) -> SegmindError:
    code, message = response.status_code, server_message(response, context.secret)
    said = f"{context.what} returned HTTP {code}" + (f": {message!r}" if message else " without a body")
    details: dict[str, Any] = {"status_code": code, "request_id": context.request_id, "body": message}
    if 300 <= code < 400:
        return _redirect(context, response, said, details)
    if code == 429:
        wait = seconds_until_reset(response)
        when = "" if wait is None else f" The limit resets in {wait:.0f} s."
        return SegmindRateLimitError(
            f"{said}.{when} {context.costs}; lower requests_per_minute in the connection, or try again later.",
            retry_after=wait,
            **details,
        )
    if code >= 500:
        return _server_error(context, said, details)
    if from_gateway(response):
        return _page(context, code, said, details)
    if code == 408:
        # It does not say which server gave up: one that did not receive all of the call, or one that waited for
        # another.
        return _server_error(context, said, details)
    if code in (404, 410) and context.names == "request" and context.request_id is not None:
        return SegmindRequestExpiredError(
            f"{said}. Segmind keeps a result for one hour after submission and responds like this for an expired or "
            "unknown id; if the request completed it was billed, and the request history has its outcome "
            "(get_request_record).",
            request_id=context.request_id,
        )
    kind, advice = _client_error(context, code, message)
    return kind(f"{said}. {context.costs}; {advice}.", **details)


def _redirect(context: CallContext, response: Response, said: str, details: dict[str, Any]) -> SegmindResponseError:
    target = shorten(mask(response.headers.get("location", "nowhere"), context.secret))
    if context.paid and response.status_code == 303:
        # "See other" is how a server answers a POST that it has carried out.
        return SegmindResponseError(f"{said}, a redirect to {target!r}. {OUTCOME_UNKNOWN}.", **details)
    return SegmindResponseError(
        f"{said}, a redirect to {target!r}. It was not followed because the API key would be sent along. "
        f"{context.costs}; a later try may succeed. If it persists, set the base URL of the connection to Segmind's "
        "address.",
        billed=False,
        retryable=True,
        **details,
    )


def _page(context: CallContext, code: int, said: str, details: dict[str, Any]) -> SegmindAPIError:
    """Return the error of a 4xx from something in front of Segmind; nothing reached Segmind."""
    meaning = (
        f"{said}. The body is not JSON, so a proxy or gateway in front of Segmind responded. {context.costs}; a later "
        "try may succeed. If it persists, check the base URL of the connection and any proxy."
    )
    if code == 405:
        error = SegmindBadRequestError(meaning, **details)
        error.retryable = True
        return error
    return SegmindResponseError(meaning, billed=False, retryable=True, **details)


def _server_error(context: CallContext, said: str, details: dict[str, Any]) -> SegmindAPIError:
    if context.paid:
        return SegmindSubmissionUnknownError(f"{said}. {OUTCOME_UNKNOWN}.", **details)
    return SegmindServerError(f"{said}. {context.costs}; a later try may succeed.", **details)


def _client_error(context: CallContext, code: int, message: str) -> tuple[type[SegmindAPIError], str]:
    if code == 401:
        return SegmindAuthenticationError, "check the API key (password) of the Segmind connection"
    if code == 402 or (code == 406 and not _MEDIA_TYPE_PATTERN.search(message) and _MONEY_PATTERN.search(message)):
        return SegmindCreditsError, "the account cannot pay: add credits or raise its spend limit, then clear the task"
    if code == 403:
        return SegmindPermissionError, "the account may not do this: ask Segmind or your team's admin for access"
    if code == 404 and context.names == "model":
        return SegmindModelNotFoundError, "check the spelling of 'model' against Segmind's model list"
    if code == 410 and context.names == "model":
        return SegmindModelRetiredError, "Segmind has retired this model: choose another"
    return SegmindBadRequestError, _bad_request_advice(context, code, message)


def _bad_request_advice(context: CallContext, code: int, message: str) -> str:
    if code == 404 and context.names == "record":
        return (
            "the request history has no such record: rows appear up to two hours late, and only for one's own account"
        )
    if code == 404 and context.names == "account":
        return "the key is valid, but the account has no balance record: add credits"
    if code == 405 or (code == 406 and _MEDIA_TYPE_PATTERN.search(message)):
        return "the call is well-formed, so check the base URL of the connection and any proxy in between"
    if code == 413:
        return "it is too large: upload the files and send their URLs instead"
    if context.names == "request":
        return "the request still runs: check the base URL of the connection, then clear the task, which polls again"
    if not context.paid:
        # There may be no inputs, and other inputs would be a new request, which is paid for.
        return "the same call will be refused again: check the base URLs of the connection"
    return "the same call will be refused again: correct the inputs"


def malformed_error(context: CallContext, response: Response, problem: MalformedResponseError) -> SegmindAPIError:
    """Return the error of a 2xx response that breaks the contract."""
    message = server_message(response, context.secret)
    said = f"{context.what} returned HTTP {response.status_code}, but the response {problem}: {message!r}"
    details: dict[str, Any] = {"status_code": response.status_code, "request_id": context.request_id, "body": message}
    if context.paid:
        error = SegmindResponseError(f"{said}. {OUTCOME_UNKNOWN}.", **details)
    else:
        error = SegmindResponseError(f"{said}. {context.costs}.", billed=False, retryable=problem.cut, **details)
    error.gateway = problem.cut
    return error


def clock_offset(response: Response) -> float | None:
    """
    Return the seconds by which the server's clock is ahead of ours, from the Date header; None without one.

    Only a hint: the header is undocumented, and a proxy may have set it.
    """
    text = response.headers.get("date", "")
    try:
        return parsedate_to_datetime(text).timestamp() - response.received_at
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def seconds_until_reset(response: Response) -> float | None:
    """
    Return the seconds until the rate limit resets, from ``x-rate-limit-reset-at-utc`` or ``Retry-After``.

    Accepts ISO 8601 with or without a zone (then UTC), epoch seconds or milliseconds, seconds from receipt, and HTTP
    dates. A time in the past is 0, one beyond the length of a window is :data:`LONGEST_RESET_WAIT`; None when no
    header is readable.
    """
    for name in ("x-rate-limit-reset-at-utc", "retry-after"):
        text = response.headers.get(name, "").strip()
        seconds = _seconds(text, response.received_at) if text else None
        if seconds is not None:
            return min(max(0.0, seconds), LONGEST_RESET_WAIT)
    return None


def _seconds(text: str, now: float) -> float | None:
    try:
        number = float(text)
    except ValueError:
        moment = _moment(text)
        return None if moment is None else moment.timestamp() - now
    if not 0 <= number < 1e15:
        return None
    if number >= _EPOCH_MILLISECONDS:
        return number / 1000 - now
    return number - now if number >= _EPOCH_FLOOR else number


def _moment(text: str) -> datetime | None:
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = read(re.sub(r"\s*UTC$", "", text))
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


T = TypeVar("T")
M = TypeVar("M", bound=WireModel)
S = TypeVar("S", bound=RequestState)
PATH_SEGMENT = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,200}")
"""The form of a model name or request id; all 503 names of the vendor's directory match."""
_PAGE = (b"<!doctype html", b"<html")
_RECORD_FIELDS = {"model_name", "model_status", "credits_deduction"}


def read_response(context: CallContext, read: Callable[[Response], T], response: Response) -> T:
    """
    Read a response with ``read``, or raise its error.

    :raises SegmindError: the status is an error, or the body breaks the contract.
    """
    if not 200 <= response.status_code < 300 and response.status_code not in context.accepts:
        raise status_error(context, response)
    try:
        return read(response)
    except MalformedResponseError as error:
        raise malformed_error(context, response, error) from masked(error)


def _validate(kind: type[M], body: Mapping[str, Any]) -> M:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(map(str, problem["loc"])) for problem in error.errors()}))
        raise MalformedResponseError(f"lacks a usable {fields}") from error


def credits(response: Response) -> Credits:
    """Read the balance; a response without one is not a balance of 0."""
    balance = _validate(Credits, response.json_object())
    if balance.credits is None and balance.free_credits is None:
        raise MalformedResponseError("names neither credits nor free-credits")
    return balance


def submitted(response: Response, *, secret: str = "") -> SubmittedRequest:
    """Read the response to a submit; without a usable id, which must not contain the key, it is malformed."""
    body = response.json_object()
    request_id = _usable_id(body.get("request_id"), secret)
    if request_id is None:
        raise MalformedResponseError("names no usable request_id")
    return _validate(SubmittedRequest, {**body, "request_id": request_id})


def state(request_id: str, kind: type[S], secret: str, response: Response, *, completed: bool = False) -> S:
    """
    Read the state of a request from any HTTP status: FAILED comes as 422, and sometimes inside 200.

    :param completed: whether a body with an output is that of a completed request if it has no status.
    """
    try:
        body = response.json_object()
    except MalformedResponseError:
        # A page comes from a proxy, but a 422 without a JSON body is still Segmind's FAILED.
        if response.status_code != 422 or _is_page(response):
            raise
        body = {}
    # The id is the one in the call: some responses omit it or write it differently.
    known: dict[str, Any] = {"request_id": request_id}
    if isinstance(body.get("status"), str):
        known["status"] = shorten(mask(body["status"], secret))
    elif response.status_code == 422:
        known |= {"status": RequestStatus.FAILED.value, "error": server_message(response, secret)}
    elif completed and body.get("status") is None and "output" in body and not body.get("error"):
        known["status"] = RequestStatus.COMPLETED.value
    if "error" in body:
        known["error"] = error_message({"error": body["error"]}, secret)
    found = _validate(kind, {**body, **known})
    if isinstance(found, RequestResult) and was_changed(response.text):
        found = found.with_raw_json(response.text)
    if found.failed and not found.error:
        # Only for a failure: a result may contain its own message.
        found = found.model_copy(update={"error": error_message(body, secret)})
    return found


def sync_result(response: Response) -> SyncResult:
    """Read a v1 response by its media type, never by the model's name."""
    if _is_page(response):
        raise MalformedResponseError("is a web page", cut=True)
    is_json = response.content_type == "application/json" or response.content_type.endswith("+json")
    return SyncResult(
        content_type=response.content_type or "application/octet-stream",
        json_body=response.json() if is_json else None,
        content=None if is_json else response.content,
        request_id=mask_known(response.headers.get("x-request-id") or "") or None,
        cost=response.headers.get("x-cost"),
        remaining_credits=response.headers.get("x-remaining-credits"),
    )


def is_page(content: bytes) -> bool:
    """Return whether bytes begin as a web page does."""
    return content[:200].lstrip().lower().startswith(_PAGE)


def _is_page(response: Response) -> bool:
    return response.content_type == "text/html" or is_page(response.content)


def _rows(body: Any) -> list[Any]:
    """
    Find the rows in an envelope: the body itself, or a list one or two levels down.

    A list of objects takes precedence, so that an empty list of warnings does not mean "no rows".
    """
    if isinstance(body, list):
        return body
    outer = list(body.values()) if isinstance(body, dict) else []
    inner = [value for envelope in outer if isinstance(envelope, dict) for value in envelope.values()]
    lists = [value for value in (*outer, *inner) if isinstance(value, list)]
    if not lists:
        raise MalformedResponseError("contains no list")
    return next((rows for rows in lists if any(isinstance(row, dict) for row in rows)), lists[0])


def model_list(response: Response) -> list[ModelInfo]:
    """Read the model list under any key."""
    return [_validate(ModelInfo, row) for row in _rows(response.json()) if isinstance(row, dict)]


def record_list(secret: str, response: Response) -> RecordPage:
    """Read a page of the request history; its envelope is undocumented."""
    rows, offset = _rows(response.json()), clock_offset(response)
    found: list[RequestRecord] = []
    without_id: list[RequestRecord] = []
    for row in (row for row in rows if isinstance(row, dict)):
        request_id = _usable_id(row.get("request_id"), secret)
        some = without_id if request_id is None else found
        some.append(_record(request_id or "", [row], secret, offset))
    return RecordPage(found, without_id=without_id, rows=len(rows))


def record(request_id: str, secret: str, response: Response) -> RequestRecord:
    """Read one row of the request history, from an object or a list."""
    body = response.json()
    outer = list(body.values()) if isinstance(body, dict) else []
    inner = [item for value in (body, *outer) if isinstance(value, list) for item in value]
    rows = [row for row in (body, *outer, *inner) if isinstance(row, dict)]
    found = [row for row in rows if _usable_id(row.get("request_id"), secret) == request_id]
    found = found or [row for row in rows if not row.get("request_id") and _RECORD_FIELDS & row.keys()][:1]
    if not found:
        raise MalformedResponseError(f"contains no record of request {request_id!r}")
    return _record(request_id, found, secret)


def _usable_id(value: Any, secret: str) -> str | None:
    """Return a request id, which JSON may have as a number; None for what no call can name, or contains the key."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not PATH_SEGMENT.fullmatch(text):
        return None
    return text if mask(text, secret) == text else None


def _record(request_id: str, rows: list[dict[str, Any]], secret: str, offset: float | None = None) -> RequestRecord:
    """Read the rows of one request: it has one for each output, which differ in nothing else."""
    row = rows[0]
    given = [each.get("generation_url") for each in rows]
    urls = [url for value in given for url in (value if isinstance(value, list) else [value])]
    known = {"request_id": request_id, "generation_urls": urls, "generation_url": next(filter(None, urls), None)}
    message = error_message({"error": row.get("error")}, secret)
    named = {name: mask(row[name], secret) for name in _RECORD_FIELDS if isinstance(row.get(name), str)}
    return _validate(RequestRecord, {**row, **named, **known, "error": message, "clock_offset": offset})


def urls(count: int, response: Response) -> list[str]:
    """Read the URLs of uploaded files, from ``file_urls`` or, in older documentation, ``urls``."""
    body = response.json_object()
    found = body.get("file_urls") or body.get("urls")
    if not isinstance(found, list) or len(found) != count or not all(isinstance(url, str) for url in found):
        raise MalformedResponseError(f"names no {count} file_urls")
    return found
