"""
httpcore's connections over asyncio's own streams.

httpcore brings a backend over anyio, whose scopes and checkpoints are a quarter of what a call costs. This one also
sends a call's head and body together: two small packets cost twice the system calls of one.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore

BUFFER = 1 << 18
"""Bytes that are read ahead of what is asked for."""


class AsyncioStream(httpcore.AsyncNetworkStream):
    """A connection; what is written leaves before the next read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._held: list[bytes] = []

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Send what is held back, then read; empty at the end."""
        if self._held:
            # Not waiting until all is sent: a server may refuse a large body before it has read it.
            self._writer.writelines(self._held)
            self._held = []
        with _named(httpcore.ReadError, httpcore.ReadTimeout):
            return await self._reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Take bytes to send."""
        if buffer:
            self._held.append(buffer)

    async def aclose(self) -> None:
        """Close without waiting for the other side, or for what is not sent yet."""
        self._writer.transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Return the connection, which :class:`AsyncioNetwork` opened with TLS already."""
        return self

    def get_extra_info(self, info: str) -> Any:
        """Return what asyncio knows; ``is_readable`` of an idle connection means that the other side has closed it."""
        if info != "is_readable":
            return self._writer.get_extra_info(info)
        if self._reader.at_eof() or self._writer.is_closing():
            return True
        poll = select.poll()
        poll.register(self._writer.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))


class AsyncioNetwork(httpcore.AsyncNetworkBackend):
    """
    Opens connections to hosts of one kind.

    :param tls: how to speak TLS to them, None for plain text.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> AsyncioStream:
        """Connect, TLS included."""
        with _named(httpcore.ConnectError, httpcore.ConnectTimeout):
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_connection(
                    host,
                    port,
                    ssl=self._tls,
                    server_hostname=host if self._tls else None,
                    happy_eyeballs_delay=0.25,
                    limit=BUFFER,
                )
        return AsyncioStream(reader, writer)


@contextmanager
def _named(broken: type[Exception], late: type[Exception]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise late(str(error)) from error
    except (OSError, EOFError) as error:
        # ssl.SSLError is an OSError; the words of a certificate's trouble stay.
        raise broken(str(error)) from error
