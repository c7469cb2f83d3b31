from __future__ import annotations

from datetime import datetime

import httpx
import pytest

from tests.support.emulator_calls import MODEL, post


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("shape", [{}, {"html": True}, {"empty": True}])
@pytest.mark.parametrize(("when", "jobs"), [("before", 0), ("after", 1)])
def test_a_server_error_before_or_after_acceptance_is_json_html_or_empty(http, emulator, status, shape, when, jobs):
    """E44"""
    emulator.fault("submit", status=status, when=when, **shape)

    answer = post(http)

    assert answer.status_code == status
    assert len(emulator.jobs) == jobs
    if shape == {"empty": True}:
        assert answer.content == b""
    else:
        assert ("html" in answer.headers["content-type"]) == bool(shape)
    assert post(http).status_code == 200


@pytest.mark.parametrize(
    ("route", "path"),
    [
        ("status", "/v2/requests/{}/status"),
        ("result", "/v2/requests/{}"),
        ("credits", "/v1/get-user-credits"),
        ("history", "/inference-request/request-history"),
        ("history", "/inference-request/request-history/{}"),
        ("models", "/inference-model-information/list"),
        ("files", "/files/none"),
    ],
)
def test_every_route_can_have_a_fault(http, emulator, submit, route, path):
    """E44"""
    request_id = submit()
    emulator.fault(route, status=503, times=1)

    assert http.get(path.format(request_id)).status_code == 503
    assert http.get(path.format(request_id)).status_code != 503


def test_a_fault_of_a_model_hits_the_free_calls_about_its_requests(http, emulator, submit):
    """E44"""
    emulator.fault("status|result|files", model="seedream-4.5", status=503, times=3)
    other, image = submit(), submit("seedream-4.5")

    paths = [f"/v2/requests/{image}/status", f"/v2/requests/{image}", f"/files/generations/{image}-0.png"]

    assert http.get(f"/v2/requests/{other}/status").status_code == 200
    assert [http.get(path).status_code for path in paths] == [503, 503, 503]


@pytest.mark.parametrize(("when", "jobs"), [("before", 0), ("after", 1)])
def test_a_delay_exceeds_the_clients_timeout(http, emulator, when, jobs):
    """E45"""
    emulator.fault("submit", delay=5, when=when, reset=True)

    with pytest.raises(httpx.ReadTimeout):
        http.post(f"/v2/{MODEL}", json={"prompt": "x"}, timeout=0.1)
    assert len(emulator.jobs) == jobs


def test_a_status_can_redirect_to_another_host(http, emulator, submit):
    """E46"""
    emulator.fault("status", redirect="http://127.0.0.1:9{path}")
    request_id = submit()

    answer = http.get(f"/v2/requests/{request_id}/status")

    assert (answer.status_code, answer.content) == (307, b"")
    assert answer.headers["location"] == f"http://127.0.0.1:9/v2/requests/{request_id}/status"


def test_a_submit_response_can_lack_its_id_or_its_urls(http, emulator):
    """E47"""
    emulator.fault("submit", drop=["request_id"])
    emulator.fault("submit", drop=["status_url", "response_url", "poll_url"])

    assert "request_id" not in post(http).json()
    assert sorted(post(http).json()) == ["request_id", "status"]
    assert len(emulator.jobs) == 2


def test_a_status_url_can_have_a_foreign_host(http, emulator):
    """E47"""
    emulator.fault("submit", patch={"status_url": "https://evil.example/v2/requests/1/status"})

    assert post(http).json()["status_url"] == "https://evil.example/v2/requests/1/status"


@pytest.mark.parametrize("envelope", ["data", "list"])
def test_every_row_of_the_history_can_lack_a_key_or_have_another_value(http, emulator, submit, envelope):
    emulator.settings(history_envelope=envelope)
    ids = {submit(), submit()}
    emulator.fault("history", drop=["request_body"], patch={"credits_deduction": "0.5"}, times=2)

    page = http.get("/inference-request/request-history").json()
    rows = page if envelope == "list" else page["data"]
    record = http.get(f"/inference-request/request-history/{min(ids)}").json()

    assert {row["request_id"] for row in rows} == ids
    for row in (*rows, record):
        assert row["credits_deduction"] == "0.5"
        assert "request_body" not in row


@pytest.mark.parametrize(("body", "text"), [("<html>hello</html>", "<html>hello</html>"), ([1, 2], "[1, 2]")])
def test_a_200_can_contain_a_list_or_invalid_json(http, emulator, body, text):
    """E48"""
    emulator.fault("status", body=body)

    answer = http.get("/v2/requests/any/status")

    assert (answer.status_code, answer.text) == (200, text)


def test_completed_can_be_followed_by_404(http, emulator, submit):
    """E26, E44"""
    emulator.fault("result", status=404, body={"error": "Request r not found"})
    request_id = submit()

    assert http.get(f"/v2/requests/{request_id}/status").json()["status"] == "COMPLETED"
    assert http.get(f"/v2/requests/{request_id}").status_code == 404


def test_an_outage_resets_every_connection_for_a_period_of_the_emulated_clock(http, emulator, wall):
    """E45"""
    emulator.outage(30)
    for _ in range(2):
        with pytest.raises(httpx.ReadError):
            http.get("/v1/get-user-credits")

    wall.time += 30

    assert http.get("/v1/get-user-credits").status_code == 200


def test_faults_apply_in_order_skip_calls_and_hit_with_a_seeded_probability(http, emulator):
    """E44"""
    emulator.fault("submit", status=500, skip=1, times=1)
    emulator.fault("submit", status=503)
    assert [post(http).status_code for _ in range(4)] == [503, 500, 200, 200]

    emulator.unfault()
    emulator.fault("submit", status=500, probability=0.3, seed=3, times=None)
    first = [post(http).status_code for _ in range(60)]
    emulator.unfault()
    emulator.fault("submit", status=500, probability=0.3, seed=3, times=None)
    assert [post(http).status_code for _ in range(60)] == first
    assert 8 <= first.count(500) <= 30


def test_a_scripted_429_has_its_reset(http, emulator, wall):
    """E43, E44"""
    emulator.fault("status", status=429, reset_in=7)
    emulator.fault("status", status=429, reset_in=7, reset_format="retry_after")
    emulator.fault("status", status=429, headers={"x-extra": "1"})

    answers = [http.get("/v2/requests/r/status") for _ in range(3)]

    reset_at = datetime.fromisoformat(answers[0].headers["x-rate-limit-reset-at-utc"]).timestamp()
    assert reset_at - wall.time == pytest.approx(7, abs=0.01)
    assert answers[1].headers["retry-after"] == "7"
    assert "x-rate-limit-reset-at-utc" not in answers[2].headers
    assert answers[2].headers["x-extra"] == "1"


def test_a_fault_can_hit_only_one_model_or_one_prompt(http, emulator):
    emulator.fault("submit", status=500, model="gpt-5")
    emulator.fault("submit", status=502, match="poison")

    assert post(http).status_code == 200
    assert http.post("/v2/gpt-5", json={"prompt": "x"}).status_code == 500
    assert http.post(f"/v2/{MODEL}", json={"prompt": "poison"}).status_code == 502


@pytest.mark.parametrize(
    "fields", [{"route": "sumbit"}, {"route": "submit", "wen": "after"}, {"route": "submit", "when": "later"},
               {"route": "submit", "truncate": "half"}]
)  # fmt: skip
def test_a_misspelt_fault_is_refused_with_its_name(emulator, fields):
    with pytest.raises(ValueError, match=r"sumbit|wen|later|half"):
        emulator.fault(**fields)
