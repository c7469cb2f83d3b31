"""Working copies on the local disk, also when it is full."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.local_index import Spool
from airflow_provider_segmind.exceptions import SegmindEnrichmentError, SegmindError
from tests.enrichment.test_engine import World
from tests.support.enrichment import table


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Let spools write so many bytes in all; the write that passes it is cut short, the next fails."""
    left, write, lock = [size], os.write, threading.Lock()

    def limited(descriptor: int, data: memoryview) -> int:
        with lock:
            if len(data) and not left[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken = write(descriptor, data[: left[0]])
            left[0] -= taken
            return taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", limited)
        yield


@given(
    batches=st.lists(
        st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=5), max_size=8
    ),
    size=st.integers(0, 300),
)
def test_a_spool_holds_its_lines_wherever_the_disk_ends(batches: list[list[bytes]], size: int) -> None:
    with disk_of(size), Spool() as spool:
        places = []
        for lines in batches:
            places += [(spool.reserve(line), line) for line in lines]
            spool.write(lines)
        assert [(place, spool.read(place)) for place, _ in places] == places
        assert list(spool.lines()) == places
        needed = sum(len(line) + 1 for lines in batches for line in lines)
        assert (spool.trouble is not None) is (needed > size)


@pytest.mark.parametrize("size", [0, 100, 1000, 3000, 6000])
async def test_a_full_temporary_folder_loses_no_paid_answer_and_a_retry_goes_on(size: int) -> None:
    world, rows = World(steps=4), table(*(f"row {number} " + "x" * 50 for number in range(60)))
    with disk_of(size):
        engine = world.engine(rows)
        try:
            trouble: SegmindError | None = None
            await engine.run()
        except SegmindEnrichmentError as error:
            trouble = error
        finally:
            engine.close()
    trouble = trouble or (engine.stopped.error if engine.stopped else None)
    assert trouble is not None
    assert trouble.retryable
    assert "temporary folder" in str(trouble)
    assert "TMPDIR" in str(trouble)
    ledger = Ledger(world.store.path("bucket/ledger"), run="run-1", writer="reader")
    ledger.replay()
    assert ledger.totals().cost == pytest.approx(world.segmind.bill)
    assert not list(ledger.open_rows())
    ledger.close()
    paid = world.segmind.posts
    assert paid < 60
    landed = await world.run(rows)
    assert landed.statuses == ["success"] * 60
    assert world.segmind.posts == 60


async def test_a_folder_that_is_full_at_the_start_of_a_retry_stops_it_before_anything_is_sent() -> None:
    world = World()
    await world.run(table("a", "b"))
    with disk_of(10):
        engine = world.engine(table("a", "b", "c"))
        with pytest.raises(SegmindEnrichmentError, match="temporary folder"):
            await engine.run()
        engine.close()
    assert world.segmind.posts == 2


def test_a_temporary_folder_that_is_not_there_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(SegmindEnrichmentError, match=r"Nothing was sent in this try.*TMPDIR") as caught:
        Spool()
    assert caught.value.retryable
