"""Bring an accepted request to its end: wait or defer, land the result, and follow the policies on the way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.api.media import Downloads
from airflow_provider_segmind.api.models import RequestResult
from airflow_provider_segmind.api.outcomes import TokenUsage
from airflow_provider_segmind.api.polling import Pending
from airflow_provider_segmind.api.replies import read_reply
from airflow_provider_segmind.api.submission import Note
from airflow_provider_segmind.deferral import backstop, waiting_ends
from airflow_provider_segmind.exceptions import (
    SegmindRequestError,
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindRequestTimeoutError,
)
from airflow_provider_segmind.landing import land, landed_before, recover
from airflow_provider_segmind.operators.submission import Submission
from airflow_provider_segmind.triggers.events import RequestEvent

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.operators.run import SegmindRunOperator


def settle(
    task: SegmindRunOperator, context: Context, submission: Submission, note: Note, event: RequestEvent | None = None
) -> Any:
    """
    Return what XCom carries of a request, or defer until there is something to return.

    :param note: the request of this task instance.
    :param event: how waiting in the triggerer ended, None when this worker waits itself.
    :raises SegmindError: the request ended otherwise, and no policy mends it.
    """
    if event is not None and event.request_id != note.request_id:
        # A trigger of an earlier request speaks for that one only.
        event = None
    while True:
        task.announce(context, note)
        try:
            return _outcome(task, context, submission, note, event)
        except SegmindRequestFailedError as error:
            note = submission.after_failure(note, error)
        except SegmindRequestExpiredError as error:
            if task.on_expired == "fail":
                raise
            if task.on_expired == "resubmit":
                risk = "This pays a second time: the first request may have been billed."
                note = submission.again(note, error, risk)
            else:
                try:
                    return recover(submission.client, error, model=note.fingerprint.model, place=task.place)
                except SegmindRequestFailedError as failed:
                    note = submission.after_failure(note, failed)
        event = None


def _outcome(
    task: SegmindRunOperator, context: Context, submission: Submission, note: Note, event: RequestEvent | None
) -> Any:
    error = event.error() if event else None
    if isinstance(error, SegmindRequestError) and not error.retryable:
        raise error
    if event is not None and event.has_value:
        return _done(task, submission, note, event.value)
    value = landed_before(str(note.request_id), task.place, note.landed)
    if value is not None:
        return value
    pending = Pending(
        request_id=str(note.request_id),
        submitted_at=note.age_from,
        end_time=note.age_from + task.timeout,
        poll_interval=task.poll_interval,
        model=note.fingerprint.model,
    )
    if isinstance(error, SegmindRequestTimeoutError):
        task.log.warning("%s Looking once more from here", error)
        until: float | None = 0.0
    elif error is not None:
        # The triggerer could not do it, which need not be true of this worker; the request is paid for.
        task.log.warning("%s Waiting from here, with this worker", error)
        until = None
    else:
        until = time.time() + task.sync_wait if task.deferrable else None
    state = submission.client.wait(pending, fetch=True, until=until, report=task.log.warning)
    if not isinstance(state, RequestResult):
        if error is not None:
            raise error
        return _defer(task, context, pending)
    allowed = Downloads.of(submission.client.config)
    return _done(task, submission, note, land(state, model=note.fingerprint.model, place=task.place, downloads=allowed))


def _done(task: SegmindRunOperator, submission: Submission, note: Note, value: Any) -> Any:
    if isinstance(value, dict) and value.get("uris"):
        submission.remember(note, value)
    task.report(note, value)
    return value


def _defer(task: SegmindRunOperator, context: Context, pending: Pending) -> None:
    from airflow_provider_segmind.triggers.request import SegmindRequestTrigger, earliest_event

    now = time.time()
    end = waiting_ends(pending, context, task.execution_timeout)
    task.log.info("Request %s goes on; waiting for it in the triggerer", pending.request_id)
    task.defer(
        trigger=SegmindRequestTrigger(
            request_id=pending.request_id,
            segmind_conn_id=task.segmind_conn_id,
            submitted_at=pending.submitted_at,
            end_time=end,
            poll_interval=pending.poll_interval,
            model=pending.model,
            fetch=True,
            output_path=task.place.output_path,
            max_xcom_bytes=task.max_xcom_bytes,
            overflow_path=task.place.overflow_path,
            not_before=earliest_event(now),
        ),
        method_name="execute_complete",
        timeout=backstop(end, now),
    )


def summary(request_id: str | None, model: str, value: Any) -> str:
    """Say in one line how a request ended: tokens, cost as billed and times, as far as Segmind told."""
    metrics = value.get("metrics") if isinstance(value, dict) else None
    told = metrics if isinstance(metrics, dict) else {}
    usage = read_reply(value, model=model).usage if isinstance(value, dict) and "output" in value else TokenUsage()
    parts = [
        f"{count} tokens {way}"
        for count, way in ((usage.input_tokens, "in"), (usage.output_tokens, "out"))
        if count is not None
    ]
    parts += [
        f"{label} {told[name]}{unit}"
        for name, label, unit in (
            ("cost", "cost", " USD"),
            ("total_time", "total", " s"),
            ("queue_time", "queued", " s"),
            ("inference_time", "inference", " s"),
        )
        if told.get(name) is not None
    ]
    return f"Request {request_id} (model {model}) completed" + (f": {', '.join(parts)}" if parts else "")
