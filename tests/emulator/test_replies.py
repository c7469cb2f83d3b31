from __future__ import annotations

import json

import jsonschema
import pytest

from airflow_provider_segmind.emulator.replies import instance
from tests.support.emulator_calls import text_of

GEMINI, OPENAI, CLAUDE = "gemini-3.1-flash-lite", "gpt-5", "claude-4-sonnet"


def finish_of(reply):
    if "candidates" in reply:
        return reply["candidates"][0]["finishReason"]
    return reply["choices"][0]["finish_reason"] if "choices" in reply else reply["stop_reason"]


@pytest.mark.parametrize("model", [GEMINI, OPENAI, CLAUDE])
def test_each_family_always_echoes_the_last_user_message(native, model):
    messages = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "no"},
        {"role": "user", "content": "row 7"},
    ]

    replies = [native(model, messages=messages) for _ in range(2)]

    assert [text_of(reply) for reply in replies] == ["echo: row 7", "echo: row 7"]


def test_instruction_and_attachments_are_counted_but_not_echoed(native):
    short = native(CLAUDE, messages=[{"role": "user", "content": "x"}])
    parts = [{"type": "text", "text": "x"}, {"type": "image", "source": {"type": "base64", "data": "AA=="}}]
    long = native(CLAUDE, instruction="be kind " * 20, messages=[{"role": "user", "content": parts}])

    assert text_of(short) == text_of(long) == "echo: x"
    assert long["usage"]["input_tokens"] > short["usage"]["input_tokens"] + 258


def test_token_counts_add_up_in_every_family(native, emulator):
    """E49"""
    emulator.script(thoughts=["hmm"], usage={"input": 50, "output": 7, "thoughts": 3, "cached": 20})

    gemini = native(GEMINI, prompt="x")["usageMetadata"]
    assert gemini == {
        "promptTokenCount": 50,
        "candidatesTokenCount": 7,
        "thoughtsTokenCount": 3,
        "cachedContentTokenCount": 20,
        "totalTokenCount": 60,
    }
    openai = native(OPENAI, prompt="x")["usage"]
    assert openai["total_tokens"] == openai["prompt_tokens"] + openai["completion_tokens"] == 60
    assert openai["completion_tokens_details"] == {"reasoning_tokens": 3}
    claude = native(CLAUDE, prompt="x")["usage"]
    assert claude == {"input_tokens": 30, "output_tokens": 10, "cache_read_input_tokens": 20}


def test_gemini_token_counts_match_the_vendors_sample(native):
    """E49"""
    usage = native(GEMINI, prompt="x")["usageMetadata"]

    assert list(usage) == ["promptTokenCount", "candidatesTokenCount", "totalTokenCount"]
    assert usage["totalTokenCount"] == usage["promptTokenCount"] + usage["candidatesTokenCount"]


def test_the_cost_follows_the_tokens(emulator, submit):
    emulator.settings(price_input=1.0, price_output=10.0)
    emulator.script(usage={"input": 1000, "output": 100})
    submit(GEMINI, prompt="x")

    assert emulator.bill[0].cost == pytest.approx(1000 * 1e-6 + 100 * 1e-5)


@pytest.mark.parametrize(
    ("model", "cap", "text", "finish"),
    [
        (GEMINI, {"max_tokens": 2}, "echo: on", "MAX_TOKENS"),
        (GEMINI, {"generationConfig": {"maxOutputTokens": 2}}, "echo: on", "MAX_TOKENS"),
        (OPENAI, {"max_tokens": 2}, "echo: on", "length"),
        (OPENAI, {"max_completion_tokens": 2}, "echo: on", "length"),
        (CLAUDE, {"max_tokens": 2}, "echo: on", "max_tokens"),
        (GEMINI, {"max_tokens": 8}, "echo: one two three", "STOP"),
        (OPENAI, {"max_tokens": 5}, "echo: one two three", "stop"),
        (CLAUDE, {"max_tokens": 5}, "echo: one two three", "end_turn"),
    ],
)
def test_a_reply_is_truncated_at_the_output_cap(native, emulator, model, cap, text, finish):
    """E50"""
    reply = native(model, prompt="one two three", **cap)

    assert text_of(reply) == text
    assert finish_of(reply) == finish
    assert emulator.bill[0].cost == pytest.approx(4 * 0.25e-6 + min(5, 2 if text == "echo: on" else 5) * 1.5e-6)


