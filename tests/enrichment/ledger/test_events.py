"""A line of the ledger is read as it was written, whole or in part."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.chat.json_values import read_json
from airflow_provider_segmind.enrichment.ledger.events import (
    Event,
    Finished,
    FinishedHead,
    ends_of,
    from_line,
    request_ids_of,
    to_line,
)
from airflow_provider_segmind.enrichment.outcomes import Outcome
from tests.support.ledger_events import EVENTS, finished, freed

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
    ends = ends_of(to_line(event))
    assert ends is None or all(
        getattr(FinishedHead(ends), name) == getattr(event, name) for name in _READ_OF_AN_OUTCOME
    )
    for charged in (0.0, 0.25, 1e-07):
        usual = replace(finished(1), answer=event.answer, reason=event.reason, charged=charged)
        assert ends_of(to_line(usual)) is not None


@given(EVENTS)
def test_the_requests_of_a_line_are_found_without_its_answer(event: Event) -> None:
    assert request_ids_of(to_line(event)) == getattr(event, "request_ids", ())


@given(EVENTS)
def test_an_event_is_read_back_from_its_line(event: Event) -> None:
    assert from_line(to_line(event)) == event


def test_numbers_that_no_store_can_hold_are_read_from_a_line_as_from_a_result() -> None:
    line = to_line(finished(1)).replace(b'"answer":null', b'"answer":{"digits":%s,"power":1e400}' % (b"7" * 400))
    event = from_line(line)
    assert isinstance(event, Finished)
    assert event.answer == {"digits": "7" * 400, "power": None} == read_json(json.dumps(event.answer))


def test_a_release_is_written_as_before_unless_something_is_charged() -> None:
    plain = to_line(freed(1))

    assert b"charged" not in plain
    assert from_line(plain) == freed(1)
    given_up = replace(freed(1), charged=0.5)
    assert from_line(to_line(given_up)) == given_up
