from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_segmind.api.history import fit, row_moments, submission_moment
from airflow_provider_segmind.api.models import RequestRecord
from airflow_provider_segmind.api.submission import Fingerprint, Note

INPUTS = {"prompt": "one", "seed": 1}
AT = 1_800_000_000.0
NOTE = Note(Fingerprint.of(model="m", inputs=INPUTS, connection="c"), intent_at=AT, former=("r-0",))


def row(at: Any = AT + 5, **fields: Any) -> RequestRecord:
    given = {"request_id": "r-1", "model_name": "m", "request_body": INPUTS, "created": at, **fields}
    return RequestRecord.model_validate(given)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"request_body": json.dumps(INPUTS)},
        {"request_body": {**INPUTS, "steps": 30}},
        {"model_name": None},
        {"created": datetime.fromtimestamp(AT + 5, UTC).isoformat()},
        {"created": (AT + 5) * 1000},
        {"created": None, "updatedAt": AT + 5},
    ],
    ids=str,
)
def test_a_row_of_the_lost_post_fits(fields: dict[str, Any]) -> None:
    assert fit(row(**fields), NOTE, INPUTS) is not None


@pytest.mark.parametrize(
    "fields",
    [
        {"model_name": "other"},
        {"request_body": {"prompt": "two", "seed": 1}},
        {"request_body": {"prompt": "one"}},
        {"request_body": None},
        {"request_body": "{"},
        {"created": AT - 300},
        {"created": AT + 1000},
        {"created": None},
        {"request_id": "r-0"},
    ],
    ids=str,
)
def test_a_row_of_another_request_does_not_fit(fields: dict[str, Any]) -> None:
    assert fit(row(**fields), NOTE, INPUTS) is None


def test_a_latency_or_a_cost_is_no_moment() -> None:
    assert row_moments(row(created=None, latency_at=AT, cost_of=AT)) == []


def test_the_age_of_an_adopted_request_is_never_underestimated() -> None:
    assert submission_moment(row(AT + 5), NOTE) == AT
    assert submission_moment(row(AT - 20), NOTE) == AT - 20
