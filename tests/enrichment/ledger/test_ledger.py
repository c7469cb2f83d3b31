from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_segmind.enrichment.ledger import ledger, local_index
from airflow_provider_segmind.enrichment.ledger.compaction import compact
from airflow_provider_segmind.enrichment.ledger.events import Event, from_line, to_line
from airflow_provider_segmind.enrichment.ledger.row_state import KNOWN_REQUESTS, RowState
from airflow_provider_segmind.enrichment.ledger.segments import segment_names, write_segment
from airflow_provider_segmind.enrichment.local_database import LocalDatabase
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from tests.support.examples import examples
from tests.support.ledger_events import EVENTS, claimed, finished, freed, mark, submitted
from tests.support.ledger_folders import opened, seen, written


def test_a_committed_claim_is_seen_by_the_next_reader(tmp_path: Path) -> None:
    written(tmp_path, [claimed(1)])
    row = opened(tmp_path).row_state(mark(1)).open
    assert row is not None
    assert row.submitted is None


def test_a_segment_that_was_replayed_is_not_read_again_as_news(tmp_path: Path) -> None:
    written(tmp_path, [claimed(1)])
    ledger, (name,) = opened(tmp_path, writer="x"), segment_names(tmp_path)
    ledger.absorb(name, [b"read again, this would be an error"])
    with pytest.raises(SegmindEnrichmentError):
        ledger.absorb(f"new-{name}", [b"read, this is one"])


def test_a_reader_decodes_no_event_of_a_row_with_an_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, [claimed(1), claimed(2)], [submitted(1)], [finished(1)], [claimed(3)])
    read: list[Event] = []
    monkeypatch.setattr(ledger, "from_line", lambda line: read.append(from_line(line)) or read[-1])

    reader = opened(tmp_path)

    assert sorted(event.fingerprint for event in read) == sorted([mark(2), mark(3)])
    assert reader.row_state(mark(1)).success
    assert {fingerprint for fingerprint, _ in reader.open_rows()} == {mark(3), mark(2)}


def test_of_several_outcomes_of_a_row_every_reader_keeps_the_same_one(tmp_path: Path) -> None:
    failed, asked_again = finished(1, outcome=Outcome.FAILED, cost=0.0), finished(1, 2, cost=0.75)
    late = replace(finished(1, 3, cost=0.25), at=9.0)
    for number, events in enumerate(([asked_again, finished(2)], [late], [failed, asked_again], [finished(2)])):
        write_segment(tmp_path, f"{number}-x-1.jsonl", [to_line(event) for event in events])
    write_segment(tmp_path, "9-x-1.jsonl", [to_line(claimed(1, 2)), to_line(claimed(3)), to_line(claimed(1))])

    reader = opened(tmp_path)

    assert reader.finished(mark(1)) == asked_again
    totals = reader.totals()
    assert (totals.rows, totals.cost, +totals.outcomes) == (3, 1.25, {Outcome.SUCCESS: 2})
    assert sorted(reader.answered_in_run()) == sorted([mark(1), mark(2)])
    assert [fingerprint for fingerprint, _ in reader.open_rows()] == [mark(3)]
    reader.append(finished(3))
    assert reader.finished(mark(3)) == finished(3)
    assert reader.owned_requests({"q1-1", "q1-3", "q3-1", "other"}) == {"q1-1", "q1-3", "q3-1"}


def test_the_latest_requests_are_known_in_whatever_order_events_are_read(tmp_path: Path) -> None:
    events = [finished(number, at=float(number)) for number in range(KNOWN_REQUESTS + 44)]
    writer = written(tmp_path, events)

    for reader in (writer, opened(tmp_path)):
        assert {one.request_id for one in reader.known_requests()} == {
            f"q{number}-1" for number in range(44, KNOWN_REQUESTS + 44)
        }


def test_what_was_not_committed_is_lost_with_its_writer(tmp_path: Path) -> None:
    written(tmp_path).append(claimed(1))
    assert opened(tmp_path).row_state(mark(1)) == RowState()


def test_a_submitted_row_is_known_by_its_request(tmp_path: Path) -> None:
    written(tmp_path, [claimed(1)], [submitted(1, request_id="abc")])
    row = opened(tmp_path).row_state(mark(1)).open
    assert row is not None
    assert row.submitted == submitted(1, request_id="abc")


def test_a_freed_row_may_be_sent_as_if_for_the_first_time(tmp_path: Path) -> None:
    written(tmp_path, [claimed(1), freed(1)])
    assert opened(tmp_path).row_state(mark(1)) == RowState(claim=claimed(1), attempt=1)


