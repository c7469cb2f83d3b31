from __future__ import annotations

import threading

import httpx
import pytest

from airflow_provider_segmind.emulator import SegmindEmulator


@pytest.mark.parametrize(
    ("model", "key"), [("gemini-3.1-flash-lite", "candidates"), ("gpt-5", "choices"), ("claude-4-sonnet", "content")]
)
def test_v1_returns_the_bare_native_json_of_a_language_model(http, model, key):
    """E37"""
    answer = http.post(f"/v1/{model}", json={"prompt": "x"})

    assert answer.status_code == 200
    assert answer.json()[key]


@pytest.mark.parametrize(
    ("model", "content_type", "magic"),
    [
        ("seedream-4.5", "image/png", b"\x89PNG"),
        ("seedance-2.0", "video/mp4", b"\x00\x00\x00\x1cftyp"),
        ("tts-eleven-labs", "audio/mpeg", b"ID3"),
    ],
)
def test_v1_returns_media_as_bytes(http, model, content_type, magic):
    """E37"""
    answer = http.post(f"/v1/{model}", json={"prompt": "x"})

    assert answer.headers["content-type"] == content_type
    assert answer.content.startswith(magic)


def test_an_image_model_returns_the_requested_format(http):
    """E37"""
    answer = http.post("/v1/seedream-4.5", json={"prompt": "x", "output_format": "jpeg"})

    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content[:3] + answer.content[-2:] == b"\xff\xd8\xff\xff\xd9"


def test_v1_has_cost_and_more_in_its_headers(http, emulator):
    """E38"""
    headers = http.post("/v1/seedream-4.5", json={"prompt": "x", "seed": 5}).headers

    assert headers["x-request-id"] == emulator.jobs[0].request_id
    assert float(headers["x-cost"]) == emulator.bill[0].cost == 0.05
    assert float(headers["x-remaining-credits"]) == pytest.approx(99.95)
    assert headers["x-generation-time"] == "[0.0]"
    assert headers["x-seed-value"] == "5"
    assert headers["x-rate-limit-reset-at-utc"].endswith("Z")


def test_a_slow_v1_call_is_504_while_the_request_continues():
    """E39"""
    with SegmindEmulator(scale=1000, latency=100) as emulator:
        headers = {"x-api-key": emulator.api_key}
        answer = httpx.post(f"{emulator.url}/v1/gpt-5", json={"prompt": "x"}, headers=headers, trust_env=False)
        emulator.advance(100)

        assert answer.status_code == 504
        assert [job.status for job in emulator.jobs] == ["COMPLETED"]
        assert len(emulator.bill) == 1


def test_a_blocking_v1_call_follows_an_advanced_clock(emulator, http):
    """E39"""
    emulator.settings(latency=30)
    mover = threading.Timer(0.05, emulator.advance, [30])
    mover.start()

    assert http.post("/v1/gpt-5", json={"prompt": "x"}).status_code == 200
    mover.join()


def test_a_failed_v1_call_is_an_error_with_the_message(http, emulator):
    """E37, E40"""
    emulator.script(fail="bad value")

    answer = http.post("/v1/gpt-5", json={"prompt": "x"})

    assert (answer.status_code, answer.json()) == (500, {"error": "bad value"})
    assert emulator.bill == []


def test_a_request_is_charged_when_it_completes_polled_or_not(http, emulator, submit):
    """E40"""
    emulator.settings(latency=5)
    request_id = submit("seedream-4.5", prompt="x")
    assert emulator.bill == []

    emulator.advance(60)

    [entry] = emulator.bill
    assert (entry.request_id, entry.model, entry.cost) == (request_id, "seedream-4.5", 0.05)
    assert entry.time == pytest.approx(emulator.now() - 55)
    assert emulator.balance() == pytest.approx(99.95)


def test_nothing_is_charged_for_failures_and_refusals(http, emulator, submit):
    """E40"""
    emulator.script(fail="no", times=1)
    submit()
    http.post("/v2/no-such-model", json={})
    http.post("/v2/gpt-5", content=b"{")

    assert emulator.bill == []
    assert http.get("/v1/get-user-credits").json() == {"credits": 100.0, "free-credits": 0.0}


def test_two_identical_submits_are_two_charges(emulator, submit):
    """E41"""
    submit(prompt="same")
    submit(prompt="same")

    assert len({entry.request_id for entry in emulator.bill}) == 2


def test_the_balance_has_a_hyphenated_key_and_free_credits_are_spent_first(http, emulator, submit):
    """E42"""
    emulator.set_balance(1.0, free=0.03)
    submit("seedream-4.5", prompt="x")

    assert http.get("/v1/get-user-credits").json() == {"credits": 0.98, "free-credits": 0.0}


def test_an_account_without_a_credits_record_is_404(http, emulator):
    """E42"""
    emulator.set_balance(None)

    answer = http.get("/v1/get-user-credits")

    assert (answer.status_code, answer.json()) == (404, {"error": "No credits found for the user"})


def test_the_mock_model_has_the_requested_latency_and_cost(http, emulator, submit):
    request_id = submit("mock-inference", sleep=3, credits=0.5)
    assert http.get(f"/v2/requests/{request_id}/status").json()["status"] == "PROCESSING"
    emulator.advance(3)

    body = http.get(f"/v2/requests/{request_id}").json()

    assert (body["partial"], body["metrics"]["cost"]) == (False, 0.5)
