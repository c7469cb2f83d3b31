"""Invalid arguments are refused before anything is paid for, and the message names the field."""

from __future__ import annotations

import pytest

from airflow_provider_segmind.chat.attachments import Attachment
from airflow_provider_segmind.chat.messages import build_chat_inputs
from airflow_provider_segmind.exceptions import SegmindConfigError

GEMINI, GPT, CLAUDE = "gemini-3.1-flash-lite", "gpt-5.4-mini", "claude-4.5-sonnet"
SECRET = "the secret of the prompt"


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


CASES = {
    "no model": ({"model": " ", "prompt": "Hi"}, "model=' ' is empty"),
    "not a chat model": (
        {"model": "gpt-image-2", "prompt": "Hi"},
        "model='gpt-image-2' is not a chat model, judging by its name",
    ),
    "unknown format": ({"model": GPT, "prompt": "Hi", "api_format": "mistral"}, "api_format='mistral' is not a chat"),
    "no prompt": ({"model": GPT}, "prompt is missing"),
    "empty prompt": ({"model": GPT, "prompt": " \n"}, "prompt is empty"),
    "prompt of another type": ({"model": GPT, "prompt": 7}, "prompt is an int"),
    "empty system": ({"model": GPT, "prompt": "Hi", "system": ""}, "system is empty"),
    "messages as a string": ({"model": GPT, "messages": SECRET}, "messages is a str"),
    "no messages": ({"model": GPT, "messages": []}, "messages is empty"),
    "a message as a string": ({"model": GPT, "messages": [user("a"), SECRET]}, r"messages\[1\] is a str"),
    "wrong role": (
        {"model": GPT, "messages": [user("a"), user("b"), {"role": "bot", "content": SECRET}]},
        r"messages\[2\]\.role is 'bot': it must be 'user', 'assistant' or 'system'",
    ),
    "no role": ({"model": GPT, "messages": [{"content": SECRET}]}, r"messages\[0\]\.role is missing"),
    "role of another type": ({"model": GPT, "messages": [{"role": 1}]}, r"messages\[0\]\.role is an int"),
    "no content": ({"model": GPT, "messages": [{"role": "user"}]}, r"messages\[0\]\.content is missing"),
    "empty message": ({"model": GPT, "messages": [user("a"), user("")]}, r"messages\[1\]\.content is empty"),
    "empty content list": ({"model": GPT, "messages": [user([])]}, r"messages\[0\]\.content is empty"),
    "content of another type": ({"model": GPT, "messages": [user(3)]}, r"messages\[0\]\.content is an int"),
    "part of another type": ({"model": GPT, "messages": [user(["a", 3])]}, r"messages\[0\]\.content\[1\] is an int"),
    "unknown block": ({"model": GPT, "messages": [user([{"txt": "a"}])]}, r"messages\[0\]\.content\[0\] is a dict"),
    "a block JSON cannot represent": (
        {"model": GPT, "messages": [user([{"type": "x", "y": b""}])]},
        r"messages\[0\]\.content\[0\]\.y is bytes",
    ),
    "image in a system message": (
        {"model": GPT, "messages": [{"role": "system", "content": [Attachment(media_type="image/png", data=b"1")]}]},
        r"messages\[0\]\.content contains more than text",
    ),
    "only system": ({"model": GPT, "messages": [{"role": "system", "content": "a"}]}, "only the role 'system'"),
    "attachment that is not loaded": (
        {"model": GPT, "prompt": "Hi", "attachments": ["a.jpg"]},
        r"files\[0\] is a str",
    ),
    "attachment without a question": (
        {
            "model": GPT,
            "messages": [{**user("a"), "role": "assistant"}],
            "attachments": [Attachment("image/png", b"1")],
        },
        "files need a question",
    ),
    "Gemini's object for another family": ({"model": GPT, "messages": {"contents": [1]}}, "messages is an object"),
    "Gemini's object without contents": ({"model": GEMINI, "messages": {"contents": []}}, r"messages\.contents"),
    "prompt with Gemini's object": (
        {"model": GEMINI, "messages": {"contents": [{}]}, "prompt": "Hi"},
        "prompt cannot be combined with messages",
    ),
    "extra key for Gemini": (
        {"model": GEMINI, "messages": [{**user("a"), "name": "b"}]},
        r"messages\[0\]\.name does not exist in Gemini's format",
    ),
    "block of another family": (
        {"model": GEMINI, "messages": [user([{"type": "tool_use", "id": "1"}])]},
        r"messages\[0\] contains a block",
    ),
    "options of another type": ({"model": GPT, "prompt": "Hi", "options": ["a"]}, "options is a list"),
    "an option JSON cannot represent": (
        {"model": GPT, "prompt": "Hi", "options": {"stop": ["a", {1, 2}]}},
        r"options\.stop\[1\] is a set",
    ),
    "an option that is not a number": (
        {"model": GPT, "prompt": "Hi", "options": {"temperature": float("nan")}},
        r"options\.temperature is nan",
    ),
    "an option with a number for a name": ({"model": GPT, "prompt": "Hi", "options": {1: 2}}, "options has a key of"),
    "messages as an option": ({"model": GPT, "prompt": "Hi", "options": {"messages": []}}, r"options\.messages"),
    "the system text twice": (
        {"model": CLAUDE, "prompt": "Hi", "system": "a", "options": {"instruction": "b"}},
        r"options\.instruction is already given",
    ),
    "response_format without type": ({"model": GPT, "prompt": "Hi", "response_format": {}}, r"response_format\.type"),
    "json_object for Claude": (
        {"model": CLAUDE, "prompt": "Hi json", "response_format": {"type": "json_object"}},
        "takes only 'json_schema'",
    ),
    "json_object without the word": (
        {"model": GPT, "prompt": "Hi", "options": {"response_format": {"type": "json_object"}}},
        "needs the word 'json'",
    ),
}


@pytest.mark.parametrize(("given", "message"), CASES.values(), ids=CASES.keys())
def test_an_invalid_argument_is_an_error_that_names_the_field(given, message):
    with pytest.raises(SegmindConfigError, match=message) as caught:
        build_chat_inputs(**given)

    assert SECRET not in str(caught.value)


def test_the_role_model_becomes_assistant():
    body = build_chat_inputs(model=GPT, messages=[user("a"), {"role": "model", "content": "b"}, user("c")])

    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]


def test_json_object_is_accepted_if_the_prompt_says_json():
    body = build_chat_inputs(model=GPT, prompt="Answer in JSON.", response_format={"type": "json_object"})

    assert body["response_format"] == {"type": "json_object"}
