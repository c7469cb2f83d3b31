from __future__ import annotations

import pytest

from airflow_provider_segmind.enrichment.ledger.row_state import RunTotals
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.run_limits import Budget, Limits, Permission


def test_without_limits_everything_is_permitted() -> None:
    assert Budget(Limits()).permission(new_row=True) is Permission.GO


def test_what_is_in_flight_is_set_aside_from_the_money() -> None:
    budget = Budget(Limits(max_cost=1.0, expected_cost=0.4))
    for mark in (b"a", b"b"):
        assert budget.permission(new_row=True) is Permission.GO
        budget.started(mark, new_row=True)
    assert budget.permission(new_row=True) is Permission.WAIT
    budget.billed(b"a", 0.1)
    assert budget.permission(new_row=True) is Permission.GO


def test_when_the_next_request_would_pass_the_limit_the_run_stops() -> None:
    budget = Budget(Limits(max_cost=1.0, expected_cost=0.4))
    for _ in range(2):
        budget.started(b"a", new_row=True)
        budget.billed(b"a", 0.4)
    assert budget.permission(new_row=True) is Permission.STOP
    assert "no room for one more request of 0.4 USD" in budget.explain(new_row=True)


def test_what_is_lost_stays_set_aside() -> None:
    budget = Budget(Limits(max_cost=1.0, expected_cost=0.6))
    budget.started(b"a", new_row=True)
    budget.request_lost()
    assert budget.permission(new_row=True) is Permission.STOP
    budget.never_arrived(b"a")
    budget.uncount_row()
    assert budget.permission(new_row=True) is Permission.GO
    assert budget.rows == 0


def test_a_retry_goes_on_with_what_is_left() -> None:
    budget = Budget(Limits(max_cost=1.0), RunTotals(rows=9, cost=0.9))
    assert budget.mean_cost == pytest.approx(0.1)
    assert budget.permission(new_row=True) is Permission.GO
    budget.started(b"a", new_row=True)
    budget.billed(b"a", 0.1)
    assert "is used up" in budget.explain(new_row=True)


def test_a_further_question_about_a_row_needs_no_new_row() -> None:
    budget = Budget(Limits(max_rows=1))
    budget.started(b"a", new_row=True)
    assert budget.permission(new_row=True) is Permission.STOP
    assert budget.permission(new_row=False) is Permission.GO


def test_a_failure_that_nothing_was_billed_for_does_not_move_the_mean() -> None:
    budget = Budget(Limits(max_cost=1.0))
    for cost in (0.2, 0.0, None):
        budget.started(b"a", new_row=True)
        budget.billed(b"a", cost)
    assert budget.mean_cost == pytest.approx(0.2)


def test_failures_are_counted_or_taken_as_a_share() -> None:
    assert Limits(max_failed_rows=2).too_many_failed(2, 2) is None
    assert Limits(max_failed_rows=2).too_many_failed(3, 1000) == "3 of 1000 rows failed, max_failed_rows=2"
    assert Limits(max_failed_rows=0.1).too_many_failed(5, 49) is None
    assert Limits(max_failed_rows=0.1).too_many_failed(5, 49, final=True)
    assert Limits(max_failed_rows=0.1).too_many_failed(5, 50) is None
    assert Limits(max_failed_rows=0).too_many_failed(1, 1)


def test_only_rows_without_an_answer_count_as_failed() -> None:
    budget = Budget(Limits(max_failed_rows=0))
    budget.finished(Outcome.SUCCESS)
    assert budget.exceeded() is None
    budget.finished(Outcome.TRUNCATED)
    assert budget.exceeded() is not None
