"""Files are downloaded from public hosts only, whatever the notation of the address and the target of a redirect."""

from __future__ import annotations

import io
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.client import public_network
from airflow_provider_segmind.client.config import ClientConfig, DownloadLimits
from airflow_provider_segmind.client.downloads import Downloads, MediaFile, download, media_files
from airflow_provider_segmind.client.endpoints import Endpoints
from airflow_provider_segmind.client.http_library import httpx
from airflow_provider_segmind.client.models import RequestResult
from airflow_provider_segmind.client.public_network import (
    PublicTransport,
    RefusedAddressError,
    look_up,
    why_not_public,
)
from airflow_provider_segmind.exceptions import SegmindDownloadError, SegmindError
from tests.client.test_transports import certificate_of_localhost

NOT_PUBLIC = [
    "127.0.0.1", "127.255.255.254", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254",
    "169.254.170.2", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "0.0.0.0", "0.1.2.3", "224.0.0.1",
    "239.255.255.250", "240.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1", "::", "::1", "fe80::1",
    "fe80::1%eth0",
    "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "100::1", "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::",
    "2002:a9fe:a9fe::1", "2001::1", "2001:0:7f00:1::", "not an address", "",
]  # fmt: skip
PUBLIC = [
    "8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.255.255", "100.128.0.1", "2606:4700::1111",
    "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "223.255.255.254",
]  # fmt: skip
SPELLINGS = [
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "127.1",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "[::1]",
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_the_reason_why_an_address_is_not_public_is_returned(address):
    assert why_not_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_accepted(address):
    assert why_not_public(address) is None


@given(st.ip_addresses())
def test_no_address_is_public_that_python_calls_private(address):
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        mapped = getattr(address, "ipv4_mapped", None)
        assert mapped is not None or why_not_public(str(address))


class Site(ThreadingHTTPServer):
    """A server on loopback that counts who comes."""

    def __init__(self, pages: dict[str, Any]) -> None:
        self.seen: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.seen.append(self.path)
                status, headers, body = pages[self.path]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value.replace("SELF", site.url))
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def allowed(self) -> Downloads:
        """Allow what a connection that names this server allows."""
        return Downloads.of(ClientConfig(api_key="k", endpoints=Endpoints(gateway=self.url)))


@pytest.fixture
def victim() -> Iterator[Site]:
    site = Site({"/secret.png": (200, {}, b"secret")})
    yield site
    site.shutdown()
    site.server_close()


@pytest.fixture
def emulator(victim: Site) -> Iterator[Site]:
    own = {
        "/a.png": (200, {"content-type": "image/png"}, b"picture"),
        "/moved.png": (302, {"location": "SELF/a.png"}, b""),
        "/relative.png": (307, {"location": "/moved.png"}, b""),
        "/round.png": (302, {"location": "/round.png"}, b""),
        "/file.png": (302, {"location": "file:///etc/passwd"}, b""),
        "/ftp.png": (302, {"location": "ftp://127.0.0.1/x"}, b""),
        "/large.png": (200, {}, b"x" * 5000),
    }
    away = {f"/{number}.png": (302, {"location": url}, b"") for number, url in enumerate(ways(victim.server_port))}
    site = Site(own | away)
    yield site
    site.shutdown()
    site.server_close()


def ways(port: int) -> list[str]:
    return [f"http://{host}:{port}/secret.png" for host in ("127.0.0.1", *SPELLINGS)]


def fetch(url: str, downloads: Downloads = Downloads(), **options: Any) -> bytes:  # noqa: B008 - frozen
    sinks: list[io.BytesIO] = []

    class Kept(io.BytesIO):
        def close(self) -> None:
            pass

    def open_sink(suffix: str) -> Any:
        sinks.append(Kept())
        return sinks[-1]

    size = download(MediaFile(url), open_sink, downloads=downloads, sleep=lambda _: None, **options)
    assert size == len(sinks[-1].getvalue())
    return sinks[-1].getvalue()


@pytest.mark.parametrize("way", range(1 + len(SPELLINGS)))
def test_a_private_host_is_refused_however_it_is_spelled(victim: Site, way: int) -> None:
    with pytest.raises(SegmindError) as caught:
        fetch(ways(victim.server_port)[way])

    assert victim.seen == []
    assert isinstance(caught.value, SegmindDownloadError)
    assert caught.value.refused
    assert re.search("not public|not an http address", str(caught.value))


