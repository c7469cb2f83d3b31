"""An entry of the spend record, and what two entries of one request say together."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from airflow_provider_segmind.spend.entries import SpendEntry, combine, entry_line
from tests.support.spend import NOON, an_entry

PRICED = an_entry()
UNPRICED = replace(PRICED, at=NOON - 5, tokens=None, cost_micros=None)
OF_NO_TASK = replace(PRICED, at=NOON - 60, dag_id="", task_id="", run_id="", tokens=None)


def test_an_entry_is_read_back_as_it_was_written() -> None:
    assert SpendEntry.from_json(json.loads(entry_line(PRICED))) == PRICED


def test_a_field_of_a_later_version_is_ignored() -> None:
    assert SpendEntry.from_json({**PRICED.to_json(), "project": "x"}) == PRICED


@pytest.mark.parametrize("broken", [{}, [], "text", {**PRICED.to_json(), "outcome": "fine"}])
def test_what_is_not_an_entry_is_refused(broken: object) -> None:
    with pytest.raises(ValueError, match="not an"):
        SpendEntry.from_json(broken)


def test_a_cost_that_one_entry_lacks_is_taken_from_the_other() -> None:
    for one, other in ((PRICED, UNPRICED), (UNPRICED, PRICED)):
        assert combine(one, other) == replace(UNPRICED, cost_micros=48.25, tokens=120)


def test_the_entry_of_a_task_precedes_one_from_the_history() -> None:
    for one, other in ((PRICED, OF_NO_TASK), (OF_NO_TASK, PRICED)):
        assert combine(one, other) == PRICED


def test_the_first_of_two_tries_counts() -> None:
    later = replace(PRICED, at=NOON + 900, try_number=2)
    assert combine(later, PRICED) == combine(PRICED, later) == PRICED
