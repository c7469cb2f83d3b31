"""Every kind of reply, of every family, in every wrapping, has one outcome."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.chat.model_families import ApiFormat
from airflow_provider_segmind.chat.replies import (
    ChatReply,
    FinishReason,
    TokenUsage,
    finish_reason_of,
    read_reply,
    reply_outcome,
)
from airflow_provider_segmind.client.responses import Response

MODELS = {"gemini": "gemini-3.1-flash-lite", "openai": "gpt-5.4-mini", "anthropic": "claude-4.5-sonnet"}
MEGABYTE = "é" * 500_000 + "x" * 500_000
BRACES = "{{ 7*7 }} {% sale {0} %s"


def gemini(text: str | None = "Hi", finish: str | None = "STOP", **extra: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"index": 0, "safetyRatings": []}
    if text is not None:
        candidate["content"] = {"parts": [{"text": text}], "role": "model"}
    if finish is not None:
        candidate["finishReason"] = finish
    usage = {"promptTokenCount": 56, "candidatesTokenCount": 31, "totalTokenCount": 87}
    return {"candidates": [{**candidate, **extra}], "usageMetadata": usage}


def openai(content: Any = "Hi", finish: str | None = "stop", **extra: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **extra}
    usage = {"prompt_tokens": 56, "completion_tokens": 31, "total_tokens": 87}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}


def anthropic(*blocks: dict[str, Any], finish: str | None = "end_turn") -> dict[str, Any]:
    usage = {"input_tokens": 56, "output_tokens": 31}
    return {"type": "message", "role": "assistant", "content": list(blocks), "stop_reason": finish, "usage": usage}


def text_block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


FENCED = 'Sure:\n```json\n{"a": 1}\n```'
LOOKALIKE = json.dumps(gemini("inner"))
CALL = {"name": "weather", "args": {}}

# kind of reply: body for gemini, openai, anthropic; outcome; text
ANSWERS: dict[str, tuple[Any, Any, Any, str, str]] = {
    "stop": (gemini(), openai(), anthropic(text_block("Hi")), "success", "Hi"),
    "length": (
        gemini("Half", "MAX_TOKENS"),
        openai("Half", "length"),
        anthropic(text_block("Half"), finish="max_tokens"),
        "truncated",
        "Half",
    ),
    "length without text": (
        gemini(None, "MAX_TOKENS"),
        openai(None, "length"),
        anthropic(finish="max_tokens"),
        "truncated",
        "",
    ),
    "safety": (gemini(None, "SAFETY"), openai(None, "content_filter"), anthropic(finish="refusal"), "blocked", ""),
    "safety after some text": (
        gemini("Well", "PROHIBITED_CONTENT"),
        openai("Well", "content_filter"),
        anthropic(text_block("Well"), finish="refusal"),
        "blocked",
        "Well",
    ),
    "blocked prompt": (
        {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 56}},
        openai("", "content_filter"),
        anthropic(finish="refusal"),
        "blocked",
        "",
    ),
    "empty candidates": (
        {"candidates": [], "usageMetadata": {"promptTokenCount": 56}},
        {"choices": [], "usage": {"prompt_tokens": 56}},
        anthropic(),
        "empty",
        "",
    ),
    "no text": (gemini(None), openai(None), anthropic({"type": "thinking", "thinking": "hm"}), "empty", ""),
    "only blanks": (gemini(" \n"), openai(" \n"), anthropic(text_block(" \n")), "empty", " \n"),
    "thought parts": (
        gemini(None, content={"parts": [{"text": "hm", "thought": True}, {"text": "Hi"}]}),
        openai("Hi", reasoning_content="hm"),
        anthropic({"type": "thinking", "thinking": "hm"}, text_block("Hi")),
        "success",
        "Hi",
    ),
    "content in pieces": (
        gemini(None, content={"parts": [{"text": "H"}, {"inlineData": {}}, {"text": "i"}]}),
        openai([text_block("H"), text_block("i")]),
        anthropic(text_block("H"), text_block("i")),
        "success",
        "Hi",
    ),
    "tool call": (
        gemini(None, content={"parts": [{"functionCall": CALL}]}),
        openai(None, "tool_calls", tool_calls=[{"id": "1", "type": "function", "function": CALL}]),
        anthropic({"type": "tool_use", "id": "1", "name": "weather", "input": {}}, finish="tool_use"),
        "invalid",
        "",
    ),
    "fenced JSON": (gemini(FENCED), openai(FENCED), anthropic(text_block(FENCED)), "success", FENCED),
    "text that looks like a provider body": (
        gemini(LOOKALIKE),
        openai(LOOKALIKE),
        anthropic(text_block(LOOKALIKE)),
        "success",
        LOOKALIKE,
    ),
    "a megabyte": (gemini(MEGABYTE), openai(MEGABYTE), anthropic(text_block(MEGABYTE)), "success", MEGABYTE),
    "emoji": (gemini("👩‍🚀🏽 ok"), openai("👩‍🚀🏽 ok"), anthropic(text_block("👩‍🚀🏽 ok")), "success", "👩‍🚀🏽 ok"),
    "braces": (gemini(BRACES), openai(BRACES), anthropic(text_block(BRACES)), "success", BRACES),
    "no finish reason": (
        gemini("Hi", None),
        openai("Hi", None),
        anthropic(text_block("Hi"), finish=None),
        "success",
        "Hi",
    ),
    "a new finish reason": (
        gemini("Hi", "NEWS"),
        openai("Hi", "news"),
        anthropic(text_block("Hi"), finish="news"),
        "success",
        "Hi",
    ),
}
WRAPPINGS = {
    "v1 body": lambda body: body,
    "double-encoded": lambda body: {"status": "COMPLETED", "error": None, "metrics": {}, "output": json.dumps(body)},
    "object in a result": lambda body: {
        "status": "COMPLETED",
        "metrics": {"cost": 0.1},
        "output": body,
        "partial": False,
    },
    "bare string": json.dumps,
    "bytes": lambda body: json.dumps(body).encode(),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("family", list(ApiFormat))
@pytest.mark.parametrize("answer", ANSWERS)
def test_every_reply_has_an_outcome(answer, family, wrapping):
    *bodies, expected, text = ANSWERS[answer]
    body = bodies[list(ApiFormat).index(family)]

    reply = read_reply(WRAPPINGS[wrapping](body), model=MODELS[family])

    assert (reply_outcome(reply), reply.text, reply.api_format) == (expected, text, family)
    assert reply.usage.input_tokens in (56, None)


PLAIN = {
    "text": "Hello.",
    "braces": BRACES,
    "a megabyte": MEGABYTE,
    "emoji": "👩‍🚀🏽",
    "JSON": '{"a": 1}',
    "a JSON list": "[1, 2]",
    "a JSON text": '"Hi"',
    "broken JSON": '{"a": ',
    "fenced": FENCED,
    "deep JSON": '{"a":' * 100_000,
    "names in a list": '{"candidates": ["Ann", "Bo"]}',
    "people": '{"candidates": [{"name": "Ann", "content": "CV"}]}',
    "a quiz": '{"choices": [{"message": "left", "finish_reason": "x"}]}',
    "options": '{"choices": [{"label": "a", "text": "b"}]}',
    "a document": '{"type": "doc", "content": [{"type": "paragraph", "text": "b"}]}',
    "content as text": '{"content": "b", "stop_reason": "end_turn"}',
    "list of texts": '{"content": ["a", "b"]}',
    "feedback": '{"promptFeedback": "good"}',
    "output": '{"output": "x", "status": "done"}',
    "blank before": ' \n {"a": 1}',
}


@pytest.mark.parametrize("result", [True, False])
@pytest.mark.parametrize("family", list(ApiFormat))
@pytest.mark.parametrize("text", PLAIN.values(), ids=PLAIN.keys())
def test_plain_text_is_returned_as_the_model_wrote_it(text, family, result):
    reply = read_reply({"status": "COMPLETED", "output": text} if result else text, model=MODELS[family])

    assert (reply_outcome(reply), reply.text) == ("success", text)
    assert reply.finish_reason is FinishReason.UNKNOWN
    assert reply.usage == TokenUsage()


@pytest.mark.parametrize(
    ("text", "model", "expected"),
    [
        ('{"candidates": []}', MODELS["gemini"], ""),
        ('{"candidates": []}', None, ""),
        ('{"candidates": []}', MODELS["openai"], '{"candidates": []}'),
        ('{"choices": []}', MODELS["openai"], ""),
        ('{"choices": []}', MODELS["gemini"], '{"choices": []}'),
        ('{"content": []}', MODELS["anthropic"], ""),
        ('{"content": []}', MODELS["gemini"], '{"content": []}'),
        ('{"content": [{"type": "text", "text": "Hi"}]}', MODELS["anthropic"], "Hi"),
    ],
)
def test_an_ambiguous_body_is_read_by_the_family_of_the_model(text, model, expected):
    assert read_reply(text, model=model).text == expected


@pytest.mark.parametrize("candidates", ["", '"candidates": null, '])
def test_a_gemini_reply_that_has_only_counts_is_empty(candidates):
    body = f'{{{candidates}"usageMetadata": {{"promptTokenCount": 3, "thoughtsTokenCount": 9}}, "modelVersion": "x"}}'

    reply = read_reply({"status": "COMPLETED", "output": body}, model=MODELS["gemini"])
    assert (reply_outcome(reply), reply.usage.input_tokens, reply.usage.output_tokens) == ("empty", 3, 9)
    assert read_reply({"status": "COMPLETED", "output": body}, model=MODELS["openai"]).text == body


def test_a_gemini_reply_may_have_the_other_spelling_of_its_fields():
    counts = {"prompt_token_count": 3, "candidates_token_count": 2, "cached_content_token_count": 1}
    candidate = {"content": {"parts": [{"text": "Hi"}]}, "finish_reason": "STOP"}

    reply = read_reply({"candidates": [candidate], "usage_metadata": {**counts, "total_token_count": 5}})
    assert reply.usage == TokenUsage(input_tokens=3, output_tokens=2, cached_tokens=1, total_tokens=5)
    candidate["content"] = {"parts": [{"function_call": CALL}]}
    assert reply_outcome(read_reply({"candidates": [candidate]})) == "invalid"


@pytest.mark.parametrize("data", [{"name": "Ann"}, [1, 2], 7, True, {"status": "open", "priority": 1}])
def test_data_that_the_gateway_decoded_is_written_as_json(data):
    reply = read_reply(data)

    assert (json.loads(reply.text), reply_outcome(reply)) == (data, "success")


@pytest.mark.parametrize(
    "body",
    [None, {"status": "COMPLETED", "metrics": {}}, {"status": "FAILED"}, {"status": "completed "}, {"output": None}],
)
def test_a_result_without_output_is_empty(body):
    assert reply_outcome(read_reply(body)) == "empty"


def test_reasoning_and_partial_beside_the_output_are_accepted():
    reply = read_reply({"output": "Hi", "reasoning": "hm", "partial": True, "grounding": {"sources": [1]}})

    assert reply.text == "Hi"


def test_usage_of_gemini_counts_thoughts_as_output():
    body = gemini()
    body["usageMetadata"] = {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 40,
        "toolUsePromptTokenCount": 5,
        "candidatesTokenCount": 10,
        "thoughtsTokenCount": 30,
        "totalTokenCount": 145,
    }

    assert read_reply(body).usage.as_dict() == {
        "input_tokens": 105,
        "output_tokens": 40,
        "cached_tokens": 40,
        "thinking_tokens": 30,
        "total_tokens": 145,
    }


def test_usage_of_openai_includes_thinking_in_the_output():
    body = openai()
    body["usage"] = {
        "prompt_tokens": 100,
        "completion_tokens": 40,
        "prompt_tokens_details": {"cached_tokens": 40},
        "completion_tokens_details": {"reasoning_tokens": 30},
    }

    assert read_reply(body).usage == TokenUsage(
        input_tokens=100, output_tokens=40, cached_tokens=40, thinking_tokens=30, total_tokens=140
    )


def test_usage_of_anthropic_adds_cache_reads_and_writes():
    body = anthropic(text_block("Hi"))
    body["usage"] = {
        "input_tokens": 10,
        "cache_read_input_tokens": 40,
        "cache_creation_input_tokens": 50,
        "output_tokens": 7,
    }

    assert read_reply(body).usage == TokenUsage(input_tokens=100, output_tokens=7, cached_tokens=40, total_tokens=107)


@pytest.mark.parametrize("odd", [None, -1, "5", True, 1.5, float("nan"), float("inf"), 2**63, 1e300, []])
def test_an_invalid_token_count_is_unknown_and_not_zero(odd):
    body = gemini()
    body["usageMetadata"] = {"promptTokenCount": odd, "candidatesTokenCount": 1.0}

    usage = read_reply(body).usage

    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (None, 1, None)


def test_a_blocked_reply_names_the_category():
    ratings = [
        {"category": "HARM_CATEGORY_HATE_SPEECH", "probability": "HIGH", "blocked": True},
        {"category": "HARM_CATEGORY_HARASSMENT", "probability": "LOW"},
    ]

    answered = read_reply(gemini(None, "SAFETY", safetyRatings=ratings))
    blocked = read_reply({"promptFeedback": {"blockReason": "SAFETY", "safetyRatings": ratings}})
    bare = read_reply({"promptFeedback": {"blockReason": "JAILBREAK"}})

    assert answered.block_reason == blocked.block_reason == "SAFETY: HARM_CATEGORY_HATE_SPEECH"
    assert bare.block_reason == "JAILBREAK"


def test_an_openai_refusal_is_blocked():
    reply = read_reply(openai(None, "stop", refusal="I cannot help with that."))

    assert (reply_outcome(reply), reply.block_reason, reply.text) == ("blocked", "refusal", "I cannot help with that.")


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("STOP", "stop"),
        ("end_turn", "stop"),
        ("model_context_window_exceeded", "length"),
        ("SPII", "blocked"),
        ("MALFORMED_RESPONSE", "other"),
        ("FINISH_REASON_UNSPECIFIED", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_finish_reasons_of_all_families_are_translated(word, reason):
    assert finish_reason_of(word) == reason


def test_half_an_emoji_in_a_reply_can_be_stored():
    reply = read_reply(json.dumps(gemini("ok \ud83d end")))

    assert reply.text.encode() == "ok \ufffd end".encode()


NAMES = (
    *("candidates", "choices", "content", "parts", "text", "message", "role", "finishReason", "finish_reason"),
    *("stop_reason", "type", "usage", "output", "status", "usageMetadata", "promptFeedback", "blockReason"),
    *("functionCall", "tool_calls", "thought", "safetyRatings", "promptTokenCount"),
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["STOP", "text"])
odd_json = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=25,
)


@given(answer=odd_json, hint=st.sampled_from([None, "gemini", "openai", "anthropic", "other"]))
def test_no_json_makes_reading_raise(answer, hint):
    for given_form in (answer, json.dumps(answer), {"output": answer}, {"output": json.dumps(answer)}):
        reply = read_reply(given_form, api_format=hint)

        assert isinstance(reply, ChatReply)
        assert reply_outcome(reply) in ("success", "truncated", "blocked", "empty", "invalid")
        reply.text.encode()


@given(text=st.text(), family=st.sampled_from(list(ApiFormat)))
def test_any_text_is_read_byte_for_byte_from_every_family(text, family):
    sent = BRACES + text
    body = {"gemini": gemini, "openai": openai, "anthropic": lambda words: anthropic(text_block(words))}[family](sent)

    assert read_reply({"status": "COMPLETED", "output": json.dumps(body)}).text == sent
    assert read_reply({"status": "COMPLETED", "output": sent}).text == sent


@pytest.mark.parametrize("odd", ["7" * 5000, "[" * 5000 + "]" * 5000, '{"a":' * 300 + "1" + "}" * 300])
@pytest.mark.parametrize("encoded", [True, False])
def test_an_unstorable_value_beside_the_text_does_not_hide_it(odd, encoded):
    native = f'{{"candidates":[{{"content":{{"parts":[{{"text":"Hi"}}]}},"finishReason":"STOP"}}],"odd":{odd}}}'
    output = json.dumps(native) if encoded else native
    body = Response(200, f'{{"status":"COMPLETED","metrics":{{}},"output":{output}}}'.encode()).json()

    reply = read_reply(body, model="gemini-3.1-flash-lite")

    assert reply.text == "Hi"
