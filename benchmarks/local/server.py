"""
A server that costs next to nothing, so that a benchmark measures the client.

It answers in a process of its own: Segmind's submit, status, result and balance, the two batch APIs of the peers, and
404 for a sensor that waits for a page. An id says what it was about and when it is done
(``r-<number>-<item>-<epoch seconds>``), so nothing is remembered unless the request history is wanted as well.
``/count`` tells how many connections and calls there were, and how much CPU they cost here.
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
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from local import bodies


@dataclass
class Counts:
    connections: int = 0
    calls: int = 0
    posts: int = 0
    refused: int = 0
    busiest: int = 0
    cpu: float = 0.0


class Answers:
    """Decides what a path is answered."""

    def __init__(self, options: dict[str, float], url: str = "") -> None:
        self.counts = Counts()
        self.allowed, self.window, self.latency = int(options["allowed"]), options["window"], options["latency"]
        self.accepted: deque[float] = deque()
        self.url = url
        self.result = bodies.gemini(int(options["answer"])) if options["answer"] else None
        self.history: list[tuple[str, float, bytes]] | None = [] if options["history"] else None

    def to(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        if path == "/count":
            # The question is not part of what is counted.
            self.counts.connections -= 1
            self.counts.cpu = time.process_time()
            return 200, json.dumps(vars(self.counts)).encode()
        self.counts.calls += 1
        if self.allowed and not self._admitted():
            self.counts.refused += 1
            return 429, b'{"error":"slow down"}'
        if method == "POST":
            return 200, self._accept(body)
        if path.startswith("/v2/requests/"):
            return 200, self._look(path)
        if path == "/v1/get-user-credits":
            return 200, b'{"credits":1000.0,"free-credits":0.0}'
        if self.history is not None and path.startswith("/inference-request/request-history"):
            return 200, self._page(path)
        ended = path.count("-") == 3 and float(path.rsplit("-", 1)[1]) <= time.time()
        if "messages/batches" in path:
            return 200, bodies.ANTHROPIC_ENDED if ended else bodies.ANTHROPIC
        if "batches" in path:
            return 200, bodies.OPENAI_ENDED if ended else bodies.OPENAI
        return (200 if ended else 404), b"{}"

    def _accept(self, body: bytes) -> bytes:
        self.counts.posts += 1
        now = time.time()
        _, _, after = body.partition(bodies.ITEM)
        item = after[: bodies.ITEM_DIGITS].decode() or "0"
        request_id = f"r-{self.counts.posts}-{item}-{f'{now + self.latency:.3f}' if self.latency else 0}"
        if self.history is not None:
            self.history.append((request_id, now, body))
        base = f"{self.url}/v2/requests/{request_id}"
        return (
            f'{{"poll_url":"{self.url}/v1/requests/{request_id}","request_id":"{request_id}",'
            f'"response_url":"{base}","status":"QUEUED","status_url":"{base}/status"}}'
        ).encode()

    def _look(self, path: str) -> bytes:
        _, _, _, request_id, *rest = path.split("/")
        _, _, *item, done = request_id.split("-")
        if float(done) > time.time():
            return b'{"request_id":"%s","status":"PROCESSING","metrics":{}}' % request_id.encode()
        if rest:
            return b'{"request_id":"%s","status":"COMPLETED","metrics":%s}' % (request_id.encode(), bodies.METRICS)
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
                "credits_deduction": bodies.COST,
                "request_body": json.loads(body),
                "model_created": datetime.fromtimestamp(at, UTC).isoformat(),
            }
            for request_id, at, body in reversed(self.history[max(0, end - size) : max(0, end)])
        ]
        return json.dumps({"data": rows, "total": len(self.history)}).encode()

    def _admitted(self) -> bool:
        now = time.time()
        while self.accepted and self.accepted[0] <= now - self.window:
            self.accepted.popleft()
        if len(self.accepted) >= self.allowed:
            return False
        self.accepted.append(now)
        self.counts.busiest = max(self.counts.busiest, len(self.accepted))
        return True


class Http1(asyncio.Protocol):
    """HTTP/1.1 with keep-alive."""

    def __init__(self, answers: Answers, delay: float) -> None:
        self.answers, self.delay, self.buffer = answers, delay, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.answers.counts.connections += 1

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
        status, body = self.answers.to(method.decode(), path.decode(), sent)
        head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
        self.transport.write(head + body)  # type: ignore[attr-defined]


class Http2(asyncio.Protocol):
    """HTTP/2, by the h2 package."""

    def __init__(self, answers: Answers, delay: float) -> None:
        from h2.config import H2Configuration
        from h2.connection import H2Connection

        self.answers, self.delay = answers, delay
        self.h2 = H2Connection(H2Configuration(client_side=False))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.answers.counts.connections += 1
        self.h2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        from h2.events import RequestReceived

        for event in self.h2.receive_data(data):
            if isinstance(event, RequestReceived):
                headers = dict(event.headers)
                args = event.stream_id, headers[b":method"], headers[b":path"]
                if self.delay:
                    asyncio.get_running_loop().call_later(self.delay, self.respond, *args)
                else:
                    self.respond(*args)
        self.flush()

    def respond(self, stream: int, method: bytes, path: bytes) -> None:
        status, body = self.answers.to(method.decode(), path.decode())
        self.h2.send_headers(stream, [(":status", str(status)), ("content-type", "application/json")])
        self.h2.send_data(stream, body, end_stream=True)
        self.flush()

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())  # type: ignore[attr-defined]


async def serve(options: dict[str, float], certificate: str | None) -> None:
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        if options["http2"]:
            context.set_alpn_protocols(["h2"])
    answers = Answers(options)
    kind = Http2 if options["http2"] else Http1
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: kind(answers, options["delay"]), "127.0.0.1", 0, ssl=context, backlog=4096
    )
    port = server.sockets[0].getsockname()[1]
    answers.url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
    print(port, flush=True)
    await server.serve_forever()


@dataclass(frozen=True)
class Server:
    """
    A running server.

    :param trust: file of the certificate to trust, None without TLS.
    """

    url: str
    trust: str | None

    def count(self) -> Counts:
        with urllib.request.urlopen(f"{self.url}/count") as answer:
            return Counts(**json.load(answer))  # urllib opens a connection for each call


@contextlib.contextmanager
def running(
    *,
    delay: float = 0.0,
    tls: bool = False,
    http2: bool = False,
    allowed: int = 0,
    window: float = 60.0,
    latency: float = 0.0,
    answer: int = 0,
    history: bool = False,
) -> Iterator[Server]:
    """
    Serve from a process of its own.

    :param delay: seconds before each answer.
    :param allowed: calls in a window, 0 for any number.
    :param latency: seconds after which a submitted request is done.
    :param answer: characters of the text of a result, which then looks like Gemini's; 0 for an image's URL.
    :param history: remember what was submitted and serve the request history.
    """
    with tempfile.TemporaryDirectory() as folder:
        trust = certificate = ""
        if tls or http2:
            trust, certificate = _certificates(Path(folder))
        options = {
            "delay": delay,
            "http2": http2,
            "allowed": allowed,
            "window": window,
            "latency": latency,
            "answer": answer,
            "history": history,
        }
        arguments = [sys.executable, "-m", "local.server", json.dumps(options), certificate]
        home = Path(__file__).parents[1]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=home) as process:
            try:
                assert process.stdout
                port = int(process.stdout.readline())
                yield Server(f"{'https' if certificate else 'http'}://127.0.0.1:{port}", trust or None)
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
        asyncio.run(serve(json.loads(sys.argv[1]), sys.argv[2] or None))
