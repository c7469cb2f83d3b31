"""Pure: what an HTTP response says, as a typed value or as the one error that it is."""

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
from airflow_provider_segmind.masking import mask, mask_known, masked

NOT_BILLED = "Nothing was billed"
FATE_UNKNOWN = (
    "Whether the request was created, and will be billed, is unknown, so it was not sent again: look for it in "
    "Segmind's request history before you submit again"
)
_MONEY_PATTERN = re.compile(r"\bcredits?\b|\bbalance\b|\bfunds\b|\bspend(?:ing)?[ _-](?:limit|cap)", re.IGNORECASE)
_MEDIA_TYPE_PATTERN = re.compile(r"content[ -]?type", re.IGNORECASE)
_SURROGATE_PATTERN = re.compile(rb"\\u[dD][89a-fA-F]")
_WORD_KEYS = ("error", "error_message", "message", "detail")
LONGEST_RESET_WAIT = 65.0
"""Seconds a reset header is believed for; Segmind's windows are a minute long."""
_ABOUT_THE_CALL = frozenset({413, 414, 429, 431})
"""Refusals that say something about the call itself, even where a proxy words them as a page."""
_EPOCH_FLOOR = 1e8
_EPOCH_MILLISECONDS = 1e11


class BrokenAnswerError(Exception):
    """A 2xx whose body is not what the contract says; :func:`broken` turns it into the public error."""

    def __init__(self, message: str, *, cut: bool = False) -> None:
        super().__init__(message)
        self.cut = cut


@dataclass(frozen=True, slots=True)
class Answer:
    """
    One HTTP answer, read whole.

    :param headers: names in lower case.
    :param received_at: epoch seconds, for headers that name a moment.
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
        """Return the body of a JSON answer as text."""
        return self.content.decode(json.detect_encoding(self.content), "surrogatepass").removeprefix("\ufeff")

    def json(self) -> Any:
        """
        Decode the body.

        NaN and infinity, which JSON does not have, are read as null; half of a surrogate pair, which a reply cut in the
        middle of an emoji holds and no UTF-8 file can, as a question mark. Numbers of hundreds of digits, and fields
        nested too deeply for other readers, come as strings: see :func:`.json_values.read_json`.

        :raises BrokenAnswerError: it is not JSON, or was cut off.
        """
        try:
            body = read_json(self.content)
            if _SURROGATE_PATTERN.search(self.content):
                body = json.loads(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))
        except (ValueError, RecursionError) as error:
            raise BrokenAnswerError("is not JSON", cut=True) from error
        return body

    def json_object(self) -> dict[str, Any]:
        """
        Decode the body, which must be a JSON object.

        :raises BrokenAnswerError: it is not.
        """
        body = self.json()
        if not isinstance(body, dict):
            raise BrokenAnswerError(f"is a JSON {type(body).__name__}, not an object")
        return body


def from_gateway(answer: Answer) -> bool:
    """
    Tell whether something in front of Segmind answered: a redirect, a gateway's 5xx, a page, a text that is not JSON.

    Segmind's own refusals are JSON; 405 is the documented exception, and the client never uses a wrong verb. So such an
    answer says nothing about the call, its inputs or its request, and is waited out like an outage.
    """
    code = answer.status_code
    if 300 <= code < 400 or code > 500:
        return True
    first = answer.content[:1000].lstrip()[:1]
    return code not in _ABOUT_THE_CALL and first != b"" and first not in b'{["'


@dataclass(frozen=True, slots=True)
class Asked:
    """
    What an answer is an answer to.

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
    resubmit_on_server_error: bool = False

    @property
    def costs(self) -> str:
        """Return what a refusal means for money, for messages; a refused look does not end what it looks at."""
        return NOT_BILLED if self.paid else "The call itself costs nothing"


def spoken(body: Mapping[str, Any], secret: str) -> str | None:
    """Return the server's own words in a JSON object, masked; None when it has none."""
    found = next((body[key] for key in _WORD_KEYS if body.get(key)), None)
    if found is None:
        return None
    return mask(found if isinstance(found, str) else json.dumps(found, ensure_ascii=False), secret)


def server_words(answer: Answer, secret: str) -> str:
    """Return what the server said, masked and shortened: the ``error`` of a JSON body, else the text of the page."""
    # Masked before any cut, which could leave half a key that no pattern knows.
    text = mask(answer.content[:40_000].decode("utf-8", "replace"), secret)[:20_000]
    try:
        body = answer.json()
    except BrokenAnswerError:
        text = re.sub(r"<(style|script)\b.*?</\1>", " ", text, flags=re.IGNORECASE | re.DOTALL)
        text = re.sub(r"<[^<>]*>", " ", text)
    else:
        if isinstance(body, dict):
            text = spoken(body, secret) or text
    return shorten(" ".join(text.split()))


def refusal(asked: Asked, answer: Answer) -> SegmindError:
    """Return the error that a status outside 2xx stands for."""
    error = _refusal(asked, answer)
    if isinstance(error, SegmindAPIError):
        error.gateway = from_gateway(answer)
    return error


def _refusal(asked: Asked, answer: Answer) -> SegmindError:
    code, words = answer.status_code, server_words(answer, asked.secret)
    said = f"{asked.what} was answered HTTP {code}" + (f": {words!r}" if words else " without a body")
    details: dict[str, Any] = {"status_code": code, "request_id": asked.request_id, "body": words}
    if 300 <= code < 400:
        return _redirect(asked, answer, said, details)
    if code == 429:
        wait = seconds_until_reset(answer)
        when = "" if wait is None else f" The limit resets in {wait:.0f} s."
        return SegmindRateLimitError(
            f"{said}.{when} {asked.costs}; lower requests_per_minute of the connection or try later.",
            retry_after=wait,
            **details,
        )
    if code >= 500:
        return _server_error(asked, said, details)
    if from_gateway(answer):
        return _page(asked, code, said, details)
    if code in (404, 410) and asked.names == "request" and asked.request_id is not None:
        return SegmindRequestExpiredError(
            f"{said}. Segmind keeps a result for one hour after submission and answers so for an expired or unknown "
            "id; if it completed it was billed, and what became of it stands in the request history "
            "(get_request_record).",
            request_id=asked.request_id,
        )
    kind, advice = _client_error(asked, code, words)
    return kind(f"{said}. {asked.costs}; {advice}.", **details)


