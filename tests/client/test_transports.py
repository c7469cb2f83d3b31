"""Both transports against a real server that misbehaves: what was sent, what was not, which connection is used."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airflow_provider_segmind.client import transports as room
from airflow_provider_segmind.client.client import AsyncSegmindClient, ClientConfig, SegmindClient
from airflow_provider_segmind.client.endpoints import Endpoints
from airflow_provider_segmind.client.models import SubmittedRequest
from airflow_provider_segmind.client.rate_limiter import CallWithdrawnError
from airflow_provider_segmind.client.transports import (
    AiohttpTransport,
    HttpxTransport,
    Transport,
    environment_proxy,
    prepare,
    transport_for,
)
from airflow_provider_segmind.exceptions import (
    SegmindBadRequestError,
    SegmindConfigError,
    SegmindConnectionError,
    SegmindError,
    SegmindSubmissionUnknownError,
)

KEY = "SG_0123456789abcdef"
SUBMITTED = b'{"request_id":"r-1","status":"QUEUED"}'
DONE = b'{"status":"COMPLETED"}'
Make = Callable[[int, float], Transport]


def over_httpx(connections: int, seconds: float) -> Transport:
    return HttpxTransport(connections=connections, seconds=seconds)


def over_aiohttp(connections: int, seconds: float) -> Transport:
    return AiohttpTransport(connections=connections, seconds=seconds)


TRANSPORTS = {"httpx": over_httpx, "aiohttp": over_aiohttp}
Talk = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def page(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Scene:
    """A scripted server that counts connections and keeps requests."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.opened = self.open = 0
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    def config(self, **options: object) -> ClientConfig:
        return ClientConfig(api_key=KEY, endpoints=Endpoints(gateway=self.url), **options)  # type: ignore[arg-type]


