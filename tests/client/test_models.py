from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_provider_segmind.client.models import (
    Credits,
    Metrics,
    ModelInfo,
    RequestRecord,
    RequestResult,
    RequestState,
    SubmittedRequest,
    SyncResult,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (0.05, 0.05),
        (0, 0.0),
        ("0.00105109", 0.00105109),
        (None, None),
        ("", None),
        ("free", None),
        (True, None),
        ([1], None),
        ({"usd": 1}, None),
        (float("nan"), None),
        ("NaN", None),
        (float("inf"), None),
        (1e308, None),
        (1e8, None),
        (1e6, 1e6),
        (-0.5, None),
        pytest.param(10**400, None, id="too large for a float"),
    ],
)
def test_a_cost_that_is_no_amount_of_money_is_unknown_and_never_zero(sent: Any, read: float | None) -> None:
    assert Metrics.model_validate({"cost": sent}).cost == read
    assert RequestRecord.model_validate({"request_id": "r", "credits_deduction": sent}).credits_deduction == read


@pytest.mark.parametrize(
    ("status", "completed", "failed"),
    [
        ("COMPLETED", True, False),
        ("Completed", True, False),
        ("FAILED", False, True),
        ("failed", False, True),
        ("PENDING", False, False),
        ("PROCESSING", False, False),
        ("", False, False),
        (None, False, False),
    ],
)
def test_a_history_row_and_a_state_read_a_status_by_one_rule(status: Any, completed: bool, failed: bool) -> None:
    row = RequestRecord.model_validate({"request_id": "r", "model_status": status})
    state = RequestState.model_validate({"request_id": "r", "status": status or ""})
    for each in (row, state):
        assert (each.completed, each.failed, each.finished) == (completed, failed, completed or failed)


@pytest.mark.parametrize(
    ("status", "deduction", "cost"),
    [
        ("COMPLETED", 0.05, 0.05),
        ("completed", 0, 0.0),
        ("COMPLETED", None, None),
        ("FAILED", None, 0.0),
        ("failed", 0.05, 0.0),
        ("PENDING", 0, None),
        ("PENDING", None, None),
        ("PENDING", 0.05, 0.05),
        (None, 0, None),
        (None, 0.05, 0.05),
    ],
)
def test_what_a_history_row_says_about_the_bill(status: Any, deduction: Any, cost: float | None) -> None:
    row = RequestRecord.model_validate(
        {"request_id": "r", "model_status": status, "credits_deduction": deduction, "cost": 7.0}
    )
    assert row.cost == cost


def test_a_cost_that_is_missing_is_unknown() -> None:
    assert Metrics.model_validate({"inference_time": 13.06}).cost is None


@pytest.mark.parametrize("sent", [None, "none", [], 7, True])
def test_metrics_that_are_not_an_object_are_empty(sent: Any) -> None:
    state = RequestState.model_validate({"request_id": "r", "status": "COMPLETED", "metrics": sent})

    assert state.metrics == Metrics()


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (None, None),
        ("", None),
        ({}, None),
        ([], None),
        (False, None),
        ("no prompt", "no prompt"),
        ({"code": 7, "why": "blöd"}, '{"code": 7, "why": "blöd"}'),
        (["a", 1], '["a", 1]'),
    ],
)
def test_the_reason_for_a_failure_may_be_a_string_an_object_or_nothing(sent: Any, read: str | None) -> None:
    assert RequestState.model_validate({"request_id": "r", "status": "FAILED", "error": sent}).error == read


@pytest.mark.parametrize(
    ("status", "completed", "failed"),
    [
        ("QUEUED", False, False),
        ("PROCESSING", False, False),
        ("COMPLETED", True, False),
        ("FAILED", False, True),
        ("completed", True, False),
        ("Failed", False, True),
        ("WARMING_UP", False, False),
        ("", False, False),
    ],
)
def test_any_status_but_the_two_final_ones_is_in_progress(status: str, completed: bool, failed: bool) -> None:
    state = RequestState(request_id="r", status=status)

    assert (state.completed, state.failed, state.finished) == (completed, failed, completed or failed)


def test_undocumented_fields_are_kept() -> None:
    wire = {
        "request_id": "r",
        "status": "COMPLETED",
        "output": [1, {"a": None}],
        "grounding": {"chunks": []},
        "metrics": {"cost": 0.1, "gpu": "H100"},
    }

    result = RequestResult.model_validate(wire)

    assert result.to_json() == wire
    assert result.metrics.model_extra == {"gpu": "H100"}


def test_the_free_part_of_the_balance_has_a_hyphen_in_json() -> None:
    balance = Credits.model_validate({"credits": 0.0, "free-credits": 0.0184921035})

    assert balance.total == pytest.approx(0.0184921035)
    assert balance.to_json() == {"credits": 0.0, "free-credits": 0.0184921035}


def test_bytes_that_are_not_text_can_be_written_as_json() -> None:
    result = SyncResult(content_type="image/png", content=b"\xff\xd8\x00")

    assert json.dumps(result.to_json()) == '{"content_type": "image/png", "content": "_9gA"}'


def test_a_repr_shows_neither_outputs_nor_prompts_nor_unknown_fields() -> None:
    secret = "canary"
    shown = [
        RequestResult.model_validate({"request_id": "r", "status": "X", "output": secret, "prompt": secret}),
        RequestRecord(request_id="r", request_body={"prompt": secret}, generation_url=secret),
        SyncResult(content_type="a/b", json_body={"t": secret}, content=secret.encode()),
        ModelInfo(slug="m", parameters={"default": secret}),
        Metrics.model_validate({"echo": secret}),
    ]

    for each in shown:
        assert secret not in repr(each)
        assert secret not in str(each)
        assert secret not in repr([each])


def test_an_invalid_value_is_not_quoted_in_the_error() -> None:
    with pytest.raises(ValidationError) as caught:
        SubmittedRequest.model_validate({"request_id": ["canary"]})

    assert "canary" not in str(caught.value)


def test_models_are_frozen() -> None:
    state = RequestState(request_id="r", status="QUEUED")

    with pytest.raises(ValidationError):
        state.status = "COMPLETED"  # type: ignore[misc]


@given(body=st.dictionaries(st.sampled_from(["error", "metrics", "output", "cost", "x"]), JSON))
def test_no_value_of_an_optional_field_breaks_a_state(body: dict[str, Any]) -> None:
    result = RequestResult.model_validate({**body, "request_id": "r", "status": "COMPLETED"})

    assert result.completed
    assert isinstance(result.error, (str, type(None)))


@given(numbers=st.dictionaries(st.sampled_from(list(Metrics.model_fields)), JSON))
def test_no_value_breaks_metrics(numbers: dict[str, Any]) -> None:
    metrics = Metrics.model_validate(numbers)

    assert all(getattr(metrics, name) is None or abs(getattr(metrics, name)) < 1e309 for name in Metrics.model_fields)
