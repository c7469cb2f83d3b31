"""Requests are recorded as they arrived."""

from __future__ import annotations


def test_every_request_is_recorded_as_it_arrived(http, emulator):
    """E60"""
    http.post("/v2/gpt-5?a=1", json={"prompt": "x"}, headers={"X-Initiator": "TEST"})
    http.get("/v1/get-user-credits")

    first, second = emulator.requests
    assert (first.method, first.path, first.query, first.route, first.model) == (
        "POST",
        "/v2/gpt-5",
        {"a": "1"},
        "submit",
        "gpt-5",
    )
    assert (first.headers["x-initiator"], first.json, first.status) == ("TEST", {"prompt": "x"}, 200)
    assert first.time <= second.time
    assert emulator.posts() == [first]
    assert emulator.posts("gemini-3.1-flash-lite") == []


def test_recording_can_be_bounded_or_switched_off_while_the_calls_stay_counted(http, emulator, submit):
    """E60"""
    emulator.settings(record_bodies=False, record_limit=2)
    for _ in range(5):
        submit()
    assert [request.body for request in emulator.requests] == [b"", b""]
    assert len(emulator.calls("submit")) == 5

    emulator.settings(record_requests=False)
    submit()
    assert emulator.counts() == {"submit": {"200": 6}}
