from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from airflow_provider_segmind import exceptions
from airflow_provider_segmind.exceptions import (
    SegmindAPIError,
    SegmindCreditsError,
    SegmindEnrichmentError,
    SegmindError,
    SegmindRateLimitError,
    SegmindReplyError,
    SegmindRequestFailedError,
    SegmindResponseError,
    after_sending,
    shorten,
    type_name,
)

CLASSES = {
    name: kind
    for name, kind in vars(exceptions).items()
    if inspect.isclass(kind) and issubclass(kind, SegmindError) and kind is not SegmindError
}
NEEDED = {"request_id": "r-1", "reason": "empty", "resets_at": 1.5}


def build(kind: type[SegmindError]) -> SegmindError:
    parameters = inspect.signature(kind.__init__).parameters.values()
    needed = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty]
    return kind("It broke.", **{name: NEEDED[name] for name in needed})


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_is_in_the_drawing_of_the_tree(name: str) -> None:
    assert f"─ {name} " in (exceptions.__doc__ or "")


@pytest.mark.parametrize("name", CLASSES)
def test_the_drawing_agrees_with_the_classes_on_billing_and_retries(name: str) -> None:
    line = next(line for line in (exceptions.__doc__ or "").splitlines() if f"─ {name} " in line)
    error = build(CLASSES[name])

    for word, value in (("billed no", False), ("billed yes", True), ("billed ?", None)):
        if word in line:
            assert error.billed is value
    if "retry no" in line:
        assert not error.retryable
    if "retry yes" in line or "re-attaches" in line:
        assert error.retryable


@pytest.mark.parametrize("name", CLASSES)
def test_every_error_survives_pickling_and_copying(name: str) -> None:
    error = build(CLASSES[name])

    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == "It broke."
        assert vars(again) == vars(error)


def test_an_error_keeps_its_details_through_pickling() -> None:
    error = SegmindRateLimitError("Slow down.", retry_after=7.5, request_id="r-1", body="slow")

    again = pickle.loads(pickle.dumps(error))

    assert (again.retry_after, again.request_id, again.body, again.status_code) == (7.5, "r-1", "slow", 429)
    assert again.retryable


def test_a_malformed_response_says_whether_money_was_spent() -> None:
    assert SegmindResponseError("m").billed is None
    again = pickle.loads(pickle.dumps(SegmindResponseError("m", billed=False, retryable=True)))
    assert (again.billed, again.retryable) == (False, True)


@pytest.mark.parametrize(
    ("error", "attribute"),
    [
        (SegmindAPIError("m", body="x" * 1000), "body"),
        (SegmindRequestFailedError("m", request_id="r", reason="x" * 1000), "reason"),
        (SegmindReplyError("m", reason="empty", reply="x" * 1000), "reply"),
    ],
)
def test_an_error_quotes_two_hundred_characters_at_most(error: SegmindError, attribute: str) -> None:
    assert getattr(error, attribute) == "x" * 200 + "…"


@pytest.mark.parametrize(("text", "shown"), [("", ""), ("x" * 200, "x" * 200), ("x" * 201, "x" * 200 + "…")])
def test_only_a_truncated_text_ends_with_an_ellipsis(text: str, shown: str) -> None:
    assert shorten(text) == shown


@pytest.mark.parametrize(
    "said",
    [
        "The key is missing. Nothing was sent.",
        "Nothing was sent; check the host.",
        "'inputs' do not fit. Nothing was sent or billed.",
        "Redis is away. Nothing was sent and nothing was billed; check it.",
        "It costs 1 USD. Nothing was submitted.",
        "The folder is full. Nothing was sent in this try. Free space.",
        "There is no column 'a'. Nothing was sent",
    ],
)
def test_nothing_was_sent_is_corrected_after_something_was_sent(said: str) -> None:
    error = SegmindEnrichmentError(said, retryable=True)
    after_sending(error, "240 requests were sent before")
    assert "Nothing was" not in str(error)
    assert "Nothing more was sent; 240 requests were sent before" in str(error)
    assert error.retryable


def test_nothing_was_billed_is_corrected_after_something_was_sent() -> None:
    error = SegmindCreditsError("It returned HTTP 402. Nothing was billed; add credits.")
    after_sending(error, "request 'r-1' had been submitted before")
    assert str(error) == (
        "It returned HTTP 402. Nothing more was billed; request 'r-1' had been submitted before; add credits."
    )
    failed = SegmindRequestFailedError("It is FAILED. Nothing was billed, and waiting will not help.", request_id="r-1")
    after_sending(failed, "request 'r-1' had been submitted before")
    assert "Nothing was billed, and" in str(failed)


@pytest.mark.parametrize("said", ["Nothing was sent for this row.", "Nothing was sent again. Clear the task.", "Lost."])
def test_messages_about_one_row_or_a_retry_are_unchanged(said: str) -> None:
    error = SegmindError(said)
    after_sending(error, "1 request was sent before")
    assert str(error) == said


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "None"),
        (7, "an int"),
        (0.5, "a float"),
        (True, "a bool"),
        ({}, "a dict"),
        ([], "a list"),
        (b"", "bytes"),
        (object(), "an object"),
        (int, "a type"),
    ],
)
def test_a_type_is_named_with_its_article(value: object, words: str) -> None:
    assert type_name(value) == words
