"""Files of the spend record are compacted while others read, write, compact and die."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_segmind.spend import files
from airflow_provider_segmind.spend.files import FileStore
from airflow_provider_segmind.stores import locate
from tests.support.spend import DAY, NOON, an_entry

TODAY = NOON + DAY


class Killed(BaseException):
    """The process died."""


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


def tidy(store: FileStore) -> None:
    store.tidy(since=NOON - DAY, now=TODAY)


def ids(store: FileStore) -> list[str]:
    return sorted(entry.request_id for entry in store.read())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.jsonl"))


def test_a_past_day_becomes_one_file_with_the_same_entries(store: FileStore, tmp_path: Path) -> None:
    for number in range(20):
        store.write([an_entry(f"r{number}")])
    before = ids(store)
    tidy(store)
    assert len(names(tmp_path)) == 1
    assert ids(store) == before
    tidy(store)
    assert len(names(tmp_path)) == 1


def test_a_late_entry_joins_the_file_of_its_day(store: FileStore, tmp_path: Path) -> None:
    store.write([an_entry("r1")])
    tidy(store)
    store.write([an_entry("r2")])
    tidy(store)
    assert ids(store) == ["r1", "r2"]
    assert len(names(tmp_path)) == 1


def test_the_files_of_today_wait_until_they_are_many(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_NEW", 5)
    for number in range(5):
        assert len(names(tmp_path)) == number
        store.write([an_entry(f"r{number}", at=TODAY)])
        if number < 4:
            tidy(store)
    tidy(store)
    assert len(names(tmp_path)) == 1


def test_a_full_file_is_not_written_again(store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FULL", 100)
    store.write([an_entry("r1")])
    tidy(store)
    full = names(tmp_path)
    store.write([an_entry("r2")])
    tidy(store)
    assert len(names(tmp_path)) == 2
    assert set(full) < set(names(tmp_path))


def test_a_process_killed_between_any_two_steps_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, unlink = files._write, Path.unlink
    for kill_at in range(1, 9):
        store = FileStore(tmp_path / str(kill_at))
        for number in range(6):
            store.write([an_entry(f"r{number}")])
        steps = iter(range(1, 100))

        def killing(action: Callable[..., Any], steps: Iterator[int] = steps, kill_at: int = kill_at) -> Any:
            def act(*args: Any, **options: Any) -> Any:
                if next(steps) == kill_at:
                    raise Killed
                return action(*args, **options)

            return act

        with monkeypatch.context() as patched:
            patched.setattr(files, "_write", killing(write))
            patched.setattr(Path, "unlink", killing(unlink))
            try:
                tidy(store)
            except Killed:
                assert ids(store) == [f"r{number}" for number in range(6)]
        tidy(store)
        assert ids(store) == [f"r{number}" for number in range(6)]
        assert len(names(tmp_path / str(kill_at))) == 1


def test_readers_and_writers_at_work_see_every_entry_that_was_there(tmp_path: Path) -> None:
    written: list[str] = []
    over = threading.Event()
    failures: list[str] = []

    def compact() -> None:
        while not over.is_set():
            tidy(FileStore(tmp_path))

    def read() -> None:
        while not over.is_set():
            before = set(written)
            missing = before - set(ids(FileStore(tmp_path)))
            failures.extend(missing)

    threads = [threading.Thread(target=work) for work in (compact, compact, read, read)]
    for thread in threads:
        thread.start()
    store, rng = FileStore(tmp_path), random.Random(7)
    for number in range(150):
        store.write([an_entry(f"r{number}", tokens=rng.randrange(10))])
        written.append(f"r{number}")
    over.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(ids(store)) == set(written)


def test_an_object_store_holds_the_record_as_well_as_a_disk() -> None:
    attach("memory", fs=MemoryFileSystem())
    writer, reader = (FileStore(locate("memory://bucket/spend-compaction")) for _ in range(2))
    assert ids(reader) == []
    for number in range(3):
        writer.write([an_entry(f"r{number}")])
        assert len(ids(reader)) == number + 1
    tidy(writer)
    assert ids(reader) == ["r0", "r1", "r2"]
    assert len(list((locate("memory://bucket/spend-compaction") / "day=2026-11-26").iterdir())) == 1
