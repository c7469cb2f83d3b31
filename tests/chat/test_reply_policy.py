"""What is done with a reply, and what the next paid request looks like."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel

from airflow_provider_segmind.chat.attachments import Attachment
from airflow_provider_segmind.chat.messages import build_chat_inputs
from airflow_provider_segmind.chat.output_type import OutputType, ParsedReply
from airflow_provider_segmind.chat.replies import ChatReply, FinishReason, TokenUsage
from airflow_provider_segmind.chat.reply_policy import (
    DEFAULT_OUTPUT_CAP,
    LARGEST_OUTPUT_CAP,
    QUOTED_ANSWER_CHARACTERS,
    Accept,
    AskAgainLarger,
    Refuse,
    Repair,
    decide_reply,
    enlarge_inputs,
    output_cap_of,
    repair_inputs,
    repair_prompt,
    reply_error,
)
from airflow_provider_segmind.exceptions import SegmindReplyError

GEMINI, GPT, CLAUDE = "gemini-3.1-flash-lite", "gpt-5.4-mini", "claude-4.5-sonnet"


class Answer(BaseModel):
    n: int


def reply(text: str = '{"n": 1}', finish: str = "stop", native: str | None = None, **extra: object) -> ChatReply:
    return ChatReply(text=text, finish_reason=FinishReason(finish), native_finish_reason=native, **extra)  # type: ignore[arg-type]


def parsed(text: str) -> ParsedReply:
    return OutputType.from_(Answer).parse(text)


def test_a_text_is_accepted_as_it_is():
    assert decide_reply(reply("Hi "), None, follow_ups_left=0) == Accept("Hi ")


def test_valid_data_is_accepted():
    assert decide_reply(reply(), parsed('{"n": 1}'), follow_ups_left=0) == Accept({"n": 1})


@pytest.mark.parametrize("data", [None, parsed('{"n": 1}'), parsed('{"n": ')])
def test_a_truncated_reply_gets_more_room_once_and_is_never_put_back_to_the_model(data):
    cut = reply("Hi", "length", "MAX_TOKENS")

    assert decide_reply(cut, data, follow_ups_left=1, output_cap=100) == AskAgainLarger(400)
    assert decide_reply(cut, data, follow_ups_left=0) == Refuse("truncated", "the answer was cut off (MAX_TOKENS)")


@pytest.mark.parametrize(
    ("cap", "used", "expected"),
    [
        (None, None, DEFAULT_OUTPUT_CAP * 4),
        (None, 1000, 4000),
        (500, 400, 2000),
        (60_000, None, LARGEST_OUTPUT_CAP),
    ],
)
def test_the_room_grows_from_what_was_in_force(cap, used, expected):
    cut = reply("", "length", usage=TokenUsage(output_tokens=used))

    assert decide_reply(cut, None, follow_ups_left=1, output_cap=cap) == AskAgainLarger(expected)


def test_a_reply_truncated_at_the_largest_cap_is_refused():
    cut = reply("", "length")

    found = decide_reply(cut, None, follow_ups_left=1, output_cap=LARGEST_OUTPUT_CAP)

    assert isinstance(found, Refuse)
    assert found.reason == "truncated"


def test_json_that_ends_in_the_middle_counts_as_truncated_when_nothing_says_why_it_ended():
    broken = '{"n": [1, 2'

    unsaid = decide_reply(reply(broken, "unknown"), parsed(broken), follow_ups_left=1)
    stopped = decide_reply(reply(broken, "stop"), parsed(broken), follow_ups_left=1)

    assert isinstance(unsaid, AskAgainLarger)
    assert isinstance(stopped, Repair)


def test_a_block_is_final_and_names_its_category():
    blocked = reply("", "blocked", "SAFETY", block_reason="SAFETY: HARM_CATEGORY_HATE_SPEECH")

    found = decide_reply(blocked, parsed(""), follow_ups_left=9)

    assert found == Refuse("blocked", "the provider blocked it (SAFETY: HARM_CATEGORY_HATE_SPEECH)")


@pytest.mark.parametrize(("finish", "reason"), [("stop", "empty"), ("tool_call", "invalid"), ("other", "invalid")])
def test_a_reply_without_an_answer_is_final(finish, reason):
    found = decide_reply(reply("", finish), None, follow_ups_left=9)

    assert isinstance(found, Refuse)
    assert found.reason == reason


def test_invalid_data_is_put_back_to_the_model_as_often_as_allowed():
    wrong = '{"n": "x"}'
    data = parsed(wrong)
    assert data.error is not None

    assert decide_reply(reply(wrong), data, follow_ups_left=1) == Repair(wrong, data.error)
    assert isinstance(decide_reply(reply(wrong), data, follow_ups_left=9, repairable=False), Refuse)
    found = decide_reply(reply(wrong), data, follow_ups_left=0)
    assert isinstance(found, Refuse)
    assert found.reason == "invalid"
    assert "$.n" in found.detail


REPAIR = Repair(answer='{"n": "{{ 7*7 }} {% sale"}', error="$.n: Input should be a valid integer")


def test_the_re_ask_carries_the_answer_and_the_validators_error():
    said = repair_prompt(REPAIR.error)
    inputs = build_chat_inputs(model=GPT, prompt="Give n.", system="Be brief.", options={"seed": 1})
    before = json.dumps(inputs)

    again = repair_inputs(inputs, REPAIR)

    assert REPAIR.error in said
    assert again == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Give n."},
            {"role": "assistant", "content": REPAIR.answer},
            {"role": "user", "content": said},
        ],
        "seed": 1,
    }
    assert json.dumps(inputs) == before


def test_the_re_ask_keeps_files_and_form_of_each_family():
    part = Attachment(media_type="image/png", data=b"1")
    for_gemini = repair_inputs(build_chat_inputs(model=GEMINI, prompt="n?", attachments=[part]), REPAIR)
    for_claude = repair_inputs(build_chat_inputs(model=CLAUDE, prompt="n?", system="s", attachments=[part]), REPAIR)

    contents = for_gemini["messages"]["contents"]
    assert [content["role"] for content in contents] == ["user", "model", "user"]
    assert contents[0]["parts"][1]["inlineData"]["data"] == "MQ=="
    assert contents[1]["parts"] == [{"text": REPAIR.answer}]
    assert [message["role"] for message in for_claude["messages"]] == ["user", "assistant", "user"]
    assert for_claude["instruction"] == "s"


def test_a_huge_answer_is_not_sent_back_whole():
    again = repair_inputs(build_chat_inputs(model=GPT, prompt="n?"), Repair("x" * 1_000_000, "e"))

    assert len(again["messages"][1]["content"]) == QUOTED_ANSWER_CHARACTERS + 1


CAPS = [
    ({"max_tokens": 10}, {"max_tokens": 99}),
    ({"max_completion_tokens": 10}, {"max_completion_tokens": 99}),
    (
        {"generationConfig": {"maxOutputTokens": 10, "topK": 1}},
        {"generationConfig": {"maxOutputTokens": 99, "topK": 1}},
    ),
    ({"generation_config": {"max_output_tokens": 10}}, {"generation_config": {"max_output_tokens": 99}}),
    (
        {"messages": {"contents": [1], "generationConfig": {"maxOutputTokens": 10}}},
        {"messages": {"contents": [1], "generationConfig": {"maxOutputTokens": 99}}},
    ),
    ({"max_tokens": 10, "max_output_tokens": 5}, {"max_tokens": 99, "max_output_tokens": 99}),
]


@pytest.mark.parametrize(("inputs", "enlarged"), CAPS)
def test_a_cap_is_found_and_enlarged_where_it_stands(inputs, enlarged):
    before = json.dumps(inputs)

    assert output_cap_of(inputs) == 10
    assert enlarge_inputs(inputs, 99) == enlarged
    assert json.dumps(inputs) == before


@pytest.mark.parametrize("inputs", [{"messages": []}, {"messages": {"contents": []}}, {"max_tokens": None}])
def test_without_a_cap_max_tokens_is_set_beside_the_messages(inputs):
    assert output_cap_of(inputs) is None
    assert enlarge_inputs(inputs, 99) == {**inputs, "max_tokens": 99}


def test_the_error_says_what_money_was_spent_and_what_to_do():
    refusal = Refuse("blocked", "the provider blocked it (SAFETY)")

    error = reply_error(refusal, reply("a" * 300, "blocked"), model=GEMINI, request_id="r-1", paid_requests=2)

    assert isinstance(error, SegmindReplyError)
    assert (error.reason, error.request_id, error.billed) == ("blocked", "r-1", True)
    assert error.reply == "a" * 200 + "…"
    assert str(error) == (
        "The reply of model 'gemini-3.1-flash-lite' to request 'r-1' cannot be used: the provider blocked it (SAFETY). "
        "2 requests were billed; asking the same again cannot help: change the prompt or the files. "
        f"The reply begins: {'a' * 200 + '…'!r}."
    )


@pytest.mark.parametrize("reason", ["empty", "truncated", "blocked", "invalid"])
def test_every_refusal_has_a_message(reason):
    error = reply_error(Refuse(reason, "why"), reply(""), model=GPT)

    assert "The request was billed" in str(error)
    assert "begins" not in str(error)
