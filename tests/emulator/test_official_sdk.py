"""The official SDK runs unchanged against the emulator; only its hosts are redirected."""

from __future__ import annotations

import runpy
from pathlib import Path

import httpx
import pytest
import segmind

from tests.support.emulator_calls import MODEL


class ToEmulator(httpx.HTTPTransport):
    """Sends whatever is meant for the service's hosts to the emulator."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.target = httpx.URL(url)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host.endswith(".segmind.com"):
            request.url = request.url.copy_with(scheme="http", host=self.target.host, port=self.target.port)
        return super().handle_request(request)


@pytest.fixture
def sdk(emulator):
    client = segmind.SegmindClient(api_key=emulator.api_key)
    headers = client._client.headers
    client._client.close()
    client._client = httpx.Client(headers=headers, base_url=client.base_url, transport=ToEmulator(emulator.url))
    yield client
    client._client.close()


@pytest.mark.parametrize("model", [MODEL, "gpt-5", "claude-4-sonnet"])
@pytest.mark.parametrize("mode", ["double", "plain", "dict", "missing"])
def test_chat_reads_every_family_in_every_output_mode(sdk, emulator, model, mode):
    """E29"""
    emulator.settings(output_mode=mode)

    reply = sdk.chat(model, prompt="hello")

    assert reply.text == "echo: hello"
    assert mode == "plain" or (reply.usage and reply.finish_reason in ("STOP", "stop", "end_turn"))


def test_chat_sync_and_structured_answers(sdk):
    """E37, E51"""
    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object", "properties": {"n": {"type": "integer"}}}},
    }

    assert sdk.chat_sync("gpt-5", prompt="hello").text == "echo: hello"
    assert sdk.chat(MODEL, prompt="x", response_format=wanted).json() == {"n": 0}


def test_submit_chat_returns_a_handle_that_waits(sdk, emulator):
    """E5, E19"""
    emulator.settings(polls=[1, 1])
    job = sdk.submit_chat(MODEL, messages=[{"role": "user", "content": "hi"}])

    assert job.status()["status"] == "QUEUED"
    assert job.wait(timeout=5, interval=0.01).text == "echo: hi"
    assert len(emulator.posts()) == 1
    assert emulator.requests[0].headers["x-initiator"] == "SDK-PY"


def test_run_returns_the_whole_result_and_run_sync_the_bytes(sdk):
    """E30, E37, E38"""
    result = sdk.run("seedream-4.5", prompt="a cat")
    answer = sdk.run_sync("seedream-4.5", prompt="a cat")

    assert result["images"][0]["content_type"] == "image/png"
    assert answer.content.startswith(b"\x89PNG")
    assert answer.headers["x-cost"] == "0.05"


@pytest.mark.parametrize("status", [422, 200])
def test_a_failed_request_raises_with_the_services_message(sdk, emulator, status):
    """E22"""
    emulator.settings(failed_status=status)
    emulator.script(fail="content policy")

    with pytest.raises(segmind.InferenceFailed) as caught:
        sdk.run(MODEL, prompt="x")
    assert caught.value.detail == "content policy"


def test_errors_have_the_services_message(sdk, emulator):
    """E2, E10, E13"""
    with pytest.raises(segmind.SegmindError, match="not found"):
        sdk.run("no-such-model", prompt="x")
    emulator.set_balance(0)
    with pytest.raises(segmind.SegmindError, match="Insufficient credits"):
        sdk.run(MODEL, prompt="x")


def test_a_submit_without_an_id_is_an_error_for_the_sdk_too(sdk, emulator):
    """E47"""
    emulator.fault("submit", drop=["request_id"])

    with pytest.raises(segmind.SegmindError, match="missing request_id"):
        sdk.run(MODEL, prompt="x")


def test_upload(sdk, tmp_path):
    """E54"""
    picture = tmp_path / "cat.png"
    picture.write_bytes(b"picture")

    assert len(sdk.files.upload([picture, picture])["file_urls"]) == 2


def test_models(sdk):
    """E55"""
    [rows] = sdk.models.list().values()

    assert MODEL in {row["slug"] for row in rows}


def test_the_request_history(sdk):
    """E56"""
    sdk.run("seedream-4.5", prompt="a cat")

    [row] = sdk.generations.history(model_name="seedream", status="COMPLETED")["data"]
    assert sdk.generations.get(row["request_id"]) == row
    with pytest.raises(segmind.SegmindError, match="not found"):
        sdk.generations.get("nope")


def test_the_vendors_script_runs_with_only_the_base_url_changed(emulator, monkeypatch, capsys):
    """E5, E18, E29"""
    client = segmind.SegmindClient(api_key=emulator.api_key, base_url=f"{emulator.url}/v1")
    monkeypatch.setattr(segmind, "_default_client", client)

    with client._client:
        runpy.run_path(str(Path(__file__).with_name("seed_script.txt")))

    first, request_id, second = capsys.readouterr().out.splitlines()
    assert first == second == "echo: What's in this image?"
    assert emulator.jobs[1].request_id == request_id
    assert len(emulator.bill) == 2
