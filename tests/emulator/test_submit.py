from __future__ import annotations

import json

import pytest

from tests.support.emulator_calls import MODEL, json_output


def test_every_post_creates_a_new_request_even_for_the_same_body(submit):
    """E7"""
    assert len({submit(prompt="same") for _ in range(5)}) == 5


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_missing_or_other_content_type_is_406(http, content_type):
    """E8"""
    headers = {"content-type": content_type} if content_type else {}
    answer = http.post(f"/v2/{MODEL}", content=b'{"prompt": "x"}', headers=headers)

    assert (answer.status_code, answer.json()) == (406, {"error": "Invalid content type"})


def test_a_multipart_form_is_read_as_inputs(http, emulator):
    """E8"""
    assert http.post("/v2/gpt-5", files={"prompt": (None, "from a form")}).status_code == 200
    request_id = emulator.jobs[0].request_id
    assert "echo: from a form" in http.get(f"/v2/requests/{request_id}").json()["output"]


@pytest.mark.parametrize("content", [b"{", b"", b"[1]", b'"text"', b"null"])
def test_a_body_that_is_not_a_json_object_is_400(http, content):
    """E9"""
    answer = http.post(f"/v2/{MODEL}", content=content, headers={"content-type": "application/json"})

    assert answer.status_code == 400
    assert answer.json()["error"]


def test_a_low_balance_is_402_on_v2_and_406_on_v1_and_configurable(http, emulator):
    """E13"""
    emulator.set_balance(0.0)
    on_v2 = http.post(f"/v2/{MODEL}", json={"prompt": "x"})
    on_v1 = http.post(f"/v1/{MODEL}", json={"prompt": "x"})
    emulator.settings(credits_status_v2=406)

    assert (on_v2.status_code, on_v2.json()) == (402, {"error": "Insufficient credits. You have 0.0 credits."})
    assert on_v1.status_code == 406
    assert http.post(f"/v2/{MODEL}", json={"prompt": "x"}).status_code == 406
    assert emulator.jobs == []


def test_requests_in_progress_reserve_their_cost(http, emulator):
    """E13"""
    emulator.settings(latency=10, media_price=0.05)
    emulator.set_balance(0.08)

    assert http.post("/v2/seedream-4.5", json={"prompt": "x"}).status_code == 200
    assert http.post("/v2/seedream-4.5", json={"prompt": "x"}).status_code == 402


@pytest.mark.parametrize(
    ("model", "inputs", "error"),
    [
        (MODEL, {"temperature": 1}, "Prompt is Mandatory and must be string"),
        ("seedance-2.0", {"prompt": "", "duration": 5}, "Prompt is Mandatory and must be string"),
        ("seedance-2.0", {"prompt": "x", "duration": 0}, "duration must be greater than 0"),
    ],
)
def test_an_invalid_body_is_accepted_and_the_request_fails(http, emulator, submit, model, inputs, error):
    """E15"""
    answer = http.get(f"/v2/requests/{submit(model, **inputs)}/status")

    assert (answer.status_code, answer.json()["error"]) == (422, error)
    assert emulator.bill == []


@pytest.mark.parametrize("status", [406, 422])
def test_an_invalid_body_can_be_refused_at_once(http, emulator, status):
    """E16"""
    emulator.settings(eager_validation=status)

    assert http.post(f"/v2/{MODEL}", json={"temperature": 1}).status_code == status
    assert emulator.jobs == []


GEMINI_BODIES = [
    {"messages": {"contents": [{"role": "user", "parts": [{"text": "ask"}]}]}},
    {
        "messages": {
            "system_instruction": {"parts": {"text": "s"}},
            "contents": [{"role": "user", "parts": {"text": "ask"}}],
        }
    },
    {"messages": {"systemInstruction": {"parts": [{"text": "s"}]}, "contents": [{"parts": [{"text": "ask"}]}]}},
    {"prompt": "ask"},
    {"messages": [{"role": "user", "content": "ask"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "ask"}]}]},
]


@pytest.mark.parametrize("inputs", GEMINI_BODIES)
def test_a_gemini_model_accepts_every_form_of_messages(http, submit, inputs):
    """E18"""
    assert json_output(http, submit(MODEL, **inputs))["candidates"][0]["content"]["parts"] == [{"text": "echo: ask"}]


def test_a_strict_gemini_model_refuses_a_list_of_messages(http, emulator, submit):
    """E18"""
    emulator.settings(strict_gemini_messages=True)

    answer = http.get(f"/v2/requests/{submit(MODEL, **GEMINI_BODIES[-1])}")

    assert answer.status_code == 422


def test_a_reply_is_a_json_string_of_the_native_body_by_default(http, submit):
    """E29, E31"""
    body = http.get(f"/v2/requests/{submit()}").json()

    assert body["error"] is None
    assert isinstance(body["output"], str)
    assert json.loads(body["output"])["candidates"][0]["finishReason"] == "STOP"


@pytest.mark.parametrize("mode", ["plain", "dict", "missing", "invalid", "list"])
def test_a_reply_can_have_every_other_form(http, emulator, submit, mode):
    """E29"""
    emulator.settings(output_mode=mode)
    body = http.get(f"/v2/requests/{submit()}").json()

    if mode == "plain":
        assert body["output"] == "echo: hello"
    elif mode == "dict":
        assert body["output"]["candidates"]
    elif mode == "missing":
        assert "output" not in body
        assert body["candidates"]
    elif mode == "list":
        assert body["output"] == ["echo: hello"]
    else:
        with pytest.raises(ValueError, match=r"delimiter|Expecting|Unterminated"):
            json.loads(body["output"])


@pytest.mark.parametrize(("model", "key"), [("seedance-2.0", "video"), ("tts-eleven-labs", "audio")])
def test_video_and_audio_results_have_an_object_and_an_output_url(http, submit, model, key):
    """E30"""
    body = http.get(f"/v2/requests/{submit(model, prompt='x')}").json()

    assert body[key]["url"] == body["output"]
    assert body[key]["content_type"] == {"video": "video/mp4", "audio": "audio/mpeg"}[key]


def test_an_image_result_has_all_images_and_the_first_as_output(http, emulator, submit):
    """E30"""
    emulator.script(outputs=3)
    body = http.get(f"/v2/requests/{submit('seedream-4.5', prompt='x', seed=7)}").json()

    assert len({image["url"] for image in body["images"]}) == 3
    assert body["output"] == body["images"][0]["url"]
    assert (body["seed"], body["prompt"]) == ("7", "x")


def test_the_mock_model_has_the_requested_latency_and_cost(http, emulator, submit):
    request_id = submit("mock-inference", sleep=3, credits=0.5)
    assert http.get(f"/v2/requests/{request_id}/status").json()["status"] == "PROCESSING"
    emulator.advance(3)

    body = http.get(f"/v2/requests/{request_id}").json()

    assert (body["partial"], body["metrics"]["cost"]) == (False, 0.5)


def test_embeddings_transcripts_and_grounding_have_a_shape(http, native, submit):
    assert len(native("text-embedding-3-small", prompt="x")["data"][0]["embedding"]) == 8
    assert http.get(f"/v2/requests/{submit('eleven-labs-transcript', audio='https://x')}").json()["output"] == "echo: "
    grounded = http.get(f"/v2/requests/{submit(MODEL, prompt='x', web_search=True)}").json()
    assert grounded["grounding"]
