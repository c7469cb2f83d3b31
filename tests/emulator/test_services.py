from __future__ import annotations

import base64
import io
import struct
import zlib

import httpx
import pytest

from airflow_provider_segmind.emulator.clock import day

HISTORY = "/inference-request/request-history"
DATA_URL = "data:image/png;base64," + base64.b64encode(b"picture").decode()


def test_an_upload_returns_public_file_urls(http, emulator):
    """E54"""
    answer = http.post("/upload-asset", json={"data_urls": [DATA_URL, DATA_URL]}).json()

    assert answer["message"] == "Files uploaded successfully"
    assert len(set(answer["file_urls"])) == 2
    assert f"/assets/{emulator.settings()['account_email']}/images/" in answer["file_urls"][0]
    stored = httpx.get(answer["file_urls"][0], trust_env=False)
    assert (stored.content, stored.headers["content-type"]) == (b"picture", "image/png")


def test_an_upload_can_respond_as_the_old_docs_say(http, emulator):
    """E54"""
    emulator.settings(upload_mode="urls")

    assert list(http.post("/upload-asset", json={"data_urls": [DATA_URL]}).json()) == ["urls"]


@pytest.mark.parametrize(
    "sent", [{}, {"data_urls": []}, {"data_urls": ["https://x/y.png"]}, {"data_urls": ["data:a;base64,!"]}, []]
)
def test_an_upload_of_anything_but_data_urls_is_400(http, sent):
    """E54"""
    assert http.post("/upload-asset", json=sent).status_code == 400


def rows(http, **query):
    return http.get(HISTORY, params=query).json()["data"]


def test_the_history_shows_cost_inputs_and_outcome(http, emulator, submit):
    """E56"""
    emulator.settings(latency=2)
    done = submit("seedream-4.5", prompt="a cat")
    emulator.script(fail="bad", times=1)
    failed = submit("gpt-5", prompt="x")
    emulator.advance(2)
    pending = submit("gpt-5", prompt="y")

    found = {row["request_id"]: row for row in rows(http)}

    assert [found[each]["model_status"] for each in (done, failed, pending)] == ["COMPLETED", "FAILED", "PENDING"]
    assert found[done]["credits_deduction"] == 0.05
    assert found[done]["request_body"] == {"prompt": "a cat"}
    assert found[done]["latency_ms"] == 2000
    assert found[done]["generation_url"].endswith(".png")
    assert (found[failed]["error"], found[failed]["credits_deduction"]) == ("bad", 0.0)


def test_the_history_is_filtered_sorted_and_paged(http, emulator, submit):
    """E56"""
    emulator.script(match="bad", fail="bad")
    for model, prompt in (("gpt-5", "a"), ("gpt-5-mini", "bad"), ("seedream-4.5", "c")):
        submit(model, prompt=prompt)
        emulator.advance(1)

    assert [row["model_name"] for row in rows(http)] == ["seedream-4.5", "gpt-5-mini", "gpt-5"]
    assert rows(http, sort_by="model_name", sort_order="asc")[0]["model_name"] == "gpt-5"
    assert rows(http, sort_by="credits_deduction")[0]["model_name"] == "seedream-4.5"
    assert len(rows(http, model_name="gpt")) == 2
    assert [row["model_name"] for row in rows(http, status="FAILED")] == ["gpt-5-mini"]
    assert [row["model_name"] for row in rows(http, per_page=2, page=2)] == ["gpt-5"]


def test_the_history_covers_seven_days_or_any_31_by_date(http, emulator, submit):
    """E56"""
    submit()
    born = day(emulator.now())
    emulator.advance(9 * 86400)

    assert rows(http) == []
    assert len(rows(http, from_date=born)) == 1
    assert len(rows(http, from_date=born, to_date=born)) == 1
    emulator.advance(30 * 86400)
    assert http.get(HISTORY, params={"from_date": born}).status_code == 400


@pytest.mark.parametrize(
    "query", [{"per_page": 101}, {"page": 0}, {"status": "QUEUED"}, {"sort_by": "x"}, {"from_date": "soon"}]
)
def test_the_history_refuses_invalid_parameters(http, query):
    """E56"""
    assert http.get(HISTORY, params=query).status_code == 400


def test_a_request_with_three_outputs_is_three_rows_each_with_the_full_cost(http, emulator, submit):
    """E56"""
    emulator.script(outputs=3, cost=0.3)
    request_id = submit("seedream-4.5", prompt="x")

    found = rows(http)

    assert [row["request_id"] for row in found] == [request_id] * 3
    assert [row["credits_deduction"] for row in found] == [0.3] * 3
    assert len({row["generation_url"] for row in found}) == 3
    assert len(emulator.bill) == 1


def test_the_history_can_be_delayed(http, emulator, submit):
    """E56"""
    emulator.settings(history_delay=7200)
    request_id = submit()

    assert rows(http) == []
    assert http.get(f"{HISTORY}/{request_id}").status_code == 404
    emulator.advance(7200)
    assert len(rows(http)) == 1
    assert http.get(f"{HISTORY}/{request_id}").json()["request_id"] == request_id


def test_an_own_request_of_any_age_is_found_by_its_id_and_a_foreign_one_is_not(http, emulator, submit):
    """E56"""
    emulator.settings(api_keys=[emulator.api_key, "SG_3333333333333333"])
    request_id = submit()
    emulator.advance(400 * 86400)

    assert http.get(f"{HISTORY}/{request_id}").json()["model_status"] == "COMPLETED"
    foreign = http.get(f"{HISTORY}/{request_id}", headers={"x-api-key": "SG_3333333333333333"})
    assert foreign.status_code == 404


@pytest.mark.parametrize("envelope", ["list", "data", "requests"])
def test_the_history_comes_in_each_envelope(http, emulator, submit, envelope):
    """E56"""
    emulator.settings(history_envelope=envelope)
    submit()

    body = http.get(HISTORY).json()

    assert len(body if envelope == "list" else body[envelope]) == 1
    assert envelope == "list" or body["total"] == 1


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
