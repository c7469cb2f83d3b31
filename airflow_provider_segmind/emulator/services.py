"""The other services: storage, files, model list, request history."""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from airflow_provider_segmind.emulator import catalogue
from airflow_provider_segmind.emulator.clock import day, stamp
from airflow_provider_segmind.emulator.state import EmulatorState, Job
from airflow_provider_segmind.emulator.submit import store_file
from airflow_provider_segmind.emulator.wire import Call, Response, error, reply

_LIST_KEY = "Inference Segmind Model Information List With Details"
_FOLDERS = {"image": "images", "audio": "audios", "video": "videos"}


def upload(state: EmulatorState, call: Call, key: str) -> Response:
    """POST /upload-asset with data URLs."""
    try:
        sent = json.loads(call.body)
    except ValueError:
        return error(400, "Invalid JSON in request body")
    data_urls = sent.get("data_urls") if isinstance(sent, dict) else None
    if not isinstance(data_urls, list) or not data_urls:
        return error(400, "data_urls is required")
    decoded = [_data_url(item) for item in data_urls]
    stored = []
    for item in decoded:
        if item is None:
            return error(400, "Invalid data URL")
        content_type, body = item
        major, _, minor = content_type.partition("/")
        folder, extension = _FOLDERS.get(major, "files"), minor.split("+")[0] or "bin"
        name = f"assets/{state.settings.account_email}/{folder}/{uuid.uuid4()}.{extension}"
        stored.append(store_file(state, name, "", (body, content_type))["url"])
    if state.settings.upload_mode == "urls":
        return reply({"urls": stored})
    return reply({"file_urls": stored, "message": "Files uploaded successfully"})


def _data_url(item: Any) -> tuple[str, bytes] | None:
    if not isinstance(item, str) or not item.startswith("data:") or ";base64," not in item:
        return None
    head, _, data = item[5:].partition(";base64,")
    try:
        return head, base64.b64decode(data, validate=True)
    except binascii.Error:
        return None


def files(state: EmulatorState, call: Call, key: str) -> Response:
    """GET /files/...: public, so a key sent here is a leak."""
    if "x-api-key" in call.headers or "authorization" in call.headers:
        state.leaks.append(call.path)
        if state.settings.file_key == "reject":
            return error(400, "an API key was sent to the public file host")
    found = state.files.get(call.params["name"])
    if found is None or call.time >= found[2] + state.settings.file_ttl:
        return Response(404, b"<Error><Code>NoSuchKey</Code></Error>", "application/xml")
    return Response(200, found[0], found[1])


def models(state: EmulatorState, call: Call, key: str) -> Response:
    """GET /inference-model-information/list; open without a key."""
    return reply({_LIST_KEY: catalogue.listing(state.settings.models, state.settings.retired)})


def history(state: EmulatorState, call: Call, key: str) -> Response:
    """GET /inference-request/request-history: filtered, paged, one row for each output."""
    now, query = state.complete_due(), call.query
    try:
        page, per_page = int(query.get("page", 1)), int(query.get("per_page", 20))
        last = date.fromisoformat(query["to_date"]) if "to_date" in query else date.fromisoformat(day(now))
        first = date.fromisoformat(query["from_date"]) if "from_date" in query else last - timedelta(days=7)
    except ValueError as problem:
        return error(400, f"Invalid parameter: {problem}")
    complaint = _history_complaint(query, page, per_page, first, last)
    if complaint:
        return error(400, complaint)
    jobs = [job for job in _visible(state, key, now) if first.isoformat() <= day(job.submitted) <= last.isoformat()]
    jobs = [job for job in jobs if query.get("model_name", "") in job.model]
    jobs = [job for job in jobs if query.get("status") in (None, _word(job, now))]
    sort_key = _SORT_KEYS[query.get("sort_by", "model_created")]
    jobs.sort(key=lambda job: sort_key(job, now), reverse=query.get("sort_order", "desc") == "desc")
    outputs = [(job, url) for job in jobs for url in _output_urls(job)]
    shown = [_row(state, job, now, url) for job, url in outputs[(page - 1) * per_page : page * per_page]]
    envelope = state.settings.history_envelope
    if envelope == "list":
        return reply(shown)
    return reply({envelope: shown, "total": len(outputs), "page": page, "per_page": per_page})


def _history_complaint(query: dict[str, str], page: int, per_page: int, first: date, last: date) -> str | None:
    if not 1 <= per_page <= 100 or page < 1:
        return "per_page must be between 1 and 100"
    if (last - first).days > 31:
        return "date range must not exceed 31 days"
    if query.get("status", "COMPLETED") not in ("COMPLETED", "FAILED", "PENDING"):
        return "status must be one of COMPLETED, FAILED, PENDING"
    if query.get("sort_by", "model_created") not in _SORT_KEYS or query.get("sort_order", "desc") not in (
        "asc",
        "desc",
    ):
        return "invalid sort_by or sort_order"
    return None


def history_record(state: EmulatorState, call: Call, key: str) -> Response:
    """GET /inference-request/request-history/{id}: one own request of any age."""
    now = state.complete_due()
    job = state.jobs.get(call.params["id"])
    if job is None or job.key != key or now < job.submitted + state.settings.history_delay:
        return error(404, "Request not found")
    return reply(_row(state, job, now, _output_urls(job)[0]))


def _visible(state: EmulatorState, key: str, now: float) -> list[Job]:
    delay = state.settings.history_delay
    return [job for job in state.jobs.values() if job.key == key and now >= job.submitted + delay]


def _word(job: Job, now: float) -> str:
    return job.status(now) if job.ended is not None else "PENDING"


def _charged(job: Job, now: float) -> float:
    return job.cost if _word(job, now) == "COMPLETED" else 0.0


_SORT_KEYS: dict[str, Callable[[Job, float], Any]] = {
    "model_created": lambda job, now: job.submitted,
    "model_name": lambda job, now: job.model,
    "credits_deduction": _charged,
}


def _output_urls(job: Job) -> tuple[str | None, ...]:
    """Return one entry for each row of a request in the history: one for each output, at least one."""
    return job.urls if job.urls and job.ended is not None and job.error is None else (None,)


def _row(state: EmulatorState, job: Job, now: float, url: str | None) -> dict[str, Any]:
    # a request with several outputs has a row for each, every one with the full cost
    row: dict[str, Any] = {
        "request_id": job.id,
        "model_name": job.model,
        "model_status": _word(job, now),
        "credits_deduction": _charged(job, now),
        "request_body": _request_body(job),
        "generation_url": url,
        "latency_ms": None if job.ended is None else round((job.ended - job.submitted) * 1000),
        "model_created": stamp(job.submitted),
        "model_updated": stamp(job.ended or job.submitted),
        "user_email": state.settings.account_email,
    }
    if row["model_status"] == "FAILED":
        row["error"] = job.error
    return row


def _request_body(job: Job) -> Any:
    if not job.body:
        return None
    try:
        return json.loads(job.body)
    except ValueError:
        return None
