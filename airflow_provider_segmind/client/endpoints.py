"""
The calls of Segmind's API: what to send, and how to read the response.

Nothing here sends anything. A :class:`Call` contains what to send and the function that reads the response; the clients
only send it. URLs are always built from our own base URLs and the id: a ``status_url`` in a response is never called,
because the API key would be sent along.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode, urlsplit

from airflow_provider_segmind import __version__
from airflow_provider_segmind.client import responses as readers
from airflow_provider_segmind.client.models import (
    Credits,
    ModelInfo,
    RecordPage,
    RequestRecord,
    RequestResult,
    RequestState,
    SubmittedRequest,
    SyncResult,
)
from airflow_provider_segmind.client.responses import CallContext, Response
from airflow_provider_segmind.exceptions import SegmindConfigError, shorten

T = TypeVar("T")
S = TypeVar("S", bound=RequestState)
_BASE_URL = re.compile(
    r"https?://(?:\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_.])?)(?::\d+)?(?:/[\w.~%!$&'()*+,;=:@/-]*)?",
    re.IGNORECASE | re.ASCII,
)
MAX_RECORDS_PER_PAGE = 100
"""Largest page of the request history (SDK 1.3.0)."""
LONGEST_TIMEOUT = 86_400
"""Seconds that a call or a file may take: sockets raise errors of their own at some 292 years."""
_INPUTS = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """
    The base URLs of Segmind's services; each can point at a proxy or the emulator.

    :param gateway: submit, poll, fetch, credits.
    :param storage: uploads.
    :param history: the request history.
    :param models: the model list.
    """

    gateway: str = "https://api.segmind.com"
    storage: str = "https://workflows-api.segmind.com"
    history: str = "https://api.spotprod.segmind.com"
    models: str = "https://api.spotprod.segmind.com"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """
    An HTTP call and how to read its response.

    :param context: what is tried, whether it is paid, and what to mask; a paid call is sent again only if it cannot
        have arrived.
    :param read: turns the response into a value or raises its error.
    :param timeout: seconds for the whole call, None for the client's own.
    """

    context: CallContext
    method: str
    url: str
    # Reader and headers contain the key, the body contains prompts.
    read: Callable[[Response], T] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    timeout: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def base_url(text: str, field_name: str) -> str:
    """
    Normalise a base URL: scheme added, trailing slash and ``/v1`` or ``/v2`` stripped, a proxy's path prefix kept.

    :param field_name: the field of the connection, for the error.
    :raises SegmindConfigError: it is not an http(s) URL.
    """
    url = text.strip()
    if "://" not in url:
        url = f"https://{url}"
    if not _BASE_URL.fullmatch(url) or not _is_connectable(url):
        shown = shorten(re.sub(r"//.*@", "//***@", text))
        raise SegmindConfigError(
            f"Field {field_name!r} of the Segmind connection is {shown!r}, which is not a base URL: give scheme, host "
            "and, behind a proxy, its path, like 'https://api.segmind.com'. Nothing was sent."
        )
    return re.sub(r"/v[12]$", "", _normalised(url).rstrip("/"), flags=re.IGNORECASE).rstrip("/")


def _normalised(url: str) -> str:
    """Lower the case of scheme and host and drop the scheme's default port, so that equal hosts compare equal."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    scheme, authority = scheme.lower(), authority.lower()
    port = {"http": ":80", "https": ":443"}[scheme]
    return f"{scheme}://{authority.removesuffix(port)}{slash}{path}"


def _is_connectable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # A name with an empty or overlong label would fail on resolution, after the intent is recorded, with an error
        # of a library.
        (parts.hostname or "").encode("idna")
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def path_segment(value: object, field_name: str) -> str:
    """
    Check a model name or request id before it becomes part of a URL.

    :raises SegmindConfigError: it is empty or contains anything but letters, digits, dot, dash and underscore.
    """
    if not isinstance(value, str) or not readers.PATH_SEGMENT.fullmatch(value):
        raise SegmindConfigError(
            f"{field_name!r} is {shorten(repr(value))}; it must be 1 to 200 letters, digits, '.', '_' and '-'. Nothing "
            "was sent."
        )
    return value


