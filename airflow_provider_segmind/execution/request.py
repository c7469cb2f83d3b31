"""One request of a task instance: submit it once, wait inline or defer, store the result."""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NoReturn

from tenacity import Retrying, stop_after_attempt, wait_fixed

from airflow_provider_segmind.chat.replies import TokenUsage, read_reply
from airflow_provider_segmind.client import request_history as history
from airflow_provider_segmind.client.client import SegmindClient
from airflow_provider_segmind.client.downloads import Downloads
from airflow_provider_segmind.client.models import RequestRecord, RequestResult
from airflow_provider_segmind.client.polling import Pending, expired_error
from airflow_provider_segmind.client.retry import DEFAULT_LIMITS, retrying
from airflow_provider_segmind.client.submission import (
    Attach,
    Fingerprint,
    LookUp,
    RequestRef,
    SubmissionRecord,
    SubmitNew,
    decide_submission,
    iso,
    unknown_message,
)
from airflow_provider_segmind.defaults import (
    DEFAULT_CONNECTION,
    MAX_RESUBMITS,
    MAX_XCOM_BYTES,
    RESULT_LIFETIME,
    SYNC_WAIT,
    OnExpired,
    OnFailed,
    OnStale,
    OnUnknown,
)
from airflow_provider_segmind.exceptions import (
    SegmindError,
    SegmindRequestError,
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindRequestTimeoutError,
    SegmindStateError,
    SegmindSubmissionUnknownError,
)
from airflow_provider_segmind.result_storage import (
    ResultDestination,
    StoredResult,
    recover_result,
    store_result,
    stored_result,
)
from airflow_provider_segmind.task_state import TaskState
from airflow_provider_segmind.triggers.events import RequestEvent
from airflow_provider_segmind.triggers.request import defer_request

XComPush = Callable[..., Any]
"""Airflow's ``xcom_push`` of the task instance."""
Defer = Callable[..., NoReturn]
"""Airflow's ``defer`` of the operator."""