@pytest.mark.parametrize("way", range(1 + len(SPELLINGS)))
def test_a_private_host_is_refused_after_a_redirect_too(emulator: Site, victim: Site, way: int) -> None:
    with pytest.raises(SegmindDownloadError, match=r"not public|other than an http\(s\) URL") as caught:
        fetch(f"{emulator.url}/{way}.png", emulator.allowed)

    assert caught.value.refused

    assert victim.seen == []
    assert emulator.seen == [f"/{way}.png"]


@pytest.mark.parametrize("name", ["a.png", "moved.png", "relative.png"])
def test_the_host_of_the_connection_is_reached_whatever_its_address(emulator: Site, name: str) -> None:
    assert fetch(f"{emulator.url}/{name}", emulator.allowed) == b"picture"
    with pytest.raises(SegmindDownloadError):
        fetch(f"{emulator.url}/{name}")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]"])
def test_the_connection_s_host_may_go_by_another_of_its_names(emulator: Site, host: str) -> None:
    named = ClientConfig(api_key="k", endpoints=Endpoints(gateway=f"http://{host}:{emulator.server_port}"))

    assert fetch(f"{emulator.url}/a.png", Downloads.of(named)) == b"picture"


@pytest.mark.parametrize("name", ["file.png", "ftp.png"])
def test_only_http_is_followed(emulator: Site, name: str) -> None:
    with pytest.raises(SegmindDownloadError, match="not an http address"):
        fetch(f"{emulator.url}/{name}", emulator.allowed)


def test_a_redirect_loop_ends(emulator: Site) -> None:
    with pytest.raises(SegmindDownloadError, match="redirected more than 5 times"):
        fetch(f"{emulator.url}/round.png", emulator.allowed)
    assert len(emulator.seen) == 6


def test_a_name_is_looked_up_once_and_the_checked_address_is_connected_to(victim: Site) -> None:
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["192.0.2.1"] if len(asked) > 1 else ["8.8.8.8"]

    dialled: list[httpx.Request] = []
    transport = PublicTransport(look_up=rebinding)
    transport._transport = httpx.MockTransport(lambda request: dialled.append(request) or httpx.Response(200))  # type: ignore[func-returns-value, assignment]

    with httpx.Client(transport=transport) as http:
        assert http.get("https://example.com/a.png").url.host == "example.com"
        with pytest.raises(RefusedAddressError):
            http.get("https://example.com/a.png")

    assert asked == ["example.com", "example.com"]
    assert [(request.url.host, request.headers["host"]) for request in dialled] == [("8.8.8.8", "example.com")]
    assert dialled[0].extensions["sni_hostname"] == "example.com"


@pytest.mark.parametrize("found", [["8.8.8.8", "127.0.0.1"], ["::1", "8.8.8.8"], ["8.8.8.8", "::ffff:10.0.0.1"]])
def test_a_host_with_one_private_address_is_refused(found: list[str]) -> None:
    transport = PublicTransport(look_up=lambda host, port: found)
    with pytest.raises(RefusedAddressError, match=r"'example\.com'"):
        transport.handle_request(httpx.Request("GET", "http://example.com"))


def test_every_address_of_a_host_is_tried_and_its_certificate_is_checked_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = certificate_of_localhost(tmp_path)
    site = Site({"/cat.png": (200, {}, b"cat")})
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate)
    site.socket = server_context.wrap_socket(site.socket, server_side=True)
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(public_network, "shared_tls", lambda: trusting)
    monkeypatch.setattr(public_network, "why_not_public", lambda address: None)

    with httpx.Client(transport=PublicTransport(look_up=lambda host, port: ["127.0.0.2", "127.0.0.1"])) as http:
        assert http.get(f"https://localhost:{site.server_port}/cat.png").content == b"cat"
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            http.get(f"https://elsewhere.test:{site.server_port}/cat.png")
    site.shutdown()
    site.server_close()


def test_a_host_without_an_address_is_a_connect_error() -> None:
    with pytest.raises(httpx.ConnectError):
        look_up("no-such-host.localhost" + "x" * 300, 80)


def test_another_port_of_the_connection_s_host_is_another_service(emulator: Site, victim: Site) -> None:
    with pytest.raises(SegmindDownloadError, match="not public"):
        fetch(f"{victim.url}/secret.png", emulator.allowed)
    assert victim.seen == []


