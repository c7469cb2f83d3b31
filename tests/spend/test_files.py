"""The spend record as files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from airflow_provider_segmind.exceptions import SegmindStateError
from airflow_provider_segmind.spend.files import FileStore
from tests.support.spend import DAY, NOON, an_entry


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "spend")


def test_an_empty_record_has_no_entries(store: FileStore) -> None:
    assert list(store.read()) == []
    assert store.known(["r1"]) == set()


def test_entries_are_read_back_from_the_folder_of_their_day(store: FileStore, tmp_path: Path) -> None:
    first, second = an_entry("r1"), an_entry("r2", at=NOON + DAY)
    store.write([first, second])
    assert list(store.read()) == [first, second]
    assert sorted(path.name for path in (tmp_path / "spend").iterdir()) == ["day=2026-11-26", "day=2026-11-27"]


def test_a_request_counts_once_however_often_it_is_written(store: FileStore) -> None:
    for entry in (an_entry(), an_entry(), an_entry(try_number=2, at=NOON + 60), an_entry(try_number=3, at=NOON + DAY)):
        store.write([entry])
    assert list(store.read()) == [an_entry()]


def test_the_same_entries_written_again_add_no_file(store: FileStore, tmp_path: Path) -> None:
    for _ in range(3):
        store.write([an_entry("r1"), an_entry("r2")])
    assert len(list((tmp_path / "spend").rglob("*.jsonl"))) == 1


def test_a_time_limits_what_is_read(store: FileStore) -> None:
    entries = [an_entry(f"r{hours}", at=NOON + hours * 3600) for hours in range(0, 60, 6)]
    store.write(entries)
    since, until = NOON + 6 * 3600, NOON + 30 * 3600
    assert list(store.read(since=since, until=until)) == [one for one in entries if since <= one.at < until]


def test_known_requests_are_those_in_the_record(store: FileStore) -> None:
    store.write([an_entry("r1")])
    assert store.known(["r1", "r2"]) == {"r1"}


def test_a_cost_that_came_later_is_added(store: FileStore) -> None:
    store.write([replace(an_entry(), cost_micros=None)])
    store.write([an_entry()])
    assert [entry.cost_micros for entry in store.read()] == [48.25]


def test_a_file_that_is_not_what_was_written_is_an_error(store: FileStore, tmp_path: Path) -> None:
    store.write([an_entry("r1"), an_entry("r2")])
    file = next((tmp_path / "spend").rglob("*.jsonl"))
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(SegmindStateError, match="does not match the hash in its name"):
        list(store.read())


def test_a_file_that_is_not_whole_yet_is_ignored(store: FileStore, tmp_path: Path) -> None:
    store.write([an_entry()])
    (tmp_path / "spend" / "day=2026-11-26" / ".new-1.jsonl.1234.tmp").write_bytes(b"{")
    assert list(store.read()) == [an_entry()]
