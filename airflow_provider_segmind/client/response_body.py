"""
Read and decode the body of a response piece by piece, up to a limit.

A megabyte of gzip can contain a gigabyte of zeros. So nothing is decoded beyond the limit: zlib is asked for that many
bytes and no more, and the bytes that the server sends are counted as well. The client accepts only gzip and deflate; a
body compressed in another way is an error. Names that are no compression, such as ``utf-8``, are ignored, as by other
clients.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping

MAX_RESPONSE_BYTES = 64 << 20
"""Decoded bytes of a response that are read at most."""
TRIGGERER_RESPONSE_BYTES = 4 << 20
"""The limit in a triggerer, where a thousand requests share a process; a worker fetches larger responses."""
MAX_HEADERS = 200
"""Headers of a response; Segmind sends some twenty."""
ACCEPT_ENCODING = "gzip, deflate"
_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress", "dcb", "dcz"})
_STEP = 1 << 16
"""Bytes decoded at once."""
_MAX_LAYERS = 2


class TooLargeError(Exception):
    """A response is larger than its limit."""

    def __init__(self, limit: int, *, announced: int | None = None) -> None:
        size = f"more than {limit} bytes" if announced is None else f"{announced} bytes"
        super().__init__(f"{size}, but at most {limit} bytes are read")


class UnreadableBodyError(Exception):
    """A response is encoded in a way that was not asked for, cannot be decoded, or has too many headers."""


class BodyDecoder:
    """
    Decodes a body piece by piece.

    :param headers: names in lower case.
    :param limit: of its bytes, encoded and decoded.
    :param ready: whether httpx has decoded it already, as it does with a mock transport in tests.
    :raises TooLargeError: the announced length exceeds the limit.
    :raises UnreadableBodyError: the body is encoded in a way that was not asked for, or has too many headers.
    """

    def __init__(self, headers: Mapping[str, str], limit: int, *, ready: bool = False) -> None:
        if len(headers) > MAX_HEADERS:
            raise UnreadableBodyError(f"the response has {len(headers)} headers, more than {MAX_HEADERS}")
        announced = headers.get("content-length", "")
        if announced.isascii() and announced.isdigit() and len(announced) < 20 and int(announced) > limit:
            raise TooLargeError(limit, announced=int(announced))
        self._limit = limit
        self._layers = [_Layer(name, limit) for name in reversed([] if ready else _encodings(headers))]
        self._encoded_size = 0
        self.size = 0

    def decoded(self, data: bytes) -> Iterator[bytes]:
        """
        Yield the decoded content of a piece as received.

        :raises TooLargeError: this piece takes the body beyond the limit.
        :raises UnreadableBodyError: it cannot be decoded.
        """
        self._encoded_size += len(data)
        if self._encoded_size > self._limit:
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
        for piece in self._layers[number].decoded(data):
            yield from self._through(piece, number + 1)


class Body(BodyDecoder):
    """The body of one response; errors as of :class:`BodyDecoder`."""

    def __init__(self, headers: Mapping[str, str], limit: int, *, ready: bool = False) -> None:
        super().__init__(headers, limit, ready=ready)
        self._pieces: list[bytes] = []

    def add(self, data: bytes) -> None:
        """Add a piece as received."""
        self._pieces += self.decoded(data)

    @property
    def content(self) -> bytes:
        """Return the decoded body."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


class _Layer:
    """One encoding of a body, decoded step by step."""

    def __init__(self, name: str, limit: int) -> None:
        if name not in ("gzip", "x-gzip", "deflate"):
            raise UnreadableBodyError(f"the body is encoded as {name[:20]!r}, which was not asked for")
        self._gzip = name != "deflate"
        self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 16 if self._gzip else zlib.MAX_WBITS)
        self._at_start = True
        self._limit = limit
        self._size = 0

    def decoded(self, data: bytes) -> Iterator[bytes]:
        """Yield the decoded content of a piece."""
        more = bool(data)
        while more:
            piece = self._step(data)
            if piece is None:
                # Some servers send deflate without the zlib header.
                self._decoder = zlib.decompressobj(-zlib.MAX_WBITS)
                continue
            self._size += len(piece)
            if self._size > self._limit:
                raise TooLargeError(self._limit)
            yield piece
            data = self._decoder.unconsumed_tail
            if self._decoder.eof:
                data = self._decoder.unused_data
                if not self._gzip or not data.startswith(b"\x1f\x8b"):
                    return
                self._decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
            # A full step can leave more output in zlib although all input was consumed.
            more = bool(data) or len(piece) == _STEP

    def _step(self, data: bytes) -> bytes | None:
        try:
            piece = self._decoder.decompress(data, _STEP)
        except zlib.error as error:
            if self._at_start and not self._gzip:
                self._at_start = False
                return None
            raise UnreadableBodyError(str(error)) from error
        self._at_start = False
        return piece


def _encodings(headers: Mapping[str, str]) -> list[str]:
    named = (name.strip().lower() for name in headers.get("content-encoding", "").split(","))
    found = [name for name in named if name in _COMPRESSIONS]
    if len(found) > _MAX_LAYERS:
        raise UnreadableBodyError(f"the body is encoded {len(found)} times")
    return found
