"""The result of a request that another task submitted, and the log line about a result."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

from airflow_provider_segmind.chat.replies import TokenUsage, read_reply
from airflow_provider_segmind.client.client import SegmindClient
from airflow_provider_segmind.client.downloads import Downloads
from airflow_provider_segmind.client.models import Metrics, RequestResult
from airflow_provider_segmind.client.poll_schedule import Pending
from airflow_provider_segmind.client.submission import RequestRef
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.exceptions import SegmindRequestExpiredError, SegmindRequestTimeoutError
from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.result_storage import (
    ResultDestination,
    StoredResult,
    recover_result,
    store_result,
    stored_result,
)
from airflow_provider_segmind.spend.recorder import SpendRecorder
from airflow_provider_segmind.telemetry.requests import RequestTelemetry

MISSING_PATIENCE = 15.0
"""Seconds for which a result that is missing within the hour is looked for."""


def fetch_result(
    request_id: Any,
    destination: ResultDestination,
    *,
    client: SegmindClient,
    recover: bool,
    log: Any,
    spend: SpendRecorder | None = None,
    telemetry: RequestTelemetry | None = None,
) -> StoredResult:
    """
    Fetch the result of a request that another task submitted, and store it. Free.

    :param request_id: the id, or what a submit task or a sensor returned.
    :param recover: whether a result that is gone is recovered from the request history.
    :param spend: records the request, None without a spend record.
    :param telemetry: metrics and spans of the request, None for neither.
    :raises SegmindRequestTimeoutError: the request has no result yet.
    :raises SegmindError: it failed, or its result is gone.
    """
    ref = RequestRef.read(request_id)
    about: dict[str, Any] = {"model": ref.model, "submitted_at": ref.submitted_at, "submitted_by": ref.submitted_by}
    with nullcontext() if spend is None else spend.ends(ref.request_id, **about):
        stored = _fetch_or_recover(ref, destination, client=client, recover=recover, log=log)
    usage = tokens_of(stored, ref.model or "")
    if spend is not None:
        spend.record(ref.request_id, Outcome.SUCCESS, metrics=stored.metrics, tokens=usage.total_tokens, **about)
    if telemetry is not None:
        telemetry.finished(
            model=ref.model or "",
            began=ref.submitted_at,
            tokens=usage.total_tokens,
            cost=Metrics.model_validate(stored.metrics).cost,
            request_id=ref.request_id,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
        )
    return stored


def _fetch_or_recover(
    ref: RequestRef, destination: ResultDestination, *, client: SegmindClient, recover: bool, log: Any
) -> StoredResult:
    stored = stored_result(ref.request_id, destination, ref.manifest)
    if stored is not None:
        log.info("The result of request %s was stored before", ref.request_id)
        return stored
    try:
        result = _fetch(client, ref, log)
    except SegmindRequestExpiredError as error:
        if not recover:
            raise
        log.warning("%s Searching the request history", error)
        return recover_result(client, error, model=ref.model, destination=destination)
    log.info("Fetched the result of request %s", ref.request_id)
    return store_result(result, model=ref.model, destination=destination, downloads=Downloads.of(client.config))


def _fetch(client: SegmindClient, ref: RequestRef, log: Any) -> RequestResult:
    try:
        result = client.get_result(ref.request_id)
    except SegmindRequestExpiredError:
        if ref.submitted_at is None:
            raise
        # Polled as where a task waits, for a result that is not there yet.
        pending = Pending(ref.request_id, ref.submitted_at, client.clock() + MISSING_PATIENCE, model=ref.model)
        return cast(RequestResult, client.wait(pending, fetch=True, report=log.warning))
    if not result.completed:
        raise SegmindRequestTimeoutError(
            f"Request {ref.request_id!r} is {result.status}, so it has no result yet. Put a SegmindRequestSensor "
            "before this task, or give it retries; fetching is free.",
            request_id=ref.request_id,
        )
    return result


def tokens_of(stored: StoredResult, model: str) -> TokenUsage:
    """Return the tokens of a completed request, if its body is available."""
    body = stored.body
    return read_reply(body, model=model).usage if isinstance(body, dict) and "output" in body else TokenUsage()


def summary(request_id: str | None, model: str, stored: StoredResult) -> str:
    """Return one line on a completed request: tokens, billed cost and times, where Segmind reports them."""
    usage = tokens_of(stored, model)
    counts = ((usage.input_tokens, "in"), (usage.output_tokens, "out"))
    parts = [f"{count} tokens {way}" for count, way in counts if count is not None]
    if stored.metrics.get("cost") is not None:
        parts.append(f"cost {format_usd(stored.metrics['cost'])}")
    parts += [
        f"{label} {stored.metrics[name]} s"
        for name, label in (("total_time", "total"), ("queue_time", "queued"), ("inference_time", "inference"))
        if stored.metrics.get(name) is not None
    ]
    return f"Request {request_id} (model {model}) completed" + (f": {', '.join(parts)}" if parts else "")
