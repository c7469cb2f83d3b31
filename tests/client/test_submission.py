from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_segmind.client.submission import (
    Attach,
    Fingerprint,
    GivenUp,
    LookUp,
    SubmissionRecord,
    SubmitNew,
    decide_submission,
    fill_in,
    filled_in,
)
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindStateError

SAME = Fingerprint.of(model="m", inputs={"a": 1, "b": "ü"}, connection="c at https://x")
INTENT = SubmissionRecord(SAME, intent_at=1.0)
HAD = INTENT.accepted("r-1", 2.0)


def circle() -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    inputs["again"] = inputs
    return inputs


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ({"a": 1, 1: 2}, "keys that are not strings"),
        ({"a": {(1,): 2}}, "keys that are not strings"),
        ({"a": 10**5000}, "digits"),
        (circle(), "Circular"),
    ],
    ids=["mixed keys", "a tuple as key", "a huge number", "a circle"],
)
def test_inputs_that_cannot_be_json_are_refused_by_name(inputs: dict[Any, Any], problem: str) -> None:
    with pytest.raises(SegmindConfigError, match=f"'inputs' cannot be written as JSON: .*{problem}.*Nothing was sent"):
        Fingerprint.of(model="m", inputs=inputs, connection="c")


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


def test_what_is_sent_instead_of_a_post_of_unknown_fate_names_it() -> None:
    unknown = replace(INTENT, reservation="r", given_up=(GivenUp(0.5),))
    both = (GivenUp(0.5), GivenUp(1.0, "r"))

    assert SubmitNew.after(unknown, resubmits=1).given_up == both
    # One that was refused, or has an id, is not unknown.
    for known in (unknown.ended("refused"), unknown.accepted("r-1", 2.0), unknown.accepted("r-1", 2.0).ended("failed")):
        assert SubmitNew.after(known).given_up == (GivenUp(0.5),)
    changed = decide_submission(unknown, replace(SAME, model="n"), "resubmit")
    assert isinstance(changed, SubmitNew)
    assert (changed.given_up, changed.resubmits) == (both, 0)


def test_the_order_of_keys_is_not_a_change() -> None:
    again = Fingerprint.of(model="m", inputs={"b": "ü", "a": 1}, connection="c at https://x")
    assert again == SAME


def test_a_record_survives_json() -> None:
    assert SubmissionRecord.from_json(HAD.to_json()) == HAD
    assert "given_up" not in HAD.to_json()
    both = replace(HAD, given_up=(GivenUp(0.5), GivenUp(0.75, "r")))
    assert SubmissionRecord.from_json(json.loads(json.dumps(both.to_json()))) == both
    assert "filled_in" not in HAD.to_json()
    filled = replace(HAD, filled_in={"placeholder": "0f" * 32})
    assert SubmissionRecord.from_json(json.loads(json.dumps(filled.to_json()))) == filled
    assert SubmissionRecord.from_json({"fingerprint": HAD.to_json()["fingerprint"], "intent_at": 1}).all_ids == ()


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, {"fingerprint": {}}, {"fingerprint": "f", "intent_at": 1}])
def test_what_is_not_a_record_stops_the_task(value: Any) -> None:
    with pytest.raises(SegmindStateError, match="Nothing is submitted"):
        SubmissionRecord.from_json(value)


def test_what_was_filled_in_is_recognized_by_its_digest() -> None:
    inputs = {"parts": [{"text": "what is it?"}, {"uri": "file-1"}], "n": 1}
    sent = {"parts": [{"text": "what is it?"}, {"uri": "https://x/one"}], "n": 1}
    digests = filled_in(inputs, sent)
    assert list(digests) == ["file-1"]
    assert "https" not in str(digests)
    assert fill_in(inputs, {**sent, "seed": -1}, digests) == sent
    other = {"parts": [{"text": "what is it?"}, {"uri": "https://x/two"}], "n": 1}
    for theirs in (other, {"parts": [{"uri": "https://x/one"}]}, [], None, {"parts": None}):
        assert fill_in(inputs, theirs, digests) == inputs