def test_a_row_freed_by_one_writer_stays_claimed_by_the_other(tmp_path: Path) -> None:
    written(tmp_path, [claimed(1, writer="a")], writer="a")
    written(tmp_path, [claimed(1, writer="b"), freed(1, writer="b")], writer="b")
    assert opened(tmp_path).row_state(mark(1)).open is not None


def test_a_finished_answer_is_read_back(tmp_path: Path) -> None:
    written(tmp_path, [claimed(1)], [submitted(1), finished(1, answer={"text": "Grün\n"})])
    event = opened(tmp_path).finished(mark(1))
    assert event == finished(1, answer={"text": "Grün\n"})


def test_an_answer_can_be_read_before_it_is_committed(tmp_path: Path) -> None:
    ledger = opened(tmp_path)
    ledger.append(finished(1))
    batch = ledger.take()
    ledger.append(finished(2))
    assert ledger.finished(mark(1)) == finished(1)
    assert ledger.finished(mark(2)) == finished(2)
    ledger.write(batch)
    ledger.commit()
    assert [ledger.finished(mark(number)) for number in (1, 2)] == [finished(1), finished(2)]


def test_a_failed_row_that_is_sent_again_keeps_its_outcome_until_the_next(tmp_path: Path) -> None:
    written(tmp_path, [finished(1, outcome=Outcome.FAILED, cost=None)], [claimed(1, 2)])
    ledger = opened(tmp_path)
    state = ledger.row_state(mark(1))
    assert state.open is not None
    assert (state.attempt, state.success) == (2, False)
    ledger.append(finished(1, 2))
    assert ledger.row_state(mark(1)).open is None
    assert ledger.row_state(mark(1)).success


def test_an_answer_is_never_replaced(tmp_path: Path) -> None:
    ledger = written(tmp_path, [finished(1, answer="first")])
    ledger.append(claimed(1, 2))
    ledger.append(finished(1, 2, outcome=Outcome.INVALID))
    assert ledger.finished(mark(1)) == finished(1, answer="first")
    assert ledger.row_state(mark(1)).open is None


def test_the_totals_of_a_run_survive_its_retry_and_exclude_other_runs(tmp_path: Path) -> None:
    other = finished(3, run="yesterday", cost=9.0)
    written(tmp_path, [finished(1), finished(2, outcome=Outcome.FAILED, cost=None), other, claimed(4)])
    totals = opened(tmp_path).totals()
    assert (totals.rows, totals.cost) == (3, 0.5)
    assert totals.outcomes == {Outcome.SUCCESS: 1, Outcome.FAILED: 1}


def test_a_row_sent_twice_in_one_run_counts_once(tmp_path: Path) -> None:
    written(tmp_path, [finished(1, outcome=Outcome.INVALID)], [finished(1, 2, cost=1.5)])
    totals = opened(tmp_path).totals()
    assert (totals.rows, totals.cost, totals.outcomes[Outcome.INVALID]) == (1, 1.5, 0)


def test_a_row_that_is_being_sent_again_in_one_run_counts_once(tmp_path: Path) -> None:
    further = replace(claimed(1, 2), request_ids=("q1-1",), cost=0.5)
    written(tmp_path, [finished(1, outcome=Outcome.INVALID, cost=0.5)], [further])
    totals = opened(tmp_path).totals()
    assert (totals.rows, totals.cost) == (1, 0.5)


def test_requests_of_finished_rows_are_looked_up_by_id_and_no_outcome_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_index, "INSERT_ROWS", 2)
    ledger = written(tmp_path, [finished(1), finished(2), finished(3)], [claimed(4), submitted(4)])
    monkeypatch.delattr(LocalDatabase, "each")
    assert ledger.owned_requests({"q1-1", "q3-1", "q4-1", "other"}) == {"q1-1", "q3-1", "q4-1"}


def test_a_line_of_a_later_version_stops_the_reader(tmp_path: Path) -> None:
    write_segment(tmp_path, "1-x-1.jsonl", [b'{"event":"teleported","fingerprint":"00"}'])
    with pytest.raises(SegmindEnrichmentError, match="this version cannot read"):
        opened(tmp_path)


@settings(max_examples=examples(150))
@given(st.lists(EVENTS, max_size=12), st.data())
def test_events_mean_the_same_in_any_order_and_however_often_read(events: list[Event], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(events + events))
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        first, second = written(Path(one), events), written(Path(two), shuffled[:5], shuffled[5:])
        compact(Path(two), clock=lambda: 6.0)
        third = opened(Path(two))
        for other in (second, third):
            for number in range(3):
                assert seen(first.row_state(mark(number))) == seen(other.row_state(mark(number)))
                assert first.finished(mark(number)) == other.finished(mark(number))
            assert first.totals() == other.totals()
