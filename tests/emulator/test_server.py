from __future__ import annotations

import httpx

from airflow_provider_segmind.emulator import EmulatorControl, SegmindEmulator


def test_a_request_goes_from_submit_to_result_and_is_billed_once(emulator, http):
    submitted = http.post("/v2/gemini-3.1-flash-lite", json={"prompt": "hello"}).json()

    assert http.get(submitted["status_url"]).json()["status"] == "COMPLETED"
    assert "echo: hello" in http.get(submitted["response_url"]).json()["output"]
    assert [entry.request_id for entry in emulator.bill] == [submitted["request_id"]]
    assert len(emulator.posts("gemini-3.1-flash-lite")) == 1


def test_two_emulators_run_in_one_process_without_knowing_each_other():
    with SegmindEmulator() as one, SegmindEmulator(balance=3.0) as other:
        httpx.post(f"{one.url}/v2/gpt-5", json={"prompt": "x"}, headers={"x-api-key": one.api_key}, trust_env=False)

        assert (len(one.jobs), len(other.jobs)) == (1, 0)
        assert other.balance() == 3.0


def test_the_control_client_has_the_same_verbs_and_rows_as_the_emulator_itself(emulator, http):
    http.post("/v2/gpt-5", json={"prompt": "x"})
    control = EmulatorControl(emulator.url)

    assert control.bill == emulator.bill
    assert control.jobs == emulator.jobs
    assert control.requests == emulator.requests
    assert control.posts("gpt-5")[0].json == {"prompt": "x"}
    assert control.calls() == emulator.calls()
    assert control.settings(ttl=20)["ttl"] == emulator.settings()["ttl"] == 20
