"""Whether outputs can be written is checked before anything is paid, and the argument is named."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.files import readers as formats
from airflow_provider_segmind.enrichment.files.writers import check_apart, check_format, check_writable
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindEnrichmentError
from tests.support.object_stores import ObjectStore


def test_checking_creates_the_folder_and_leaves_no_file_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out.csv"
    check_writable("output_path", (path,), dry=True)
    assert not list(tmp_path.iterdir())
    check_writable("output_path", (path, path.with_name("out.dead_letters.jsonl")), dry=False)
    assert list(path.parent.iterdir()) == []


def test_checking_an_object_store_keeps_earlier_files() -> None:
    store = ObjectStore()
    path = store.path("b/out.csv")
    with path.open("wb") as file:
        file.write(b"yesterday's")
    check_writable("output_path", (path,), dry=False)
    assert [inner.name for inner in path.parent.iterdir()] == ["out.csv"]


@pytest.mark.parametrize("dry", [False, True])
def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path, dry: bool) -> None:
    (tmp_path / "out.manifest.json").mkdir()
    with pytest.raises(SegmindConfigError, match=r"'output_path' names .*out\.manifest\.json', which is a folder"):
        check_writable("output_path", (tmp_path / "out.csv", tmp_path / "out.manifest.json"), dry=dry)


@pytest.mark.parametrize("parts", [("file", "out.csv"), ("file", "deep", "out.csv"), ("x" * 250 + ".csv",)])
def test_a_folder_that_cannot_be_made_and_a_name_that_is_too_long_are_refused(
    tmp_path: Path, parts: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SegmindConfigError, match=r"'output_path': .* cannot be written: .*Nothing was sent"):
        check_writable("output_path", (tmp_path.joinpath(*parts),), dry=False)


class Strange(Exception):  # noqa: N818
    """Raised by the library of some store."""


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (PermissionError("denied"), SegmindConfigError),
        (OSError(errno.EROFS, "Read-only file system"), SegmindConfigError),
        (OSError(errno.ENOSPC, "No space left on device"), SegmindEnrichmentError),
        (ConnectionError("gone"), SegmindEnrichmentError),
        (Strange("secret"), SegmindEnrichmentError),
    ],
)
def test_only_an_error_that_may_be_temporary_is_retryable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception, kind: type[Exception]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise trouble

    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(kind, match="'output_path'") as caught:
        check_writable("output_path", (tmp_path / "new" / "out.csv",), dry=False)
    assert "secret" not in str(caught.value)


def test_permission_to_list_or_delete_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "denied")

    path = ObjectStore().path("b/out.csv")
    for method in ("is_dir", "unlink"):
        monkeypatch.setattr(type(path), method, denied)
    check_writable("output_path", (path,), dry=False)
    assert [inner.name for inner in path.parent.iterdir()] == [".out.csv.probe"]


def test_a_format_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(formats, "import_module", missing)
    check_format(Path("out.csv.gz"))
    with pytest.raises(SegmindConfigError, match="pyarrow"):
        check_format(Path("out.parquet"))
    for name in ("out.xlsx", "out.csv.zst", "out.parquet.gz", "out"):
        with pytest.raises(SegmindConfigError, match="The format of 'out"):
            check_format(Path(name))


@pytest.mark.parametrize(
    ("output", "ledger", "source", "named"),
    [
        ("a/out.csv", "a", "s.csv", "output_path"),
        ("a/b/out.csv", "a", "s.csv", "output_path"),
        ("a/../led/out.csv", "led", "s.csv", "output_path"),
        ("out.csv", "led", "out.csv", "output_path"),
        ("x/../out.csv", "led", "out.csv", "output_path"),
        ("link/out.csv", "led", "real/out.csv", "output_path"),
        ("real/out.csv", "led", "real", "output_path"),
        ("real/out.csv", "led", "real/*.csv", "output_path"),
        ("real/out.csv", "led", "real/*.jsonl", "output_path"),
        ("out.csv", "real", "real", "ledger_path"),
        ("out.csv", "real", "real/*.jsonl", "ledger_path"),
        ("out.csv", "file.txt", "s.csv", "ledger_path"),
    ],
)
def test_an_output_that_would_replace_a_source_or_be_read_as_one_is_refused(
    tmp_path: Path, output: str, ledger: str, source: str, named: str
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file.txt").write_text("")
    outputs = (tmp_path / output, (tmp_path / output).with_name("out.dead_letters.jsonl"))
    with pytest.raises(SegmindConfigError, match=f"'{named}'"):
        check_apart(outputs, tmp_path / ledger, [tmp_path / source])


@pytest.mark.parametrize(
    ("output", "ledger", "source"),
    [
        ("a/out.csv", "a/_segmind_ledger", "a/s.csv"),
        ("a/out.csv", "ab", "a/in/*.csv"),
        ("ledger2/out.csv", "ledger", "real"),
        ("real/sub/out.csv", "led", "real"),
        ("real/out.csv", "led", "real/in-*.csv"),
    ],
)
def test_separate_files_are_accepted(tmp_path: Path, output: str, ledger: str, source: str) -> None:
    (tmp_path / "real").mkdir()
    check_apart((tmp_path / output,), tmp_path / ledger, [tmp_path / source])


def test_a_connection_in_a_uri_does_not_make_it_another_path() -> None:
    store = ObjectStore()
    with pytest.raises(SegmindConfigError, match="'output_path'"):
        check_apart((store.path("b/led/out.csv"),), store.path("b/led"), [])