def _redirect(asked: Asked, answer: Answer, said: str, details: dict[str, Any]) -> SegmindResponseError:
    target = shorten(mask(answer.headers.get("location", "nowhere"), asked.secret))
    if asked.paid and answer.status_code == 303:
        # "See other" is how a server answers a POST that it has carried out.
        return SegmindResponseError(f"{said}, a redirect to {target!r}. {FATE_UNKNOWN}.", **details)
    return SegmindResponseError(
        f"{said}, a redirect to {target!r}. It was not followed because the API key would travel with it. "
        f"{asked.costs}; a later try may succeed. If it persists, set the base URL of the connection to where Segmind "
        "really is.",
        billed=False,
        retryable=True,
        **details,
    )


def _page(asked: Asked, code: int, said: str, details: dict[str, Any]) -> SegmindAPIError:
    """Return the error of a 4xx that something in front of Segmind answered; nothing reached Segmind."""
    meaning = (
        f"{said}. The body is not JSON, so a proxy or gateway in front of Segmind answered. {asked.costs}; a later try "
        "may succeed. If it persists, check the base URL of the connection and what lies between."
    )
    if code == 405:
        error = SegmindBadRequestError(meaning, **details)
        error.retryable = True
        return error
    return SegmindResponseError(meaning, billed=False, retryable=True, **details)


def _server_error(asked: Asked, said: str, details: dict[str, Any]) -> SegmindAPIError:
    if asked.paid and not asked.resubmit_on_server_error:
        return SegmindSubmissionUnknownError(f"{said}. {FATE_UNKNOWN}.", **details)
    if asked.paid:
        meaning = "As resubmit_on_server_error of the connection says, nothing was created and nothing was billed"
        return SegmindServerError(f"{said}. {meaning}; a later try may succeed.", **details)
    return SegmindServerError(f"{said}. {asked.costs}; a later try may succeed.", **details)


def _client_error(asked: Asked, code: int, words: str) -> tuple[type[SegmindAPIError], str]:
    if code == 401:
        return SegmindAuthenticationError, "check the API key (password) of the Segmind connection"
    if code == 402 or (code == 406 and not _MEDIA_TYPE_PATTERN.search(words) and _MONEY_PATTERN.search(words)):
        return SegmindCreditsError, "the account cannot pay: add credits or raise its spend limit, then clear the task"
    if code == 403:
        return SegmindPermissionError, "the account may not do this: ask Segmind or your team's admin for access"
    if code == 404 and asked.names == "model":
        return SegmindModelNotFoundError, "check the spelling of 'model' against Segmind's model list"
    if code == 410 and asked.names == "model":
        return SegmindModelRetiredError, "Segmind has retired this model: choose another"
    return SegmindBadRequestError, _bad_request_advice(asked, code, words)


def _bad_request_advice(asked: Asked, code: int, words: str) -> str:
    if code == 404 and asked.names == "record":
        return "the request history does not know it: rows appear up to two hours late, and only for one's own account"
    if code == 404 and asked.names == "account":
        return "the key is good, but the account has no balance record: add credits"
    if code == 405 or (code == 406 and _MEDIA_TYPE_PATTERN.search(words)):
        return "the call is well-formed, so look at what stands between: the base URL of the connection, or a proxy"
    if code == 413:
        return "it is too large: upload the files and send their URLs instead"
    return "the same call will be refused again: correct what is sent"


def broken(asked: Asked, answer: Answer, problem: BrokenAnswerError) -> SegmindAPIError:
    """Return the error of a 2xx that breaks the contract."""
    words = server_words(answer, asked.secret)
    said = f"{asked.what} was answered HTTP {answer.status_code}, but the answer {problem}: {words!r}"
    details: dict[str, Any] = {"status_code": answer.status_code, "request_id": asked.request_id, "body": words}
    if asked.paid:
        error = SegmindResponseError(f"{said}. {FATE_UNKNOWN}.", **details)
    else:
        error = SegmindResponseError(f"{said}. {asked.costs}.", billed=False, retryable=problem.cut, **details)
    error.gateway = problem.cut
    return error


def clock_offset(answer: Answer) -> float | None:
    """
    Return by how many seconds the clock of who answered is ahead of ours, from the Date header; None without one.

    Nobody documents the header, and a proxy may have written it, so it is a hint.
    """
    text = answer.headers.get("date", "")
    try:
        return parsedate_to_datetime(text).timestamp() - answer.received_at
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def seconds_until_reset(answer: Answer) -> float | None:
    """
    Read when the rate limit resets, from ``x-rate-limit-reset-at-utc`` or ``Retry-After``.

    ISO 8601 with or without zone (UTC then), epoch seconds or milliseconds, seconds from the answer's receipt, and
    HTTP dates are understood; a moment in the past is 0, one further away than a window lasts is cut to
    :data:`LONGEST_RESET_WAIT`; None when nothing readable is there.
    """
    for name in ("x-rate-limit-reset-at-utc", "retry-after"):
        text = answer.headers.get(name, "").strip()
        seconds = _seconds(text, answer.received_at) if text else None
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
