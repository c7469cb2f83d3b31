"""A body is read up to its limit in every encoding, and memory does not grow with its decoded size."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.client.client import ClientConfig, SegmindClient
from airflow_provider_segmind.client.endpoints import Endpoints
from airflow_provider_segmind.client.response_body import (
    MAX_HEADERS,
    TRIGGERER_RESPONSE_BYTES,
    Body,
    TooLargeError,
    UnreadableBodyError,
)
from airflow_provider_segmind.client.transports import AiohttpTransport, HttpxTransport, transport_for
from airflow_provider_segmind.exceptions import (
    SegmindConnectionError,
    SegmindError,
    SegmindResponseTooLargeError,
    SegmindSubmissionUnknownError,
)
from tests.client.test_transports import KEY, Scene, page, serving

MEGABYTE = 1 << 20
LIMIT = MEGABYTE


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


ENCODERS: dict[str, Any] = {
    "identity": lambda data: data,
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "deflate ": raw_deflate,
    "gzip, gzip": lambda data: gzip.compress(gzip.compress(data)),
    "deflate, gzip": lambda data: gzip.compress(zlib.compress(data)),
}


def fill(body: Body, encoded: bytes, step: int) -> None:
    for start in range(0, len(encoded), step):
        body.add(encoded[start : start + step])


def read(encoded: bytes, encoding: str, step: int, limit: int = 10 * MEGABYTE) -> Body:
    body = Body({"content-encoding": encoding}, limit)
    fill(body, encoded, step)
    return body


@given(
    data=st.binary(max_size=2000)
    | st.builds(lambda part, times: part * times, st.binary(max_size=9), st.integers(0, 40_000)),
    encoding=st.sampled_from(list(ENCODERS)),
    step=st.integers(8, 5000),
)
def test_every_encoding_is_decoded_completely(data, encoding, step):
    body = read(ENCODERS[encoding](data), encoding, step)

    assert body.content == data
    assert body.size == len(data)


def test_gzip_members_are_joined_and_trailing_bytes_ignored():
    assert read(gzip.compress(b"a") + gzip.compress(b"b") + bytes(9), "gzip", 1000).content == b"ab"


@pytest.mark.parametrize("encoding", ENCODERS)
@pytest.mark.parametrize("step", [100, 1 << 16])
def test_nothing_is_decoded_beyond_the_limit(encoding, step):
    encoded = ENCODERS[encoding](bytes(64 * MEGABYTE))
    body = Body({"content-encoding": encoding}, LIMIT)
    tracemalloc.start()

    with pytest.raises(TooLargeError, match=f"more than {LIMIT} bytes"):
        fill(body, encoded, step)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert body.size <= LIMIT + (1 << 16)
    assert peak < 2 * LIMIT + MEGABYTE


def test_a_body_of_exactly_the_limit_is_read():
    assert len(read(gzip.compress(bytes(1000)), "gzip", 9, limit=1000).content) == 1000
    with pytest.raises(TooLargeError):
        read(gzip.compress(bytes(1001)), "gzip", 9, limit=1000)


def test_encoded_bytes_without_content_are_counted_too():
    with pytest.raises(TooLargeError):
        read(gzip.compress(b"") * 100, "gzip", 10, limit=1000)


def test_an_announced_length_beyond_the_limit_is_refused_unread():
    with pytest.raises(TooLargeError, match="1001 bytes"):
        Body({"content-length": "1001"}, 1000)
    for odd in ("1000", "-5", "²", "9" * 5000, "x"):
        Body({"content-length": odd}, 1000)


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip, gzip", "gzip, br"])
def test_an_encoding_that_was_not_asked_for_is_refused(encoding):
    with pytest.raises(UnreadableBodyError):
        Body({"content-encoding": encoding}, 1000)


@pytest.mark.parametrize("encoding", ["", "identity", "UTF-8", "none", "aws-chunked", "binary"])
def test_a_name_that_is_no_compression_is_ignored(encoding):
    assert read(b'{"a": 1}', encoding, 100).content == b'{"a": 1}'
    assert read(ENCODERS["gzip"](b"{}"), f"gzip, {encoding}", 100).content == b"{}"


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_body_that_is_not_encoded_as_announced_is_refused(encoding):
    with pytest.raises(UnreadableBodyError):
        read(b"\xff not encoded at all", encoding, 100)


def test_an_excessive_number_of_headers_is_refused():
    with pytest.raises(UnreadableBodyError, match="201 headers"):
        Body({f"x-{number}": "" for number in range(MAX_HEADERS + 1)}, 1000)


TRANSPORTS: dict[str, Any] = {
    "httpx": lambda: HttpxTransport(connections=1, seconds=9, max_bytes=LIMIT),
    "aiohttp": lambda: AiohttpTransport(connections=1, seconds=9, max_bytes=LIMIT),
}
BOMB = gzip.compress(b'{"status":"COMPLETED","output":"' + b" " * (64 * MEGABYTE) + b'"}')
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-encoding: gzip\r\n\r\n"


def chunks(data: bytes) -> bytes:
    pieces = [data[start : start + 1000] for start in range(0, len(data), 1000)]
    return CHUNKED + b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"


async def send(scene: Scene, kind: str, call: Any) -> Any:
    transport = TRANSPORTS[kind]()
    try:
        return await transport.send(call)
    finally:
        await transport.close()


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("whole", [page(BOMB, "content-encoding: gzip"), chunks(BOMB), page(bytes(2 * MEGABYTE))])
async def test_no_transport_reads_a_response_beyond_the_limit(kind, whole):
    async with serving(lambda head, reader, writer: _write(writer, whole)) as scene:
        wire = scene.config().wire
        tracemalloc.start()
        with pytest.raises(SegmindResponseTooLargeError) as result:
            await send(scene, kind, wire.result("r-1"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        with pytest.raises(SegmindResponseTooLargeError) as submit:
            await send(scene, kind, wire.submit("m", {}))

    assert peak < 12 * MEGABYTE
    assert (result.value.billed, result.value.retryable, result.value.request_id) == (True, False, "r-1")
    for word in ("'r-1'", str(LIMIT), "billed", "max_result_bytes"):
        assert word in str(result.value)
    assert submit.value.billed is None
    assert "unknown" in str(submit.value)


async def _write(writer: asyncio.StreamWriter, whole: bytes) -> None:
    writer.write(whole)
    await writer.drain()


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "deflate ", "gzip, gzip", "identity"])
async def test_every_transport_decodes_the_encodings_that_it_accepts(kind, encoding):
    body = ENCODERS[encoding](json.dumps({"status": "COMPLETED", "output": "x" * 5000}).encode())
    async with serving(
        lambda head, reader, writer: _write(writer, page(body, f"content-encoding: {encoding}"))
    ) as scene:
        found = await send(scene, kind, scene.config().wire.result("r-1"))

    assert found.output == "x" * 5000
    assert b"accept-encoding: gzip, deflate\r\n" in scene.heads[0].lower()


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("headers", [["content-encoding: br"], [f"x-{number}: y" for number in range(MAX_HEADERS + 5)]])
async def test_an_unreadable_response_means_the_same_as_a_lost_one(kind, headers):
    async with serving(lambda head, reader, writer: _write(writer, page(b"{}", *headers))) as scene:
        with pytest.raises(SegmindConnectionError):
            await send(scene, kind, scene.config().wire.status("r-1"))
        with pytest.raises(SegmindSubmissionUnknownError):
            await send(scene, kind, scene.config().wire.submit("m", {}))


@pytest.mark.parametrize("whole", [page(BOMB, "content-encoding: gzip"), chunks(BOMB), page(bytes(2 * MEGABYTE))])
async def test_the_blocking_client_stops_at_the_limit_too(whole):
    def ask(url: str) -> tuple[SegmindError, int]:
        config = ClientConfig(api_key=KEY, endpoints=Endpoints(gateway=url), max_response_bytes=LIMIT)
        with SegmindClient(config, sleep=lambda _: None) as client:
            tracemalloc.start()
            try:
                client.get_result("r-1")
            except SegmindResponseTooLargeError as error:
                return error, tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        raise AssertionError("it was read")

    async with serving(lambda head, reader, writer: _write(writer, whole)) as scene:
        error, peak = await asyncio.to_thread(ask, scene.url)

    assert error.billed is True
    assert peak < 12 * MEGABYTE


async def test_a_triggerer_has_a_lower_limit_than_a_worker():
    config = ClientConfig(api_key=KEY)
    small = ClientConfig(api_key=KEY, max_response_bytes=1000)

    for settings, polls_only, expected in (
        (config, True, TRIGGERER_RESPONSE_BYTES), (config, False, 64 * MEGABYTE), (small, True, 1000),
        (small, False, 1000),
    ):  # fmt: skip
        transport: Any = transport_for(settings, connections=1, clock=time.time, polls_only=polls_only)
        assert transport._max_bytes == expected
        await transport.close()
