"""
The files that a result points to.

Output URLs are public and live for seven days on a host of their own, so they are fetched without the API key.
"""

from __future__ import annotations

import mimetypes
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import httpx

from airflow_provider_segmind.api.answers import Answer, Asked, refusal
from airflow_provider_segmind.api.families import known_family
from airflow_provider_segmind.api.models import RequestResult
from airflow_provider_segmind.api.retry import Patience, retrying
from airflow_provider_segmind.api.transport import answer_headers, http_timeout, shared_tls, transport_error

STALL_TIMEOUT = 60.0
"""Seconds without a byte after which a download starts again; a large video may take minutes in all."""


@dataclass(frozen=True, slots=True)
class MediaFile:
    """
    A file that a result points to.

    :param content_type: as the result names it, None when it does not.
    """

    url: str
    content_type: str | None = None

    def suffix(self, content_type: str | None = None) -> str:
        """Return the file name's ending, from the URL or the media type; empty when neither tells."""
        ending = PurePosixPath(unquote(urlsplit(self.url).path)).suffix.lower()
        if re.fullmatch(r"\.[a-z0-9]{1,5}", ending):
            return ending
        return mimetypes.guess_extension(content_type or self.content_type or "") or ""


def media_files(result: RequestResult, model: str | None = None) -> list[MediaFile]:
    """
    Return the files a result points to, in order and each once.

    Images stand under ``images[]``, video and audio under an object, and ``output`` repeats the first one; results of
    other shapes (a list of URLs, nested objects) are read too.

    :param model: what made the result; the ``output`` of a language model is its answer, and an address that a model
        writes is never fetched.
    """
    found: dict[str, MediaFile] = {}

    def add(value: Any, content_type: Any = None) -> None:
        if isinstance(value, str) and re.fullmatch(r"https?://\S+", value):
            kind = content_type if isinstance(content_type, str) else None
            found.setdefault(value, MediaFile(value, kind))

    def visit(value: Any) -> None:
        if isinstance(value, list):
            for item in value:
                visit(item)
        elif isinstance(value, dict):
            add(value.get("url"), value.get("content_type"))
            for name, item in value.items():
                if name != "url":
                    visit(item if isinstance(item, (list, dict)) else None)
        else:
            add(value)

    extra = result.model_extra or {}
    for name in ("images", "video", "videos", "audio", "audios"):
        visit(extra.get(name))
    if model is not None and known_family(model) is not None:
        return list(found.values())
    if isinstance(result.output, (str, list)) or (isinstance(result.output, dict) and not _is_reply(result.output)):
        visit(result.output)
    return list(found.values())


def _is_reply(output: dict[str, Any]) -> bool:
    return any(isinstance(output.get(name), list) for name in ("choices", "candidates", "content"))


def download(
    file: MediaFile,
    open_sink: Callable[[str], BinaryIO],
    *,
    transport: httpx.BaseTransport | None = None,
    sleep: Callable[[float], None] = time.sleep,
    rng: random.Random | None = None,
) -> int:
    """
    Fetch a file without the API key and write it to what ``open_sink`` returns.

    :param open_sink: called with the file name's ending at the start of each attempt; returns a binary file to fill.
    :returns: bytes written.
    :raises SegmindError: the file cannot be had; it is kept for seven days, and nothing more is billed.
    """
    asked = Asked(what=f"Downloading {urlsplit(file.url).path!r}", secret="")

    def attempt() -> int:
        try:
            with (
                httpx.Client(transport=transport, verify=shared_tls(), follow_redirects=True) as http,
                http.stream("GET", file.url, timeout=http_timeout(STALL_TIMEOUT)) as response,
            ):
                if response.status_code != 200:
                    words = response.read()
                    raise refusal(
                        asked,
                        Answer(
                            response.status_code, words, answer_headers(response.headers.multi_items()), time.time()
                        ),
                    )
                kind = response.headers.get("content-type", "").partition(";")[0]
                written = 0
                with open_sink(file.suffix(kind)) as sink:
                    for chunk in response.iter_bytes():
                        written += sink.write(chunk)
                return written
        except httpx.HTTPError as error:
            raise transport_error(asked, file.url, error) from error

    loop = retrying(Patience(attempts=5, seconds=120.0), sleep=sleep, rng=rng or random.Random())
    return int(loop(attempt))
