"""Submit, status, result, the blocking v1 call and the balance."""

from __future__ import annotations

import re
import threading

import httpx
import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.emulator_calls import MODEL, status_of


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


def test_an_unfinished_status_has_urls_and_empty_metrics(http, emulator, submit):
    """E20"""
    emulator.settings(latency=9)
    request_id = submit()

    body = http.get(f"/v2/requests/{request_id}/status").json()

    assert body == {
        "status": "PROCESSING",
        "request_id": request_id,
        "status_url": f"{emulator.url}/v2/requests/{request_id}/status",
        "response_url": f"{emulator.url}/v2/requests/{request_id}",
        "metrics": {},
    }


def test_a_completed_status_has_metrics_and_no_output(http, emulator, submit):
    """E21"""
    emulator.settings(queue_time=1, latency=2)
    request_id = submit()
    emulator.advance(5)

    body = http.get(f"/v2/requests/{request_id}/status").json()

    assert sorted(body) == ["metrics", "request_id", "status"]
    assert body["metrics"]["inference_time"] == 2
    assert body["metrics"]["queue_time"] == 1
    assert body["metrics"]["total_time"] == 3
    assert body["metrics"]["cost"] > 0
    assert body["metrics"]["remaining_credits"] == pytest.approx(100 - body["metrics"]["cost"])


@pytest.mark.parametrize("path", ["/v2/requests/{}/status", "/v2/requests/{}"])
def test_a_failed_request_is_422_with_an_error_and_without_cost(http, emulator, submit, path):
    """E22, E23, E32"""
    emulator.script(fail="provider content moderation block")
    answer = http.get(path.format(submit()))

    assert answer.status_code == 422
    assert answer.json()["status"] == "FAILED"
    assert answer.json()["error"] == "provider content moderation block"
    assert answer.json()["request_id"]
    assert not {"cost", "remaining_credits"} & set(answer.json()["metrics"])


def test_a_failed_request_can_be_200_without_its_id(http, emulator, submit):
    """E22, E23"""
    emulator.settings(failed_status=200, failed_request_id=False)
    emulator.script(fail="no")
    answer = http.get(f"/v2/requests/{submit()}/status")

    assert answer.status_code == 200
    assert "request_id" not in answer.json()


def test_an_unknown_id_is_404(http):
    """E24"""
    for path in ("/v2/requests/nope/status", "/v2/requests/nope"):
        answer = http.get(path)
        assert (answer.status_code, answer.json()) == (404, {"error": "Request nope not found"})


def test_a_status_can_be_an_unknown_word(http, emulator, submit):
    """E27"""
    emulator.fault("status", patch={"status": "THROTTLED"}, times=2)
    request_id = submit()

    assert [status_of(http, request_id) for _ in range(3)] == ["THROTTLED", "THROTTLED", "COMPLETED"]


def test_metrics_can_be_those_of_the_old_docs(http, emulator, submit):
    """E31"""
    emulator.settings(metrics="old")

    assert list(http.get(f"/v2/requests/{submit()}").json()["metrics"]) == ["inference_time"]


def test_a_result_read_too_early_is_an_unfinished_status(http, emulator, submit):
    """E33"""
    emulator.settings(latency=9)
    request_id = submit()

    early = http.get(f"/v2/requests/{request_id}")
    emulator.settings(early_result_status=404)

    assert (early.status_code, early.json()["status"], early.json()["metrics"]) == (200, "PROCESSING", {})
    assert http.get(f"/v2/requests/{request_id}").status_code == 404


def test_a_result_reads_the_same_every_time_and_is_billed_once(http, emulator, submit):
    """E34, E40"""
    request_id = submit()

    assert len({http.get(f"/v2/requests/{request_id}").text for _ in range(4)}) == 1
    assert len(emulator.bill) == 1


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


def test_an_account_without_a_credits_record_is_404(http, emulator):
    """E42"""
    emulator.set_balance(None)

    answer = http.get("/v1/get-user-credits")

    assert (answer.status_code, answer.json()) == (404, {"error": "No credits found for the user"})
