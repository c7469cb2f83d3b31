from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx
import pytest

from airflow_provider_segmind.emulator import EmulatorControl, SegmindEmulator
from airflow_provider_segmind.emulator.clock import EmulatorClock


def test_a_request_goes_from_submit_to_result_and_is_billed_once(emulator, http):
    submitted = http.post("/v2/gemini-3.1-flash-lite", json={"prompt": "hello"}).json()

    assert http.get(submitted["status_url"]).json()["status"] == "COMPLETED"
    assert "echo: hello" in http.get(submitted["response_url"]).json()["output"]
    assert [entry.request_id for entry in emulator.bill] == [submitted["request_id"]]
    assert len(emulator.posts("gemini-3.1-flash-lite")) == 1


def test_two_emulators_in_one_process_are_independent():
    with SegmindEmulator() as one, SegmindEmulator(balance=3.0) as other:
        httpx.post(f"{one.url}/v2/gpt-5", json={"prompt": "x"}, headers={"x-api-key": one.api_key}, trust_env=False)

        assert (len(one.jobs), len(other.jobs)) == (1, 0)
        assert other.balance() == 3.0


def test_the_control_client_has_the_same_methods_and_entries_as_the_emulator(emulator, http):
    http.post("/v2/gpt-5", json={"prompt": "x"})
    control = EmulatorControl(emulator.url)

    assert control.bill == emulator.bill
    assert control.jobs == emulator.jobs
    assert control.requests == emulator.requests
    assert control.posts("gpt-5")[0].json == {"prompt": "x"}
    assert control.calls() == emulator.calls()
    assert control.connection_uri == emulator.connection_uri
    assert control.settings(ttl=20)["ttl"] == emulator.settings()["ttl"] == 20


def test_records_stay_readable_after_the_end():
    with SegmindEmulator() as emulator:
        httpx.post(
            f"{emulator.url}/v2/gpt-5", json={"prompt": "x"}, headers={"x-api-key": emulator.api_key}, trust_env=False
        )

    assert (len(emulator.bill), len(emulator.posts())) == (1, 1)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{emulator.url}/v1/get-user-credits", trust_env=False)


def test_it_stops_at_once_while_calls_hang():
    started = time.monotonic()
    with SegmindEmulator() as emulator:
        emulator.fault("credits", delay=60)
        caller = threading.Thread(target=hang, args=[emulator])
        caller.start()
        while not emulator.requests:
            time.sleep(0.001)
    caller.join()

    assert time.monotonic() - started < 2


def hang(emulator):
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{emulator.url}/v1/get-user-credits", headers={"x-api-key": emulator.api_key}, trust_env=False)


def test_it_can_be_started_and_stopped_manually_but_not_started_twice():
    emulator = SegmindEmulator().start()
    with pytest.raises(RuntimeError, match="already running"):
        emulator.start()
    emulator.stop()
    emulator.stop()


def test_the_connection_points_every_service_at_the_emulator_in_json_and_as_a_uri(emulator):
    fields = json.loads(emulator.connection_json)
    parts = urlsplit(emulator.connection_uri)

    assert fields["conn_type"] == parts.scheme == "segmind"
    assert fields["host"] == unquote(parts.netloc.partition("@")[2]) == emulator.url
    assert fields["password"] == parts.password == emulator.api_key
    assert fields["extra"] == dict(parse_qsl(parts.query))
    assert set(fields["extra"].values()) == {emulator.url}


@pytest.mark.airflow
def test_airflow_reads_both_forms_of_the_connection_alike():
    from airflow.models.connection import Connection

    with SegmindEmulator(prefix="/proxy") as emulator:
        read = [Connection(uri=emulator.connection_uri), Connection.from_json(emulator.connection_json)]

    assert [connection.host for connection in read] == [emulator.gateway_url] * 2
    assert [connection.password for connection in read] == [emulator.api_key] * 2
    assert read[0].extra_dejson == read[1].extra_dejson


@pytest.mark.parametrize("source", [time.time, lambda: 5.0])
def test_the_clock_scales_and_only_moves_forward(source):
    clock = EmulatorClock(source, scale=60)
    before = clock.now()

    assert clock.advance(10) >= before + 10
    clock.rescale(1)
    assert clock.now() == pytest.approx(before + 10, abs=1)
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="positive"):
        clock.rescale(0)


def test_a_submit_does_not_become_slower_with_every_request_before_it(emulator):
    """In CPU seconds of client and server, which other processes of the machine do not change."""
    script = [("POST", "/v2/gpt-5", b'{"prompt": "x"}')]
    seconds = []
    for _ in range(4):
        started = time.process_time()
        asyncio.run(pump(emulator, script * 250))
        seconds.append(time.process_time() - started)

    assert len(emulator.bill) == 1000
    assert seconds[-1] < 3 * min(seconds[:-1])


async def pump(emulator, calls):
    host, port = emulator.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for method, path, body in calls:
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {emulator.api_key}\r\n"
        head += "content-type: application/json\r\n"
        writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(answer.lower().split(b"content-length: ")[1].split(b"\r")[0]))
    writer.close()
    await writer.wait_closed()


def test_a_client_that_disconnects_within_its_body_submits_nothing(emulator):
    address = emulator.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1]))) as connection:
        connection.sendall(b"POST /v2/gpt-5 HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    httpx.get(f"{emulator.url}/inference-model-information/list", trust_env=False)

    assert [request.route for request in emulator.requests] == ["models"]


def test_an_expired_result_is_dropped_but_its_record_is_kept(emulator, http, submit):
    request_id = submit("seedream-4.5", prompt="x")
    emulator.advance(3600)

    assert emulator._state.jobs[request_id].fields == {}
    assert http.get(f"/inference-request/request-history/{request_id}").json()["generation_url"]
