"""
A server that costs next to nothing, so that a benchmark measures the client.

It runs in a process of its own and serves Segmind's submit, status, result, balance and history, the batch APIs of two
peers, and 404 for a sensor that waits for a page. An id says what was asked and when it is done
(``r-<number>-<item>-<epoch seconds>``), so nothing is stored unless the request history is wanted. ``/count`` returns
how many connections and calls there were and how much CPU they took here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from benchmarks import replies


@dataclass
class Counts:
    """What a server has seen; ``cpu`` in seconds of its own process."""

    connections: int = 0
    calls: int = 0
    posts: int = 0
    cpu: float = 0.0


class Service:
    """
    Decides the response to a call.

    :param answer: characters of the text in a result, which then looks like Gemini's; 0 for the URL of an image.
    :param history: whether to store what was submitted and to serve the request history.
    :param times: whether to note when each submission came.
    :param seconds: how long a request takes.
    """

    def __init__(self, *, answer: int, history: bool, times: bool, seconds: float) -> None:
        self.counts = Counts()
        self.url = ""
        self.seconds = seconds
        self.result = replies.gemini(answer) if answer else None
        self.history: list[tuple[str, float, bytes]] | None = [] if history else None
        self.times: list[float] | None = [] if times else None

    def respond(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        if path == "/count":
            self.counts.connections -= 1  # its own
            self.counts.cpu = time.process_time()
            return 200, json.dumps(vars(self.counts)).encode()
        if path == "/times":
            return 200, json.dumps(self.times or []).encode()
        self.counts.calls += 1
        if method == "POST":
            if self.times is not None:
                self.times.append(time.time())
            return 200, self._accept(body)
        if path.startswith("/v2/requests/"):
            return 200, self._state(path)
        if path == "/v1/get-user-credits":
            return 200, b'{"credits":1000.0,"free-credits":0.0}'
        if self.history is not None and path.startswith("/inference-request/request-history"):
            return 200, self._page(path)
        ended = path.count("-") == 3 and float(path.rsplit("-", 1)[1]) <= time.time()
        if "messages/batches" in path:
            return 200, replies.ANTHROPIC_ENDED if ended else replies.ANTHROPIC
        if "batches" in path:
            return 200, replies.OPENAI_ENDED if ended else replies.OPENAI
        return (200 if ended else 404), b"{}"

    def _accept(self, body: bytes) -> bytes:
        self.counts.posts += 1
        _, _, after = body.partition(replies.ITEM)
        item = after[: replies.ITEM_DIGITS].decode() or "0"
        done = f"{time.time() + self.seconds:.3f}" if self.seconds else "0"
        request_id = f"r-{self.counts.posts}-{item}-{done}"
        if self.history is not None:
            self.history.append((request_id, time.time(), body))
        base = f"{self.url}/v2/requests/{request_id}"
        return (
            f'{{"poll_url":"{self.url}/v1/requests/{request_id}","request_id":"{request_id}",'
            f'"response_url":"{base}","status":"QUEUED","status_url":"{base}/status"}}'
        ).encode()

    def _state(self, path: str) -> bytes:
        _, _, _, request_id, *rest = path.split("/")
        _, _, *item, done = request_id.split("-")
        if float(done) > time.time():
            return b'{"request_id":"%s","status":"PROCESSING","metrics":{}}' % request_id.encode()
        if rest:
            return b'{"request_id":"%s","status":"COMPLETED","metrics":%s}' % (request_id.encode(), replies.METRICS)
        if self.result:
            before, between, after = self.result
            return b"".join((before, request_id.encode(), between, item[0].encode() if item else b"", after))
        return f'{{"request_id":"{request_id}","status":"COMPLETED","output":"https://x.test/1.png"}}'.encode()

    def _page(self, path: str) -> bytes:
        """Return a page of the request history, newest first."""
        assert self.history is not None
        query = dict(parse_qsl(urlsplit(path).query))
        size = int(query.get("per_page", 20))
        end = len(self.history) - (int(query.get("page", 1)) - 1) * size
        rows = [
            {
                "request_id": request_id,
                "model_name": query.get("model_name"),
                "model_status": "COMPLETED",
                "credits_deduction": replies.COST,
                "request_body": json.loads(body),
                "model_created": datetime.fromtimestamp(at, UTC).isoformat(),
            }
            for request_id, at, body in reversed(self.history[max(0, end - size) : max(0, end)])
        ]
        return json.dumps({"data": rows, "total": len(self.history)}).encode()


class Http1(asyncio.Protocol):
    """HTTP/1.1 with keep-alive."""

    def __init__(self, service: Service, delay: float) -> None:
        self.service, self.delay, self.buffer = service, delay, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.service.counts.connections += 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            length = 0
            if head.startswith(b"POST"):
                lower = head.lower()
                start = lower.find(b"content-length:")
                length = int(lower[start + 15 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4 : end + 4 + length]
            self.buffer = self.buffer[end + 4 + length :]
            method, path, _ = head.split(b" ", 2)
            if self.delay:
                asyncio.get_running_loop().call_later(self.delay, self.respond, method, path, body)
            else:
                self.respond(method, path, body)

    def respond(self, method: bytes, path: bytes, sent: bytes) -> None:
        status, body = self.service.respond(method.decode(), path.decode(), sent)
        head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
        self.transport.write(head + body)  # type: ignore[attr-defined]


async def serve(*, delay: float, certificate: str, **options: Any) -> None:
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    service = Service(**options)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Http1(service, delay), "127.0.0.1", 0, ssl=context, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    service.url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
    print(port, flush=True)
    await server.serve_forever()


@dataclass(frozen=True)
class Server:
    """
    A running server.

    :param trust: file of the certificate to trust, None without TLS.
    """

    url: str
    trust: str | None = None

    def count(self) -> Counts:
        with urllib.request.urlopen(f"{self.url}/count") as response:
            return Counts(**json.load(response))

    def times(self) -> list[float]:
        """Return when each call to the gateway came, epoch seconds."""
        with urllib.request.urlopen(f"{self.url}/times") as response:
            found: list[float] = json.load(response)
            return found


@contextlib.contextmanager
def running(
    *, delay: float = 0.0, tls: bool = False, answer: int = 0, history: bool = False, times: bool = False,
    seconds: float = 0.0,
) -> Iterator[Server]:  # fmt: skip
    """
    Serve from a process of its own; see :class:`Service` for the rest.

    :param delay: seconds before each response.
    """
    with tempfile.TemporaryDirectory() as folder:
        trust, certificate = _certificates(Path(folder)) if tls else ("", "")
        options: dict[str, Any] = {"delay": delay, "answer": answer, "history": history, "times": times}
        options.update(seconds=seconds, certificate=certificate)
        command = [sys.executable, "-m", "benchmarks.server", json.dumps(options)]
        home = Path(__file__).parents[1]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=home) as process:
            try:
                assert process.stdout
                port = int(process.stdout.readline())
                yield Server(f"{'https' if tls else 'http'}://127.0.0.1:{port}", trust or None)
            finally:
                process.terminate()


def _certificates(folder: Path) -> tuple[str, str]:
    import trustme

    authority = trustme.CA()
    trust, certificate = folder / "trust.pem", folder / "server.pem"
    authority.cert_pem.write_to_path(str(trust))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    return str(trust), str(certificate)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(**json.loads(sys.argv[1])))
