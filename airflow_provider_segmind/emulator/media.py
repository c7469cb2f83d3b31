"""Small files that are what they say they are."""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib

CONTENT_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "jpg": "image/jpeg", "mp4": "video/mp4", "mp3": "audio/mpeg"}

# a grey baseline JPEG of 8 x 8 pixels, tables included
_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUVDA8XGBYUGBIUFRT/"
    "wAALCAAIAAgBAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEI"
    "I0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKz"
    "tLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/9oACAEBAAA/APn+v//Z"
)


def png(seed: str, *, size: int = 8) -> bytes:
    """Return a valid RGB picture of one colour, derived from ``seed``."""
    colour = hashlib.sha256(seed.encode()).digest()[:3]
    rows = (b"\x00" + colour * size) * size
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def mp4(seed: str) -> bytes:
    """Return the boxes of an MP4 file without tracks; enough for whoever looks at magic bytes."""
    free = b"segmind-emulator " + seed.encode()
    return _box(b"ftyp", b"isom\x00\x00\x02\x00isomiso2mp41") + _box(b"free", free) + _box(b"mdat", b"")


def _box(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + name + data


def mp3(seed: str) -> bytes:
    """Return an ID3 tag and one silent MPEG audio frame (128 kbit/s, 44.1 kHz)."""
    comment = seed.encode()[:80]
    return b"ID3\x03\x00\x00" + bytes([0, 0, 0, len(comment)]) + comment + b"\xff\xfb\x90\x00" + bytes(413)


def make(extension: str, seed: str) -> tuple[bytes, str]:
    """Return a file's bytes and content type.

    :param extension: png, jpeg, mp4 or mp3.
    :param seed: what the content is derived from.
    """
    makers = {"png": png, "mp4": mp4, "mp3": mp3}
    return (makers[extension](seed) if extension in makers else _JPEG), CONTENT_TYPES[extension]
