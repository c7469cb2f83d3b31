"""The gateway's routes: v2 submit, status and result, blocking v1, credits."""

from __future__ import annotations

import json
from typing import Any

from airflow_provider_segmind.emulator.state import RESET_HEADER, EmulatorState, Job, reset_headers
from airflow_provider_segmind.emulator.submit import accept
from airflow_provider_segmind.emulator.wire import JSON_TYPE, Answer, Call, error, reply


def gateway_origin(state: EmulatorState) -> str:
    """Return the address written into status_url and response_url."""
    return (state.settings.public_url or state.base_url).rstrip("/") + state.settings.prefix


def _urls(state: EmulatorState, job: Job) -> dict[str, str]:
    origin = gateway_origin(state)
    return {
        "poll_url": f"{origin}/v1/requests/{job.id}",
        "response_url": f"{origin}/v2/requests/{job.id}",
        "status_url": f"{origin}/v2/requests/{job.id}/status",
    }


def submit(state: EmulatorState, call: Call, key: str) -> Answer:
    """POST /v2/{slug}."""
    job = accept(state, call, key, call.params["slug"], via="v2")
    if isinstance(job, Answer):
        return job
    urls = _urls(state, job)
    # the live service was seen to sort its keys
    return reply(
        {
            "poll_url": urls["poll_url"],
            "request_id": job.id,
            "response_url": urls["response_url"],
            "status": "QUEUED",
            "status_url": urls["status_url"],
        }
    )


def metrics(state: EmulatorState, job: Job) -> dict[str, Any]:
    """Return the metrics of a request that has ended; a failed one was not billed and says nothing about money."""
    ended = job.ended if job.ended is not None else job.finishes
    started = min(job.starts, ended)
    times = {
        "inference_time": round(ended - started, 6),
        "queue_time": round(started - job.submitted, 6),
        "total_time": round(ended - job.submitted, 6),
    }
    if state.settings.metrics == "old":
        return {"inference_time": times["inference_time"]}
    return times if job.words is not None else {"cost": job.cost, "remaining_credits": job.remaining, **times}


def _failed(state: EmulatorState, job: Job) -> Answer:
    body = {"status": "FAILED", "error": job.words, "metrics": metrics(state, job)}
    if state.settings.failed_request_id:
        body["request_id"] = job.id
    return reply(body, state.settings.failed_status)


def _in_progress(state: EmulatorState, job: Job, status: str, code: int = 200) -> Answer:
    urls = _urls(state, job)
    body = {
        "status": status,
        "request_id": job.id,
        "status_url": urls["status_url"],
        "response_url": urls["response_url"],
    }
    return reply({**body, "metrics": {}}, code)


def status(state: EmulatorState, call: Call, key: str) -> Answer:
    """GET /v2/requests/{id}/status."""
    now = state.settle()
    job = state.find(call.params["id"], key, now)
    if job is None:
        return error(404, f"Request {call.params['id']} not found")
    seen = state.look(job, now)
    if seen == "COMPLETED":
        return reply({"status": "COMPLETED", "request_id": job.id, "metrics": metrics(state, job)})
    return _failed(state, job) if seen == "FAILED" else _in_progress(state, job, seen)


def result(state: EmulatorState, call: Call, key: str) -> Answer:
    """GET /v2/requests/{id}."""
    now = state.settle()
    job = state.find(call.params["id"], key, now)
    if job is None:
        return error(404, f"Request {call.params['id']} not found")
    seen = state.look(job, now)
    if seen == "COMPLETED":
        base = {"status": "COMPLETED", "error": None, "request_id": job.id, "metrics": metrics(state, job)}
        return reply({**base, **job.fields})
    return (
        _failed(state, job) if seen == "FAILED" else _in_progress(state, job, seen, state.settings.early_result_status)
    )


def credits_left(state: EmulatorState, call: Call, key: str) -> Answer:
    """GET /v1/get-user-credits."""
    state.settle()
    account = state.account(key)
    if account.credits is None:
        return error(404, "No credits found for the user")
    return reply({"credits": account.credits, "free-credits": account.free})


def run_v1(state: EmulatorState, call: Call, key: str) -> Answer:
    """POST /v1/{slug}: the answer comes when the request has ended, or the gateway gives up."""
    job = accept(state, call, key, call.params["slug"], via="v1")
    if isinstance(job, Answer):
        return job
    # v1 has no looks, so a request that moves by looks is due at once
    deadline = call.time + state.settings.v1_timeout

    def ready() -> Answer | float:
        now = state.settle()
        if job.looks is not None:
            while state.look(job, now) in ("QUEUED", "PROCESSING"):
                pass
        if job.ended is not None:
            return _v1_answer(state, job, key, call)
        return error(504, "Gateway timeout") if now >= deadline else min(job.finishes, deadline) - now

    first = ready()
    return first if isinstance(first, Answer) else Answer(200, ready=ready)


def _v1_answer(state: EmulatorState, job: Job, key: str, call: Call) -> Answer:
    if job.words is not None:
        return error(500, job.words)
    ended = job.ended or job.finishes
    headers = {
        "x-request-id": job.id,
        "x-cost": str(job.cost),
        "x-remaining-credits": str(job.remaining),
        "x-generation-time": f"[{round(ended - job.starts, 3)}]",
    }
    if job.fields.get("seed") is not None:
        headers["x-seed-value"] = str(job.fields["seed"])
    moment = state.limiter.next_reset(key, call.time)
    told = reset_headers(moment, "iso_z", state.clock, whose=state.settings.reset_clock)
    headers[RESET_HEADER] = told[RESET_HEADER]
    if job.native is not None:
        return Answer(200, json.dumps(job.native, ensure_ascii=False).encode(), JSON_TYPE, headers)
    stored = [state.files[url.split("/files/", 1)[1]][:2] for url in job.urls]
    if len(stored) == 1:
        return Answer(200, stored[0][0], stored[0][1], headers)
    return Answer(200, json.dumps(job.fields).encode(), JSON_TYPE, headers)
