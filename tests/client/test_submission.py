from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_segmind.client.submission import (
    Attach,
    Fingerprint,
    LookUp,
    SubmissionRecord,
    SubmitNew,
    decide_submission,
)
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindStateError

SAME = Fingerprint.of(model="m", inputs={"a": 1, "b": "ü"}, connection="c at https://x")
INTENT = SubmissionRecord(SAME, intent_at=1.0)
HAD = INTENT.accepted("r-1", 2.0)


@pytest.mark.parametrize(
    ("record", "decision"),
    [
        (None, SubmitNew()),
        (INTENT, LookUp(INTENT)),
        (HAD, Attach(HAD)),
        (INTENT.ended("refused"), SubmitNew()),
        (HAD.ended("failed"), SubmitNew(previous_ids=("r-1",))),
    ],
)
def test_the_record_alone_decides_what_to_do(record: SubmissionRecord | None, decision: Any) -> None:
    for policy in ("resubmit", "fail"):
        assert decide_submission(record, SAME, policy) == decision  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"model": "n"}, {"inputs": {"a": 2}}, {"connection": "d"}])
def test_a_changed_task_follows_its_policy_and_names_the_change(change: dict[str, Any]) -> None:
    given = {"model": "m", "inputs": {"a": 1, "b": "ü"}, "connection": "c at https://x", **change}
    other = Fingerprint.of(**given)
    with pytest.raises(SegmindConfigError, match=f"'{next(iter(change))}'"):
        decide_submission(HAD, other, "fail")
    decision = decide_submission(HAD, other, "resubmit")
    assert isinstance(decision, SubmitNew)
    assert decision.previous_ids == ("r-1",)
    assert "may be billed as well" in str(decision.warning)


def test_the_order_of_keys_is_not_a_change() -> None:
    again = Fingerprint.of(model="m", inputs={"b": "ü", "a": 1}, connection="c at https://x")
    assert again == SAME


def test_a_record_survives_json() -> None:
    assert SubmissionRecord.from_json(HAD.to_json()) == HAD
    assert SubmissionRecord.from_json({"fingerprint": HAD.to_json()["fingerprint"], "intent_at": 1}).all_ids == ()


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, {"fingerprint": {}}, {"fingerprint": "f", "intent_at": 1}])
def test_what_is_not_a_record_stops_the_task(value: Any) -> None:
    with pytest.raises(SegmindStateError, match="Nothing is submitted"):
        SubmissionRecord.from_json(value)