def test_gemini_reads_its_output_cap_inside_messages_too(native):
    """E50"""
    contents = [{"role": "user", "parts": [{"text": "one two three"}]}]
    reply = native(GEMINI, messages={"contents": contents, "generationConfig": {"maxOutputTokens": 2}})

    assert (text_of(reply), finish_of(reply)) == ("echo: on", "MAX_TOKENS")


def test_thoughts_count_towards_the_output_cap(native, emulator):
    """E50"""
    emulator.script(text="an answer", thoughts="a long thought")
    reply = native(OPENAI, prompt="x", max_tokens=3)

    assert reply["choices"][0]["message"]["reasoning_content"] == "a long thoug"
    assert (text_of(reply), finish_of(reply)) == (None, "length")
    assert reply["usage"]["completion_tokens"] == 3


def test_a_scripted_finish_reason_or_body_is_not_truncated(native, emulator):
    """E50"""
    emulator.script(text="an answer of several tokens", finish_reason="stop", times=1)
    reply = native(OPENAI, prompt="x", max_tokens=1)

    assert (text_of(reply), finish_of(reply)) == ("an answer of several tokens", "stop")


def test_a_truncated_gemini_reply_may_have_no_parts(native, emulator):
    """E50"""
    emulator.script(finish_reason="length", text="")
    [candidate] = native(GEMINI, prompt="x")["candidates"]

    assert (candidate["finishReason"], candidate["content"]["parts"]) == ("MAX_TOKENS", [])


def test_a_gemini_reply_stopped_for_safety_has_no_content(native, emulator):
    """E50"""
    emulator.script(finish_reason="safety")
    [candidate] = native(GEMINI, prompt="x")["candidates"]

    assert candidate["finishReason"] == "SAFETY"
    assert "content" not in candidate
    assert candidate["safetyRatings"][0]["blocked"] is True


def test_a_blocked_prompt_is_completed_without_candidates_and_billed(native, emulator):
    """E50"""
    emulator.script(block="PROHIBITED_CONTENT")
    reply = native(GEMINI, prompt="x")

    assert reply["promptFeedback"] == {"blockReason": "PROHIBITED_CONTENT", "safetyRatings": []}
    assert "candidates" not in reply
    assert len(emulator.bill) == 1


def test_a_blocked_request_can_also_fail(http, emulator, submit):
    """E50"""
    emulator.script(match="forbidden", fail="content_policy_violation")

    answer = http.get(f"/v2/requests/{submit(GEMINI, prompt='forbidden fruit')}/status")

    assert (answer.status_code, answer.json()["error"]) == (422, "content_policy_violation")


def test_the_other_families_have_their_own_words_for_a_block(native, emulator):
    """E50"""
    emulator.script(block="policy")

    assert native(OPENAI, prompt="x")["choices"][0]["finish_reason"] == "content_filter"
    assert native(CLAUDE, prompt="x")["stop_reason"] == "refusal"


def test_a_reply_can_have_no_candidates(native, emulator):
    """E50"""
    emulator.script(empty=True)

    assert native(GEMINI, prompt="x")["candidates"] == []
    assert native(OPENAI, prompt="x")["choices"] == []
    assert native(CLAUDE, prompt="x")["content"] == []


