from __future__ import annotations

import io
from typing import Any

import pytest

from airflow_provider_segmind.client.downloads import MediaFile, download, media_files
from airflow_provider_segmind.client.http_library import httpx
from airflow_provider_segmind.client.models import RequestResult
from airflow_provider_segmind.exceptions import SegmindError, SegmindResponseError

URL = "https://images.example/a.png"


def files(**body: Any) -> list[str]:
    return [each.url for each in media_files(RequestResult(request_id="r", status="COMPLETED", **body), "flux-dev")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"output": URL, "images": [{"url": URL}, {"url": URL + "2"}]}, [URL, URL + "2"]),
        ({"output": [URL, URL + "2"]}, [URL, URL + "2"]),
        ({"video": {"url": URL}}, [URL]),
        ({"output": "a text that names " + URL}, []),
        ({"output": {"choices": [{"url": URL}]}}, []),
        ({"output": None, "images": None}, []),
    ],
)
def test_files_are_found_wherever_a_model_puts_them(body: dict[str, Any], expected: list[str]) -> None:
    assert files(**body) == expected


def test_a_download_starts_again_from_the_beginning_and_carries_no_key() -> None:
    seen: list[httpx.Request] = []

    def serve(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(503) if len(seen) == 1 else httpx.Response(200, content=b"picture")

    sinks: list[io.BytesIO] = []

    def open_sink(suffix: str) -> Any:
        assert suffix == ".png"
        sinks.append(io.BytesIO())
        return sinks[-1]

    assert download(MediaFile(URL), open_sink, transport=httpx.MockTransport(serve), sleep=lambda _: None) == 7
    assert len(seen) == 2
    assert "x-api-key" not in seen[-1].headers


@pytest.mark.parametrize("body", ["NoSuchKey", '{"error": "NoSuchKey"}'], ids=["text", "JSON"])
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 410, 413])
def test_a_file_that_is_gone_is_an_error_about_the_file(status: int, body: str) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, text=body))
    with pytest.raises(SegmindError, match=rf"HTTP {status}: 'NoSuchKey'.*billed.*seven days") as caught:
        download(MediaFile(URL), lambda _: io.BytesIO(), transport=transport, sleep=lambda _: None)
    assert caught.value.billed
    assert caught.value.retryable
    assert "base URL" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "returned"),
    [(b"", "an empty file"), (b" <!DOCTYPE html><html>sign in</html>", "a web page"), (b"<HTML>", "a web page")],
)
def test_what_is_not_the_file_is_not_stored_as_the_file(content: bytes, returned: str) -> None:
    contents = [content, content, b"picture"]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=contents.pop(0)))
    assert download(MediaFile(URL), lambda _: io.BytesIO(), transport=transport, sleep=lambda _: None) == 7

    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
    with pytest.raises(SegmindResponseError, match=rf"returned {returned}.*billed.*seven days") as caught:
        download(MediaFile(URL), lambda _: io.BytesIO(), transport=transport, sleep=lambda _: None)
    assert (caught.value.billed, caught.value.retryable) == (True, True)


def test_a_page_that_a_model_made_is_a_file() -> None:
    page = b"<html>a page</html>"
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=page))
    file = MediaFile("https://example.com/page.html")
    assert download(file, lambda _: io.BytesIO(), transport=transport) == len(page)


def test_an_address_that_a_language_model_writes_is_never_fetched() -> None:
    result = RequestResult(request_id="r", status="COMPLETED", output="https://example.com/cat.png")

    assert media_files(result, "gemini-3.1-flash-lite") == []
    assert [file.url for file in media_files(result, "seedream-4.5")] == ["https://example.com/cat.png"]
