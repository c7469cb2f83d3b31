"""The gateway's routes: v2 submit, status and result, blocking v1, credits."""

from __future__ import annotations

import json
from typing import Any

from airflow_provider_segmind.emulator.state import EmulatorState, Job, reset_headers
from airflow_provider_segmind.emulator.submit import accept
from airflow_provider_segmind.emulator.wire import JSON_TYPE, Call, Response, error, reply


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


def submit(state: EmulatorState, call: Call, key: str) -> Response:
    """POST /v2/{slug}."""
    job = accept(state, call, key, call.params["slug"], via="v2")
    if isinstance(job, Response):
        return job
    # the live service sorts its keys
    return reply(dict(sorted({**_urls(state, job), "request_id": job.id, "status": "QUEUED"}.items())))


def metrics(state: EmulatorState, job: Job) -> dict[str, Any]:
    """Return the metrics of a request that has ended; those of a failed one, which is not billed, have no cost."""
    ended = job.ended if job.ended is not None else job.finishes
    started = min(job.starts, ended)
    times = {
        "inference_time": round(ended - started, 6),
        "queue_time": round(started - job.submitted, 6),
        "total_time": round(ended - job.submitted, 6),
    }
    if state.settings.metrics == "old":
        return {"inference_time": times["inference_time"]}
    return times if job.error is not None else {"cost": job.cost, "remaining_credits": job.remaining, **times}


def _failed(state: EmulatorState, job: Job) -> Response:
    body = {"status": "FAILED", "error": job.error, "metrics": metrics(state, job)}
    if state.settings.failed_request_id:
        body["request_id"] = job.id
    return reply(body, state.settings.failed_status)


def status(state: EmulatorState, call: Call, key: str) -> Response:
    """GET /v2/requests/{id}/status."""
    return _polled(state, call, key, code=200, whole=False)


def result(state: EmulatorState, call: Call, key: str) -> Response:
    """GET /v2/requests/{id}."""
    return _polled(state, call, key, code=state.settings.early_result_status, whole=True)


def _polled(state: EmulatorState, call: Call, key: str, *, code: int, whole: bool) -> Response:
    now = state.complete_due()
    job = state.find(call.params["id"], key, now)
    if job is None:
        return error(404, f"Request {call.params['id']} not found")
    seen = state.poll(job, now)
    if seen == "FAILED":
        return _failed(state, job)
    if seen == "COMPLETED":
        body = {"status": seen, "request_id": job.id, "metrics": metrics(state, job)}
        return reply({**body, "error": None, **job.fields} if whole else body)
    urls = _urls(state, job)
    del urls["poll_url"]
    return reply({"status": seen, "request_id": job.id, **urls, "metrics": {}}, code)


def credits_left(state: EmulatorState, call: Call, key: str) -> Response:
    """GET /v1/get-user-credits."""
    state.complete_due()
    account = state.account(key)
    if account.credits is None:
        return error(404, "No credits found for the user")
    return reply({"credits": account.credits, "free-credits": account.free})


def run_v1(state: EmulatorState, call: Call, key: str) -> Response:
    """POST /v1/{slug}: the response comes when the request has ended, or the gateway gives up."""
    job = accept(state, call, key, call.params["slug"], via="v1")
    if isinstance(job, Response):
        return job
    # v1 has no polls, so a request that advances by polls ends at once
    deadline = call.time + state.settings.v1_timeout

    def ready() -> Response | float:
        now = state.complete_due()
        if job.polls is not None:
            while state.poll(job, now) in ("QUEUED", "PROCESSING"):
                pass
        if job.ended is not None:
            return _v1_answer(state, job, key, call)
        return error(504, "Gateway timeout") if now >= deadline else min(job.finishes, deadline) - now

    first = ready()
    return first if isinstance(first, Response) else Response(200, ready=ready)


def _v1_answer(state: EmulatorState, job: Job, key: str, call: Call) -> Response:
    if job.error is not None:
        return error(500, job.error)
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
    headers |= reset_headers(moment, "iso_z", state.clock, whose=state.settings.reset_clock)
    if job.native is not None:
        return Response(200, json.dumps(job.native, ensure_ascii=False).encode(), JSON_TYPE, headers)
    stored = [state.files[url.split("/files/", 1)[1]][:2] for url in job.urls]
    if len(stored) == 1:
        return Response(200, stored[0][0], stored[0][1], headers)
    return Response(200, json.dumps(job.fields).encode(), JSON_TYPE, headers)