SCHEMA = {
    "type": "object",
    "properties": {
        "label": {"enum": ["bug", "question"]},
        "score": {"type": "number", "minimum": 0.5, "maximum": 1},
        "count": {"type": "integer", "exclusiveMinimum": 3, "multipleOf": 5},
        "tags": {"type": "array", "items": {"type": "string", "minLength": 3}, "minItems": 2, "uniqueItems": True},
        "owner": {"$ref": "#/$defs/person"},
        "parent": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        "when": {"type": "string", "format": "date"},
        "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
        "free": {"type": "string", "maxLength": 8},
        "fixed": {"const": 4},
        "both": {
            "allOf": [{"properties": {"a": {"type": "boolean"}}}, {"properties": {"b": {"type": "null"}}}],
            "type": "object",
        },
        "maybe": {"type": ["null", "integer"]},
    },
    "required": ["label", "score", "count", "tags", "owner", "code"],
    "additionalProperties": False,
    "$defs": {
        "person": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        "node": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}},
    },
}


@pytest.mark.parametrize("model", [GEMINI, OPENAI, CLAUDE])
def test_a_requested_schema_is_satisfied_and_its_strings_contain_the_echo(native, model):
    """E51"""
    wanted = {"type": "json_schema", "json_schema": {"name": "ticket", "strict": True, "schema": SCHEMA}}
    answers = [json.loads(text_of(native(model, prompt="row 7", response_format=wanted))) for _ in range(2)]

    jsonschema.validate(answers[0], SCHEMA)
    assert answers[0] == answers[1]
    assert answers[0]["owner"]["name"] == "echo: row 7"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({}, "t"),
        (True, "t"),
        ({"type": "null"}, None),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "array"}, ["t"]),
        ({"type": "array", "maxItems": 0}, []),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}}, [1]),
        ({"properties": {}}, {}),
        ({"type": "object", "required": ["a"]}, {"a": "t"}),
        ({"oneOf": [{"const": 3}, {}]}, 3),
        ({"type": "number", "exclusiveMaximum": 0}, -1),
        ({"type": "string", "minLength": 4}, "t..."),
    ],
)
def test_the_smallest_value_of_a_schema(schema, value):
    assert instance(schema, text="t") == value


@pytest.mark.parametrize("kind", ["json_object"])
def test_json_object_needs_the_word_json_for_openai_and_fails_for_claude(http, native, submit, kind):
    """E51"""
    wanted = {"type": kind}

    assert json.loads(text_of(native(OPENAI, prompt="as JSON please", response_format=wanted))) == {
        "echo": "as JSON please"
    }
    assert http.get(f"/v2/requests/{submit(OPENAI, prompt='x', response_format=wanted)}").status_code == 422
    assert http.get(f"/v2/requests/{submit(CLAUDE, prompt='json', response_format=wanted)}").status_code == 422


def test_thoughts_and_several_parts_are_in_the_format_of_each_family(native, emulator):
    """E52"""
    emulator.script(text="answer", thoughts="let me see", list_content=True)

    assert native(GEMINI, prompt="x")["candidates"][0]["content"]["parts"] == [
        {"text": "let me see", "thought": True},
        {"text": "ans"},
        {"text": "wer"},
    ]
    message = native(OPENAI, prompt="x")["choices"][0]["message"]
    assert message["content"] == [{"type": "text", "text": "ans"}, {"type": "text", "text": "wer"}]
    assert [part["type"] for part in native(CLAUDE, prompt="x")["content"]] == ["thinking", "text", "text"]


def test_a_tool_call_is_in_the_format_of_each_family(native, emulator):
    emulator.script(tool_call={"name": "look_up", "args": {"id": 7}})

    assert native(GEMINI, prompt="x")["candidates"][0]["content"]["parts"][0]["functionCall"]["args"] == {"id": 7}
    choice = native(OPENAI, prompt="x")["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert native(CLAUDE, prompt="x")["content"][0]["input"] == {"id": 7}


@pytest.mark.parametrize("text", ["Grüße aus Köln 🚀👩‍🚀", '\u2028 \x00 "quoted" \\', "x" * 1_200_000])
def test_unicode_emoji_and_a_megabyte_are_returned_unchanged(native, emulator, text):
    """E53"""
    emulator.script(text=text)

    assert text_of(native(GEMINI, prompt="x")) == text