def test_behind_a_proxy_a_private_host_is_refused_as_well(victim: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", victim.url)
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(SegmindDownloadError, match="not public"):
        fetch("http://10.0.0.1/secret.png")
    assert victim.seen == []


@pytest.mark.parametrize("host", ["xn--", "xn--a.test", "a..b", "-", "é" * 70])
def test_an_invalid_host_name_is_refused_or_not_found(host: str) -> None:
    def none(name: str, port: int) -> list[str]:
        raise httpx.ConnectError("no such host")

    with pytest.raises(SegmindError) as caught:
        fetch(f"http://{host}/cat.png", transport=PublicTransport(look_up=none))
    assert isinstance(caught.value, SegmindDownloadError) or caught.value.retryable


@pytest.mark.parametrize("announced", [True, False])
def test_an_error_page_of_any_size_is_an_error_of_the_server(announced: bool) -> None:
    page = [b"x" * (1 << 16)] * 32
    body = {"content": b"".join(page)} if announced else {"stream": Chunks(page)}
    with pytest.raises(SegmindError, match="HTTP 502") as caught:
        fetch("http://files.test/cat.png", transport=httpx.MockTransport(lambda _: httpx.Response(502, **body)))
    assert caught.value.retryable


class Chunks(httpx.SyncByteStream):
    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces


def test_behind_a_proxy_a_name_that_only_the_proxy_can_look_up_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up_here = socket.getaddrinfo

    def only_this_machine(host: str, *rest: Any, **options: Any) -> Any:
        if host != "127.0.0.1":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up_here(host, *rest, **options)

    proxy = Site({"http://files.example.invalid/cat.png": (200, {}, b"cat")})
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(socket, "getaddrinfo", only_this_machine)
    try:
        assert fetch("http://files.example.invalid/cat.png") == b"cat"
    finally:
        monkeypatch.undo()
        proxy.shutdown()
        proxy.server_close()


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_beyond_its_limit_is_not_read_to_its_end(emulator: Site, announced: bool) -> None:
    limits = Downloads(DownloadLimits(max_bytes=1000), emulator.allowed.hosts)
    transport = None
    if not announced:
        transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Pieces()))

    with pytest.raises(SegmindDownloadError) as caught:
        fetch(f"{emulator.url}/large.png", limits, transport=transport)

    for word in ("1000 bytes", "max_result_bytes", "billed", "seven days"):
        assert word in str(caught.value)
    assert not caught.value.retryable


class Pieces(httpx.SyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b"x" * 100


def test_a_file_that_takes_too_long_is_given_up() -> None:
    ticks = iter(range(0, 100_000, 10))
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Pieces()))

    with pytest.raises(SegmindDownloadError, match=r"stopped after 60 s\..* max_result_bytes"):
        fetch("https://example.com/a.png", Downloads(DownloadLimits(seconds=60.0)), transport=transport,
              monotonic=lambda: float(next(ticks)))  # fmt: skip


def found_in(output: Any, model: str | None, **options: Any) -> list[str]:
    result = RequestResult(request_id="r", status="COMPLETED", output=output)
    return [file.url for file in media_files(result, model, **options)]


@pytest.mark.parametrize("model", ["some-new-llm", "my-finetune", None, "gemini-3.1-flash-lite", "mistral-large"])
@pytest.mark.parametrize("wrap", [lambda url: url, lambda url: [url], lambda url: {"url": url}])
def test_an_address_that_an_unknown_model_writes_is_not_fetched_unless_files_are_asked_for(
    model: Any, wrap: Any
) -> None:
    output = wrap("https://example.com/cat.png")

    assert found_in(output, model) == []
    assert bool(found_in(output, model, wanted=True)) is (model != "gemini-3.1-flash-lite")


@pytest.mark.parametrize("url", ["https://images.segmind.com/generations/a.png", "HTTPS://Images.Segmind.com/a.png"])
def test_a_model_of_unknown_kind_may_write_segmind_s_own_addresses_too(url: str) -> None:
    assert found_in(url, "some-new-model") == []


def test_a_file_that_the_request_history_names_is_one_of_any_model() -> None:
    body = {"request_id": "r", "status": "COMPLETED", "output": "https://cdn.example/a.png", "recovered": True}

    assert len(media_files(RequestResult.model_validate(body), "some-new-model")) == 1


@pytest.mark.parametrize("model", ["seedream-4.5", "flux-dev", "veo-3", "kling-2.5", "gpt-image-2", "sdxl1.0-txt2img"])
def test_a_model_that_is_known_to_make_files_may_name_them_anywhere(model: str) -> None:
    assert found_in("https://cdn.example/a.png", model) == ["https://cdn.example/a.png"]
