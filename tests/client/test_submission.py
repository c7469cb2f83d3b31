from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_segmind.client.submission import Attach, Fingerprint, LookUp, Note, SubmitNew, decide
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindStateError

SAME = Fingerprint.of(model="m", inputs={"a": 1, "b": "ü"}, connection="c at https://x")
INTENT = Note(SAME, intent_at=1.0)
HAD = INTENT.accepted("r-1", 2.0)


@pytest.mark.parametrize(
    ("note", "decision"),
    [
        (None, SubmitNew()),
        (INTENT, LookUp(INTENT)),
        (HAD, Attach(HAD)),
        (INTENT.ended("refused"), SubmitNew()),
        (HAD.ended("failed"), SubmitNew(former=("r-1",))),
    ],
)
def test_the_note_alone_says_what_to_do(note: Note | None, decision: Any) -> None:
    for policy in ("resubmit", "fail"):
        assert decide(note, SAME, policy) == decision  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"model": "n"}, {"inputs": {"a": 2}}, {"connection": "d"}])
def test_a_changed_task_follows_its_policy_and_names_the_change(change: dict[str, Any]) -> None:
    given = {"model": "m", "inputs": {"a": 1, "b": "ü"}, "connection": "c at https://x", **change}
    other = Fingerprint.of(**given)
    with pytest.raises(SegmindConfigError, match=f"'{next(iter(change))}'"):
        decide(HAD, other, "fail")
    decision = decide(HAD, other, "resubmit")
    assert isinstance(decision, SubmitNew)
    assert decision.former == ("r-1",)
    assert "may be billed as well" in str(decision.warning)


def test_the_order_of_keys_is_no_change() -> None:
    again = Fingerprint.of(model="m", inputs={"b": "ü", "a": 1}, connection="c at https://x")
    assert again == SAME


def test_a_note_survives_json() -> None:
    assert Note.from_json(HAD.to_json()) == HAD
    assert Note.from_json({"fingerprint": HAD.to_json()["fingerprint"], "intent_at": 1}).known == ()


@pytest.mark.parametrize("value", [None, 1, "x", [], {}, {"fingerprint": {}}, {"fingerprint": "f", "intent_at": 1}])
def test_what_is_no_note_stops_the_task(value: Any) -> None:
    with pytest.raises(SegmindStateError, match="Nothing is submitted"):
        Note.from_json(value)
