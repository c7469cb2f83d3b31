"""The measurements at scale count what they say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks import slow_store
from benchmarks.shards import WINDOW, Size, share_and_over


def test_bursts_that_repeat_after_the_window_use_all_of_the_limit_but_its_margin() -> None:
    size = Size(limit=100, minutes=3)
    times = [burst * WINDOW + number / 100 for burst in range(4) for number in range(100)]

    share, over = share_and_over(times, size)

    assert share == pytest.approx(60 / 61)
    assert over == 0


def test_calls_over_the_limit_of_any_minute_are_counted() -> None:
    times = [number / 100 for number in range(100)] + [59.0 + number / 100 for number in range(5)]

    assert share_and_over(times, Size(limit=100, minutes=1))[1] == 5


def test_the_slow_store_counts_a_round_trip_where_an_object_store_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_store, "DELAY", 0.0)
    monkeypatch.setattr(slow_store.SlowStore, "calls", Counter())
    store = slow_store.SlowStore()
    name = f"{tmp_path}/folder/one"

    store.pipe_file(name, b"content")
    with store.open(name, "rb") as file:
        assert file.read() == b"content"
    assert store.ls(f"{tmp_path}/folder", detail=False) == [f"{tmp_path}/folder/one".removeprefix("/")]
    assert store.isdir(f"{tmp_path}/folder")
    assert len(store.ls(f"{tmp_path}/folder", detail=False)) == 1
    store.rm_file(name)

    assert store.calls == {"put": 1, "stat": 1, "get": 1, "list": 2, "delete": 1}
    assert not store.exists(name)
