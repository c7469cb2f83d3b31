"""The body of a request: the same conversation in the format of each family, byte for byte."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.chat.attachments import Attachment
from airflow_provider_segmind.chat.messages import build_chat_inputs

GEMINI, GPT, CLAUDE = "gemini-3.1-flash-lite", "gpt-5.4-mini", "claude-4.5-sonnet"
CAT = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAA")
QUESTION = "What's in this image?"
HELPFUL = "You are a helpful assistant."


def cat() -> Attachment:
    return Attachment(media_type="image/jpeg", data=CAT, name="cat.jpg")


def test_a_gemini_body_is_exactly_the_sample_of_the_model_page():
    body = build_chat_inputs(model=GEMINI, prompt=QUESTION, system=HELPFUL, attachments=[cat()])

    assert json.dumps(body) == json.dumps(
        {
            "messages": {
                "system_instruction": {"parts": {"text": HELPFUL}},
                "contents": [
                    {
                        "role": "user",
                        "parts": [
                            {"text": QUESTION},
                            {"inlineData": {"mimeType": "image/jpeg", "data": "iVBORw0KGgoAAAANSUhEUgAA"}},
                        ],
                    }
                ],
            }
        }
    )


def test_an_openai_body_has_the_image_as_a_data_uri():
    body = build_chat_inputs(model=GPT, prompt=QUESTION, system=HELPFUL, attachments=[cat()])

    url = "data:image/jpeg;base64,iVBORw0KGgoAAAANSUhEUgAA"
    assert body == {
        "messages": [
            {"role": "system", "content": HELPFUL},
            {
                "role": "user",
                "content": [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": url}}],
            },
        ]
    }


def test_an_anthropic_body_has_the_system_text_as_instruction():
    body = build_chat_inputs(model=CLAUDE, prompt=QUESTION, system=HELPFUL, attachments=[cat()])

    source = {"type": "base64", "media_type": "image/jpeg", "data": "iVBORw0KGgoAAAANSUhEUgAA"}
    assert body == {
        "instruction": HELPFUL,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": QUESTION}, {"type": "image", "source": source}]}
        ],
    }


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (GEMINI, {"messages": {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}}),
        (GPT, {"messages": [{"role": "user", "content": "Hi"}]}),
        (CLAUDE, {"messages": [{"role": "user", "content": "Hi"}]}),
    ],
)
def test_a_bare_prompt_needs_nothing_else(model, expected):
    assert build_chat_inputs(model=model, prompt="Hi") == expected


TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": ["Two?", Attachment.from_url("https://files.test/a.png")]},
]


def test_a_conversation_becomes_gemini_contents_with_the_role_model():
    body = build_chat_inputs(model=GEMINI, messages=TALK, system="Be kind.")

    assert body["messages"] == {
        "system_instruction": {"parts": {"text": "Be kind.\n\nBe brief."}},
        "contents": [
            {"role": "user", "parts": [{"text": "One?"}]},
            {"role": "model", "parts": [{"text": "1"}]},
            {
                "role": "user",
                "parts": [
                    {"text": "Two?"},
                    {"fileData": {"mimeType": "image/png", "fileUri": "https://files.test/a.png"}},
                ],
            },
        ],
    }


def test_a_conversation_keeps_its_order_for_openai_and_gives_its_system_text_to_claude():
    for_gpt = build_chat_inputs(model=GPT, messages=TALK, system="Be kind.")
    for_claude = build_chat_inputs(model=CLAUDE, messages=TALK, system="Be kind.")

    assert [message["role"] for message in for_gpt["messages"]] == ["system", "system", "user", "assistant", "user"]
    assert for_gpt["messages"][4]["content"][1] == {
        "type": "image_url",
        "image_url": {"url": "https://files.test/a.png"},
    }
    assert for_claude["instruction"] == "Be kind.\n\nBe brief."
    assert [message["role"] for message in for_claude["messages"]] == ["user", "assistant", "user"]
    assert for_claude["messages"][2]["content"][1]["source"] == {"type": "url", "url": "https://files.test/a.png"}


def test_a_prompt_follows_the_messages_and_has_the_attachments():
    body = build_chat_inputs(model=GPT, messages=TALK[1:3], prompt="Three?", attachments=[cat()])

    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert [block["type"] for block in body["messages"][2]["content"]] == ["text", "image_url"]


def test_attachments_without_a_prompt_join_the_last_user_message():
    body = build_chat_inputs(model=GPT, messages=[{"role": "user", "content": "What?"}], attachments=[cat()])

    assert [block["type"] for block in body["messages"][0]["content"]] == ["text", "image_url"]


@pytest.mark.parametrize("model", [GEMINI, GPT, CLAUDE])
def test_options_are_sent_unchanged(model):
    options = {"temperature": 0.2, "stop": ["a", "b"], "web_search": True, "generationConfig": {"topK": None}}

    body = build_chat_inputs(model=model, prompt="Hi", options=options)

    assert {key: body[key] for key in options} == options


def test_geminis_native_object_is_sent_unchanged():
    native = {
        "systemInstruction": {"parts": [{"text": "a"}]},
        "contents": [{"role": "user", "parts": {"text": "b"}}],
        "generationConfig": {"maxOutputTokens": 5},
    }

    assert build_chat_inputs(model=GEMINI, messages=native, options={"seed": 1}) == {"messages": native, "seed": 1}


def test_native_contents_in_a_list_are_sent_unchanged():
    native = [{"role": "user", "parts": [{"text": "b"}, {"videoMetadata": {"fps": 1}, "text": "c"}]}]

    assert build_chat_inputs(model=GEMINI, messages=native)["messages"]["contents"] == native


@pytest.mark.parametrize(
    ("model", "block"),
    [
        (CLAUDE, {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}),
        (CLAUDE, {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}),
        (GPT, {"type": "image_url", "image_url": {"url": "https://files.test/a", "detail": "low"}}),
        ("qwen3-vl-plus", {"type": "video_url", "video_url": {"url": "https://files.test/a.mp4"}}),
    ],
)
def test_a_native_block_of_the_same_family_is_sent_unchanged(model, block):
    body = build_chat_inputs(model=model, messages=[{"role": "user", "content": ["Look:", block]}])

    assert body["messages"][0]["content"][1] == block


PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAA"
FOREIGN_BLOCKS = [
    {"type": "image_url", "image_url": {"url": PNG}},
    {"inlineData": {"mimeType": "image/png", "data": PNG.partition(",")[2]}},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG.partition(",")[2]}},
]


@pytest.mark.parametrize("block", FOREIGN_BLOCKS)
def test_an_image_block_of_any_family_is_converted_for_every_family(block):
    messages = [{"role": "user", "content": [{"type": "text", "text": "Look"}, block]}]

    built = {model: build_chat_inputs(model=model, messages=messages)["messages"] for model in (GEMINI, GPT, CLAUDE)}

    assert built[GPT][0]["content"][1] == FOREIGN_BLOCKS[0]
    assert built[GEMINI]["contents"][0]["parts"][1] == FOREIGN_BLOCKS[1]
    assert built[CLAUDE][0]["content"][1] == FOREIGN_BLOCKS[2]


@pytest.mark.parametrize("model", [GEMINI, GPT, CLAUDE])
@given(text=st.text(min_size=1).filter(str.strip))
def test_any_text_is_sent_byte_for_byte(model, text):
    sent = "{{ 7*7 }} {% sale {0} %s {name} " + text

    body = build_chat_inputs(model=model, prompt=sent, system=sent)

    assert json.dumps(body).count(json.dumps(sent)) == 2


def test_building_inputs_does_not_modify_its_arguments():
    messages = [{"role": "user", "content": ["a", {"type": "text", "text": "b"}]}]
    options = {"seed": 1}
    before = json.dumps([messages, options])

    build_chat_inputs(model=GEMINI, messages=messages, prompt="c", options=options)

    assert json.dumps([messages, options]) == before


def test_importing_the_chat_core_imports_no_heavy_package():
    code = (
        "import sys; import airflow_provider_segmind.chat.messages, airflow_provider_segmind.chat.replies; "
        "print([m for m in ('airflow', 'httpx', 'jsonschema', 'pydantic') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
