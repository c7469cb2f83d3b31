"""Requests advance with the clock, and accounts have a rate limit and a bill."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.emulator_calls import MODEL, post, status_of


def test_the_limiter_accepts_n_posts_in_any_sliding_minute(http, emulator, wall):
    """E43"""
    emulator.settings(rpm=3)
    statuses = []
    for _ in range(14):
        statuses.append(post(http).status_code)
        wall.time += 10

    assert statuses == [200, 200, 200, 429, 429, 429, 200, 200, 200, 429, 429, 429, 200, 200]
    assert emulator.most_accepted(60, "submit") == 3
    assert [call.status for call in emulator.calls("submit")] == statuses


def test_a_429_names_the_reset_and_has_no_retry_after(http, emulator, wall):
    """E43"""
    emulator.settings(rpm=1)
    post(http)
    wall.time += 20

    answer = post(http)

    assert (answer.status_code, answer.json()) == (429, {"error": "rate_limit_exceeded"})
    assert "retry-after" not in answer.headers
    reset_at = datetime.fromisoformat(answer.headers["x-rate-limit-reset-at-utc"]).timestamp()
    assert reset_at - wall.time == pytest.approx(40, abs=0.01)
    wall.time = reset_at
    assert post(http).status_code == 200


@pytest.mark.parametrize("form", ["iso_z", "iso", "space", "epoch", "absent", "retry_after"])
def test_the_reset_header_has_each_format(http, emulator, wall, form):
    """E43"""
    emulator.settings(rpm=1, reset_format=form)
    post(http)

    headers = post(http).headers

    reset_at = headers.get("x-rate-limit-reset-at-utc", "")
    expected = datetime.fromtimestamp(wall.time + 60, tz=UTC)
    assert {
        "iso_z": reset_at.endswith("Z") and reset_at.startswith(expected.strftime("%Y-%m-%dT%H:%M:%S")),
        "iso": reset_at.startswith(expected.strftime("%Y-%m-%dT%H:%M:%S")) and not reset_at.endswith("Z"),
        "space": reset_at.startswith(expected.strftime("%Y-%m-%d %H:%M:%S")),
        "epoch": reset_at == str(int(wall.time + 60)),
        "absent": reset_at == "" and "retry-after" not in headers,
        "retry_after": reset_at == "" and headers.get("retry-after") == "60",
    }[form]


def test_polls_count_only_if_the_settings_say_so(http, emulator):
    """E43"""
    emulator.settings(rpm=2)
    post(http)
    assert {http.get("/v1/get-user-credits").status_code for _ in range(5)} == {200}

    emulator.settings(rpm_counts_gets=True)
    assert [http.get("/v1/get-user-credits").status_code for _ in range(2)] == [200, 429]


def test_each_key_has_its_own_window(http, emulator):
    """E43"""
    emulator.settings(rpm=1, api_keys=[emulator.api_key, "SG_2222222222222222"])
    other = {"x-api-key": "SG_2222222222222222"}

    assert [post(http).status_code, post(http).status_code] == [200, 429]
    assert http.post(f"/v2/{MODEL}", json={"prompt": "x"}, headers=other).status_code == 200


def test_with_a_scaled_clock_a_minute_takes_a_second_and_the_reset_is_in_wall_time(wall):
    """E43"""
    with SegmindEmulator(clock=wall, scale=60, rpm=1) as emulator:
        headers = {"x-api-key": emulator.api_key}
        with httpx.Client(base_url=emulator.url, headers=headers, trust_env=False) as http:
            post(http)
            refused = post(http)
            reset_at = datetime.fromisoformat(refused.headers["x-rate-limit-reset-at-utc"]).timestamp()
            assert reset_at - wall.time == pytest.approx(1, abs=0.01)
            wall.time += 1.001
            assert post(http).status_code == 200


OTHER_KEY = "SG_1111111111111111"


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


def test_the_request_of_another_account_is_404(http, emulator, submit):
    """E28"""
    emulator.settings(api_keys=[emulator.api_key, OTHER_KEY])
    request_id = submit()

    assert http.get(f"/v2/requests/{request_id}").status_code == 200
    assert http.get(f"/v2/requests/{request_id}", headers={"x-api-key": OTHER_KEY}).status_code == 404


def test_an_expired_result_is_dropped_but_its_record_is_kept(emulator, http, submit):
    request_id = submit("seedream-4.5", prompt="x")
    emulator.advance(3600)

    assert emulator._state.jobs[request_id].fields == {}
    assert http.get(f"/inference-request/request-history/{request_id}").json()["generation_url"]


def test_a_request_is_charged_when_it_completes_polled_or_not(http, emulator, submit):
    """E40"""
    emulator.settings(latency=5)
    request_id = submit("seedream-4.5", prompt="x")
    assert emulator.bill == []

    emulator.advance(60)

    [entry] = emulator.bill
    assert (entry.request_id, entry.model, entry.cost) == (request_id, "seedream-4.5", 0.05)
    assert entry.time == pytest.approx(emulator.now() - 55)
    assert emulator.balance() == pytest.approx(99.95)


def test_nothing_is_charged_for_failures_and_refusals(http, emulator, submit):
    """E40"""
    emulator.script(fail="no", times=1)
    submit()
    http.post("/v2/no-such-model", json={})
    http.post("/v2/gpt-5", content=b"{")

    assert emulator.bill == []
    assert http.get("/v1/get-user-credits").json() == {"credits": 100.0, "free-credits": 0.0}


def test_two_identical_submits_are_two_charges(emulator, submit):
    """E41"""
    submit(prompt="same")
    submit(prompt="same")

    assert len({entry.request_id for entry in emulator.bill}) == 2


def test_the_balance_has_a_hyphenated_key_and_free_credits_are_spent_first(http, emulator, submit):
    """E42"""
    emulator.set_balance(1.0, free=0.03)
    submit("seedream-4.5", prompt="x")

    assert http.get("/v1/get-user-credits").json() == {"credits": 0.98, "free-credits": 0.0}
