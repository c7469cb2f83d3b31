"""Which rows of a ledger are old."""

from __future__ import annotations

from pathlib import Path

from airflow_provider_segmind.enrichment.forget import rows_unchanged_since
from airflow_provider_segmind.enrichment.ledger.events import to_line
from airflow_provider_segmind.enrichment.ledger.segments import segment_name, write_segment
from tests.support.ledger_events import claimed, finished, mark, submitted


def test_a_row_is_old_by_its_last_event_and_never_while_it_waits(tmp_path: Path) -> None:
    events = [
        *(claimed(1, at=1.0), submitted(1, at=2.0), finished(1, at=3.0)),
        *(claimed(2, at=1.0), finished(2, at=3.0), finished(2, 2, at=50.0)),
        *(claimed(3, at=1.0), submitted(3, at=2.0)),
        claimed(4, at=1.0),
    ]
    write_segment(tmp_path, segment_name(100.0, "w", 1), [to_line(event) for event in events])

    assert rows_unchanged_since(tmp_path, 10.0) == {mark(1).hex()}
    assert rows_unchanged_since(tmp_path, 60.0) == {mark(1).hex(), mark(2).hex()}
    assert rows_unchanged_since(tmp_path, 3.0) == frozenset()
