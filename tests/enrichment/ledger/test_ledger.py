from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_segmind.chat.json_values import read_json
from airflow_provider_segmind.enrichment.ledger import ledger, local_index
from airflow_provider_segmind.enrichment.ledger.compaction import compact
from airflow_provider_segmind.enrichment.ledger.events import (
    Event,
    Finished,
    FinishedHead,
    from_line,
    head_of,
    request_ids_of,
    to_line,
)
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.row_state import KNOWN_REQUESTS, RowState
from airflow_provider_segmind.enrichment.ledger.segments import segment_names, write_segment
from airflow_provider_segmind.enrichment.local_database import LocalDatabase
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from tests.support.examples import examples
from tests.support.ledger_events import claimed, finished, freed, mark, submitted


def opened(folder: Path, *, run: str = "r", writer: str = "w") -> Ledger:
    ledger = Ledger(folder, run=run, writer=writer, clock=lambda: 5.0)
    ledger.replay()
    return ledger


def written(folder: Path, *groups: Sequence[Event], writer: str = "w") -> Ledger:
    ledger = opened(folder, writer=writer)
    for group in groups:
        for event in group:
            ledger.append(event)
        ledger.commit()
    return ledger


def seen(state: RowState) -> object:
    row = state.open
    return (row and (row.attempt, state.claim, row.submitted), state.success, state.attempt)


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


def test_segments_can_be_read_with_ls_and_jq(tmp_path: Path) -> None:
    written(tmp_path, [claimed(1)], [finished(1)])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["00000000005000-w-000000.jsonl", "00000000005000-w-000001.jsonl"]
    lines = [json.loads(line) for line in (tmp_path / names[1]).read_text().splitlines()]
    assert [line["event"] for line in lines] == ["finished", "end"]
    assert lines[0]["fingerprint"] == mark(1).hex()


@pytest.mark.parametrize("cut", [0, 1, 40, -1, -2, -30])
def test_a_torn_segment_is_unreadable_and_not_absent(tmp_path: Path, cut: int) -> None:
    written(tmp_path, [claimed(1), submitted(1)])
    path = next(tmp_path.iterdir())
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    if cut == -1:  # only the last line end is missing: everything that was written can be checked
        opened(tmp_path)
        return
    with pytest.raises(SegmindEnrichmentError, match="cannot be read") as caught:
        opened(tmp_path)
    assert caught.value.retryable


def test_a_changed_byte_is_seen(tmp_path: Path) -> None:
    written(tmp_path, [submitted(1, request_id="abc")])
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes().replace(b"abc", b"abd"))
    with pytest.raises(SegmindEnrichmentError):
        opened(tmp_path)


def test_a_line_of_a_later_version_stops_the_reader(tmp_path: Path) -> None:
    write_segment(tmp_path, "1-x-1.jsonl", [b'{"event":"teleported","fingerprint":"00"}'])
    with pytest.raises(SegmindEnrichmentError, match="this version cannot read"):
        opened(tmp_path)


def test_a_half_written_file_is_ignored(tmp_path: Path) -> None:
    written(tmp_path, [finished(1)])
    (tmp_path / ".00000000005000-w-000007.jsonl.1f.tmp").write_bytes(b'{"event":"cla')
    assert opened(tmp_path).row_state(mark(1)).success


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


_NUMBERS = st.integers(0, 2)
_ATTEMPTS = st.integers(1, 3)
_WRITERS = st.sampled_from("ab")
_EVENTS = st.one_of(
    st.builds(claimed, _NUMBERS, _ATTEMPTS, writer=_WRITERS),
    st.builds(lambda n, a, q: submitted(n, a, request_id=q), _NUMBERS, _ATTEMPTS, st.sampled_from("xy")),
    st.builds(freed, _NUMBERS, _ATTEMPTS, writer=_WRITERS),
    st.builds(
        finished,
        _NUMBERS,
        _ATTEMPTS,
        outcome=st.sampled_from([Outcome.SUCCESS, Outcome.FAILED, Outcome.INVALID]),
        at=st.sampled_from([3.0, 4.0]),
        charged=st.sampled_from([0.0, 0.5]),
    ),
)


@settings(max_examples=examples(150))
@given(st.lists(_EVENTS, max_size=12), st.data())
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


_TEXTS = st.text(max_size=8) | st.sampled_from(['"', "\\", ',"request_ids":[', '],"cost":1.0,"tokens":1,"seconds":1.0'])
_TAIL = {"request_ids": ["r"], "cost": 1.0, "tokens": None, "seconds": 1.0, "billed": True}


_READ_OF_AN_OUTCOME = [name for name in vars(FinishedHead) if not name.startswith("_")]


@given(
    st.builds(
        lambda answer, **known: replace(finished(1), answer=answer, **known),
        st.sampled_from([_TAIL, {"answer": _TAIL}, [_TAIL, []], ["request_ids", 1.0], None])
        | st.dictionaries(_TEXTS, _TEXTS, max_size=3),
        outcome=st.sampled_from([Outcome.SUCCESS, Outcome.FAILED]),
        run=_TEXTS,
        model=_TEXTS,
        body=st.sampled_from(["", "0f" * 32]),
        reason=_TEXTS,
        request_ids=st.lists(_TEXTS, max_size=3).map(tuple),
        cost=st.sampled_from([None, 0, 0.25, 1e-07, 1e22]),
        tokens=st.sampled_from([None, 3]),
        seconds=st.sampled_from([None, 0, 0.5, 1e-07]),
        billed=st.sampled_from([None, True, False]),
        charged=st.sampled_from([0.0, 0.5, 1e-07, 1e22]),
    )
)
def test_what_is_read_of_an_outcome_without_its_answer_is_what_it_says(event: Finished) -> None:
    head = head_of(to_line(event))
    assert head is None or all(getattr(head, name) == getattr(event, name) for name in _READ_OF_AN_OUTCOME)
    for charged in (0.0, 0.25, 1e-07):
        usual = replace(finished(1), answer=event.answer, reason=event.reason, charged=charged)
        assert head_of(to_line(usual)) is not None


@given(_EVENTS)
def test_the_requests_of_a_line_are_found_without_its_answer(event: Event) -> None:
    assert request_ids_of(to_line(event)) == getattr(event, "request_ids", ())


@given(_EVENTS)
def test_an_event_is_read_back_from_its_line(event: Event) -> None:
    assert from_line(to_line(event)) == event


def test_numbers_that_no_store_can_hold_are_read_from_a_line_as_from_a_result() -> None:
    line = to_line(finished(1)).replace(b'"answer":null', b'"answer":{"digits":%s,"power":1e400}' % (b"7" * 400))
    event = from_line(line)
    assert isinstance(event, Finished)
    assert event.answer == {"digits": "7" * 400, "power": None} == read_json(json.dumps(event.answer))
