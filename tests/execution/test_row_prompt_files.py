"""Attachments of rows: loaded when the row is prepared, part of its fingerprint, and limited in size."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.io import ObjectStoragePath, attach
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_segmind.chat.model_families import ApiFormat
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.enrichment.rows import Row
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindRowError
from airflow_provider_segmind.execution.row_prompt import RowAttachments
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator
from tests.support.table_tasks import Table

PNG = b"\x89PNG\r\n\x1a\n"
QUESTION = "What is in this picture?"


class Album(Table):
    """A folder of pictures, and task instances that ask about them."""

    def shoot(self, **pictures: bytes) -> None:
        (self.folder / "photos").mkdir(exist_ok=True)
        for name, content in pictures.items():
            (self.folder / "photos" / f"{name}.png").write_bytes(PNG + content)

    def caption(self, *names: str, **fields: Any) -> Any:
        given = {"files": [f"{self.folder}/photos/{{name}}.png"], "prompt": QUESTION, "on_partial": "succeed"}
        return self.ask(source=[{"id": name, "name": name} for name in names], **{**given, **fields})

    @property
    def sent(self) -> list[bytes]:
        """The pictures sent."""
        parts = [post.json["messages"]["contents"][0]["parts"][1] for post in self.emulator.posts()]
        return [base64.b64decode(part["inlineData"]["data"]) for part in parts]


@pytest.fixture
def album(tmp_path: Path, segmind_emulator: SegmindEmulator) -> Album:
    return Album(tmp_path, segmind_emulator)


def test_each_row_is_asked_about_its_own_picture_and_equal_pictures_are_paid_once(album: Album) -> None:
    album.shoot(sky=b"blue", sea=b"blue", rose=b"red")

    manifest = album.caption("sky", "sea", "rose")

    assert [row["_segmind_status"] for row in album.rows] == ["success"] * 3
    assert sorted(album.sent) == [PNG + b"blue", PNG + b"red"]
    assert manifest["duplicates_saved"] == 1


@pytest.mark.parametrize("kind", [str, Path, lambda text: ObjectStoragePath(f"file://{text}")])
def test_a_picture_may_be_named_by_a_path_of_any_kind(kind: Callable[[str], Any], album: Album) -> None:
    album.shoot(sky=b"blue", rose=b"red")

    album.caption("sky", "rose", files=[kind(f"{album.folder}/photos/{{name}}.png")], prompt="Describe it.")

    assert sorted(album.sent) == [PNG + b"blue", PNG + b"red"]


@pytest.mark.parametrize("wrong", [5, b"/p/{name}.png", None, {"path": "/p/{name}.png"}])
def test_what_is_not_a_path_of_a_picture_is_refused(wrong: Any, album: Album) -> None:
    with pytest.raises(SegmindConfigError, match=r"'files\[0\]'"):
        album.caption("sky", files=[wrong])


def test_a_changed_picture_is_asked_about_again_and_an_unchanged_one_is_not(album: Album) -> None:
    album.shoot(sky=b"blue", rose=b"red")
    album.caption("sky", "rose")

    album.shoot(sky=b"grey")
    album.caption("rose", "sky")

    assert sorted(album.sent) == [PNG + b"blue", PNG + b"grey", PNG + b"red"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "files[0] ('bad.png') does not exist"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(PNG + bytes(7_000_000)), "larger than the 7000000 bytes"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read: IsADirectoryError"),
    ],
)
@pytest.mark.parametrize("names", [("bad", "sky"), ("sky", "bad")])
def test_a_row_whose_picture_cannot_be_sent_is_listed_and_costs_nothing(
    album: Album, names: tuple[str, ...], spoil: Any, reason: str
) -> None:
    album.shoot(sky=b"blue", bad=b"any")
    spoil(album.folder / "photos" / "bad.png")

    manifest = album.caption(*names)

    assert (manifest["outcomes"]["success"], manifest["outcomes"]["skipped"]) == (1, 1)
    [letter] = album.dead_letters
    assert letter["key"] == {"id": "bad"}
    assert reason in letter["reason"]
    assert "Nothing was sent" in letter["reason"]
    assert album.posts == 1


def test_an_http_address_is_sent_in_place_of_the_picture(album: Album) -> None:
    for address in ("https://example.com/a.png", "https://example.com/a.png", "https://example.com/b.png"):
        album.ask(source=[{"id": 1, "uri": address}], files=["{uri}"], prompt=QUESTION)

    parts = [post.json["messages"]["contents"][0]["parts"][1] for post in album.emulator.posts()]
    assert [part["fileData"]["fileUri"][-5:] for part in parts] == ["a.png", "b.png"]


def test_a_column_of_bytes_is_sent_unchanged(album: Album) -> None:
    album.ask(source=[{"id": 1, "photo": PNG + b"blue"}], files=["{photo}"], prompt=QUESTION)

    assert album.sent == [PNG + b"blue"]


def test_pictures_come_from_object_storage(album: Album) -> None:
    attach("memory", fs=MemoryFileSystem())
    path = ObjectStoragePath("memory://album/sky.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PNG + b"blue")

    album.ask(source=[{"id": 1, "uri": str(path)}], files=["{uri}"], prompt=QUESTION)

    assert album.sent == [PNG + b"blue"]


def test_a_missing_column_is_named_before_anything_is_sent(album: Album) -> None:
    with pytest.raises(Exception, match="no column 'photo'"):
        album.ask(source=[{"id": 1}], files=["/photos/{photo}"], prompt=QUESTION)
    assert album.posts == 0


def test_a_dry_run_counts_pictures_and_rows_that_cannot_be_asked(album: Album) -> None:
    album.shoot(sky=b"blue")

    estimate = album.caption("gone", "sky", dry_run=True)

    assert (estimate["rows"], estimate["skipped_rows"]) == (1, 1)
    assert estimate["input_tokens"] > 200
    assert album.posts == 0


@pytest.mark.parametrize(
    ("template", "value", "reason"),
    [
        ("{name}", "/etc/passwd", "local file of the worker"),
        ("{name}", "file:///etc/passwd", "local file of the worker"),
        ("{name}", "FILE:///etc/passwd", "local file of the worker"),
        ("{name}", "local:///etc/passwd", "local file of the worker"),
        ("{name}", " file:///etc/passwd", "local file of the worker"),
        ("{name}", "\x01\nfile:///etc/passwd", "local file of the worker"),
        ("{name}", "fi\tle:///etc/passwd", "local file of the worker"),
        (" {name}", "file:///etc/passwd", "local file of the worker"),
        ("{name}", "1://etc/passwd", "local file of the worker"),
        ("file:///photos/{name}", ".\t./etc/passwd", "leaves its folder"),
        ("s3://aws@photos/{name}", "a/.\n./.\r./other/secret.png", "leaves its folder"),
        ("/photos/{name}", "../etc/passwd", "leaves its folder"),
        ("{name}", "s3://other@vault/secret.png", "names a Connection"),
        ("s3://{name}", "other@vault/secret.png", "names a Connection"),
        ("{name}", "gopher://photos/a.png", "storage system that this Airflow does not support"),
        ("s3://aws@photos/{name}", "a/../../other/secret.png", "leaves its folder"),
    ],
)
def test_a_row_cannot_name_a_file_outside_its_template(template: str, value: str, reason: str) -> None:
    with pytest.raises(SegmindRowError, match=reason):
        RowAttachments([template], ApiFormat.GEMINI).load(Row(3, {"name": value}))


def test_a_file_type_unsupported_by_the_model_is_an_error_of_the_row(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\0ftyp")
    with pytest.raises(SegmindRowError, match="do not accept video/mp4"):
        RowAttachments([f"{tmp_path}/{{name}}"], ApiFormat.ANTHROPIC).load(Row(3, {"name": "a.mp4"}))


def test_an_unreachable_store_is_not_an_error_of_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConnectionResetError):
        RowAttachments([f"{tmp_path}/{{name}}"], ApiFormat.GEMINI).load(Row(3, {"name": "a.png"}))


def test_a_file_common_to_all_rows_is_read_once(tmp_path: Path) -> None:
    logo = tmp_path / "logo.png"
    logo.write_bytes(PNG)
    files = RowAttachments([str(logo)], ApiFormat.GEMINI)
    files.load(Row(0, {}))
    logo.unlink()

    assert files.load(Row(1, {}))[0].data == PNG


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"files": "{uri}"}, "'files' is a str"),
        ({"files": [b"..."]}, r"'files\[0\]' is bytes"),
        ({"files": ["{uri}"], "inputs": {"image": "{uri}"}}, "'files' cannot be combined with 'inputs'"),
        ({"files": ["/logo.png"], "prompt": "What is it?"}, "no {column} placeholder"),
    ],
)
def test_invalid_files_are_refused_when_the_dag_is_parsed(fields: dict[str, Any], words: str) -> None:
    given = {"prompt": QUESTION, "source": "/a.csv", "key": "id", "output_path": "/b.csv", **fields}
    if "inputs" in given:
        del given["prompt"]
    with pytest.raises(SegmindConfigError, match=words):
        SegmindEnrichFileOperator(task_id="a_task", **given)
