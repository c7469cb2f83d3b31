from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem
from upath import UPath

from airflow_provider_segmind.enrichment import storage
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.prompts import keep_prompt, prompt_hash_of
from airflow_provider_segmind.enrichment.ledger.segments import segment_name, segment_names, write_segment
from airflow_provider_segmind.enrichment.progress_file import all_progress
from airflow_provider_segmind.enrichment.report.history import earlier_runs
from airflow_provider_segmind.enrichment.storage import (
    StorePath,
    delete,
    for_each,
    list_names,
    make_folder,
    move,
    overwrite,
    read_now,
    stale_options,
    store_path,
    write_whole,
)
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from tests.support.ledger_events import claimed, finished, mark
from tests.support.object_stores import ObjectStore


def test_a_local_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with write_whole(path) as file:
        file.write(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert [inner.name for inner in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_failed_write_leaves_the_old_file_and_no_scraps(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with write_whole(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert [inner.name for inner in tmp_path.iterdir()] == ["out.jsonl"]


def test_many_files_are_moved_with_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, names = tmp_path / "live", tmp_path, [f"{number}.jsonl" for number in range(5)]
    source.mkdir()
    for name in names:
        (source / name).write_text(name)
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(str(Path(f"/proc/self/fd/{number}").readlink())))

    assert move([*names, "moved-by-another-run.jsonl"], source, target) == []

    assert list(source.iterdir()) == []
    assert [(target / name).read_text() for name in names] == names
    assert synced == [str(target)]


def test_a_store_without_a_rename_moves_nothing(tmp_path: Path) -> None:
    assert move(["a.jsonl"], ObjectStore().path("b/live"), ObjectStore().path("b")) == ["a.jsonl"]
    assert move(["a.jsonl"], tmp_path, ObjectStore().path("b")) == ["a.jsonl"]


@pytest.mark.parametrize("protocol", ["s3", "sftp"])
def test_an_object_appears_when_it_is_whole(protocol: str) -> None:
    store = ObjectStore(protocol)
    with write_whole(store.path("b/out.jsonl")) as file:
        file.write(b"half")
        assert store.objects == {}
    assert store.objects == {"b/out.jsonl": b"half"}


def test_a_failed_upload_publishes_nothing() -> None:
    store = ObjectStore()

    def cut_off() -> None:
        with write_whole(store.path("b/out.jsonl")) as file:
            file.write(b"half")
            store.broken = True

    with pytest.raises(OSError, match="out of reach"):
        cut_off()
    assert store.objects == {}


def test_a_wrapped_local_path_becomes_a_plain_one() -> None:
    class Wrapped:
        protocol, path = "file", "/data/x"

    assert store_path(Wrapped()) == Path("/data/x")  # type: ignore[arg-type]
    other = ObjectStore().path("b/x")
    assert store_path(other) is other


def test_a_ledger_lives_in_an_object_store_too() -> None:
    folder = ObjectStore().path("bucket/ledger")
    ledger = Ledger(folder, run="r", writer="w", clock=lambda: 5.0)
    ledger.replay()
    ledger.append(claimed(1))
    ledger.append(finished(1))
    ledger.commit()
    again = Ledger(folder, run="r", writer="v", clock=lambda: 6.0)
    again.replay()
    assert again.finished(mark(1)) == finished(1)


class _DerivedPath(type(Path())):  # type: ignore[misc]
    """A path of an object store as universal_pathlib before 0.3 makes it: a ``pathlib.Path`` with a protocol."""

    @property
    def protocol(self) -> str:
        return str(self).partition(":")[0]

    @property
    def path(self) -> str:
        return str(self).partition(":")[2]


def test_a_path_that_is_a_pathlib_path_by_descent_only_is_read_by_its_protocol() -> None:
    local, remote = _DerivedPath("file:/data/out.jsonl"), _DerivedPath("s3:/data/out.jsonl")

    assert store_path(local) == Path("/data/out.jsonl")
    assert type(store_path(local)) is type(Path())
    assert store_path(remote) is remote


def test_the_folder_of_a_new_file_and_those_above_a_new_folder_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(str(Path(f"/proc/self/fd/{number}").readlink())))
    make_folder(tmp_path / "a" / "b")
    assert set(synced) == {str(tmp_path), str(tmp_path / "a")}
    synced.clear()
    with write_whole(tmp_path / "a" / "b" / "segment") as file:
        file.write(b"x")
    assert synced[-1] == str(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_a_file_system_that_syncs_no_folders_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuses)
    with write_whole(tmp_path / "segment") as file:
        file.write(b"x")
    assert (tmp_path / "segment").exists()


class Remembering:
    """A file system that keeps its listings, as fsspec's do."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.kept = folder, None

    def invalidate_cache(self, path: str | None = None) -> None:
        self.kept = None

    def names(self) -> list[str]:
        self.kept = self.kept or [path.name for path in self.folder.iterdir()]
        return self.kept


class RememberingPath:
    protocol = "s3"

    def __init__(self, folder: Path) -> None:
        self.fs, self.path = Remembering(folder), "bucket/ledger"

    def iterdir(self) -> list[Path]:
        return [Path(name) for name in self.fs.names()]


def test_a_listing_goes_past_what_the_client_remembers(tmp_path: Path) -> None:
    folder = RememberingPath(tmp_path)
    assert list_names(folder) == []  # type: ignore[arg-type]
    (tmp_path / "one").touch()
    assert list_names(folder) == ["one"]  # type: ignore[arg-type]
    (tmp_path / "two").touch()
    assert sorted(list_names(folder)) == ["one", "two"]  # type: ignore[arg-type]


def test_what_is_overwritten_is_read_anew_and_its_name_never_leaves_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "beat"
    overwrite(path, b"first, and longer")
    inode = path.stat().st_ino
    overwrite(path, b"second")
    assert (read_now(path), path.stat().st_ino) == (b"second", inode)


@pytest.mark.parametrize(
    ("kind", "options", "stale"),
    [
        ("ext4", "rw", False),
        ("nfs4", "rw,vers=4.1,lookupcache=none,noac", False),
        ("nfs4", "rw,acregmin=0,acregmax=0,acdirmin=0,acdirmax=0,lookupcache=none", False),
        ("nfs", "rw,noac", True),
        ("nfs", "rw,lookupcache=none", True),
        ("nfs4", "rw,vers=4.1", True),
    ],
)
def test_a_mount_that_may_show_old_listings_is_told(kind: str, options: str, stale: bool) -> None:
    mounts = ["overlay / overlay rw 0 0", f"server:/a /mnt/a {kind} {options} 0 0", "server:/b /mnt/ab nfs4 rw 0 0"]
    assert (stale_options(Path("/mnt/a/ledger"), mounts) is not None) == stale
    assert stale_options(Path("/srv/ledger"), mounts) is None


def test_the_mount_of_a_ledger_is_found_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "efs").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "efs")
    asked: list[Path] = []
    monkeypatch.setattr(storage, "stale_options", lambda path, _: asked.append(path))

    storage.caching_mount(tmp_path / "data" / "ledger")

    assert asked == [(tmp_path / "efs" / "ledger").resolve()]


def test_a_folder_of_an_object_store_that_does_not_exist_yet_is_empty_to_all_who_list_it() -> None:
    folder = UPath("memory://segmind-absent/ledger")
    assert segment_names(folder) == []
    assert all_progress(folder) == []
    assert earlier_runs(folder / "out.manifest.json", run_id="r") == []
    keep_prompt(folder, {"template": "Hello"}, run="r", at=1.0)
    assert prompt_hash_of(folder, run="r", at=2.0) is not None


@pytest.mark.parametrize("failures", [1, 100])
def test_a_folder_of_a_store_that_does_not_answer_is_not_taken_for_empty(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = UPath(f"memory://{uuid.uuid4()}/ledger")
    write_segment(ledger, segment_name(1.0, "w", 0), [b"{}"])
    known, left = MemoryFileSystem.info, iter(range(failures))

    def info(store: MemoryFileSystem, path: str, **options: Any) -> Any:
        if next(left, None) is not None:
            raise OSError("Forbidden: the token has expired")
        return known(store, path, **options)

    # As the stores of Google and Azure are, which inherit both from fsspec.
    monkeypatch.setattr(MemoryFileSystem, "exists", AbstractFileSystem.exists)
    monkeypatch.setattr(MemoryFileSystem, "info", info)
    with pytest.raises(SegmindEnrichmentError) as raised:
        segment_names(ledger)
    assert raised.value.retryable


def test_files_of_a_store_are_worked_on_in_order_and_several_at_a_time() -> None:
    store, barrier = ObjectStore("s3"), threading.Barrier(4, timeout=10)
    paths = [store.path(f"b/{number}") for number in range(20)]

    def work(path: StorePath) -> str:
        barrier.wait()
        return path.name

    assert list(for_each(paths, work)) == [str(number) for number in range(20)]


def test_the_first_error_of_files_that_are_worked_on_at_once_is_raised() -> None:
    store = ObjectStore("s3")
    paths = [store.path(f"b/{number}") for number in range(20)]

    def work(path: StorePath) -> str:
        if int(path.name) > 5:
            raise OSError(path.name)
        return path.name

    with pytest.raises(OSError, match=r"^6$"):
        list(for_each(paths, work))


def test_a_file_that_somebody_else_has_deleted_is_deleted(tmp_path: Path) -> None:
    for path in (tmp_path / "a", UPath("memory://segmind-delete/a")):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"a")
        delete(path)
        assert not path.exists()
        delete(path)
