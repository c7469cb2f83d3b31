"""What of a request is billed, and which fields make its cost uncertain."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.chat.attachments import Attachment
from airflow_provider_segmind.chat.cost_estimate import (
    IMAGE_TOKENS,
    InputTokens,
    Price,
    cost_bound,
    estimate_input_tokens,
)
from airflow_provider_segmind.chat.messages import build_chat_inputs

GEMINI, GPT, CLAUDE = "gemini-3.1-flash-lite", "gpt-5.4-mini", "claude-4.5-sonnet"
PRICED = {"m": Price(input=1.0, output=10.0), "gemini-x": Price(input=1.0, output=10.0, max_output_tokens=500)}
MESSAGE = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 9}
PICTURE = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]}
IMAGE = "https://h/a.png"


@pytest.mark.parametrize("model", [GEMINI, GPT, CLAUDE])
def test_images_count_as_images_and_not_as_their_base64(model):
    big = Attachment(media_type="image/png", data=b"0" * 1_000_000)
    linked = Attachment.from_url("https://files.test/a.png")

    found = estimate_input_tokens(build_chat_inputs(model=model, prompt="x" * 400, attachments=[big, linked]))

    assert found == InputTokens(tokens=100 + 2 * IMAGE_TOKENS)


@pytest.mark.parametrize("model", [GEMINI, GPT, CLAUDE])
def test_documents_are_reported_as_uncounted(model):
    part = Attachment(media_type="application/pdf", data=base64.b64decode("JVBERi0="))

    found = estimate_input_tokens(build_chat_inputs(model=model, prompt="x" * 400, attachments=[part]))

    assert found == InputTokens(tokens=100, uncounted_attachments=1)


def test_a_document_by_url_is_uncounted_too():
    part = Attachment.from_url("https://files.test/a.pdf")

    assert (
        estimate_input_tokens(build_chat_inputs(model=CLAUDE, prompt="Hi", attachments=[part])).uncounted_attachments
        == 1
    )


def test_text_is_counted_by_its_bytes_and_the_schema_counts():
    plain = estimate_input_tokens(build_chat_inputs(model=GPT, prompt="字" * 40, system="x" * 40)).tokens
    asked = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    structured = estimate_input_tokens(
        build_chat_inputs(model=GPT, prompt="字" * 40, system="x" * 40, response_format=asked)
    ).tokens

    assert plain == 40
    assert structured > plain + 10


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("unpriced", MESSAGE),
        ("m", {"messages": MESSAGE["messages"]}),
        ("m", {**MESSAGE, "n": 3}),
        ("m", {**MESSAGE, "web_search": True}),
        ("m", {**MESSAGE, "tools": [{"type": "function"}]}),
        ("m", {**MESSAGE, "generationConfig": {"candidateCount": 2}}),
        ("m", {**MESSAGE, "image": "https://example.com/a.png"}),
        ("m", {**PICTURE, "max_tokens": 9}),
        ("m", {"text": "a picture of a cat", "max_tokens": 9}),
        ("gemini-x", {**MESSAGE, "messages": {"contents": [{"parts": [{"inlineData": {"mimeType": "application/pdf",
                                                                                    "data": "AA"}}]}]}}),
    ],
    ids=str,
)  # fmt: skip
def test_a_bound_is_not_certain_if_something_else_may_be_billed(model: str, inputs: dict[str, Any]) -> None:
    assert not cost_bound(model, inputs, prices=PRICED).certain


def _part(part: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": ["a", part]}], "max_tokens": 9}


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        *(
            ({"prompt": "a", "max_tokens": 9, **extra}, next(iter(extra)))
            for extra in (
                {"num_outputs": 4}, {"samples": 4}, {"batch_size": 2}, {"n": True}, {"service_tier": "priority"},
                {"files": ["https://h/x.pdf"]}, {"images": [IMAGE] * 20}, {"image": IMAGE}, {"image_url": IMAGE},
                {"image_url": {"url": IMAGE}}, {"video": {"url": "https://h/a.mp4"}}, {"deep": {"er": [[IMAGE]]}},
                {"safe_prompt": True}, {"num_beams": 4},
                {"grounding": True}, {"file_ids": ["file-1"]}, {"cachedContent": "c/1"}, {"tools": [{}]},
            )
        ),
        ({"prompt": ["a", "b"], "max_tokens": 9}, "prompt"),
        ({"messages": {"contents": [], "generationConfig": {"responseModalities": ["IMAGE"]}}, "max_tokens": 9},
         "messages.generationConfig.responseModalities"),
        *(
            (_part(part), "messages[0].content[1]")
            for part in (
                {"fileData": {"fileUri": IMAGE}}, {"fileData": {"fileUri": IMAGE, "mimeType": "video/mp4"}},
                {"inlineData": {"data": "AA"}}, {"type": "image_url", "image_url": {"url": "https://h/x.pdf"}},
                {"type": "image_url", "image_url": "https://h/x"}, {"type": "image_url", "image_url": None},
                {"type": "image_url", "image_url": {"url": "data:application/pdf;base64,AA"}},
                {"type": "image_url", "image_url": {"url": "https://[h/a.png"}},
                {"type": "input_file", "file_id": "f"}, {"type": "video", "video": IMAGE}, {"type": "who_knows"},
                {"type": ["text"], "text": "a"}, {"type": "image", "source": {"type": "file", "file_id": "f"}},
                {"type": "document", "source": {"type": "text", "data": "a"}},
            )
        ),
        (_part({"text": "a", "videoMetadata": {"fps": 5}}), "messages[0].content[1].videoMetadata"),
        ({"messages": [{"role": "user", "content": "a", "attachments": ["file-1"]}], "max_tokens": 9},
         "messages[0].attachments"),
        ({"messages": [{"role": "user", "content": "a", "audio": {"id": "1"}}], "max_tokens": 9}, "messages[0].audio"),
    ],
    ids=str,
)  # fmt: skip
def test_a_field_of_unknown_cost_is_named(inputs: dict[str, Any], field: str) -> None:
    bound = cost_bound("gemini-x", inputs, prices=PRICED)

    assert (bound.certain, bound.doubt) == (False, field)


@pytest.mark.parametrize(
    "extra",
    [{"n": 1}, {"tools": []}, {"web_search": False}, {"temperature": 0.3, "top_p": 1, "seed": 7}, {"stop": ["x"]},
     {"response_format": {"type": "json_object"}}, {"system": "https://h/"}, {"safetySettings": [{"threshold": "x"}]},
     {"tool_choice": "none", "parallel_tool_calls": True}, {"random_seed": 7, "do_sample": True, "max_new_tokens": 9},
     {"repeat_penalty": 1.1, "length_penalty": 1, "min_tokens": 5}, {"prompt_cache_key": "k", "enable_thinking": True},
     {"generationConfig": {"temperature": 1, "responseLogprobs": True, "thinkingConfig": {"thinkingBudget": 9}}}],
    ids=str,
)  # fmt: skip
def test_usual_options_leave_a_bound_certain(extra: dict[str, Any]) -> None:
    assert cost_bound("m", {**MESSAGE, **extra}, prices=PRICED).certain


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(schema=_JSON, text=st.text(max_size=50), where=st.sampled_from(["response_format", "metadata", "stop"]))
def test_a_bound_covers_all_of_a_body(schema: Any, text: str, where: str) -> None:
    inputs = {"messages": [{"role": "user", "content": text}], "max_tokens": 1, where: schema}
    written = json.dumps({**inputs, "messages": ""}, ensure_ascii=False).encode("utf-8", "replace")
    bound = cost_bound("m", inputs, prices=PRICED)

    assert bound.certain
    assert bound.usd * 1e6 >= len(written) + len(text.encode("utf-8", "replace")) + 10


def test_a_bound_covers_the_names_in_the_schema_of_the_answer() -> None:
    schema = {"type": "object", "properties": {f"name_{number}": {"type": "string"} for number in range(500)}}
    bound = cost_bound("m", {**MESSAGE, "response_format": schema}, prices=PRICED)
    assert bound.usd >= len(json.dumps(schema)) / 1e6