def push_nothing(key: str, value: Any) -> None:
    """The ``xcom_push`` of a task whose ``do_xcom_push`` is off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings:
    """
    What to run and how to wait; every default of a policy avoids paying twice.

    :param destination: where the result goes.
    :param max_event_bytes: bytes of JSON up to which a trigger's event carries the result.
    :param sync_wait: seconds to wait inline before deferring.
    :param timeout: seconds after the submission for which to wait, and after the intent for which
        ``on_unknown="wait"`` searches the request history.
    :param deadline: epoch second at which the task must have ended.
    :param on_stale: the task changed since it submitted.
    :param on_unknown: the outcome of a POST is unknown and the history does not show it.
    :param on_failed: Segmind reports FAILED, which costs nothing.
    :param on_expired: the result is gone.
    :param max_resubmits: how often ``on_failed``, ``on_expired`` and ``on_unknown`` may submit again for one task
        instance.
    """

    model: str
    segmind_conn_id: str = DEFAULT_CONNECTION
    destination: ResultDestination = field(default_factory=ResultDestination)
    max_event_bytes: int = MAX_XCOM_BYTES
    deferrable: bool = False
    sync_wait: float = SYNC_WAIT
    poll_interval: float | None = None
    timeout: float = RESULT_LIFETIME
    deadline: float = math.inf
    on_stale: OnStale = "resubmit"
    on_unknown: OnUnknown = "fail"
    on_failed: OnFailed = "fail"
    on_expired: OnExpired = "recover"
    max_resubmits: int = MAX_RESUBMITS


class RequestExecution:
    """
    The one request of one task instance.

    A task begins with :meth:`start` and continues after a deferral with :meth:`resume`; one that does not wait for its
    request calls :meth:`submit` alone.

    :param inputs: makes the body when it is needed: a task that only continues to wait needs none.
    :param state: where the submission record is kept across tries.
    :param log: the task's logger, whose type differs between Airflow versions.
    :param spent_before: recorded with every request submitted here, see :class:`SubmissionRecord`.
    :param prepare: makes what is sent out of the body, before the intent is recorded; what it adds (the address of an
        uploaded file) is not part of the fingerprint.
    """

    def __init__(
        self,
        settings: RequestSettings,
        inputs: Callable[[], Mapping[str, Any]],
        *,
        client: SegmindClient,
        state: TaskState,
        log: Any,
        defer: Defer,
        xcom_push: XComPush = push_nothing,
        spent_before: dict[str, Any] | None = None,
        prepare: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._make_inputs = inputs
        self._client = client
        self._state = state
        self._log = log
        self._defer = defer
        self._xcom_push = xcom_push
        self._spent_before = spent_before
        self._prepare = prepare
        self._clock = clock
        self._sleep = sleep
        self._record: SubmissionRecord | None = None

    @property
    def record(self) -> SubmissionRecord:
        """The request that the task instance has, after :meth:`submit` or :meth:`reattach`."""
        if self._record is None:
            raise AssertionError("nothing was submitted yet")
        return self._record

    @property
    def request_id(self) -> str | None:
        """The id of that request, None before there is one."""
        return None if self._record is None else self._record.request_id

    def start(self) -> StoredResult:
        """
        Submit, or attach to the request of an earlier try; return its result or defer.

        :raises SegmindError: see :meth:`submit` and :meth:`finish`.
        """
        self.submit()
        return self._summarised(self.finish())

    def resume(self, event: RequestEvent | None) -> StoredResult:
        """
        Continue after a deferral.

        :param event: how waiting in the triggerer ended, None when this worker is to poll.
        :raises SegmindError: see :meth:`reattach` and :meth:`finish`.
        """
        self.reattach(event.request_id if event else None)
        return self._summarised(self.finish(event))

    def _summarised(self, stored: StoredResult) -> StoredResult:
        self._log.info("%s", summary(self.record.request_id, self._model, stored))
        return stored

    # Submit once.

    def submit(self, *, replace_failed: bool = False) -> SubmissionRecord:
        """
        Return the record of a request that Segmind has accepted: that of an earlier try, else a new one.

        :param replace_failed: poll whether the request of an earlier try has FAILED, which cost nothing, and submit a
            new one then; for a task that does not wait for its request and so never learns of it.
        :raises SegmindSubmissionUnknownError: a POST may have arrived and its outcome is unknown; nothing more was
            sent.
        :raises SegmindError: it was refused; nothing was billed.
        """
        decision = decide_submission(self._state.read(), self._fingerprint, self._settings.on_stale)
        if isinstance(decision, Attach):
            self._record = decision.record
            self._log.info(
                "An earlier try submitted request %s at %s: continuing with it, nothing is submitted or paid again "
                "(recorded in %s)",
                decision.record.request_id,
                iso(decision.record.intent_at),
                self._state.name,
            )
            if replace_failed:
                self._replace_if_failed()
        elif isinstance(decision, LookUp):
            self._resolve_unknown(decision.record, None)
        else:
            self._submit_new(decision)
        return self.record

    def reattach(self, request_id: str | None = None) -> SubmissionRecord:
        """
        Return the record as it is when a deferred task resumes; nothing is ever submitted here.

        :param request_id: the request the trigger waited for; it completes a record whose id could not be written, and
            replaces one that was deleted from its store meanwhile.
        :raises SegmindStateError: the record is gone.
        """
        record = self._state.read()
        if record is None and request_id is not None:
            self._log.warning(
                "The record of request %s disappeared from %s while the task was deferred; continuing with it",
                request_id,
                self._state.name,
            )
            now = self._clock()
            new = SubmissionRecord(self._fingerprint, intent_at=now, spent_before=self._spent_before)
            record = self._write(new.accepted(request_id, now))
        elif record is not None and record.request_id is None and record.outcome is None and request_id is not None:
            record = self._write(record.accepted(request_id, record.intent_at))
        if record is None or record.request_id is None:
            raise SegmindStateError(
                f"The record of this task's request disappeared from {self._state.name} while the task was deferred. "
                "The request continues and may be billed; nothing was submitted again."
            )
        self._record = record
        return record

    @cached_property
    def _inputs(self) -> Mapping[str, Any]:
        return self._make_inputs()

    @cached_property
    def _body(self) -> Mapping[str, Any]:
        return self._inputs if self._prepare is None else self._prepare(self._inputs)

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        connection = f"{self._settings.segmind_conn_id} at {self._client.config.endpoints.gateway}"
        return Fingerprint.of(model=self._settings.model, inputs=self._inputs, connection=connection)

    def _submit_new(self, decision: SubmitNew) -> None:
        if decision.warning:
            self._log.warning(decision.warning)
        if self._state.warning and self._spent_before is None:
            self._log.warning(self._state.warning)
        body = self._body
        new = SubmissionRecord(
            self._fingerprint,
            intent_at=self._clock(),
            resubmits=decision.resubmits,
            previous_ids=decision.previous_ids,
            spent_before=self._spent_before,
        )
        attempts = retrying(DEFAULT_LIMITS, sleep=self._sleep, rng=random.Random(), paid=True)
        try:
            self._record = self._write(attempts(self._post, new, body))
        except SegmindError as error:
            if error.billed is not None:
                raise
            self._resolve_unknown(self._sending, error)

    def _post(self, new: SubmissionRecord, body: Mapping[str, Any]) -> SubmissionRecord:
        """
        Send the POST once, between two writes of the record: the intent, and that it was accepted.

        A worker that dies between two attempts leaves a record that says nothing was created, so the next try need not
        ask the history; only one that dies during the POST leaves a bare intent.
        """
        self._sending = new
        try:
            accepted = self._client.submit_once(self._settings.model, body, on_permit=lambda: self._record_intent(new))
        except SegmindError as error:
            if error.billed is not None and self._sending is not new:
                self._write(self._sending.ended("refused"))
            raise
        self._log.info("Submitted request %s to model %s", accepted.request_id, self._settings.model)
        return self._sending.accepted(accepted.request_id, self._sending.intent_at)

    def _record_intent(self, new: SubmissionRecord) -> None:
        intent = replace(new, intent_at=self._clock())
        try:
            self._state.write(intent)
        except Exception:
            # Nothing was sent. A store that has taken the intent must not make the next try believe otherwise.
            with contextlib.suppress(Exception):
                self._state.write(intent.ended("refused"))
            raise
        self._sending = intent
        self._log.info("Recorded the intent to submit to model %s in %s", self._settings.model, self._state.name)

    def _write(self, record: SubmissionRecord) -> SubmissionRecord:
        try:
            Retrying(stop=stop_after_attempt(3), wait=wait_fixed(1), sleep=self._sleep, reraise=True)(
                self._state.write, record
            )
        except Exception:  # noqa: BLE001
            # The POST was answered: continuing keeps what was paid for, and the intent lets a later try find it.
            self._log.exception("Could not record request %s in %s", record.request_id, self._state.name)
        return record

    def _replace_if_failed(self) -> None:
        try:
            state = self._client.poll(str(self.record.request_id))
        except SegmindError:
            # The task that waits for it will find out; without a response the request counts as in progress.
            return
        if state.failed:
            reason = state.error or "no reason given"
            failed = f"Segmind reports request {self.record.request_id!r} as FAILED: {reason!r}."
            warning = f"{failed} It cost nothing: submitting a new one"
            self._submit_new(SubmitNew(self.record.resubmits, warning, self.record.all_ids))

    # A POST whose outcome is unknown.

    def _resolve_unknown(self, record: SubmissionRecord, cause: SegmindError | None) -> None:
        settings = self._settings
        self._log.warning(unknown_message(record, "Searching Segmind's request history; it is not sent again."))
        found, failure = self._search_history(record, history.HISTORY_WAITS)
        deadline = record.intent_at + settings.timeout
        pause = 2 * history.HISTORY_WAITS[-1]
        while found is None and settings.on_unknown == "wait" and self._clock() < deadline:
            self._sleep(min(pause, max(0.0, deadline - self._clock())))
            pause = min(2 * pause, history.LONGEST_WAIT)
            found, failure = self._search_history(record, (0.0,))
        if found is not None:
            self._log.info("Found it: request %s. Continuing with it, nothing is paid again", found.request_id)
            self._record = self._write(record.accepted(found.request_id, history.submission_time(found, record)))
            return
        undecided = failure is not None and history.leaves_open(failure)
        if settings.on_unknown != "resubmit" or undecided or record.resubmits >= settings.max_resubmits:
            raise self._unknown(record, cause, failure) from (cause or failure)
        warning = unknown_message(
            record,
            "The request history does not show it. Submitting again because of on_unknown='resubmit'; if that POST did "
            "arrive, it is billed as well.",
        )
        self._submit_new(SubmitNew(record.resubmits + 1, warning, record.previous_ids))

    def _search_history(
        self, record: SubmissionRecord, waits: tuple[float, ...]
    ) -> tuple[RequestRecord | None, SegmindError | None]:
        steps = history.search(self._client.wire, record, self._inputs, now=self._clock(), waits=waits)
        try:
            return self._client.drive(steps), None
        except SegmindError as failure:
            return None, failure

    def _unknown(
        self, record: SubmissionRecord, cause: SegmindError | None, failure: SegmindError | None
    ) -> SegmindSubmissionUnknownError:
        risk = "submits again, which pays twice if that POST did arrive"
        if failure is None:
            found = "The request history does not show it (rows appear up to two hours late)."
        elif failure.billed is not None:
            found = f"The request history cannot be read: {failure}"
        else:
            found = str(failure)
        if failure is not None and failure.billed is None:
            risk = "does not submit again while that is undecided"
        elif self._settings.on_unknown == "resubmit" and record.resubmits >= self._settings.max_resubmits:
            risk = f"has submitted again as often as it may ({self._settings.max_resubmits} times)"
        next_step = f"Nothing was sent again. Clear the task to search again; on_unknown='resubmit' {risk}."
        message = unknown_message(record, f"{found} {next_step}")
        error = SegmindSubmissionUnknownError(f"{cause} {message}" if cause else message)
        # A retry only searches again: the intent stays recorded.
        error.retryable = failure is not None and failure.retryable
        return error

    # Wait, then store.

    def finish(self, event: RequestEvent | None = None) -> StoredResult:
        """
        Return the result of :attr:`record`, or defer until there is one.

        :param event: how waiting in the triggerer ended, None when this worker waits.
        :raises SegmindError: the request ended otherwise, and no policy helps.
        """
        if event is not None and event.request_id != self.record.request_id:
            # A trigger of an earlier request says nothing about this one.
            event = None
        while True:
            self._xcom_push(key="request_id", value=self.record.request_id)
            try:
                return self._wait(event)
            except SegmindRequestFailedError as error:
                self.after_failure(error)
            except SegmindRequestExpiredError as error:
                if self._settings.on_expired == "fail":
                    raise
                if self._settings.on_expired == "recover":
                    try:
                        return recover_result(
                            self._client, error, model=self._model, destination=self._settings.destination
                        )
                    except SegmindRequestFailedError as failed:
                        self.after_failure(failed)
                else:
                    self.submit_again(error, "This pays a second time: the first request may have been billed.")
            event = None

    @property
    def _model(self) -> str:
        return self.record.fingerprint.model

    def _wait(self, event: RequestEvent | None) -> StoredResult:
        settings = self._settings
        error = event.error() if event else None
        if isinstance(error, SegmindRequestError) and not error.retryable:
            raise error
        if event is not None and event.result is not None:
            return self._done(event.result)
        stored = stored_result(str(self.record.request_id), settings.destination, self.record.manifest)
        if stored is not None:
            return stored
        pending = Pending(
            request_id=str(self.record.request_id),
            submitted_at=self.record.age_from,
            end_time=self.record.age_from + settings.timeout,
            poll_interval=settings.poll_interval,
            model=self._model,
        )
        until = self._clock() + settings.sync_wait if settings.deferrable else None
        if isinstance(error, SegmindRequestTimeoutError):
            self._log.warning("%s Polling once from the worker", error)
            until = 0.0
        elif error is not None:
            # The triggerer could not poll, which need not be true of this worker; the request is paid for.
            self._log.warning("%s Waiting on this worker instead", error)
            until = None
        state = self._client.wait(pending, fetch=True, until=until, report=self._log.warning)
        if isinstance(state, RequestResult):
            allowed = Downloads.of(self._client.config)
            return self._done(
                store_result(state, model=self._model, destination=settings.destination, downloads=allowed)
            )
        if error is not None:
            raise error
        return defer_request(
            pending,
            replace(settings.destination, max_xcom_bytes=settings.max_event_bytes),
            segmind_conn_id=settings.segmind_conn_id,
            deadline=settings.deadline,
            defer=self._defer,
            log=self._log,
            fetch=True,
        )

    def _done(self, stored: StoredResult) -> StoredResult:
        if stored.manifest is not None:
            # A cleared task then finds the result after Segmind has dropped it.
            self._record = self._write(replace(self.record, manifest=stored.manifest))
        return stored

    # Submit again, where a policy says so.

    def after_failure(self, error: SegmindRequestFailedError) -> None:
        """
        Record that the request FAILED, and submit once more where the policy says so.

        :raises SegmindRequestFailedError: it stays failed; nothing was billed, and clearing the task submits anew.
        """
        self._record = self._write(self.record.ended("failed"))
        if self._settings.on_failed == "fail":
            raise error
        self.submit_again(error, "It cost nothing.")

    def submit_again(self, error: SegmindRequestError, cost: str) -> None:
        """
        Submit again because a policy says so.

        :raises SegmindRequestError: ``error``, when the policy has been used up.
        """
        if self.record.resubmits >= self._settings.max_resubmits:
            self._log.error("Not submitting again: max_resubmits (%d) is reached", self._settings.max_resubmits)
            raise error
        warning = f"{error} Submitting again because of the task's policy. {cost}"
        self._submit_new(SubmitNew(self.record.resubmits + 1, warning, self.record.all_ids))


def fetch_result(
    request_id: Any, destination: ResultDestination, *, client: SegmindClient, recover: bool, log: Any
) -> StoredResult:
    """
    Fetch the result of a request that another task submitted, and store it. Free.

    :param request_id: the id, or what a submit task or a sensor returned.
    :param recover: whether a result that is gone is recovered from the request history.
    :raises SegmindRequestTimeoutError: the request has no result yet.
    :raises SegmindError: it failed, or its result is gone.
    """
    ref = RequestRef.read(request_id)
    stored = stored_result(ref.request_id, destination, ref.manifest)
    if stored is not None:
        log.info("The result of request %s was stored before", ref.request_id)
        return stored
    try:
        result = _fetch(client, ref)
    except SegmindRequestExpiredError as error:
        if not recover:
            raise
        log.warning("%s Searching the request history", error)
        return recover_result(client, error, model=ref.model, destination=destination)
    log.info("Fetched the result of request %s", ref.request_id)
    return store_result(result, model=ref.model, destination=destination, downloads=Downloads.of(client.config))


def _fetch(client: SegmindClient, ref: RequestRef) -> RequestResult:
    try:
        result = client.get_result(ref.request_id)
    except SegmindRequestExpiredError as error:
        if ref.submitted_at is None:
            raise
        pending = Pending(ref.request_id, submitted_at=ref.submitted_at, end_time=0.0, model=ref.model)
        raise expired_error(pending, time.time()) from error
    if not result.completed:
        raise SegmindRequestTimeoutError(
            f"Request {ref.request_id!r} is {result.status}, so it has no result yet. Put a SegmindRequestSensor "
            "before this task, or give it retries; fetching is free.",
            request_id=ref.request_id,
        )
    return result


def summary(request_id: str | None, model: str, stored: StoredResult) -> str:
    """Return one line on a completed request: tokens, billed cost and times, as far as Segmind reports them."""
    body = stored.body
    usage = read_reply(body, model=model).usage if isinstance(body, dict) and "output" in body else TokenUsage()
    counts = ((usage.input_tokens, "in"), (usage.output_tokens, "out"))
    parts = [f"{count} tokens {way}" for count, way in counts if count is not None]
    parts += [
        f"{label} {stored.metrics[name]}{unit}"
        for name, label, unit in (
            ("cost", "cost", " USD"),
            ("total_time", "total", " s"),
            ("queue_time", "queued", " s"),
            ("inference_time", "inference", " s"),
        )
        if stored.metrics.get(name) is not None
    ]
    return f"Request {request_id} (model {model}) completed" + (f": {', '.join(parts)}" if parts else "")