def request_path(request_id: object) -> str:
    """Return the path of a request below the gateway's base URL."""
    return f"/v2/requests/{path_segment(request_id, 'request_id')}"


def check_api_key(api_key: str, whose: str) -> None:
    """
    Refuse a key that cannot be a header; httpx would quote it in its own error.

    :param whose: the connection, for the message.
    :raises SegmindConfigError: it contains such a character; the key is not shown.
    """
    if not re.fullmatch(r"[!-~]*", api_key):
        raise SegmindConfigError(
            f"The API key (password) of {whose} contains a space, a line break or another character that is not "
            "allowed in a key: copy it again. Nothing was sent."
        )


@dataclass(frozen=True, slots=True)
class Wire:
    """
    Builds the calls of one account.

    :param api_key: sent as ``x-api-key`` and masked in every message.
    """

    endpoints: Endpoints
    api_key: str = field(repr=False)
    headers: dict[str, str] = field(init=False, repr=False)
    """Headers of every authenticated call."""

    def __post_init__(self) -> None:
        check_api_key(self.api_key, "the Segmind connection")
        headers = {
            "x-api-key": self.api_key,
            "accept": "application/json, */*",
            "user-agent": f"airflow-provider-segmind/{__version__}",
        }
        object.__setattr__(self, "headers", headers)

    def submit(self, model: str, inputs: Mapping[str, Any]) -> Call[SubmittedRequest]:
        """``POST /v2/{model}``: paid, never idempotent."""
        url = f"{self.endpoints.gateway}/v2/{path_segment(model, 'model')}"
        context = self._context(f"Submitting to model {model!r}", paid=True, names="model")
        return self._call(context, url, partial(readers.submitted, secret=self.api_key), body=encode_inputs(inputs))

    def run_sync(self, model: str, inputs: Mapping[str, Any], timeout: float | None) -> Call[SyncResult]:
        """
        ``POST /v1/{model}``: paid, blocks until the model is done.

        :raises SegmindConfigError: ``timeout`` is not a number of seconds that a call may take.
        """
        _check_timeout(timeout)
        url = f"{self.endpoints.gateway}/v1/{path_segment(model, 'model')}"
        context = self._context(f"Running model {model!r}", paid=True, names="model")
        return self._call(context, url, readers.sync_result, body=encode_inputs(inputs), timeout=timeout)

    def status(self, request_id: str) -> Call[RequestState]:
        """``GET /v2/requests/{id}/status``: free, without the output."""
        url = f"{self.endpoints.gateway}{request_path(request_id)}/status"
        return self._poll(f"Polling the status of request {request_id!r}", url, request_id, RequestState)

    def result(self, request_id: str, *, completed: bool = False) -> Call[RequestResult]:
        """
        ``GET /v2/requests/{id}``: free, final only when COMPLETED.

        :param completed: whether ``/status`` has said COMPLETED, which the result then need not repeat.
        """
        url = f"{self.endpoints.gateway}{request_path(request_id)}"
        what = f"Fetching the result of request {request_id!r}"
        return self._poll(what, url, request_id, RequestResult, completed=completed)

    def credits(self) -> Call[Credits]:
        """``GET /v1/get-user-credits``: free, runs no model; 404 means a valid key without a balance record."""
        context = self._context("Fetching the balance", names="account")
        return self._call(context, f"{self.endpoints.gateway}/v1/get-user-credits", readers.credits)

    def models(self) -> Call[list[ModelInfo]]:
        """List the models; Segmind wraps the list in an object with one oddly named key."""
        url = f"{self.endpoints.models}/inference-model-information/list"
        return self._call(self._context("Listing the models"), url, readers.model_list)

    def request_record(self, request_id: str) -> Call[RequestRecord]:
        """Look up one row of the request history: one own request of any age."""
        url = f"{self.endpoints.history}/inference-request/request-history/{path_segment(request_id, 'request_id')}"
        context = self._context(
            f"Looking up the record of request {request_id!r}", names="record", request_id=request_id
        )
        return self._call(context, url, partial(readers.record, request_id, self.api_key))

    def request_records(
        self,
        *,
        model: str | None = None,
        from_date: date | str | None = None,
        to_date: date | str | None = None,
        status: str | None = None,
        page: int = 1,
        per_page: int = MAX_RECORDS_PER_PAGE,
    ) -> Call[RecordPage]:
        """List a page of the request history, newest first; a request with N outputs appears N times."""
        query = {
            "page": page,
            "per_page": per_page,
            "from_date": _day("from_date", from_date),
            "to_date": _day("to_date", to_date),
            "model_name": model,
            "status": status,
            "sort_by": "model_created",
            "sort_order": "desc",
        }
        text = urlencode({name: value for name, value in query.items() if value is not None})
        url = f"{self.endpoints.history}/inference-request/request-history?{text}"
        return self._call(
            self._context("Searching the request history"), url, partial(readers.record_list, self.api_key)
        )

    def upload(self, data_urls: Sequence[str]) -> Call[list[str]]:
        """Store files at Segmind and return their public URLs. Segmind documents no price for it."""
        body = json.dumps({"data_urls": list(data_urls)}).encode()
        context = self._context(f"Uploading {len(data_urls)} file(s)")
        return self._call(
            context, f"{self.endpoints.storage}/upload-asset", partial(readers.urls, len(data_urls)), body=body
        )

    def _poll(self, what: str, url: str, request_id: str, model: type[S], *, completed: bool = False) -> Call[S]:
        # Segmind sends FAILED as 422, so that it is a state and not an error.
        context = self._context(what, names="request", request_id=request_id, accepts=(422,))
        return self._call(context, url, partial(readers.state, request_id, model, self.api_key, completed=completed))

    def _context(self, what: str, **details: Any) -> CallContext:
        return CallContext(what=what, secret=self.api_key, **details)

    def _call(
        self,
        context: CallContext,
        url: str,
        read: Callable[[Response], T],
        *,
        body: bytes | None = None,
        timeout: float | None = None,
    ) -> Call[T]:
        return Call(
            context=context,
            method="GET" if body is None else "POST",
            url=url,
            read=partial(readers.read_response, context, read),
            body=body,
            headers=self.headers if body is None else {**self.headers, "content-type": "application/json"},
            timeout=timeout,
        )


