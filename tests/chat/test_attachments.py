"""Attachments: read once, identified by media type, and written in the format of each family."""

from __future__ import annotations

import base64
from pathlib import PurePosixPath

import pytest

from airflow_provider_segmind.chat.attachments import (
    MAX_INLINE_BYTES,
    Attachment,
    attachment_block,
    guess_media_type,
    load_attachment,
)
from airflow_provider_segmind.chat.model_families import ApiFormat
from airflow_provider_segmind.exceptions import SegmindConfigError

GEMINI, OPENAI, ANTHROPIC = ApiFormat.GEMINI, ApiFormat.OPENAI, ApiFormat.ANTHROPIC


class Shelf:
    """Files by path, and a record of which were read."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.read: list[str] = []

    def __call__(self, uri: str) -> bytes:
        self.read.append(uri)
        return self.files[uri]


def test_a_file_is_read_once():
    shelf = Shelf({"s3://bucket/cat.jpg": b"\xff\xd8\xff\xe0"})

    part = load_attachment("s3://bucket/cat.jpg", read=shelf)

    assert (part.media_type, part.data, part.kind) == ("image/jpeg", b"\xff\xd8\xff\xe0", "image")
    assert [attachment_block(part, family) for family in ApiFormat]
    assert shelf.read == ["s3://bucket/cat.jpg"]


def test_a_path_object_is_read_as_its_string():
    shelf = Shelf({"/data/a.pdf": b"%PDF-1.7"})

    assert load_attachment(PurePosixPath("/data/a.pdf"), read=shelf).kind == "pdf"


def test_a_url_is_not_fetched():
    shelf = Shelf({})

    part = load_attachment("https://files.test/dir/cat.PNG?sig=abc", read=shelf)

    assert (part.media_type, part.url, shelf.read) == ("image/png", "https://files.test/dir/cat.PNG?sig=abc", [])


def test_bytes_and_data_uris_need_no_reader():
    shelf = Shelf({})
    gif = load_attachment(b"GIF89a...", read=shelf)
    png = load_attachment("data:image/png;base64,iVBORw0KGgo=", read=shelf)

    assert (gif.media_type, png.media_type, png.data) == ("image/gif", "image/png", b"\x89PNG\r\n\x1a\n")
    assert shelf.read == []


def test_a_loaded_attachment_is_returned_unchanged():
    part = Attachment(media_type="image/png", data=b"1")

    assert load_attachment(part, read=Shelf({})) is part


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        ("cat.jpg", b"\x89PNG\r\n\x1a\n", "image/jpeg"),
        ("noname", b"\x89PNG\r\n\x1a\n", "image/png"),
        ("noname", b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        ("noname", b"RIFF\x00\x00\x00\x00WAVEfmt ", "audio/wav"),
        ("noname", b"ID3\x04", "audio/mpeg"),
        ("noname", b"\x00\x00\x00\x20ftypisom", "video/mp4"),
        ("noname", b"\x00\x00\x00\x20ftypM4A ", "audio/mp4"),
        ("noname", b"\x1a\x45\xdf\xa3", "video/webm"),
        ("s3://b.jpg/noname", b"%PDF-1.4", "application/pdf"),
        ("noname", b"plain", None),
        ("noname", None, None),
    ],
)
def test_the_media_type_is_guessed_by_extension_then_by_the_first_bytes(path, data, expected):
    assert guess_media_type(path, data) == expected


def test_a_file_over_the_limit_is_an_error_that_names_field_and_size():
    shelf = Shelf({"s3://secret-bucket/big.mp4": b"0" * (MAX_INLINE_BYTES + 1)})

    with pytest.raises(SegmindConfigError, match=r"files\[2\] \(big.mp4\) is larger than the 7000000 bytes") as caught:
        load_attachment("s3://secret-bucket/big.mp4", read=shelf, field_name="files[2]")

    assert "secret-bucket" not in str(caught.value)


def test_a_file_over_the_limit_is_read_once_and_uploaded_if_the_caller_can():
    shelf = Shelf({"s3://bucket/big.mp4": b"0" * 11})
    stored: list[Attachment] = []

    def upload(part: Attachment) -> str:
        stored.append(part)
        return "https://images.segmind.com/assets/1"

    part = load_attachment("s3://bucket/big.mp4", read=shelf, max_inline_bytes=10, upload=upload)

    assert (part.url, part.media_type, part.data) == ("https://images.segmind.com/assets/1", "video/mp4", None)
    assert stored[0].data_uri() == "data:video/mp4;base64," + base64.b64encode(b"0" * 11).decode()
    assert shelf.read == ["s3://bucket/big.mp4"]


def test_a_file_at_the_limit_stays_inline():
    assert load_attachment(b"%PDF-12345", read=Shelf({}), max_inline_bytes=10).size == 10


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"plain text", "neither its name nor its first bytes show its type"),
        (b"", "is empty"),
        ("", r"files\[0\] is empty"),
        ("s3://bucket/empty.png", r"files\[0\] \(empty.png\) is empty"),
        ("https://files.test/cat", "its URL does not show its type"),
        ("data:image/png;base64", "without data"),
        ("data:image/png;base64,***", "cannot be decoded"),
    ],
)
def test_an_unusable_source_is_an_error_that_names_the_field(source, message):
    with pytest.raises(SegmindConfigError, match=message):
        load_attachment(source, read=Shelf({"s3://bucket/empty.png": b""}), field_name="files[0]")


def test_an_attachment_is_either_bytes_or_a_url_and_its_repr_shows_neither():
    with pytest.raises(SegmindConfigError, match="either data or url"):
        Attachment(media_type="image/png")
    with pytest.raises(SegmindConfigError, match="either data or url"):
        Attachment(media_type="image/png", data=b"1", url="https://files.test/a.png")
    assert "secret" not in repr(Attachment.from_url("https://files.test/a.png?sig=secret"))
    assert "secret" not in repr(Attachment(media_type="image/png", data=b"secret"))


URL = "https://files.test/f"
TAKES = [
    (GEMINI, "application/pdf", {"inlineData": {"mimeType": "application/pdf", "data": "MQ=="}}),
    (GEMINI, "audio/mpeg", {"inlineData": {"mimeType": "audio/mpeg", "data": "MQ=="}}),
    (GEMINI, "video/mp4", {"inlineData": {"mimeType": "video/mp4", "data": "MQ=="}}),
    (OPENAI, "audio/mpeg", {"type": "input_audio", "input_audio": {"data": "MQ==", "format": "mp3"}}),
    (OPENAI, "audio/wav", {"type": "input_audio", "input_audio": {"data": "MQ==", "format": "wav"}}),
    (
        OPENAI,
        "application/pdf",
        {"type": "file", "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,MQ=="}},
    ),
    (
        ANTHROPIC,
        "application/pdf",
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "MQ=="}},
    ),
]


@pytest.mark.parametrize(("family", "media_type", "expected"), TAKES)
def test_documents_audio_and_video_are_written_in_the_format_of_each_family(family, media_type, expected):
    assert attachment_block(Attachment(media_type=media_type, data=b"1"), family) == expected


def test_a_pdf_and_a_video_by_url_go_to_the_families_that_accept_them():
    pdf = Attachment.from_url(URL, media_type="application/pdf")
    video = Attachment.from_url(URL, media_type="video/mp4")

    assert attachment_block(pdf, ANTHROPIC) == {"type": "document", "source": {"type": "url", "url": URL}}
    assert attachment_block(video, GEMINI) == {"fileData": {"mimeType": "video/mp4", "fileUri": URL}}


@pytest.mark.parametrize(
    ("family", "part"),
    [
        (GEMINI, Attachment(media_type="text/csv", data=b"1", name="files[0] (x)")),
        (OPENAI, Attachment(media_type="video/mp4", data=b"1", name="files[0] (x)")),
        (OPENAI, Attachment(media_type="audio/flac", data=b"1", name="files[0] (x)")),
        (OPENAI, Attachment(media_type="image/heic", data=b"1", name="files[0] (x)")),
        (OPENAI, Attachment.from_url(URL, media_type="application/pdf", name="files[0] (x)")),
        (ANTHROPIC, Attachment(media_type="audio/wav", data=b"1", name="files[0] (x)")),
        (ANTHROPIC, Attachment(media_type="video/mp4", data=b"1", name="files[0] (x)")),
        (ANTHROPIC, Attachment(media_type="image/bmp", data=b"1", name="files[0] (x)")),
    ],
)
def test_a_file_that_a_family_does_not_accept_is_an_error_that_names_it(family, part):
    with pytest.raises(SegmindConfigError, match=rf"files\[0\] \(x\): models with the {family} format do not accept"):
        attachment_block(part, family)


@pytest.mark.parametrize(
    "address",
    ["http://[oops/x.png", "s3://[b/x.png", "https://host]/x.png", "https://[::zz]/x.png", "http://\u2100.com/x.png"],
)
def test_a_url_with_a_malformed_host_is_an_error_that_names_the_field(address: str) -> None:
    with pytest.raises(SegmindConfigError, match=r"files\[0\] is not a valid URL"):
        load_attachment(address, read=lambda _: b"x", field_name="files[0]")
