from __future__ import annotations

import asyncio
import threading
import time

import httpx
import pytest

from airflow_provider_segmind.emulator import SegmindEmulator


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
