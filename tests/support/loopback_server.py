"""A server on loopback that treats each connection as a test says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest


class Loopback:
    """A server that treats each connection as one test says, and keeps what it was sent."""

    def __init__(self, treat: Callable[[socket.socket], None]) -> None:
        self._treat = treat
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.received: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, contextlib.suppress(OSError):
                peer.settimeout(5)
                self.received.append(self._read(peer))
                self._treat(peer)

    @staticmethod
    def _read(peer: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            more = peer.recv(65536)
            if not more:
                return data
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
        while lengths and len(body) < int(lengths[0]):
            body += peer.recv(65536)
        return head + b"\r\n\r\n" + body

    def close(self) -> None:
        # Closing alone does not wake the thread that waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(timeout=10)


@pytest.fixture
def loopback() -> Iterator[Callable[[Callable[[socket.socket], None]], Loopback]]:
    servers: list[Loopback] = []

    def start(treat: Callable[[socket.socket], None]) -> Loopback:
        servers.append(Loopback(treat))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def silence(peer: socket.socket) -> None:
    with contextlib.suppress(TimeoutError):
        peer.recv(1)
