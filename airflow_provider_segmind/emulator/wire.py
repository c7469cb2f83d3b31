"""An HTTP call and its response, and the ways in which sending a response can go wrong."""

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
    """An HTTP request as received; header names are lower-case, ``time`` is emulated."""

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

        :raises ValueError: it is not JSON.
        """
        return json.loads(self.body)


@dataclass(slots=True)
class Response:
    """An HTTP response. ``ready``, if set, is called until it returns the response, or else the seconds to wait."""

    status: int
    body: bytes = b""
    content_type: str | None = JSON_TYPE
    headers: dict[str, str] = field(default_factory=dict)
    ready: Callable[[], Response | float] | None = None


def reply(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Build a JSON response."""
    return Response(status, json.dumps(value, ensure_ascii=False).encode(), JSON_TYPE, headers or {})


def error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Build an error response of the service."""
    return reply({"error": message}, status, headers)


def html(status: int, title: str) -> Response:
    """Build the HTML error page of a web server."""
    title = f"{status} {title}"
    page = f"<html><head><title>{title}</title></head><body><center><h1>{title}</h1></center></body></html>"
    return Response(status, page.encode(), "text/html")


async def read_body(receive: Receive) -> bytes | None:
    """Read the whole body of a request; None if the client disconnected before it was complete."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return None if message["type"] == "http.disconnect" else body


async def send_response(send: Send, response: Response, *, cut_at: int | None = None) -> None:
    """Send a response in one piece.

    :param cut_at: send that many bytes of the body under the full Content-Length; the caller then drops the connection.
    """
    await send({"type": "http.response.start", "status": response.status, "headers": _raw_headers(response)})
    await send({"type": "http.response.body", "body": response.body[:cut_at], "more_body": cut_at is not None})


async def send_slowly(
    send: Send, response: Response, seconds: float, sleep: Callable[[float], Awaitable[None]]
) -> None:
    """Send the headers at once and the body in ten pieces spread over ``seconds`` of wall time."""
    await send({"type": "http.response.start", "status": response.status, "headers": _raw_headers(response)})
    step = max(1, -(-len(response.body) // 10))
    for start in range(0, len(response.body), step):
        await sleep(seconds / 10)
        await send({"type": "http.response.body", "body": response.body[start : start + step], "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _raw_headers(response: Response) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-length", str(len(response.body)).encode())]
    if response.content_type is not None:
        headers.append((b"content-type", response.content_type.encode("latin-1")))
    headers.extend(
        (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items()
    )
    return headers


async def reset(send: Send, *, abrupt: bool = True) -> None:
    """Drop the connection of a request.

    :param send: the server's own ``send``; uvicorn's belongs to an object that has the transport.
    :param abrupt: with a TCP reset rather than a normal close.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionResetError("this server gives no access to its transport")
    sock = transport.get_extra_info("socket")
    # the socket of a client that has disconnected meanwhile is no longer valid
    if abrupt and sock is not None and not transport.is_closing():
        # no lingering: close() then sends RST instead of FIN
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    # the server notices the loss one iteration of the loop later; returning earlier would log a missing response
    for _ in range(3):
        await asyncio.sleep(0)
