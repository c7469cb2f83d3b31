"""Local working state, also when the disk is full."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.enrichment.ledger import local_index
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.local_index import FinishedRow, LocalIndex
from airflow_provider_segmind.exceptions import SegmindEnrichmentError, SegmindError
from tests.enrichment.test_engine import World
from tests.support.enrichment import table
from tests.support.ledger_events import mark


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes; the write that passes it is cut short, the next fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


_ROWS = st.builds(
    lambda number, attempt, of_run, size: FinishedRow(
        mark(number),
        attempt,
        attempt == 3,
        of_run,
        bytes([attempt]) * size,
        (f"r{number}-{attempt}", f"\ud83d{number}"),
    ),
    st.integers(0, 8),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([0, 1, 100, 4096, 70_000]),
)


@given(
    rows=st.lists(_ROWS, max_size=20),
    batch=st.integers(1, 5),
    absent=st.sampled_from([3, 100]),
    chunk=st.sampled_from([1, 3, 100]),
    at_hand=st.sampled_from([0, 4, 100]),
    looked_up=st.integers(0, 9),
    size=st.sampled_from([50_000, 100_000, 1 << 20]),
)
def test_the_index_returns_every_row_even_when_the_disk_is_full(
    rows: list[FinishedRow], batch: int, absent: int, chunk: int, at_hand: int, looked_up: int, size: int
) -> None:
    with pytest.MonkeyPatch.context() as patch, disk_of(size), closing(LocalIndex()) as index:
        patch.setattr(local_index, "INSERT_ROWS", batch)
        patch.setattr(local_index, "ABSENT_ROWS", absent)
        patch.setattr(local_index, "CHUNK_ROWS", chunk)
        patch.setattr(local_index, "SAMPLED", 2)
        patch.setattr(local_index, "CHUNK_AT", 1)
        patch.setattr(local_index, "ROWS_AT_HAND", at_hand)
        latest: dict[bytes, FinishedRow] = {}
        for row in rows:
            former = latest.get(row.fingerprint)
            assert index.line(row.fingerprint) == (former and former.line)
            assert (index.state(row.fingerprint) is None) is (row.fingerprint not in latest)
            index.look_up([mark(number) for number in range(looked_up)])
            index.put(row)
            latest[row.fingerprint] = row
        for number in range(9):
            found = latest.get(mark(number))
            assert index.state(mark(number)) == (found and (found.attempt, found.success))
            assert index.line(mark(number)) == (found and found.line)
        assert sorted(index.lines()) == sorted(row.line for row in latest.values())
        assert sorted(index.rows_of_run()) == sorted(row.fingerprint for row in latest.values() if row.of_run)
        requests = {request_id for row in latest.values() for request_id in row.request_ids}
        assert all(map(index.has_request, requests))
        assert not index.has_request("other")
        assert (index.trouble is None) or size < 1 << 20


def test_the_former_state_of_a_row_does_not_come_back_with_the_rows_near_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_index, "SAMPLED", 1)
    monkeypatch.setattr(local_index, "ROWS_AT_HAND", 1)
    monkeypatch.setattr(local_index, "CHUNK_AT", 1)
    with closing(LocalIndex()) as index:
        for number in range(3):
            index.put(FinishedRow(mark(number), 1, False, True, b"", ()))
        index.flush()
        index.put(FinishedRow(mark(0), 2, True, True, b"", ()))
        index.look_up([mark(1), mark(7)])
        index.flush()
        assert index.state(mark(0)) == (2, True)
        index.look_up([mark(8)])
        index.put(FinishedRow(mark(1), 2, True, True, b"", ()))
        index.flush()
        assert index.state(mark(1)) == (2, True)
        assert index.state(mark(2)) == (1, False)


def test_rows_that_no_longer_fit_on_the_disk_stay_readable() -> None:
    with disk_of(1 << 18), closing(LocalIndex()) as index:
        for number in range(600):
            index.put(FinishedRow(mark(number), 1, True, True, b"x" * 1000, (str(number),)))
        assert index.trouble is not None
        assert all(index.line(mark(number)) == b"x" * 1000 for number in range(600))
        assert len(list(index.lines())) == 600


@pytest.mark.parametrize("size", [20_480, 22_528, 24_576])
async def test_a_full_temporary_folder_loses_no_paid_answer_and_a_retry_continues(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_index, "INSERT_ROWS", 4)
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
    stored = await world.run(rows)
    assert stored.statuses == ["success"] * 60
    assert world.segmind.posts == 60


async def test_a_folder_that_is_full_at_the_start_of_a_retry_stops_it_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_index, "INSERT_ROWS", 4)
    world, texts = World(), [f"{number}" + "x" * 1000 for number in range(30)]
    await world.run(table(*texts))
    with disk_of(1 << 15):
        engine = world.engine(table(*texts, "new"))
        with pytest.raises(SegmindEnrichmentError, match="temporary folder"):
            await engine.run()
        engine.close()
    assert world.segmind.posts == 30


def test_a_temporary_folder_that_is_not_there_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(SegmindEnrichmentError, match=r"Nothing was sent in this try.*TMPDIR") as caught:
        LocalIndex()
    assert caught.value.retryable
