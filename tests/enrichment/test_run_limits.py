from __future__ import annotations

import pytest

from airflow_provider_segmind.chat.cost_estimate import UNBOUNDED, CostBound
from airflow_provider_segmind.enrichment.ledger.row_state import RunTotals
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.run_limits import Limits, Permission, RunUsage


def test_without_limits_everything_is_permitted() -> None:
    assert RunUsage(Limits()).permission(new_row=True) is Permission.GO


def test_what_is_in_flight_is_set_aside_from_the_money() -> None:
    usage = RunUsage(Limits(max_cost=1.0))
    usage.started(b"first", new_row=True)
    usage.billed(b"first", 0.3)
    for mark in (b"a", b"b"):
        assert usage.permission(new_row=True) is Permission.GO
        usage.started(mark, new_row=True)
    assert usage.permission(new_row=True) is Permission.WAIT
    usage.billed(b"a", 0.1)
    assert usage.permission(new_row=True) is Permission.GO


def waves(usage: RunUsage, bound: CostBound, *, bill: float, at_once: int = 64) -> list[int]:
    """Send and bill one wave of requests after the other until the run stops; return how many each had."""
    found = []
    while True:
        marks = []
        while len(marks) < at_once and (said := usage.permission(bound, new_row=True)) is Permission.GO:
            marks.append(b"%d" % len(marks))
            usage.started(marks[-1], bound, new_row=True)
        if not marks:
            assert said is Permission.STOP
            return found
        for mark in marks:
            usage.billed(mark, bill)
        found.append(len(marks))


@pytest.mark.parametrize(
    ("bound", "sent"),
    [(CostBound(usd=0.00013, certain=True), [3, 1]), (CostBound(usd=0.0, certain=False), [2, 2]), (UNBOUNDED, [2, 2])],
)
def test_a_price_that_is_wrong_or_unknown_is_learned_before_most_of_the_money_is_in_flight(
    bound: CostBound, sent: list[int]
) -> None:
    usage = RunUsage(Limits(max_cost=0.005))

    assert waves(usage, bound, bill=0.00105) == sent
    assert usage.spent <= 0.005


def test_a_retry_remembers_that_bills_are_above_what_was_reserved() -> None:
    usage = RunUsage(Limits(max_cost=0.005), RunTotals(rows=4, cost=0.0042))

    assert waves(usage, CostBound(usd=0.00013, certain=True), bill=0.00105) == []


def test_a_request_is_not_alone_where_the_money_suffices_for_many() -> None:
    usage = RunUsage(Limits(max_cost=5.0))

    assert waves(usage, CostBound(usd=0.0002, certain=True), bill=0.00002, at_once=64)[:3] == [64, 64, 64]


def test_failures_say_nothing_about_the_price() -> None:
    usage = RunUsage(Limits(max_cost=0.005))
    bound = CostBound(usd=0.001, certain=True)
    usage.started(b"a", bound, new_row=True)
    usage.billed(b"a", 0.0)

    for mark in (b"b", b"c"):
        assert usage.permission(bound, new_row=True) is Permission.GO
        usage.started(mark, bound, new_row=True)
    assert usage.permission(bound, new_row=True) is Permission.WAIT


def test_when_the_next_request_would_pass_the_limit_the_run_stops() -> None:
    usage = RunUsage(Limits(max_cost=1.0, expected_cost=0.4))
    for _ in range(2):
        usage.started(b"a", new_row=True)
        usage.billed(b"a", 0.4)
    assert usage.permission(new_row=True) is Permission.STOP
    assert "no room for one more request of $0.40" in usage.explain(new_row=True)


@pytest.mark.parametrize(("before", "now"), [(0.6, 0), (0, 2), (0.3, 1)])
def test_a_stop_says_what_is_kept_for_requests_without_a_reported_bill(before: float, now: int) -> None:
    usage = RunUsage(Limits(max_cost=1.0), RunTotals(rows=2, cost=0.1, charged=before))
    bound = CostBound(usd=0.3, certain=True)
    for number in range(now):
        usage.started(b"%d" % number, bound, new_row=True)
        usage.billed(b"%d" % number, None)

    assert usage.permission(CostBound(usd=0.4, certain=True), new_row=True) is Permission.STOP
    assert "$0.10 billed, $0.60 for requests without a reported bill, $0" in usage.explain(new_row=True)


def test_what_is_lost_stays_set_aside() -> None:
    usage = RunUsage(Limits(max_cost=1.0, expected_cost=0.6))
    usage.started(b"a", new_row=True)
    usage.request_lost()
    assert usage.permission(new_row=True) is Permission.STOP
    usage.never_arrived(b"a")
    usage.uncount_row()
    assert usage.permission(new_row=True) is Permission.GO
    assert usage.rows == 0


def test_a_retry_goes_on_with_what_is_left() -> None:
    usage = RunUsage(Limits(max_cost=1.0), RunTotals(rows=9, cost=0.9))
    assert usage.mean_cost == pytest.approx(0.1)
    assert usage.permission(new_row=True) is Permission.GO
    usage.started(b"a", new_row=True)
    usage.billed(b"a", 0.1)
    assert "is used up" in usage.explain(new_row=True)


def test_a_further_question_about_a_row_needs_no_new_row() -> None:
    usage = RunUsage(Limits(max_rows=1))
    usage.started(b"a", new_row=True)
    assert usage.permission(new_row=True) is Permission.STOP
    assert usage.permission(new_row=False) is Permission.GO


def test_a_failure_that_nothing_was_billed_for_does_not_move_the_mean() -> None:
    usage = RunUsage(Limits(max_cost=1.0))
    for cost in (0.2, 0.0, None):
        usage.started(b"a", new_row=True)
        usage.billed(b"a", cost)
    assert usage.mean_cost == pytest.approx(0.2)


def test_failures_are_counted_or_taken_as_a_share() -> None:
    assert Limits(max_failed_rows=2).too_many_failed(2, 2) is None
    assert Limits(max_failed_rows=2).too_many_failed(3, 1000) == "3 of 1000 distinct rows failed, max_failed_rows=2"
    assert Limits(max_failed_rows=0.1).too_many_failed(5, 49) is None
    assert Limits(max_failed_rows=0.1).too_many_failed(5, 49, final=True)
    assert Limits(max_failed_rows=0.1).too_many_failed(5, 50) is None
    assert Limits(max_failed_rows=0).too_many_failed(1, 1)


def test_only_rows_without_an_answer_count_as_failed() -> None:
    usage = RunUsage(Limits(max_failed_rows=0))
    usage.finished(Outcome.SUCCESS)
    assert usage.exceeded() is None
    usage.finished(Outcome.TRUNCATED)
    assert usage.exceeded() is not None
