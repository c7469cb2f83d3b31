"""
Read the body of a response piece by piece, unpack it, and stop at a bound.

A megabyte of gzip can hold a gigabyte of zeros. So nothing is unpacked further than up to the bound: zlib is asked for
so many bytes and no more, and what the server sends is counted as well. Only gzip and deflate are asked for; a body in
another encoding breaks the contract.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping

MAX_RESPONSE_BYTES = 64 << 20
"""Bytes of a response, unpacked, that a process takes."""
TRIGGERER_RESPONSE_BYTES = 4 << 20
"""The same in a triggerer, where a thousand requests share a process; a worker fetches what is larger."""
MAX_HEADERS = 200
"""Headers of a response; Segmind sends some twenty."""
ACCEPT_ENCODING = "gzip, deflate"
_STEP = 1 << 16
"""Bytes unpacked at once."""
_MAX_LAYERS = 2


class TooLargeError(Exception):
    """A response is larger than its bound."""

    def __init__(self, limit: int, *, announced: int | None = None) -> None:
        size = f"more than {limit} bytes" if announced is None else f"{announced} bytes"
        super().__init__(f"{size}, where at most {limit} bytes are read")
        self.limit = limit
        self.announced = announced


class UnreadableBodyError(Exception):
    """A response is encoded in a way that was not asked for, cannot be decoded, or has too many headers."""


class Unpacker:
    """
    Takes what packs a body off, piece by piece.

    :param headers: names in lower case.
    :param limit: bytes, packed and unpacked, up to which it goes.
    :param ready: whether httpx has unpacked it already, as a test's transport lets it do.
    :raises TooLargeError: its length is announced and beyond the limit.
    :raises UnreadableBodyError: it is encoded in a way that was not asked for, or has too many headers.
    """

    def __init__(self, headers: Mapping[str, str], limit: int, *, ready: bool = False) -> None:
        if len(headers) > MAX_HEADERS:
            raise UnreadableBodyError(f"the response has {len(headers)} headers, more than {MAX_HEADERS}")
        announced = headers.get("content-length", "")
        if announced.isascii() and announced.isdigit() and len(announced) < 20 and int(announced) > limit:
            raise TooLargeError(limit, announced=int(announced))
        self._limit = limit
        self._layers = [_Layer(name, limit) for name in reversed([] if ready else _encodings(headers))]
        self._packed = 0
        self.size = 0

    def unpacked(self, data: bytes) -> Iterator[bytes]:
        """
        Yield the content of a piece from the network.

        :raises TooLargeError: with this piece the body is beyond the limit.
        :raises UnreadableBodyError: it cannot be decoded.
        """
        self._packed += len(data)
        if self._packed > self._limit:
            raise TooLargeError(self._limit)
        for piece in self._through(data, 0):
            self.size += len(piece)
            if self.size > self._limit:
                raise TooLargeError(self._limit)
            yield piece

    def _through(self, data: bytes, number: int) -> Iterator[bytes]:
        if number == len(self._layers):
            yield data
            return
        for piece in self._layers[number].unpacked(data):
            yield from self._through(piece, number + 1)


class Body(Unpacker):
    """The body of one response; errors as of :class:`Unpacker`."""

    def __init__(self, headers: Mapping[str, str], limit: int, *, ready: bool = False) -> None:
        super().__init__(headers, limit, ready=ready)
        self._pieces: list[bytes] = []

    def add(self, data: bytes) -> None:
        """Take a piece as it came from the network."""
        self._pieces += self.unpacked(data)

    @property
    def content(self) -> bytes:
        """Return what came."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


class _Layer:
    """One packing of a body, taken off step by step."""

    def __init__(self, name: str, limit: int) -> None:
        if name not in ("gzip", "x-gzip", "deflate"):
            raise UnreadableBodyError(f"the body is packed as {name[:20]!r}, which was not asked for")
        self._gzip = name != "deflate"
        self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16 if self._gzip else zlib.MAX_WBITS)
        self._fresh = True
        self._limit = limit
        self._made = 0

    def unpacked(self, data: bytes) -> Iterator[bytes]:
        """Yield the content of a piece."""
        more = bool(data)
        while more:
            piece = self._step(data)
            if piece is None:
                # Some servers send deflate without zlib's frame.
                self._unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
                continue
            self._made += len(piece)
            if self._made > self._limit:
                raise TooLargeError(self._limit)
            yield piece
            data = self._unpacker.unconsumed_tail
            if self._unpacker.eof:
                data = self._unpacker.unused_data
                if not self._gzip or not data.startswith(b"\x1f\x8b"):
                    return
                self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
            # After a full step more output may follow although all input is consumed.
            more = bool(data) or len(piece) == _STEP

    def _step(self, data: bytes) -> bytes | None:
        try:
            piece = self._unpacker.decompress(data, _STEP)
        except zlib.error as error:
            if self._fresh and not self._gzip:
                self._fresh = False
                return None
            raise UnreadableBodyError(str(error)) from error
        self._fresh = False
        return piece


def _encodings(headers: Mapping[str, str]) -> list[str]:
    named = (name.strip().lower() for name in headers.get("content-encoding", "").split(","))
    found = [name for name in named if name not in ("", "identity")]
    if len(found) > _MAX_LAYERS:
        raise UnreadableBodyError(f"the body is packed {len(found)} times")
    return found
