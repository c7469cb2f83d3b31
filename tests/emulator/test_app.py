"""Routes, keys, and the commands of a test."""

from __future__ import annotations

import httpx
import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.emulator_calls import MODEL

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


@pytest.mark.parametrize(
    ("method", "path"), [("GET", f"/v2/{MODEL}"), ("POST", "/v2/requests/abc/status"), ("PUT", "/v1/x")]
)
def test_a_wrong_method_is_405_in_html(http, method, path):
    """E14"""
    answer = http.request(method, path)

    assert answer.status_code == 405
    assert answer.headers["content-type"] == "text/html"
    assert answer.text.startswith("<html>")


def test_the_gateway_can_have_a_path_prefix():
    with SegmindEmulator(prefix="/proxy/segmind/") as emulator:
        headers = {"x-api-key": emulator.api_key}
        with httpx.Client(headers=headers, trust_env=False) as client:
            body = client.post(f"{emulator.gateway_url}/v2/{MODEL}", json={"prompt": "x"}).json()

            assert emulator.gateway_url == f"{emulator.url}/proxy/segmind"
            assert body["status_url"].startswith(f"{emulator.gateway_url}/v2/requests/")
            assert client.get(body["status_url"]).json()["status"] == "COMPLETED"
            assert client.post(f"{emulator.url}/v2/{MODEL}", json={"prompt": "x"}).status_code == 400


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/", "/v3/x", "/v2/a/b/c"])
def test_an_unknown_path_is_a_generic_400(http, path):
    """E59"""
    answer = http.get(path)

    assert (answer.status_code, "error" in answer.json()) == (400, True)


def test_reset_clears_only_what_it_names(http, emulator, submit):
    emulator.settings(rpm=1)
    emulator.script(text="x")
    emulator.fault("credits", status=500)
    submit()

    emulator.reset("rate")
    submit()
    emulator.reset("faults")
    assert http.get("/v1/get-user-credits").status_code == 200
    assert (len(emulator.jobs), len(emulator.scripts)) == (2, 1)
    emulator.reset()
    assert (emulator.jobs, emulator.bill, emulator.requests, emulator.scripts) == ([], [], [], [])
    assert emulator.settings()["rpm"] == 1
    with pytest.raises(ValueError, match="everything"):
        emulator.reset("everything")
