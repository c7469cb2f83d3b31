"""Connections that break, and responses that arrive late or in part."""

from __future__ import annotations

import socket
import time

import httpx
import pytest

from tests.support.emulator_calls import MODEL, post


@pytest.mark.parametrize(("when", "jobs"), [("before", 0), ("after", 1)])
def test_a_connection_is_reset_before_or_after_acceptance(http, emulator, when, jobs):
    """E44, E45"""
    emulator.fault("submit", reset=True, when=when)

    with pytest.raises(httpx.ReadError, match="reset by peer"):
        post(http)
    assert len(emulator.jobs) == jobs
    assert emulator.posts()[0].status == 0


def test_a_connection_can_close_without_a_response(http, emulator):
    """E45"""
    emulator.fault("submit", close=True)

    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        post(http)


def test_a_slow_body_arrives_whole_or_exceeds_the_clients_timeout(http, emulator):
    """E45"""
    emulator.fault("submit", slow=0.1)
    assert post(http).json()["request_id"]

    emulator.fault("submit", slow=10)
    with pytest.raises(httpx.ReadTimeout):
        http.post(f"/v2/{MODEL}", json={"prompt": "x"}, timeout=0.1)


def test_json_is_truncated_with_or_without_a_matching_length(http, emulator):
    """E45"""
    emulator.fault("submit", truncate="json")
    emulator.fault("submit", truncate="connection")

    with pytest.raises(ValueError, match=r"delimiter|Expecting|Unterminated"):
        post(http).json()
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        post(http)
    assert len(emulator.jobs) == 2


def test_a_reset_after_the_client_has_disconnected_is_harmless(http, emulator, caplog):
    emulator.fault("submit", reset=True, delay=0.2)
    with pytest.raises(httpx.ReadTimeout):
        http.post(f"/v2/{MODEL}", json={"prompt": "x"}, timeout=0.05)
    http.close()
    while emulator.counts().get("submit") is None:
        time.sleep(0.02)
    emulator.stop()

    assert caplog.records == []


def test_a_client_that_disconnects_within_its_body_submits_nothing(emulator):
    address = emulator.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1]))) as connection:
        connection.sendall(b"POST /v2/gpt-5 HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    httpx.get(f"{emulator.url}/inference-model-information/list", trust_env=False)

    assert [request.route for request in emulator.requests] == ["models"]
