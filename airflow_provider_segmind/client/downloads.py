"""
Downloads of the files that a result points to.

Output URLs are public and live for seven days on a host of their own, so they are fetched without the API key.
"""

from __future__ import annotations

import mimetypes
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urljoin, urlsplit

from airflow_provider_segmind.chat.model_families import known_family, makes_files
from airflow_provider_segmind.client.config import ClientConfig, DownloadLimits
from airflow_provider_segmind.client.http_library import http_timeout, httpx, response_headers, shared_tls
from airflow_provider_segmind.client.models import RequestResult
from airflow_provider_segmind.client.public_network import PublicTransport, RefusedAddressError, check_public, same_host
from airflow_provider_segmind.client.response_body import Body, BodyDecoder, TooLargeError, UnreadableBodyError
from airflow_provider_segmind.client.responses import CallContext, Response, is_page, status_error
from airflow_provider_segmind.client.retry import RetryLimits, retrying
from airflow_provider_segmind.client.transport_errors import transport_error
from airflow_provider_segmind.client.transports import environment_proxy, raw_pieces
from airflow_provider_segmind.exceptions import (
    SegmindAPIError,
    SegmindDownloadError,
    SegmindError,
    SegmindResponseError,
    shorten,
)

STALL_TIMEOUT = 60.0
"""Seconds without a byte after which a download starts again; a large video may take minutes in all."""
MAX_REDIRECTS = 5
MAX_PAGE_BYTES = 1 << 20
"""Bytes read of an error page."""
_HEADERS = {"accept-encoding": "identity"}
_KEPT = (
    "The request was billed, and its file is kept for seven days: raise the limit in the connection's extra and clear "
    "the task, or fetch the file yourself."
)

_KEPT_FOR_LATER = "The request was billed, and its file is kept for seven days; a later try may succeed."


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file that a result points to."""

    url: str
    content_type: str | None = None

    def suffix(self, content_type: str | None = None) -> str:
        """Return the file name's extension, from the URL or the media type; empty when neither has one."""
        ending = PurePosixPath(unquote(urlsplit(self.url).path)).suffix.lower()
        if re.fullmatch(r"\.[a-z0-9]{1,5}", ending):
            return ending
        return mimetypes.guess_extension(content_type or self.content_type or "") or ""


@dataclass(frozen=True, slots=True)
class Downloads:
    """
    What may be downloaded.

    :param limits: of each file.
    :param hosts: hosts and ports of the account itself, reached whatever their addresses are: the emulator, a proxy.
    """

    limits: DownloadLimits = field(default_factory=DownloadLimits)
    hosts: frozenset[tuple[str, int]] = frozenset()

    @classmethod
    def of(cls, config: ClientConfig) -> Downloads:
        """Return what an account allows."""
        ends = config.endpoints
        named = (_host_and_port(url) for url in (ends.gateway, ends.storage, ends.history, ends.models))
        return cls(config.downloads, frozenset((same_host(one[0]), one[1]) for one in named if one is not None))

    def names(self, host: str, port: int) -> bool:
        """Return whether a host belongs to the account."""
        return (same_host(host), port) in self.hosts


def media_files(result: RequestResult, model: str | None = None, *, wanted: bool = False) -> list[MediaFile]:
    """
    Return the files a result points to, in order and each once.

    Images are in ``images[]``, video and audio in an object, and ``output`` repeats the first one; results of other
    shapes (a list of URLs, nested objects) are read too.

    :param model: the model of the request. The ``output`` of a language model is its reply, and an address that a model
        writes is never fetched. So ``output`` counts only where the model is known to make files, or the request
        history names the file.
    :param wanted: whether the task asks for files, even of a model of unknown kind.
    """
    found: dict[str, MediaFile] = {}
    extra = result.model_extra or {}
    for name in ("images", "video", "videos", "audio", "audios"):
        _collect(extra.get(name), found)
    if isinstance(result.output, dict) and _is_reply(result.output):
        return list(found.values())
    speaks = model is not None and known_family(model) is not None
    makes = model is not None and makes_files(model)
    if not speaks and (wanted or makes or extra.get("recovered") is True):
        _collect(result.output, found)
    return list(found.values())


def _collect(value: Any, found: dict[str, MediaFile]) -> None:
    if isinstance(value, list):
        for item in value:
            _collect(item, found)
    elif isinstance(value, dict):
        _add(value.get("url"), value.get("content_type"), found)
        for name, item in value.items():
            if name != "url":
                _collect(item if isinstance(item, (list, dict)) else None, found)
    else:
        _add(value, None, found)


def _add(value: Any, content_type: Any, found: dict[str, MediaFile]) -> None:
    if isinstance(value, str) and re.fullmatch(r"https?://\S+", value, re.IGNORECASE):
        found.setdefault(value, MediaFile(value, content_type if isinstance(content_type, str) else None))


def _is_reply(output: dict[str, Any]) -> bool:
    return any(isinstance(output.get(name), list) for name in ("choices", "candidates", "content"))


def download(
    file: MediaFile,
    open_sink: Callable[[str], BinaryIO],
    *,
    downloads: Downloads = Downloads(),
    transport: httpx.BaseTransport | None = None,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
    rng: random.Random | None = None,
) -> int:
    """
    Fetch a file without the API key and write it to what ``open_sink`` returns.

    :param open_sink: called with the file name's extension at the start of each attempt; returns a binary file to fill.
    :returns: bytes written.
    :raises SegmindDownloadError: its address is not public, or it exceeds the limits.
    :raises SegmindError: the file could not be downloaded; it is kept for seven days, and nothing more is billed.
    """
    what = f"Downloading {shorten(urlsplit(file.url).path, 120)!r}"
    fetch = _Fetch(
        CallContext(what=what, secret=""), downloads, transport, monotonic, monotonic() + downloads.limits.seconds
    )
    loop = retrying(RetryLimits(attempts=5, seconds=120.0), sleep=sleep, rng=rng or random.Random())
    return int(loop(fetch.attempt, file, open_sink))


