from __future__ import annotations

import re

import httpx
import pytest

from airflow_provider_segmind.emulator import SegmindEmulator

MODEL = "gemini-3.1-flash-lite"
GUARDED = [
    ("POST", f"/v2/{MODEL}"),
    ("POST", f"/v1/{MODEL}"),
    ("GET", "/v2/requests/abc/status"),
    ("GET", "/v2/requests/abc"),
    ("GET", "/v1/get-user-credits"),
    ("POST", "/upload-asset"),
    ("GET", "/inference-request/request-history"),
    ("GET", "/inference-request/request-history/abc"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
def test_a_call_without_a_key_a_wrong_key_or_a_bearer_key_gets_401(emulator, method, path):
    """E1, E2, E3, E4"""
    with httpx.Client(base_url=emulator.url, trust_env=False) as client:
        without = client.request(method, path, json={})
        wrong = client.request(method, path, json={}, headers={"x-api-key": "SG_ffffffffffffffff"})
        bearer = client.request(method, path, json={}, headers={"authorization": f"Bearer {emulator.api_key}"})

    assert [answer.status_code for answer in (without, wrong, bearer)] == [401, 401, 401]
    assert without.json() == {"error": "Missing Authorization or x-api-key in header"}
    assert "invalid" in wrong.json()["error"]
    assert emulator.jobs == []


def test_the_model_list_is_open_without_a_key(emulator):
    """E4"""
    assert httpx.get(f"{emulator.url}/inference-model-information/list", trust_env=False).status_code == 200


def test_a_submit_returns_200_with_five_keys_and_absolute_urls(emulator, http):
    """E5, E6, E17"""
    answer = http.post(f"/v2/{MODEL}", json={"prompt": "hi"})
    body = answer.json()

    assert answer.status_code == 200
    assert sorted(body) == ["poll_url", "request_id", "response_url", "status", "status_url"]
    assert re.fullmatch("[0-9a-f]{32}", body["request_id"])
    assert body["status"] == "QUEUED"
    assert body["status_url"] == f"{emulator.url}/v2/requests/{body['request_id']}/status"
    assert body["response_url"] == f"{emulator.url}/v2/requests/{body['request_id']}"
    assert body["poll_url"] == f"{emulator.url}/v1/requests/{body['request_id']}"
    assert not {"retry-after", "location"} & set(answer.headers)


def test_the_urls_of_a_submit_can_have_a_foreign_host(emulator, http):
    """E5"""
    emulator.settings(public_url="https://api.segmind.com", id_format="uuid")

    body = http.post(f"/v2/{MODEL}", json={"prompt": "hi"}).json()

    assert body["status_url"] == f"https://api.segmind.com/v2/requests/{body['request_id']}/status"
    assert len(body["request_id"]) == 36


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


@pytest.mark.parametrize(
    ("slug", "status"), [("no-such-model", 404), ("gemini-1.5-pro", 410), ("restricted-model", 403)]
)
def test_unknown_retired_and_restricted_slugs_fail_fast_in_json(http, emulator, slug, status):
    """E10, E11, E12"""
    answer = http.post(f"/v2/{slug}", json={"prompt": "x"})

    assert answer.status_code == status
    assert slug in answer.json()["error"]
    assert emulator.jobs == []


def test_a_user_can_add_slugs_with_or_without_naming_their_kind(http, emulator, submit):
    """E10"""
    emulator.settings(models={"claude-9": "", "my-painter": "image"})

    assert json_output(http, submit("claude-9", prompt="x"))["content"][0]["text"] == "echo: x"
    assert http.get(f"/v2/requests/{submit('my-painter', prompt='x')}").json()["images"]


def json_output(http, request_id):
    import json

    return json.loads(http.get(f"/v2/requests/{request_id}").json()["output"])


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
    ("method", "path"), [("GET", f"/v2/{MODEL}"), ("POST", "/v2/requests/abc/status"), ("PUT", "/v1/x")]
)
def test_a_wrong_method_is_405_in_html(http, method, path):
    """E14"""
    answer = http.request(method, path)

    assert answer.status_code == 405
    assert answer.headers["content-type"] == "text/html"
    assert answer.text.startswith("<html>")


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


def test_the_gateway_can_have_a_path_prefix():
    with SegmindEmulator(prefix="/proxy/segmind/") as emulator:
        headers = {"x-api-key": emulator.api_key}
        with httpx.Client(headers=headers, trust_env=False) as client:
            body = client.post(f"{emulator.gateway_url}/v2/{MODEL}", json={"prompt": "x"}).json()

            assert emulator.gateway_url == f"{emulator.url}/proxy/segmind"
            assert body["status_url"].startswith(f"{emulator.gateway_url}/v2/requests/")
            assert client.get(body["status_url"]).json()["status"] == "COMPLETED"
            assert client.post(f"{emulator.url}/v2/{MODEL}", json={"prompt": "x"}).status_code == 400
