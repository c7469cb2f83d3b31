"""
Files beside a prompt: loaded once, told apart, and written as each family wants them.

What each family takes (Google's, OpenAI's and Anthropic's API references; Segmind hands them through):

======  =========================  ===========================================  ===================================
kind    gemini                     openai                                       anthropic
======  =========================  ===========================================  ===================================
image   inlineData, URL: fileData  image_url (data URI or URL); JPEG, PNG,      image, source base64 or url; JPEG,
                                   GIF, WebP                                    PNG, GIF, WebP
PDF     inlineData, URL: fileData  file with file_data (data URI); no URL       document, source base64 or url
audio   inlineData, URL: fileData  input_audio, WAV or MP3; no URL              no
video   inlineData, URL: fileData  no                                           no
======  =========================  ===========================================  ===================================

Base64 carries no ``data:`` prefix for Gemini and Anthropic and must carry one in OpenAI's ``image_url``. What is not
in the table can still be sent as a native block inside ``messages``. Nothing here opens a file: the caller's ``read``
does, once a file.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from airflow_provider_segmind.chat.model_families import ApiFormat
from airflow_provider_segmind.exceptions import SegmindConfigError, shorten

MAX_INLINE_BYTES = 7_000_000
"""Largest file sent inside the body, in bytes (Google's limit for an inline image of Gemini 3.1 Flash Lite)."""
_BY_EXTENSION = {
    "jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "gif": "image/gif", "webp": "image/webp",
    "heic": "image/heic", "heif": "image/heif", "avif": "image/avif", "bmp": "image/bmp", "tif": "image/tiff",
    "tiff": "image/tiff", "pdf": "application/pdf", "mp3": "audio/mpeg", "wav": "audio/wav", "flac": "audio/flac",
    "ogg": "audio/ogg", "oga": "audio/ogg", "m4a": "audio/mp4", "aac": "audio/aac", "aiff": "audio/aiff",
    "mp4": "video/mp4", "m4v": "video/mp4", "mov": "video/quicktime", "webm": "video/webm", "mpeg": "video/mpeg",
    "mpg": "video/mpeg", "avi": "video/x-msvideo", "wmv": "video/wmv", "3gp": "video/3gpp", "mkv": "video/x-matroska",
}  # fmt: skip
_BY_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF8", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (8, b"WAVE", "audio/wav"),
    (8, b"AVI ", "video/x-msvideo"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (4, b"ftypheic", "image/heic"),
    (4, b"ftypavif", "image/avif"),
    (4, b"ftypM4A", "audio/mp4"),
    (4, b"ftypqt", "video/quicktime"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1a\x45\xdf\xa3", "video/webm"),
)
_COMMON_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_OPENAI_AUDIO = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}


@dataclass(frozen=True, slots=True)
class FilePart:
    """
    One file to send beside a prompt: its bytes, or an address the model's provider can read.

    The bytes and the address stay out of ``repr``: a signed address is a secret, and neither belongs in a log.

    :param media_type: for example ``image/jpeg``.
    :param data: the bytes; exactly one of ``data`` and ``url`` is given.
    :param url: an ``http(s)`` address.
    :param name: what error messages call the file.
    """

    media_type: str
    data: bytes | None = field(default=None, repr=False)
    url: str | None = field(default=None, repr=False)
    name: str = "file"

    def __post_init__(self) -> None:
        if (self.data is None) == (self.url is None):
            raise SegmindConfigError(f"File {self.name!r} needs either data or url.")
        if self.data is not None and not self.data:
            raise SegmindConfigError(f"File {self.name!r} is empty.")

    @classmethod
    def from_url(cls, url: str, *, media_type: str | None = None, name: str | None = None) -> FilePart:
        """
        Point to a file by address; the hook for a file first uploaded to Segmind's storage.

        :param url: an ``http(s)`` address.
        :param media_type: needed when the address has no telling extension.
        :param name: what error messages call the file.
        """
        shown = name or _short_name(url)
        found = media_type or guess_media_type(urlsplit(url).path, None)
        if found is None:
            raise SegmindConfigError(f"File {shown!r}: its address does not tell its type, say media_type.")
        return cls(media_type=found, url=url, name=shown)

    @property
    def kind(self) -> str:
        """``image``, ``audio``, ``video``, ``pdf``, or the media type itself for anything else."""
        major = self.media_type.partition("/")[0]
        if major in ("image", "audio", "video"):
            return major
        return "pdf" if self.media_type == "application/pdf" else self.media_type

    @property
    def size(self) -> int:
        """Bytes held here, 0 for an address."""
        return len(self.data or b"")

    def base64(self) -> str:
        """Return the bytes in base64, without a ``data:`` prefix."""
        return base64.b64encode(self.data or b"").decode("ascii")

    def data_uri(self) -> str:
        """Return the bytes as a data URI, as ``image_url`` and Segmind's upload want them."""
        return f"data:{self.media_type};base64,{self.base64()}"


def guess_media_type(path: str, data: bytes | None) -> str | None:
    """
    Tell a media type by extension, then by the first bytes; None when neither tells.

    :param path: a path or name.
    :param data: the file's bytes, when they are at hand.
    """
    extension = path.rpartition("/")[2].rpartition(".")[2].lower()
    if extension in _BY_EXTENSION:
        return _BY_EXTENSION[extension]
    if not data:
        return None
    return next((found for at, magic, found in _BY_MAGIC if data[at : at + len(magic)] == magic), None)


def load_file(
    source: str | os.PathLike[str] | bytes | FilePart,
    *,
    read: Callable[[str], bytes],
    media_type: str | None = None,
    max_inline_bytes: int | None = MAX_INLINE_BYTES,
    upload: Callable[[FilePart], str] | None = None,
    field_name: str = "files",
) -> FilePart:
    """
    Load one file, reading it at most once.

    An ``http(s)`` address is not fetched: the model's provider does that. Everything else that is a string goes to
    ``read``, save a ``data:`` URI, which is decoded.

    :param source: a path, a URI, an ``http(s)`` address, a data URI, bytes, or a part that is ready.
    :param read: opens a path or URI and returns its bytes.
    :param media_type: wins over extension and first bytes.
    :param max_inline_bytes: largest file to send inside the body, in bytes; None for no limit.
    :param upload: stores a part that is too large and returns its address; without it such a file is an error.
    :param field_name: what the caller calls this file, for messages.
    :raises SegmindConfigError: too large, of unknown type, or empty; names the field. Nothing was sent.
    """
    if isinstance(source, FilePart):
        part = source
    elif isinstance(source, bytes):
        part = _from_bytes(source, "", media_type, field_name)
    else:
        address = os.fspath(source)
        if not isinstance(address, str) or not address.strip():
            raise SegmindConfigError(f"{field_name} is empty: give a path, a URI, an http(s) address or bytes.")
        scheme = address.partition(":")[0].lower()
        if scheme != "data":
            _check_address(address, field_name)
        if scheme in ("http", "https"):
            return FilePart.from_url(address, media_type=media_type, name=f"{field_name} ({_short_name(address)})")
        if scheme == "data":
            part = decode_data_uri(address, field_name)
        else:
            part = _from_bytes(read(address), address, media_type, field_name)
    if max_inline_bytes is None or part.size <= max_inline_bytes:
        return part
    if upload is not None:
        return FilePart.from_url(upload(part), media_type=part.media_type, name=part.name)
    raise SegmindConfigError(
        f"{part.name} has {part.size} bytes, over the {max_inline_bytes} that may travel inside a request. "
        "Pass an http(s) address, or upload it to Segmind's storage first."
    )


def decode_data_uri(uri: str, field_name: str) -> FilePart:
    """
    Read a data URI into a part.

    :param uri: for example ``data:image/png;base64,iVBO…``.
    :param field_name: what the caller calls this file, for messages.
    """
    head, comma, payload = uri[len("data:") :].partition(",")
    media_type = head.partition(";")[0] or "text/plain"
    if not comma or not payload:
        raise SegmindConfigError(f"{field_name} is a data URI without data.")
    try:
        encoded = head.endswith(";base64")
        data = base64.b64decode(payload, validate=True) if encoded else unquote_to_bytes(payload)
    except binascii.Error as error:
        raise SegmindConfigError(f"{field_name} is a data URI whose base64 cannot be decoded.") from error
    return FilePart(media_type=media_type, data=data, name=field_name)


def file_block(part: FilePart, family: ApiFormat) -> dict[str, Any]:
    """
    Write a file as one part of a message.

    :param part: the loaded file.
    :param family: the form to write.
    :raises SegmindConfigError: the family does not take such a file; names it.
    """
    if family is ApiFormat.GEMINI:
        block = _gemini_block(part)
    elif family is ApiFormat.OPENAI:
        block = _openai_block(part)
    else:
        block = _anthropic_block(part)
    if block is None:
        where = "by address" if part.url else "inline"
        raise SegmindConfigError(
            f"{part.name}: models of the {family} form take no {part.media_type} {where}. Convert the file, choose "
            "another model, or put a native block into messages."
        )
    return block


def _gemini_block(part: FilePart) -> dict[str, Any] | None:
    if part.kind not in ("image", "audio", "video", "pdf"):
        return None
    if part.url is not None:
        return {"fileData": {"mimeType": part.media_type, "fileUri": part.url}}
    return {"inlineData": {"mimeType": part.media_type, "data": part.base64()}}


def _openai_block(part: FilePart) -> dict[str, Any] | None:
    if part.media_type in _COMMON_IMAGES:
        return {"type": "image_url", "image_url": {"url": part.url or part.data_uri()}}
    if part.url is not None:
        return None
    if part.kind == "pdf":
        return {"type": "file", "file": {"filename": "document.pdf", "file_data": part.data_uri()}}
    if part.media_type in _OPENAI_AUDIO:
        audio = {"data": part.base64(), "format": _OPENAI_AUDIO[part.media_type]}
        return {"type": "input_audio", "input_audio": audio}
    return None


def _anthropic_block(part: FilePart) -> dict[str, Any] | None:
    if part.media_type not in _COMMON_IMAGES and part.kind != "pdf":
        return None
    block_type = "document" if part.kind == "pdf" else "image"
    if part.url is not None:
        return {"type": block_type, "source": {"type": "url", "url": part.url}}
    source = {"type": "base64", "media_type": part.media_type, "data": part.base64()}
    return {"type": block_type, "source": source}


def _from_bytes(data: bytes, path: str, media_type: str | None, field_name: str) -> FilePart:
    name = f"{field_name} ({_short_name(path)})" if path else field_name
    if not data:
        raise SegmindConfigError(f"{name} is empty.")
    found = media_type or guess_media_type(path, data)
    if found is None:
        raise SegmindConfigError(f"{name}: neither its name nor its first bytes tell its type, say media_type.")
    return FilePart(media_type=found, data=data, name=name)


def _check_address(address: str, field_name: str) -> None:
    try:
        urlsplit(address)
    except ValueError as error:
        raise SegmindConfigError(f"{field_name} is not a valid address: its host is malformed.") from error


def _short_name(path: str) -> str:
    # The last piece only, without a query: the rest of an address can hold account names and signatures.
    return shorten(urlsplit(path).path.rpartition("/")[2] or path.partition("?")[0], 80)
