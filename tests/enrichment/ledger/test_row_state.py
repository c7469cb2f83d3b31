"""What an attempt at a row has cost, where Segmind does not report every bill."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_provider_segmind.enrichment.ledger.events import Claimed, is_unpriced
from airflow_provider_segmind.enrichment.ledger.row_state import Attempt, OpenRow, RunTotals
from airflow_provider_segmind.enrichment.outcomes import FinishedRequest, Outcome
from tests.support.ledger_events import claimed, freed


def attempted(*costs: float | None) -> Attempt:
    """Return an attempt whose requests may have cost half a dollar each."""
    claim = Claimed(fingerprint=b"m", attempt=1, at=1.0, run="run", writer="w", model="m", body="", id="a")
    attempt = Attempt(claim)
    for number, cost in enumerate(costs):
        request = FinishedRequest(f"r{number}", "m", 2.0, Outcome.INVALID, cost, 3, "run")
        attempt = attempt.answered(request, most=0.5)
    return attempt


@pytest.mark.parametrize(
    ("costs", "cost", "unpriced", "charged"),
    [
        ((0.1,), 0.1, False, 0.0),
        ((0.1, 0.2), 0.3, False, 0.0),
        ((None,), None, True, 0.5),
        ((0.1, None), 0.1, True, 0.5),
        ((None, 0.1, None), 0.1, True, 1.0),
        ((0.0,), 0.0, False, 0.0),
    ],
)
def test_a_row_is_unpriced_if_one_of_its_bills_is_missing(
    costs: tuple[float | None, ...], cost: float | None, unpriced: bool, charged: float
) -> None:
    event = attempted(*costs).finished(Outcome.FAILED, at=3.0, reason="", answer=None, submitted=None, billed=True)
    totals = RunTotals()
    totals.add(event)

    assert event.cost == (None if cost is None else pytest.approx(cost))
    assert is_unpriced(event) == unpriced
    assert (event.charged, totals.charged, totals.unpriced) == (charged, charged, int(unpriced))


def test_a_later_attempt_of_the_same_run_carries_what_is_charged() -> None:
    earlier = attempted(None).finished(Outcome.FAILED, at=3.0, reason="", answer=None, submitted=None, billed=True)

    assert attempted().carrying(earlier).claim.charged == 0.5
    assert (
        attempted()
        .carrying(earlier)
        .answered(FinishedRequest("r", "m", 2.0, Outcome.INVALID, None, 3, "run"), most=0.25)
        .claim.charged
        == 0.75
    )


def test_what_was_given_up_is_charged_to_the_run_that_sent_it_until_a_later_claim_includes_it() -> None:
    row = OpenRow()
    assert row.charged("r") is None
    row.add(claimed(1))
    row.add(replace(freed(1), charged=0.5))
    row.add(claimed(1, 2, writer="v", run="other"))
    row.add(freed(1, 2, writer="v"))
    assert (row.charged("r"), row.charged("other")) == (0.5, 0.0)

    row.add(replace(claimed(1, 3), charged=0.5))
    assert row.charged("r") == 0.5
    row.add(replace(freed(1, 3), charged=0.25))
    assert row.charged("r") == 0.75