def encode_inputs(inputs: Mapping[str, Any]) -> bytes:
    """
    Encode the JSON body of a paid call.

    :raises SegmindConfigError: it is not an object, or contains what JSON cannot represent.
    """
    if not isinstance(inputs, Mapping):
        raise SegmindConfigError(f"'inputs' must be an object (dict), not {type(inputs).__name__}. Nothing was sent.")
    try:
        return _INPUTS.encode(dict(inputs)).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SegmindConfigError(f"'inputs' cannot be written as JSON: {error}. Nothing was sent.") from error


def _check_timeout(value: object) -> None:
    # Checked before the call: a socket refuses some of these only when the call counts as sent.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value <= LONGEST_TIMEOUT):  # type: ignore[operator]
        raise SegmindConfigError(
            f"'timeout' is {shorten(repr(value), 40)}; it must be a number of seconds, above 0 and at most "
            f"{LONGEST_TIMEOUT:,}. Nothing was sent."
        )


def _day(field_name: str, value: object) -> str | None:
    """Return a day as the request history takes it, ``YYYY-MM-DD``."""
    try:
        if value is None or isinstance(value, str):
            return None if value is None else date.fromisoformat(value).isoformat()
    except ValueError:
        pass
    if isinstance(value, date):
        return (value.date() if isinstance(value, datetime) else value).isoformat()
    raise SegmindConfigError(
        f"{field_name!r} is {shorten(repr(value), 40)}; it must be a date, or a string like '2026-11-27'. Nothing was "
        "sent."
    )
