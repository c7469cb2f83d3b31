"""Files beside a prompt: read once, told apart, and written as each family wants them."""

from __future__ import annotations

import base64
from pathlib import PurePosixPath

import pytest

from airflow_provider_segmind.chat.attachments import (
    MAX_INLINE_BYTES,
    FilePart,
    file_block,
    guess_media_type,
    load_file,
)
from airflow_provider_segmind.chat.model_families import ApiFormat
from airflow_provider_segmind.exceptions import SegmindConfigError

GEMINI, OPENAI, ANTHROPIC = ApiFormat.GEMINI, ApiFormat.OPENAI, ApiFormat.ANTHROPIC


class Shelf:
    """Files by address, and a note of what was read."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.read: list[str] = []

    def __call__(self, uri: str) -> bytes:
        self.read.append(uri)
        return self.files[uri]


def test_a_file_is_read_once():
    shelf = Shelf({"s3://bucket/cat.jpg": b"\xff\xd8\xff\xe0"})

    part = load_file("s3://bucket/cat.jpg", read=shelf)

    assert (part.media_type, part.data, part.kind) == ("image/jpeg", b"\xff\xd8\xff\xe0", "image")
    assert [file_block(part, family) for family in ApiFormat]
    assert shelf.read == ["s3://bucket/cat.jpg"]


def test_a_path_object_is_read_by_its_text():
    shelf = Shelf({"/data/a.pdf": b"%PDF-1.7"})

    assert load_file(PurePosixPath("/data/a.pdf"), read=shelf).kind == "pdf"


def test_an_address_is_not_read():
    shelf = Shelf({})

    part = load_file("https://files.test/dir/cat.PNG?sig=abc", read=shelf)

    assert (part.media_type, part.url, shelf.read) == ("image/png", "https://files.test/dir/cat.PNG?sig=abc", [])


def test_bytes_and_data_uris_need_no_reader():
    shelf = Shelf({})
    gif = load_file(b"GIF89a...", read=shelf)
    png = load_file("data:image/png;base64,iVBORw0KGgo=", read=shelf)

    assert (gif.media_type, png.media_type, png.data) == ("image/gif", "image/png", b"\x89PNG\r\n\x1a\n")
    assert shelf.read == []


def test_a_part_that_is_ready_stays_the_same():
    part = FilePart(media_type="image/png", data=b"1")

    assert load_file(part, read=Shelf({})) is part


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
def test_the_type_is_told_by_extension_and_then_by_the_first_bytes(path, data, expected):
    assert guess_media_type(path, data) == expected


def test_a_given_type_wins():
    assert load_file(b"%PDF-", read=Shelf({}), media_type="image/png").media_type == "image/png"


def test_a_file_over_the_limit_is_an_error_that_names_field_and_size():
    shelf = Shelf({"s3://secret-bucket/big.mp4": b"0" * (MAX_INLINE_BYTES + 1)})

    with pytest.raises(
        SegmindConfigError, match=r"files\[2\] \(big.mp4\) has 7000001 bytes, over the 7000000"
    ) as caught:
        load_file("s3://secret-bucket/big.mp4", read=shelf, field_name="files[2]")

    assert "secret-bucket" not in str(caught.value)


def test_a_file_over_the_limit_is_uploaded_where_the_caller_can_and_read_once():
    shelf = Shelf({"s3://bucket/big.mp4": b"0" * 11})
    stored: list[FilePart] = []

    def upload(part: FilePart) -> str:
        stored.append(part)
        return "https://images.segmind.com/assets/1"

    part = load_file("s3://bucket/big.mp4", read=shelf, max_inline_bytes=10, upload=upload)

    assert (part.url, part.media_type, part.data) == ("https://images.segmind.com/assets/1", "video/mp4", None)
    assert stored[0].data_uri() == "data:video/mp4;base64," + base64.b64encode(b"0" * 11).decode()
    assert shelf.read == ["s3://bucket/big.mp4"]


def test_a_file_at_the_limit_stays_inline():
    assert load_file(b"%PDF-12345", read=Shelf({}), max_inline_bytes=10).size == 10


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"plain text", "neither its name nor its first bytes tell its type"),
        (b"", "is empty"),
        ("", r"files\[0\] is empty"),
        ("s3://bucket/empty.png", r"files\[0\] \(empty.png\) is empty"),
        ("https://files.test/cat", "its address does not tell its type"),
        ("data:image/png;base64", "without data"),
        ("data:image/png;base64,***", "cannot be decoded"),
    ],
)
def test_a_source_that_cannot_be_used_is_an_error_that_names_the_field(source, message):
    with pytest.raises(SegmindConfigError, match=message):
        load_file(source, read=Shelf({"s3://bucket/empty.png": b""}), field_name="files[0]")


def test_a_part_is_either_bytes_or_an_address_and_shows_neither():
    with pytest.raises(SegmindConfigError, match="either data or url"):
        FilePart(media_type="image/png")
    with pytest.raises(SegmindConfigError, match="either data or url"):
        FilePart(media_type="image/png", data=b"1", url="https://files.test/a.png")
    assert "secret" not in repr(FilePart.from_url("https://files.test/a.png?sig=secret"))
    assert "secret" not in repr(FilePart(media_type="image/png", data=b"secret"))


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
def test_each_family_takes_documents_audio_and_video_in_its_form(family, media_type, expected):
    assert file_block(FilePart(media_type=media_type, data=b"1"), family) == expected


def test_a_pdf_and_a_video_by_address_go_to_those_who_read_them():
    pdf = FilePart.from_url(URL, media_type="application/pdf")
    video = FilePart.from_url(URL, media_type="video/mp4")

    assert file_block(pdf, ANTHROPIC) == {"type": "document", "source": {"type": "url", "url": URL}}
    assert file_block(video, GEMINI) == {"fileData": {"mimeType": "video/mp4", "fileUri": URL}}


@pytest.mark.parametrize(
    ("family", "part"),
    [
        (GEMINI, FilePart(media_type="text/csv", data=b"1", name="files[0] (x)")),
        (OPENAI, FilePart(media_type="video/mp4", data=b"1", name="files[0] (x)")),
        (OPENAI, FilePart(media_type="audio/flac", data=b"1", name="files[0] (x)")),
        (OPENAI, FilePart(media_type="image/heic", data=b"1", name="files[0] (x)")),
        (OPENAI, FilePart.from_url(URL, media_type="application/pdf", name="files[0] (x)")),
        (ANTHROPIC, FilePart(media_type="audio/wav", data=b"1", name="files[0] (x)")),
        (ANTHROPIC, FilePart(media_type="video/mp4", data=b"1", name="files[0] (x)")),
        (ANTHROPIC, FilePart(media_type="image/bmp", data=b"1", name="files[0] (x)")),
    ],
)
def test_a_file_a_family_does_not_take_is_an_error_that_names_it(family, part):
    with pytest.raises(SegmindConfigError, match=rf"files\[0\] \(x\): models of the {family} form take no"):
        file_block(part, family)


@pytest.mark.parametrize(
    "address",
    ["http://[oops/x.png", "s3://[b/x.png", "https://host]/x.png", "https://[::zz]/x.png", "http://\u2100.com/x.png"],
)
def test_an_address_whose_host_is_malformed_is_named_by_its_field(address: str) -> None:
    with pytest.raises(SegmindConfigError, match=r"files\[0\] is not a valid address"):
        load_file(address, read=lambda _: b"x", field_name="files[0]")