@dataclass(frozen=True, slots=True)
class _Fetch:
    """
    The attempts at one file.

    :param deadline: of all attempts together, on the clock of ``monotonic``.
    """

    context: CallContext
    downloads: Downloads
    transport: httpx.BaseTransport | None
    monotonic: Callable[[], float]
    deadline: float

    def attempt(self, file: MediaFile, open_sink: Callable[[str], BinaryIO]) -> int:
        """Follow redirects to the file and write it."""
        url = file.url
        try:
            for _ in range(MAX_REDIRECTS + 1):
                with (
                    self._client(url) as http,
                    http.stream("GET", url, headers=_HEADERS, timeout=self._time()) as response,
                ):
                    if response.next_request is None:
                        return self._write(file, response, open_sink)
                    url = str(response.next_request.url)
        except RefusedAddressError as error:
            raise self._refused(str(error)) from error
        except TooLargeError as error:
            raise SegmindDownloadError(
                f"{self.context.what} was stopped: the file has {error} (max_result_bytes). {_KEPT}"
            ) from error
        except httpx.InvalidURL as error:
            raise self._refused("it is not an http address of a host") from error
        except (httpx.HTTPError, UnreadableBodyError) as error:
            self._time()
            raise transport_error(self.context, url, error) from error
        raise SegmindDownloadError(f"{self.context.what} was redirected more than {MAX_REDIRECTS} times. {_KEPT}")

    def _client(self, url: str) -> httpx.Client:
        found = _host_and_port(url)
        if found is None:
            raise self._refused("it is not an http address of a host")
        if self.transport is not None:
            return httpx.Client(transport=self.transport, event_hooks=_HOOKS)
        if environment_proxy(url):
            # The proxy looks names up; a private address that can be seen from here is refused all the same. Behind a
            # proxy, public names often cannot be looked up at all.
            if not self.downloads.names(*found):
                with suppress(httpx.ConnectError):
                    check_public(*found)
            return httpx.Client(verify=shared_tls(), event_hooks=_HOOKS)
        return httpx.Client(transport=PublicTransport(self.downloads.hosts), event_hooks=_HOOKS)

    def _time(self) -> httpx.Timeout:
        remaining = self.deadline - self.monotonic()
        if remaining <= 0:
            seconds = self.downloads.limits.seconds
            raise SegmindDownloadError(
                f"{self.context.what} was stopped after {seconds:g} s. A max_result_bytes above 1 GiB in the "
                f"connection's extra allows more time in proportion. {_KEPT}"
            )
        return http_timeout(min(STALL_TIMEOUT, remaining))

    def _write(self, file: MediaFile, response: httpx.Response, open_sink: Callable[[str], BinaryIO]) -> int:
        headers = response_headers(response.headers.multi_items())
        if response.status_code != 200:
            headers.pop("content-length", None)
            page = Body(headers, MAX_PAGE_BYTES, ready=response.is_stream_consumed)
            # The limit is meant for files; of an error page, the part up to the limit is enough.
            with suppress(TooLargeError):
                for piece in raw_pieces(response):
                    page.add(piece)
            raise self._bad_status(Response(response.status_code, page.content, headers, time.time()))
        decoder = BodyDecoder(headers, self.downloads.limits.max_bytes, ready=response.is_stream_consumed)
        written = 0
        with open_sink(file.suffix(headers.get("content-type", "").partition(";")[0])) as sink:
            for chunk in raw_pieces(response):
                self._time()
                for piece in decoder.decoded(chunk):
                    if not written and is_page(piece) and file.suffix() not in (".html", ".htm"):
                        raise self._missing("a web page instead of the file")
                    written += sink.write(piece)
        if not written:
            raise self._missing("an empty file")
        return written

    def _missing(self, returned: str) -> SegmindResponseError:
        return SegmindResponseError(
            f"{self.context.what} returned {returned}. {_KEPT_FOR_LATER}", billed=True, retryable=True
        )

    def _bad_status(self, response: Response) -> SegmindError:
        error = status_error(self.context, response)
        if (
            not isinstance(error, SegmindAPIError)
            or response.status_code == 429
            or not 400 <= response.status_code < 500
        ):
            return error
        # File hosts have error pages of their own; Segmind's gateway is not involved, so there is no base URL to check.
        return SegmindResponseError(
            f"{self.context.what} returned HTTP {response.status_code}: {error.body!r}. {_KEPT_FOR_LATER}",
            billed=True,
            retryable=True,
            status_code=response.status_code,
            body=error.body,
        )

    def _refused(self, why: str) -> SegmindDownloadError:
        return SegmindDownloadError(f"{self.context.what} is refused: {why}. Nothing was sent there.", refused=True)


def _check_redirect(response: httpx.Response) -> None:
    """Refuse a redirect that httpx cannot parse, which it would report as a network error."""
    if response.has_redirect_location:
        try:
            httpx.URL(urljoin(str(response.request.url), response.headers["location"]))
        except (httpx.InvalidURL, ValueError) as error:
            raise RefusedAddressError("it redirects to something other than an http(s) URL with a host") from error


_HOOKS: dict[str, list[Callable[..., Any]]] = {"response": [_check_redirect]}


def _host_and_port(url: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme.lower())
        # httpx parses the host only when it sends, and raises its own errors and those of idna.
        _ = httpx.URL(url).host
    except (httpx.InvalidURL, ValueError):
        return None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname or port is None:
        return None
    return parts.hostname, port
