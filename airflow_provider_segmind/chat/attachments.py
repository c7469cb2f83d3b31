"""
Attachments of a prompt: loaded once, identified by media type, and written in the API format of each model family.

What each family accepts (Google's, OpenAI's and Anthropic's API references; Segmind passes it through):

======  =========================  ===========================================  ===================================
kind    gemini                     openai                                       anthropic
======  =========================  ===========================================  ===================================
image   inlineData, URL: fileData  image_url (data URI or URL); JPEG, PNG,      image, source base64 or url; JPEG,
                                   GIF, WebP                                    PNG, GIF, WebP
PDF     inlineData, URL: fileData  file with file_data (data URI); no URL       document, source base64 or url
audio   inlineData, URL: fileData  input_audio, WAV or MP3; no URL              no
video   inlineData, URL: fileData  no                                           no
======  =========================  ===========================================  ===================================

Base64 has no ``data:`` prefix for Gemini and Anthropic and needs one in OpenAI's ``image_url``. What is not in the
table can still be sent as a native block inside ``messages``. This module opens no file: the caller's ``read`` does,
once per file.
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
"""Largest attachment sent inside the body, in bytes (Google's limit for an inline image of Gemini 3.1 Flash Lite)."""
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
class Attachment:
    """
    One file to send with a prompt: its bytes, or a URL that the model's provider can read.

    ``repr`` omits the bytes and the URL: a signed URL is a secret, and neither belongs in a log.

    :param media_type: for example ``image/jpeg``.
    :param data: the bytes; exactly one of ``data`` and ``url`` is given.
    :param name: its name in error messages.
    """

    media_type: str
    data: bytes | None = field(default=None, repr=False)
    url: str | None = field(default=None, repr=False)
    name: str = "file"

    def __post_init__(self) -> None:
        if (self.data is None) == (self.url is None):
            raise SegmindConfigError(f"Attachment {self.name!r} needs either data or url.")
        if self.data is not None and not self.data:
            raise SegmindConfigError(f"Attachment {self.name!r} is empty.")

    @classmethod
    def from_url(cls, url: str, *, media_type: str | None = None, name: str | None = None) -> Attachment:
        """
        Refer to a file by URL, such as one that was uploaded to Segmind's storage.

        :param media_type: required when the URL has no known file extension.
        :param name: its name in error messages.
        """
        shown = name or _short_name(url)
        found = media_type or guess_media_type(urlsplit(url).path, None)
        if found is None:
            raise SegmindConfigError(f"Attachment {shown!r}: its URL does not show its type; give media_type.")
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
        """Size of the data in bytes, 0 for a URL."""
        return len(self.data or b"")

    def base64(self) -> str:
        """Return the bytes in base64, without a ``data:`` prefix."""
        return base64.b64encode(self.data or b"").decode("ascii")

    def data_uri(self) -> str:
        """Return the bytes as a data URI, which ``image_url`` and Segmind's upload require."""
        return f"data:{self.media_type};base64,{self.base64()}"


def guess_media_type(path: str, data: bytes | None) -> str | None:
    """Guess a media type from the extension, then from the first bytes; None when neither is known."""
    extension = path.rpartition("/")[2].rpartition(".")[2].lower()
    if extension in _BY_EXTENSION:
        return _BY_EXTENSION[extension]
    if not data:
        return None
    return next((found for at, magic, found in _BY_MAGIC if data[at : at + len(magic)] == magic), None)


def load_attachment(
    source: str | os.PathLike[str] | bytes | Attachment,
    *,
    read: Callable[[str], bytes],
    max_inline_bytes: int | None = MAX_INLINE_BYTES,
    upload: Callable[[Attachment], str] | None = None,
    field_name: str = "files",
) -> Attachment:
    """
    Load one attachment, reading its file at most once.

    An ``http(s)`` URL is not fetched: the model's provider does that. A ``data:`` URI is decoded; any other string goes
    to ``read``.

    :param source: a path, a URI, an ``http(s)`` URL, a data URI, bytes, or an attachment that is already loaded.
    :param read: opens a path or URI and returns its bytes.
    :param max_inline_bytes: largest attachment to send inside the body, in bytes; None for no limit.
    :param upload: stores a larger attachment and returns its URL; without it, a larger one is an error.
    :param field_name: its name in error messages.
    :raises SegmindConfigError: it is too large, of unknown type, or empty; names the field. Nothing was sent.
    """
    if isinstance(source, Attachment):
        attachment = source
    elif isinstance(source, bytes):
        attachment = _from_bytes(source, "", field_name)
    else:
        address = os.fspath(source)
        if not isinstance(address, str) or not address.strip():
            raise SegmindConfigError(f"{field_name} is empty: give a path, a URI, an http(s) URL or bytes.")
        scheme = address.partition(":")[0].lower()
        if scheme != "data":
            _check_address(address, field_name)
        if scheme in ("http", "https"):
            return Attachment.from_url(address, name=f"{field_name} ({_short_name(address)})")
        if scheme == "data":
            attachment = decode_data_uri(address, field_name)
        else:
            attachment = _from_bytes(read(address), address, field_name)
    if max_inline_bytes is None or attachment.size <= max_inline_bytes:
        return attachment
    if upload is not None:
        return Attachment.from_url(upload(attachment), media_type=attachment.media_type, name=attachment.name)
    raise too_large_inline(attachment.name, max_inline_bytes)


def too_large_inline(name: str, limit: int) -> SegmindConfigError:
    """Return the error of an attachment that is too large to be sent inside a request."""
    return SegmindConfigError(
        f"{name} is larger than the {limit} bytes allowed inside a request. Pass an http(s) URL, make the file "
        "smaller, or upload it first (in chat tasks: large_files='upload'). Nothing was sent."
    )


def decode_data_uri(uri: str, field_name: str) -> Attachment:
    """Read a data URI."""
    head, comma, payload = uri[len("data:") :].partition(",")
    media_type = head.partition(";")[0] or "text/plain"
    if not comma or not payload:
        raise SegmindConfigError(f"{field_name} is a data URI without data.")
    try:
        encoded = head.endswith(";base64")
        data = base64.b64decode(payload, validate=True) if encoded else unquote_to_bytes(payload)
    except binascii.Error as error:
        raise SegmindConfigError(f"{field_name} is a data URI whose base64 cannot be decoded.") from error
    return Attachment(media_type=media_type, data=data, name=field_name)


def attachment_block(attachment: Attachment, family: ApiFormat) -> dict[str, Any]:
    """
    Write an attachment as one content block of a message.

    :raises SegmindConfigError: the family does not accept this media type; names the attachment.
    """
    if family is ApiFormat.GEMINI:
        block = _gemini_block(attachment)
    elif family is ApiFormat.OPENAI:
        block = _openai_block(attachment)
    else:
        block = _anthropic_block(attachment)
    if block is None:
        how = "by URL" if attachment.url else "inline"
        raise SegmindConfigError(
            f"{attachment.name}: models with the {family} format do not accept {attachment.media_type} {how}. Convert "
            "the file, choose another model, or put a native block into messages."
        )
    return block


def _gemini_block(attachment: Attachment) -> dict[str, Any] | None:
    if attachment.kind not in ("image", "audio", "video", "pdf"):
        return None
    if attachment.url is not None:
        return {"fileData": {"mimeType": attachment.media_type, "fileUri": attachment.url}}
    return {"inlineData": {"mimeType": attachment.media_type, "data": attachment.base64()}}


def _openai_block(attachment: Attachment) -> dict[str, Any] | None:
    if attachment.media_type in _COMMON_IMAGES:
        return {"type": "image_url", "image_url": {"url": attachment.url or attachment.data_uri()}}
    if attachment.url is not None:
        return None
    if attachment.kind == "pdf":
        return {"type": "file", "file": {"filename": "document.pdf", "file_data": attachment.data_uri()}}
    if attachment.media_type in _OPENAI_AUDIO:
        audio = {"data": attachment.base64(), "format": _OPENAI_AUDIO[attachment.media_type]}
        return {"type": "input_audio", "input_audio": audio}
    return None


def _anthropic_block(attachment: Attachment) -> dict[str, Any] | None:
    if attachment.media_type not in _COMMON_IMAGES and attachment.kind != "pdf":
        return None
    block_type = "document" if attachment.kind == "pdf" else "image"
    if attachment.url is not None:
        return {"type": block_type, "source": {"type": "url", "url": attachment.url}}
    source = {"type": "base64", "media_type": attachment.media_type, "data": attachment.base64()}
    return {"type": block_type, "source": source}


def _from_bytes(data: bytes, path: str, field_name: str) -> Attachment:
    name = f"{field_name} ({_short_name(path)})" if path else field_name
    if not data:
        raise SegmindConfigError(f"{name} is empty.")
    found = guess_media_type(path, data)
    if found is None:
        raise SegmindConfigError(
            f"{name}: neither its name nor its first bytes show its type; give an Attachment with its media_type."
        )
    return Attachment(media_type=found, data=data, name=name)


def _check_address(address: str, field_name: str) -> None:
    try:
        urlsplit(address)
    except ValueError as error:
        raise SegmindConfigError(f"{field_name} is not a valid URL: its host is malformed.") from error


def _short_name(path: str) -> str:
    # Only the last segment, without the query: the rest of a URL can contain account names and signatures.
    return shorten(urlsplit(path).path.rpartition("/")[2] or path.partition("?")[0], 80)
