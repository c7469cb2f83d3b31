from __future__ import annotations

import io
import json
import struct
import zlib

import httpx
import pytest

from airflow_provider_segmind.emulator.catalogue import BUILT_IN

MODEL = "gemini-3.1-flash-lite"
OTHER_KEY = "SG_1111111111111111"


def status_of(http, request_id):
    return http.get(f"/v2/requests/{request_id}/status").json()["status"]


def test_a_request_advances_with_the_clock_and_never_goes_back(http, emulator, submit):
    """E19"""
    emulator.settings(queue_time=2, latency=3)
    request_id = submit()

    seen = []
    for _ in range(4):
        seen.append(status_of(http, request_id))
        emulator.advance(2)

    assert seen == ["QUEUED", "PROCESSING", "PROCESSING", "COMPLETED"]


def test_a_request_can_advance_by_polls_instead(http, emulator, submit):
    """E19"""
    emulator.settings(polls=[1, 2])
    request_id = submit()

    assert [status_of(http, request_id) for _ in range(5)] == [
        "QUEUED",
        "PROCESSING",
        "PROCESSING",
        "COMPLETED",
        "COMPLETED",
    ]
    assert len(emulator.bill) == 1


def test_latencies_follow_a_list_or_a_seeded_lognormal(http, emulator, submit):
    """E19"""
    emulator.settings(latency=[1, 5])
    for _ in range(3):
        submit()
    emulator.advance(10)
    assert [job.ended - job.submitted for job in emulator.jobs] == pytest.approx([1, 5, 1])

    emulator.settings(latency={"lognormal": {"median": 4, "sigma": 0.5, "seed": 7}})
    for _ in range(300):
        submit()
    emulator.advance(1000)
    drawn = sorted(job.ended - job.submitted for job in emulator.jobs[3:])
    assert drawn[150] == pytest.approx(4, rel=0.2)
    assert drawn[-1] > 8 > drawn[150] > 2 > drawn[0]


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


def test_a_request_expires_exactly_its_ttl_after_submission(http, emulator, submit):
    """E25, E26"""
    emulator.settings(latency=100)
    request_id = submit()
    paths = [f"/v2/requests/{request_id}/status", f"/v2/requests/{request_id}"]

    emulator.advance(3599)
    assert [http.get(path).status_code for path in paths] == [200, 200]
    emulator.advance(1)
    assert [http.get(path).status_code for path in paths] == [404, 404]
    assert http.get(f"/inference-request/request-history/{request_id}").json()["model_status"] == "COMPLETED"


def test_a_status_can_be_an_unknown_word(http, emulator, submit):
    """E27"""
    emulator.fault("status", patch={"status": "THROTTLED"}, times=2)
    request_id = submit()

    assert [status_of(http, request_id) for _ in range(3)] == ["THROTTLED", "THROTTLED", "COMPLETED"]


def test_the_request_of_another_account_is_404(http, emulator, submit):
    """E28"""
    emulator.settings(api_keys=[emulator.api_key, OTHER_KEY])
    request_id = submit()

    assert http.get(f"/v2/requests/{request_id}").status_code == 200
    assert http.get(f"/v2/requests/{request_id}", headers={"x-api-key": OTHER_KEY}).status_code == 404


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


def test_metrics_can_be_those_of_the_old_docs(http, emulator, submit):
    """E31"""
    emulator.settings(metrics="old")

    assert list(http.get(f"/v2/requests/{submit()}").json()["metrics"]) == ["inference_time"]


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


def test_a_file_is_served_without_a_key_for_seven_days(http, emulator, submit):
    """E35"""
    url = http.get(f"/v2/requests/{submit('seedream-4.5', prompt='x')}").json()["output"]

    answer = httpx.get(url, trust_env=False)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert pixels(answer.content) == 8 * 8 * 3
    assert httpx.head(url, trust_env=False).headers["content-length"] == str(len(answer.content))
    emulator.advance(7 * 86400)
    assert httpx.get(url, trust_env=False).status_code == 404


def pixels(png):
    stream = io.BytesIO(png)
    assert stream.read(8) == b"\x89PNG\r\n\x1a\n"
    data = b""
    while head := stream.read(8):
        length, name = struct.unpack(">I4s", head)
        chunk, check = stream.read(length), stream.read(4)
        assert struct.pack(">I", zlib.crc32(name + chunk)) == check
        data += chunk if name == b"IDAT" else b""
    return len(zlib.decompress(data)) - 8


def test_a_key_sent_to_the_file_host_is_recorded_and_can_be_refused(http, emulator, submit):
    """E35"""
    url = http.get(f"/v2/requests/{submit('seedream-4.5', prompt='x')}").json()["output"]

    assert http.get(url).status_code == 200
    assert len(emulator.leaks) == 1
    emulator.settings(file_key="reject")
    assert http.get(url).status_code == 400


def test_the_catalogue_has_whole_slugs():
    assert {"gemini-2.5-flash-lite", "kling-3-pro-text2video", "llama4-maverick-instruct-basic"} <= set(BUILT_IN)
    assert not [slug for slug in BUILT_IN if slug.endswith("-")]
    assert {"lite", "basic", "compress", "text2video", "banana-2-lite"}.isdisjoint(BUILT_IN)
