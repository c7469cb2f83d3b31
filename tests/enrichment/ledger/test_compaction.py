"""A compacted ledger means the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_segmind.enrichment.ledger.compaction import compact
from airflow_provider_segmind.enrichment.ledger.segments import segment_names
from tests.support.ledger_events import claimed, finished, freed, mark, submitted
from tests.support.ledger_folders import opened, seen, written


def test_compaction_keeps_what_counts_and_drops_the_rest(tmp_path: Path) -> None:
    written(tmp_path, [claimed(1), claimed(2), claimed(3)], [submitted(1), freed(3)], [finished(1, answer="a")])
    before = opened(tmp_path)
    compact(tmp_path, clock=lambda: 6.0)
    after = opened(tmp_path)
    assert len(segment_names(tmp_path)) == 1
    assert [seen(after.row_state(mark(n))) for n in (1, 2, 3)] == [seen(before.row_state(mark(n))) for n in (1, 2, 3)]
    assert after.finished(mark(1)) == finished(1, answer="a")
    assert len(next(tmp_path.iterdir()).read_bytes().splitlines()) == 1 + 1 + 2 + 1


def test_compaction_splits_large_segments(tmp_path: Path) -> None:
    written(tmp_path, *[[finished(number, answer="x" * 500)] for number in range(20)])
    assert len(compact(tmp_path, clock=lambda: 6.0, segment_bytes=2000)) > 2
    assert all(opened(tmp_path).row_state(mark(number)).success for number in range(20))


def test_a_reader_follows_a_compaction_that_happens_under_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, [claimed(1)], [finished(1)])
    listed = segment_names(tmp_path)
    compact(tmp_path, clock=lambda: 6.0)
    answers = iter([listed])
    monkeypatch.setattr(
        "airflow_provider_segmind.enrichment.ledger.ledger.segment_names",
        lambda folder: next(answers, None) or segment_names(folder) if folder == tmp_path else [],
    )
    assert opened(tmp_path).row_state(mark(1)).success
