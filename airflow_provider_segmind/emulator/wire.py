"""One HTTP call in, one answer out, and the ways an answer can be mistreated on its way."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
JSON_TYPE = "application/json"


@dataclass(slots=True)
class Call:
    """An HTTP request as it arrived; header names are lower-case, ``time`` is emulated."""

    method: str
    path: str
    query_string: str
    headers: dict[str, str]
    body: bytes
    time: float
    route: str
    params: dict[str, str]

    @property
    def query(self) -> dict[str, str]:
        """Query parameters, the last of each name."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    def json(self) -> Any:
        """Decode the body.

        :raises ValueError: when it is not JSON.
        """
        return json.loads(self.body)


@dataclass(slots=True)
class Answer:
    """What is sent back. ``ready`` holds an answer that is not there yet: it is called until it returns one."""

    status: int
    body: bytes = b""
    content_type: str | None = JSON_TYPE
    headers: dict[str, str] = field(default_factory=dict)
    ready: Callable[[], Answer | float] | None = None


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    """Build a JSON answer."""
    return Answer(status, json.dumps(value, ensure_ascii=False).encode(), JSON_TYPE, headers or {})


def error(status: int, words: str, headers: dict[str, str] | None = None) -> Answer:
    """Build the service's error envelope."""
    return reply({"error": words}, status, headers)


def html(status: int, title: str) -> Answer:
    """Build a web server's own error page."""
    words = f"{status} {title}"
    page = f"<html><head><title>{words}</title></head><body><center><h1>{words}</h1></center></body></html>"
    return Answer(status, page.encode(), "text/html")


async def read_body(receive: Receive) -> bytes | None:
    """Read the whole body of a request; None when the client left before it was complete."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return None if message["type"] == "http.disconnect" else body


async def send_answer(send: Send, answer: Answer, *, cut_at: int | None = None) -> None:
    """Send an answer in one piece.

    :param cut_at: send that many bytes of the body under the full Content-Length; the caller then drops the connection.
    """
    await send({"type": "http.response.start", "status": answer.status, "headers": _raw_headers(answer)})
    await send({"type": "http.response.body", "body": answer.body[:cut_at], "more_body": cut_at is not None})


async def send_slowly(send: Send, answer: Answer, seconds: float, sleep: Callable[[float], Awaitable[None]]) -> None:
    """Send the headers at once and the body in ten pieces spread over ``seconds`` of wall time."""
    await send({"type": "http.response.start", "status": answer.status, "headers": _raw_headers(answer)})
    step = max(1, -(-len(answer.body) // 10))
    for start in range(0, len(answer.body), step):
        await sleep(seconds / 10)
        await send({"type": "http.response.body", "body": answer.body[start : start + step], "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _raw_headers(answer: Answer) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-length", str(len(answer.body)).encode())]
    if answer.content_type is not None:
        headers.append((b"content-type", answer.content_type.encode("latin-1")))
    headers.extend((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items())
    return headers


async def reset(send: Send, *, abrupt: bool = True) -> None:
    """Drop the connection under a request.

    :param send: the server's own ``send``; uvicorn's belongs to an object that holds the transport.
    :param abrupt: let the client see a TCP reset rather than an orderly end.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionResetError("this server gives no access to its transport")
    sock = transport.get_extra_info("socket")
    # the socket of a client that has left meanwhile is no socket any more
    if abrupt and sock is not None and not transport.is_closing():
        # no lingering: close() then sends RST instead of FIN
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    # the server notices the loss one turn of the loop later; returning before that would be logged as a missing answer
    for _ in range(3):
        await asyncio.sleep(0)