@asynccontextmanager
async def serving(answer: Talk, ssl: ssl.SSLContext | None = None) -> AsyncIterator[Scene]:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        scene.opened += 1
        scene.open += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0
                )
                scene.heads.append(head)
                scene.bodies.append(await reader.readexactly(length))
                await answer(head, reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            scene.open -= 1
            writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=ssl)
    scene = Scene(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    try:
        yield scene
    finally:
        listener.close()


def certificate_of_localhost(folder: Path) -> Path:
    """Write a certificate that signs itself, and its key, into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "localhost.pem"
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(text + signed.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture(params=TRANSPORTS)
async def make(request: pytest.FixtureRequest) -> Make:
    await prepare()
    found: Make = TRANSPORTS[request.param]
    return found


async def polite(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(page(SUBMITTED if head.startswith(b"POST") else DONE))


async def test_sequential_calls_share_a_connection_and_concurrent_calls_stay_within_the_limit(make: Make) -> None:
    async with serving(polite) as scene:
        wire, transport = scene.config().wire, make(4, 5)
        for _ in range(5):
            assert (await transport.send(wire.status("r-1"))).completed
        assert scene.opened == 1
        await asyncio.gather(*(transport.send(wire.status(f"r-{n}")) for n in range(50)))
        assert scene.opened <= 4
        await transport.close()
        await asyncio.sleep(0.05)
        assert scene.open == 0


async def test_a_post_carries_its_body_and_headers_and_its_host(make: Make) -> None:
    async with serving(polite) as scene:
        transport = make(1, 5)
        found = await transport.send(scene.config().wire.submit("m", {"prompt": "Grüße"}))
        assert found.request_id == "r-1"
        head = scene.heads[0].decode().lower()
        assert head.startswith("post /v2/m http/1.1\r\n")
        assert f"host: {scene.url.removeprefix('http://')}\r\n" in head
        assert f"x-api-key: {KEY.lower()}\r\n" in head
        assert "content-type: application/json\r\n" in head
        assert scene.bodies == ['{"prompt": "Grüße"}'.encode()]
        await transport.close()


async def test_a_path_of_a_proxied_base_url_is_kept(make: Make) -> None:
    async with serving(polite) as scene:
        config = ClientConfig(api_key=KEY, endpoints=Endpoints(gateway=f"{scene.url}/segmind/a%20b"))
        transport = make(1, 5)
        await transport.send(config.wire.status("r-1"))
        assert scene.heads[0].startswith(b"GET /segmind/a%20b/v2/requests/r-1/status HTTP/1.1\r\n")
        await transport.close()


async def test_a_traceback_does_not_show_a_key_from_a_malformed_header(make: Make) -> None:
    async def echo(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(page(SUBMITTED, f"x api key {KEY}"))

    async with serving(echo) as scene:
        transport = make(1, 5)
        with pytest.raises(SegmindSubmissionUnknownError) as caught:
            await transport.send(scene.config().wire.submit("m", {}))
        await transport.close()

    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is not None


async def test_a_connection_that_the_server_has_closed_is_not_reused(make: Make) -> None:
    async def once(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await polite(head, reader, writer)
        await writer.drain()
        writer.close()

    async with serving(once) as scene:
        wire, transport = scene.config().wire, make(2, 5)
        for _ in range(3):
            await transport.send(wire.submit("m", {}))
            await asyncio.sleep(0.02)
        assert (scene.opened, len(scene.bodies)) == (3, 3)
        await transport.close()


def leap(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Advance the clocks by which idle connections expire."""
    real = time.monotonic
    for clock in ("time.monotonic", "aiohttp.connector.monotonic"):
        monkeypatch.setattr(clock, lambda: real() + seconds)


@pytest.mark.parametrize("kind", ["httpx", "aiohttp", "blocking"])
async def test_a_paid_call_does_not_reuse_a_connection_idle_for_more_than_three_seconds(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(polite) as scene:
        client = Client.of(kind, scene.config())
        await client.submit("m", {})
        leap(monkeypatch, 2.5)
        await client.submit("m", {})
        assert scene.opened == 1
        leap(monkeypatch, 3.1)
        await client.submit("m", {})
        assert scene.opened == 2
        await client.close()


class Client:
    """A client of any kind, called from a loop."""

    def __init__(self, client: AsyncSegmindClient | SegmindClient) -> None:
        self._client = client

    @classmethod
    def of(cls, kind: str, config: ClientConfig) -> Client:
        if kind == "blocking":
            return cls(SegmindClient(config))
        client = AsyncSegmindClient(config)
        client._transport = TRANSPORTS[kind](2, 5)
        return cls(client)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._client, name)
        return method if isinstance(self._client, AsyncSegmindClient) else partial(asyncio.to_thread, method)


@pytest.mark.parametrize("kind", [HttpxTransport, AiohttpTransport])
async def test_a_transport_for_polls_only_keeps_connections_longer(
    kind: type[HttpxTransport | AiohttpTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(polite) as scene:
        wire, transport = scene.config().wire, kind(connections=2, seconds=5, keepalive=room.POLL_KEEPALIVE)
        await transport.send(wire.status("r-1"))
        leap(monkeypatch, 20.0)
        await transport.send(wire.status("r-1"))
        assert scene.opened == 1
        await transport.close()


async def hangs_up(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def resets(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()


async def cuts(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(page(SUBMITTED)[:-5])
    await writer.drain()
    writer.close()


async def babbles(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello?\r\n\r\n")


async def says_nothing(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def packs_badly(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(page(b"no gzip at all", "content-encoding: gzip"))


@pytest.mark.parametrize("trouble", [hangs_up, resets, cuts, babbles, says_nothing, packs_badly])
async def test_a_call_lost_after_sending_is_unknown_if_paid_and_retryable_if_free(trouble: Talk, make: Make) -> None:
    async with serving(trouble) as scene:
        wire, transport = scene.config().wire, make(1, 0.3)
        with pytest.raises(SegmindSubmissionUnknownError) as paid:
            await transport.send(wire.submit("m", {}))
        with pytest.raises(SegmindConnectionError) as free:
            await transport.send(wire.status("r-1"))
        assert (paid.value.billed, paid.value.retryable) == (None, False)
        assert (free.value.billed, free.value.retryable) == (False, True)
        assert KEY not in f"{paid.value}{free.value}"
        await transport.close()
        await asyncio.sleep(0.02)
        assert scene.open == 0 or trouble is says_nothing


async def test_a_refused_connection_means_that_the_call_never_left(make: Make) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        config = ClientConfig(api_key=KEY, endpoints=Endpoints(gateway=url))
        transport = make(1, 5)
        with pytest.raises(SegmindConnectionError, match="never left") as caught:
            await transport.send(config.wire.submit("m", {}))
        assert caught.value.billed is False
        await transport.close()


async def test_a_call_that_gets_no_connection_in_time_never_left(make: Make) -> None:
    async with serving(says_nothing) as scene:
        wire, transport = scene.config().wire, make(1, 1.2)
        first = asyncio.create_task(transport.send(wire.status("r-1")))
        await asyncio.sleep(0.05)
        with pytest.raises(SegmindConnectionError, match="never left"):
            await transport.send(wire.submit("m", {}))
        assert not first.done()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        # The slot is free again.
        with pytest.raises(SegmindSubmissionUnknownError):
            await transport.send(wire.submit("m", {}))
        await transport.close()


async def test_a_cancelled_call_leaves_no_half_read_connection_behind(make: Make) -> None:
    async def slowly(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"/slow" in head:
            await asyncio.sleep(0.1)
        await polite(head, reader, writer)

    async with serving(slowly) as scene:
        wire, transport = scene.config().wire, make(1, 5)
        task = asyncio.create_task(transport.send(wire.status("slow")))
        await asyncio.sleep(0.03)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await transport.send(wire.status("r-2"))).request_id == "r-2"
        assert scene.opened == 2
        await transport.close()


async def test_a_long_header_does_not_lose_the_response(make: Make) -> None:
    async def adds(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(page(b'{"request_id": "r-1"}', f"Content-Security-Policy: {'x' * 60_000}"))

    async with serving(adds) as scene:
        transport = make(1, 5)
        assert (await transport.send(scene.config().wire.submit("m", {}))).request_id == "r-1"
        await transport.close()


async def test_a_compressed_response_is_decoded(make: Make) -> None:
    async def packs(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(page(gzip.compress(DONE), "Content-Encoding: gzip"))

    async with serving(packs) as scene:
        transport = make(1, 5)
        assert (await transport.send(scene.config().wire.status("r-1"))).completed
        await transport.close()


async def test_a_failed_tls_handshake_means_that_the_call_never_left(make: Make) -> None:
    transport = make(1, 5)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    # A server without a certificate cannot finish the handshake, so nothing was sent.
    listener = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=server_context)
    url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    config = ClientConfig(api_key=KEY, endpoints=Endpoints(gateway=url))
    with pytest.raises(SegmindConnectionError, match="never left"):
        await transport.send(config.wire.submit("m", {}))
    listener.close()
    await transport.close()


async def test_tls_checks_the_name_of_the_host(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = certificate_of_localhost(tmp_path)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(room, "shared_tls", lambda: trusting)
    async with serving(polite, ssl=server_context) as scene:
        transport = make(2, 5)
        for host in ("localhost", "127.0.0.1"):
            gateway = scene.url.replace("http:", "https:").replace("127.0.0.1", host)
            config = ClientConfig(api_key=KEY, endpoints=Endpoints(gateway=gateway))
            if host == "localhost":
                assert (await transport.send(config.wire.submit("m", {"prompt": "x" * 300_000}))).request_id == "r-1"
                assert len(scene.bodies[0]) > 300_000
            else:
                with pytest.raises(SegmindConnectionError, match=r"never left.*"):
                    await transport.send(config.wire.submit("m", {}))
        await transport.close()


@asynccontextmanager
async def refusing_early(*, reads_on: bool) -> AsyncIterator[ClientConfig]:
    """Serve a refusal before the body of the request was read, and read on or not."""
    writers: list[asyncio.StreamWriter] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(page(b'{"error":"too large"}', status="413 Content Too Large"))
        await writer.drain()
        with suppress(ConnectionError):
            while reads_on and await reader.read(1 << 16):
                pass

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    gateway = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield ClientConfig(api_key=KEY, endpoints=Endpoints(gateway=gateway))
    finally:
        for writer in writers:
            writer.transport.abort()
        listener.close()
        await asyncio.sleep(0.02)


async def test_an_early_refusal_of_a_large_body_is_read(make: Make) -> None:
    async with refusing_early(reads_on=True) as config:
        transport = make(1, 5)
        with pytest.raises(SegmindBadRequestError, match="too large"):
            await transport.send(config.wire.submit("m", {"file": "x" * 20_000_000}))
        await transport.close()


async def test_an_early_refusal_without_reading_the_body_is_read_by_aiohttp_only() -> None:
    # httpx reads no response before the request was sent.
    async with refusing_early(reads_on=False) as config:
        for make, error in ((over_aiohttp, SegmindBadRequestError), (over_httpx, SegmindSubmissionUnknownError)):
            transport = make(1, 0.5)
            with pytest.raises(error):
                await transport.send(config.wire.submit("m", {"file": "x" * 20_000_000}))
            await transport.close()


async def test_an_impossible_host_is_an_error_of_the_connection(make: Make) -> None:
    config = ClientConfig(api_key=KEY, endpoints=Endpoints(gateway="https://999.1.1.1:99999"))
    transport = make(1, 5)
    with pytest.raises((SegmindConfigError, SegmindConnectionError)) as caught:
        await transport.send(config.wire.submit("m", {}))
    assert caught.value.billed is False
    await transport.close()


async def test_a_host_name_is_resolved_and_repeated_headers_are_read(make: Make) -> None:
    async def twice(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(page(b"{}", "Retry-After: 3", "X-Two: a", "x-two: b", status="429 Too Many Requests"))

    async with serving(twice) as scene:
        config = ClientConfig(api_key=KEY, endpoints=Endpoints(gateway=scene.url.replace("127.0.0.1", "localhost")))
        transport = make(1, 5)
        with pytest.raises(SegmindError) as caught:
            await transport.send(config.wire.status("r-1"))
        assert getattr(caught.value, "retry_after", None) == 3.0
        await transport.close()


async def test_the_transport_depends_on_the_extra_and_on_a_proxy_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    config = ClientConfig(api_key=KEY)
    for polls_only in (False, True):
        assert isinstance(
            transport_for(config, connections=1, clock=time.time, polls_only=polls_only), AiohttpTransport
        )
    monkeypatch.setenv("https_proxy", "http://proxy.test:3128")
    assert isinstance(transport_for(config, connections=1, clock=time.time), HttpxTransport)
    monkeypatch.delenv("https_proxy")
    monkeypatch.setattr(room, "has_aiohttp", lambda: False)
    assert isinstance(transport_for(config, connections=1, clock=time.time), HttpxTransport)


async def test_calls_go_through_a_proxy_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(polite) as scene:
        monkeypatch.setenv("http_proxy", scene.url)
        config = ClientConfig(api_key=KEY, endpoints=Endpoints(gateway="http://segmind.test"))
        async with await AsyncSegmindClient.create(config) as client:
            assert (await client.submit("m", {})).request_id == "r-1"
        assert scene.heads[0].startswith(b"POST http://segmind.test/v2/m HTTP/1.1\r\n")


def test_no_proxy_exempts_hosts_from_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.test:3128")
    monkeypatch.setenv("no_proxy", "inside.test")
    assert environment_proxy("https://api.segmind.com") == "http://proxy.test:3128"
    assert environment_proxy("https://inside.test") is None
    assert environment_proxy("http://api.segmind.com") is None


async def test_the_check_runs_once_connected_and_before_bytes_are_sent(
    make: Make,
) -> None:
    async with serving(polite) as scene:
        wire, transport = scene.config().wire, make(1, 5)
        order: list[tuple[int, int]] = []

        async def look() -> None:
            await asyncio.sleep(0.02)
            order.append((scene.opened, len(scene.heads)))

        for _ in range(2):
            await transport.send(wire.submit("m", {}), look)
        await transport.send(wire.status("r-1"))
        # Both over the one connection, which was there at the first look already.
        assert order == [(1, 0), (1, 1)]
        await transport.close()


@pytest.mark.parametrize("error", [CallWithdrawnError(), OSError(5, "a disk"), TimeoutError("a disk"), ValueError()])
async def test_an_error_of_the_check_prevents_sending_and_spoils_no_connection(make: Make, error: Exception) -> None:
    async with serving(polite) as scene:
        wire, transport = scene.config().wire, make(1, 5)

        async def refuse() -> None:
            raise error

        for _ in range(3):
            with pytest.raises(type(error)) as caught:
                await transport.send(wire.submit("m", {}), refuse)
            assert caught.value is error
        assert scene.heads == []
        await asyncio.sleep(0.05)
        assert scene.open <= 1
        assert (await transport.send(wire.status("r-1"))).completed
        await transport.close()


async def test_a_check_that_outlasts_the_call_leaves_nothing_unknown(make: Make) -> None:
    async with serving(polite) as scene:
        wire, transport = scene.config().wire, make(1, 0.2)

        async def look() -> None:
            await asyncio.sleep(0.4)

        (found,) = await asyncio.gather(transport.send(wire.submit("m", {}), look), return_exceptions=True)
        # aiohttp counts the look as part of connecting; then nothing has left, and the error says so.
        assert isinstance(found, SubmittedRequest | SegmindConnectionError)
        assert len(scene.heads) == isinstance(found, SubmittedRequest)
        await transport.close()


async def test_a_call_that_waited_for_a_connection_is_checked_after_the_wait(make: Make) -> None:
    async with serving(polite) as scene:
        wire, transport = scene.config().wire, make(1, 5)
        go, looks = asyncio.Event(), 0

        async def look() -> None:
            nonlocal looks
            looks += 1
            await go.wait()

        calls = [asyncio.create_task(transport.send(wire.submit("m", {}), look)) for _ in range(2)]
        await asyncio.sleep(0.1)
        assert (looks, scene.heads) == (1, [])
        go.set()
        await asyncio.gather(*calls)
        assert (looks, len(scene.heads)) == (2, 2)
        await transport.close()


def test_aiohttp_costs_a_triggerer_less_than_twelve_megabytes() -> None:
    script = """
import asyncio, ssl
from pathlib import Path
from airflow_provider_segmind.client.transports import AiohttpTransport, shared_tls

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

async def main():
    shared_tls()
    before = resident()
    transport = AiohttpTransport(connections=8, seconds=5)
    transport._open()
    print(resident() - before)
    await transport.close()

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) < 12_000_000


FORKED = """
import os, sys
from airflow_provider_segmind.client.client import ClientConfig, SegmindClient
from airflow_provider_segmind.client.endpoints import Endpoints

client = SegmindClient(ClientConfig(api_key="SG_0123456789abcdef", endpoints=Endpoints(gateway=sys.argv[1])))
client.get_status("r-1")
child = os.fork()
client.get_status("r-1")
client.close()
if child:
    sys.exit(os.waitpid(child, 0)[1])
"""


async def test_a_forked_process_does_not_share_the_connection_of_its_parent() -> None:
    async with serving(polite) as scene:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", FORKED, scene.url)

        assert await process.wait() == 0
        assert (len(scene.heads), scene.opened) == (3, 2)
