from __future__ import annotations

import pytest

from airflow_provider_segmind.enrichment.outcomes import MOST_KEPT, NO_REASON, OTHER, Outcome, Reasons, in_short


@pytest.mark.parametrize(
    ("reason", "short"),
    [
        ("content policy", "content policy"),
        (
            "request 'r-81f' was accepted, but its result is missing: 404",
            "request … was accepted, but its result is missing: …",
        ),
        ("request 5b1e77f0-9a3c-4b7d-8f21-aa54be2f1a90 is gone", "request … is gone"),
        ("max_cost=$5.00 is used up ($5.01 billed)", "max_cost=$… is used up ($… billed)"),
        ("'it's Bob's row' is refused", "… is refused"),
        ("the model doesn't know \"a prompt that was cut o", "the model doesn't know …"),
        ("422: [{'input': {'prompt': 'of a row'}}] at body", NO_REASON),
        ("$.words[0]: 'long secret' is too long", "$.words[…]: … is too long"),
        ("$: [1, 2] is not of type 'object'", "$: …"),
        ("bad prompt\nDear Sir, I was charged twice", "bad prompt"),
        ("", NO_REASON),
    ],
)
def test_what_stands_in_a_row_is_left_out_of_a_reason(reason: str, short: str) -> None:
    assert in_short(reason) == short


def test_a_long_reason_is_cut() -> None:
    assert len(in_short("word " * 100)) == 100


def test_equal_troubles_of_different_rows_are_one() -> None:
    reasons = Reasons()
    for number in range(50):
        reasons.add(Outcome.SKIPPED, f"Row {number} has no column 'text'.")
    reasons.add(Outcome.FAILED, "overloaded")

    assert reasons.to_json() == {"skipped": {"Row … has no column ….": 50}, "failed": {"overloaded": 1}}


def test_many_different_reasons_take_no_more_room_and_still_add_up() -> None:
    reasons = Reasons()
    for number in range(3 * MOST_KEPT):
        reasons.add(Outcome.FAILED, "x" * (number % 90) + chr(97 + number % 26) + "y" * (number // 90))
    reasons.add(Outcome.FAILED, "xa")

    told = reasons.to_json(most=3)["failed"]

    assert len(told) == 4
    assert sum(told.values()) == 3 * MOST_KEPT + 1
    assert list(told)[-1] == OTHER


def test_those_of_shards_add_up() -> None:
    one, other = {"failed": {"a": 2, OTHER: 5}}, {"failed": {"a": 1, "b": 9}, "blocked": {"c": 1}}

    assert Reasons.sum_of([one, other]).to_json() == {"failed": {"b": 9, "a": 3, OTHER: 5}, "blocked": {"c": 1}}


@pytest.mark.parametrize("refused", ["\x00", "\ud83d", "\x1b", "\x07"])
def test_a_reason_holds_nothing_that_a_database_refuses(refused: str) -> None:
    assert in_short(f"refused {refused}by the{refused}model") == "refused by the model"
