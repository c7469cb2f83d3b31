"""What is done with a reply, and what the next paid request looks like."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
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
    Decision,
    FollowUp,
    Refuse,
    decide_reply,
    enlarge_inputs,
    follow_up_form,
    output_cap_of,
    repair_inputs,
    repair_prompt,
    reply_error,
)
from airflow_provider_segmind.client.request_history import is_sent_body
from airflow_provider_segmind.client.submission import json_digest
from airflow_provider_segmind.exceptions import SegmindReplyError

GEMINI, GPT, CLAUDE = "gemini-3.1-flash-lite", "gpt-5.4-mini", "claude-4.5-sonnet"


class Answer(BaseModel):
    n: int


def reply(text: str = '{"n": 1}', finish: str = "stop", native: str | None = None, **extra: object) -> ChatReply:
    return ChatReply(text=text, finish_reason=FinishReason(finish), native_finish_reason=native, **extra)  # type: ignore[arg-type]


def parsed(text: str) -> ParsedReply:
    return OutputType.from_(Answer).parse(text)


CHAT = {"messages": [{"role": "user", "content": "n?"}]}


def decided(
    said: ChatReply, data: ParsedReply | None = None, *, left: int = 1, done: tuple[int, ...] = (), **more: object
) -> Decision:
    body = {**CHAT, **more}
    return decide_reply(
        said, data, first=lambda: body, sent=lambda: body, follow_ups=done, max_repairs=len(done) + left
    )


def test_a_string_is_accepted_unchanged():
    assert decided(reply("Hi "), left=0) == Accept("Hi ")


def test_valid_data_is_accepted():
    assert decided(reply(), parsed('{"n": 1}'), left=0) == Accept({"n": 1})


@pytest.mark.parametrize("data", [None, parsed('{"n": 1}'), parsed('{"n": ')])
def test_a_truncated_reply_gets_a_larger_cap_once_and_is_never_sent_back_to_the_model(data):
    cut = reply("Hi", "length", "MAX_TOKENS")
    refused = Refuse("truncated", "the answer was cut off (MAX_TOKENS)")

    assert decided(cut, data, max_tokens=100) == FollowUp(
        {**CHAT, "max_tokens": 400}, (400,), "was cut off; the output cap is raised to 400 tokens"
    )
    assert decided(cut, data, left=0, max_tokens=100) == refused
    assert decided(cut, data, left=9, done=(400,), max_tokens=100) == refused
    assert decided(cut, data, left=9, done=(0, 400, 400), max_tokens=100) == refused
    larger = decided(cut, data, done=(0,), max_tokens=100)
    assert isinstance(larger, FollowUp)
    assert larger.follow_ups == (0, 400)


@pytest.mark.parametrize(
    ("cap", "used", "expected"),
    [
        (None, None, DEFAULT_OUTPUT_CAP * 4),
        (None, 1000, 4000),
        (500, 400, 2000),
        (60_000, None, LARGEST_OUTPUT_CAP),
    ],
)
def test_the_cap_grows_from_the_one_in_force(cap, used, expected):
    cut = reply("", "length", usage=TokenUsage(output_tokens=used))

    larger = decided(cut, max_tokens=cap)

    assert isinstance(larger, FollowUp)
    assert larger.follow_ups == (expected,)
    assert output_cap_of(larger.inputs) == expected


def test_a_reply_truncated_at_the_largest_cap_is_refused():
    found = decided(reply("", "length"), max_tokens=LARGEST_OUTPUT_CAP)

    assert isinstance(found, Refuse)
    assert found.reason == "truncated"


def test_json_that_ends_in_the_middle_counts_as_truncated_when_no_finish_reason_is_given():
    broken = '{"n": [1, 2'

    unsaid = decided(reply(broken, "unknown"), parsed(broken))
    stopped = decided(reply(broken, "stop"), parsed(broken))

    assert isinstance(unsaid, FollowUp)
    assert unsaid.follow_ups == (DEFAULT_OUTPUT_CAP * 4,)
    assert isinstance(stopped, FollowUp)
    assert stopped.follow_ups == (0,)


def test_a_block_is_final_and_names_its_category():
    blocked = reply("", "blocked", "SAFETY", block_reason="SAFETY: HARM_CATEGORY_HATE_SPEECH")

    found = decided(blocked, parsed(""), left=9)

    assert found == Refuse("blocked", "the provider blocked it (SAFETY: HARM_CATEGORY_HATE_SPEECH)")


@pytest.mark.parametrize(("finish", "reason"), [("stop", "empty"), ("tool_call", "invalid"), ("other", "invalid")])
def test_a_reply_without_an_answer_is_final(finish, reason):
    found = decided(reply("", finish), left=9)

    assert isinstance(found, Refuse)
    assert found.reason == reason


def test_invalid_data_is_sent_back_to_the_model_as_often_as_allowed():
    wrong = '{"n": "x"}'
    data = parsed(wrong)
    assert data.error is not None

    again = decided(reply(wrong), data)
    assert again == FollowUp(repair_inputs(CHAT, wrong, data.error), (0,), "does not match the output_type")
    found = decided(reply(wrong), data, left=0, done=(0,))
    assert isinstance(found, Refuse)
    assert found.reason == "invalid"
    assert "$.n" in found.detail


def test_a_repair_keeps_the_larger_cap_of_the_follow_up_before_it_and_quotes_only_the_latest_answer():
    wrong = '{"n": "x"}'

    again = decided(reply(wrong), parsed(wrong), done=(0, 400), max_tokens=100)

    assert isinstance(again, FollowUp)
    assert again.follow_ups == (0, 400, 400)
    assert again.inputs["max_tokens"] == 400
    assert [message["content"] for message in again.inputs["messages"][:2]] == ["n?", wrong]
    assert len(again.inputs["messages"]) == 3


def test_a_body_that_is_not_a_conversation_is_not_repaired():
    wrong = '{"n": "x"}'

    found = decide_reply(
        reply(wrong), parsed(wrong), first=lambda: {"prompt": "n?"}, sent=dict, follow_ups=(), max_repairs=9
    )

    assert isinstance(found, Refuse)
    assert found.reason == "invalid"


REPLIES = st.tuples(
    st.sampled_from(["", "Hi", '{"n": 1}', '{"n": "x"}', '{"n": [1, 2']),
    st.sampled_from([str(finish) for finish in FinishReason]),
    st.sampled_from([None, 10, 70_000]),
)


@given(
    replies=st.lists(REPLIES, min_size=6, max_size=6), max_repairs=st.integers(0, 4), typed=st.booleans(),
    cap=st.sampled_from([None, 100, LARGEST_OUTPUT_CAP]),
)  # fmt: skip
def test_an_answer_takes_at_most_max_repairs_follow_ups_and_one_larger_cap(replies, max_repairs, typed, cap):
    inputs = CHAT if cap is None else {**CHAT, "max_tokens": cap}
    before = json.dumps(inputs)
    sent, done = [inputs], ()
    for text, finish, used in replies:
        said = reply(text, finish, usage=TokenUsage(output_tokens=used))
        data = parsed(text) if typed else None
        decision = decide_reply(
            said, data, first=lambda: inputs, sent=lambda: sent[-1], follow_ups=done, max_repairs=max_repairs
        )
        if not isinstance(decision, FollowUp):
            break
        sent.append(decision.inputs)
        done = decision.follow_ups

    caps = [output_cap_of(body) for body in sent]
    assert len(sent) == 1 + len(done) <= 1 + max_repairs
    assert len(set(caps)) <= 2
    assert caps == [each or cap for each in (0, *done)]
    assert list(done) == sorted(done)
    assert json.dumps(inputs) == before


ANSWER, ERROR = '{"n": "{{ 7*7 }} {% sale"}', "$.n: Input should be a valid integer"


def test_the_re_ask_carries_the_answer_and_the_validators_error():
    said = repair_prompt(ERROR)
    inputs = build_chat_inputs(model=GPT, prompt="Give n.", system="Be brief.", options={"seed": 1})
    before = json.dumps(inputs)

    again = repair_inputs(inputs, ANSWER, ERROR)

    assert ERROR in said
    assert again == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Give n."},
            {"role": "assistant", "content": ANSWER},
            {"role": "user", "content": said},
        ],
        "seed": 1,
    }
    assert json.dumps(inputs) == before


def test_the_re_ask_keeps_files_and_form_of_each_family():
    part = Attachment(media_type="image/png", data=b"1")
    for_gemini = repair_inputs(build_chat_inputs(model=GEMINI, prompt="n?", attachments=[part]), ANSWER, ERROR)
    for_claude = repair_inputs(
        build_chat_inputs(model=CLAUDE, prompt="n?", system="s", attachments=[part]), ANSWER, ERROR
    )

    contents = for_gemini["messages"]["contents"]
    assert [content["role"] for content in contents] == ["user", "model", "user"]
    assert contents[0]["parts"][1]["inlineData"]["data"] == "MQ=="
    assert contents[1]["parts"] == [{"text": ANSWER}]
    assert [message["role"] for message in for_claude["messages"]] == ["user", "assistant", "user"]
    assert for_claude["instruction"] == "s"


def test_a_huge_answer_is_not_sent_back_whole():
    again = repair_inputs(build_chat_inputs(model=GPT, prompt="n?"), "x" * 1_000_000, "e")

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
        "2 requests were billed; sending the same request again cannot help: change the prompt or the files. "
        f"The reply begins: {'a' * 200 + '…'!r}."
    )


@pytest.mark.parametrize("reason", ["empty", "truncated", "blocked", "invalid"])
def test_every_refusal_has_a_message(reason):
    error = reply_error(Refuse(reason, "why"), reply(""), model=GPT)

    assert "The request was billed" in str(error)
    assert "begins" not in str(error)


def with_additions(value: object) -> object:
    """Return a body as a server keeps it that adds defaults to every object."""
    if isinstance(value, dict):
        return {
            "added": None,
            "safety": {"level": "low"},
            **{name: with_additions(item) for name, item in value.items()},
        }
    return [with_additions(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("model", [GEMINI, GPT, CLAUDE])
@pytest.mark.parametrize(
    "options", [{}, {"max_tokens": 50}, {"max_tokens": 50, "generationConfig": {"maxOutputTokens": 9}}]
)
@pytest.mark.parametrize("system", [None, "You are a critic."])
@given(
    replies=st.lists(
        st.tuples(st.sampled_from(["stop", "length"]), st.text() | st.sampled_from(["{", "Hi"])), max_size=4
    )
)
def test_every_follow_up_is_recognized_by_its_form(
    model: str, options: dict[str, object], system: str | None, replies: list[tuple[str, str]]
) -> None:
    first = build_chat_inputs(model=model, prompt="n?", system=system, options=options)
    sent, done = first, ()
    for finish, text in replies:
        said = reply(text, finish)
        decision = decide_reply(
            said, parsed(text), first=lambda: first, sent=lambda sent=sent: sent, follow_ups=done, max_repairs=9
        )
        if not isinstance(decision, FollowUp):
            return
        sent, done = decision.inputs, decision.follow_ups
        form = follow_up_form(first, done)
        digest = json_digest(sent)
        for theirs in (sent, with_additions(sent)):
            assert is_sent_body(theirs, digest_sent=digest, sent=None, form=form)
        others = [first, {**sent, "messages": first["messages"]}]
        for other in [*others, enlarge_inputs(sent, 7)] if "max_tokens" in sent else others:
            assert json_digest(other) == digest or not is_sent_body(
                with_additions(other), digest_sent=digest, sent=None, form=form
            )


def test_a_repair_of_a_body_without_messages_has_no_known_form() -> None:
    assert follow_up_form({"prompt": "a"}, (0,)) is None
    assert follow_up_form({"prompt": "a", "max_tokens": 5}, (20,)) == {"prompt": "a", "max_tokens": 20}
