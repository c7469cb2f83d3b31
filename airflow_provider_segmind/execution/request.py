"""Submit once for one task instance, then wait or defer, and store the result."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tenacity import Retrying, stop_after_attempt, wait_fixed

from airflow_provider_segmind.chat.replies import TokenUsage, read_reply
from airflow_provider_segmind.client import request_history as history
from airflow_provider_segmind.client.client import SegmindClient
from airflow_provider_segmind.client.downloads import Downloads
from airflow_provider_segmind.client.models import RequestRecord, RequestResult
from airflow_provider_segmind.client.polling import Pending
from airflow_provider_segmind.client.retry import retrying
from airflow_provider_segmind.client.submission import (
    Attach,
    Fingerprint,
    LookUp,
    SubmissionRecord,
    SubmitNew,
    decide,
    iso,
    unknown_message,
)
from airflow_provider_segmind.defaults import MAX_RESUBMITS, RESULT_LIFETIME, OnExpired, OnFailed, OnStale, OnUnknown
from airflow_provider_segmind.deferral import backstop, waiting_ends
from airflow_provider_segmind.exceptions import (
    SegmindError,
    SegmindRequestError,
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindRequestTimeoutError,
    SegmindStateError,
    SegmindSubmissionUnknownError,
)
from airflow_provider_segmind.result_storage import recover_result, store_result, stored_result
from airflow_provider_segmind.task_state import TaskState
from airflow_provider_segmind.triggers.events import RequestEvent

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.operators.request import SegmindRunOperator


@dataclass(frozen=True, slots=True)
class Policies:
    """
    What to do where the safe answer is not the only one; every default keeps from paying twice unasked.

    :param on_stale: the task changed since it submitted.
    :param on_unknown: the fate of a POST is unknown and the history does not show it.
    :param on_failed: Segmind reports FAILED, which costs nothing.
    :param on_expired: the result is gone.
    :param max_resubmits: how often ``on_failed`` and ``on_expired`` may submit again for one task instance.
    :param unknown_patience: seconds after the intent for which ``on_unknown="wait"`` keeps looking.
    """

    on_stale: OnStale = "resubmit"
    on_unknown: OnUnknown = "fail"
    on_failed: OnFailed = "fail"
    on_expired: OnExpired = "recover"
    max_resubmits: int = MAX_RESUBMITS
    unknown_patience: float = RESULT_LIFETIME


class Submission:
    """
    The one request of one task instance.

    :param state: where its record is kept across tries.
    :param inputs: the body, or what makes it when it is needed: a task that only goes on waiting needs none.
    :param connection: the connection's id and base URL, part of the fingerprint.
    :param before: noted with every request submitted here, see :class:`SubmissionRecord`.
    :param prepare: makes what is sent out of ``inputs``, before the intent is noted; what it adds (the address of an
        uploaded file) is no part of the fingerprint.
    :param log: the task's logger, whose type differs between Airflow versions.
    """

    def __init__(
        self,
        *,
        client: SegmindClient,
        state: TaskState,
        model: str,
        inputs: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
        connection: str,
        policies: Policies,
        log: Any,
        before: dict[str, Any] | None = None,
        prepare: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.client = client
        self.model = model
        self.policies = policies
        self._given = inputs
        self._prepare = prepare
        self._before = before
        self._connection = connection
        self._state = state
        self._log = log
        self._clock = clock
        self._sleep = sleep

    @cached_property
    def inputs(self) -> Mapping[str, Any]:
        """Return the body of the request."""
        return self._given() if callable(self._given) else self._given

    @cached_property
    def _body(self) -> Mapping[str, Any]:
        return self.inputs if self._prepare is None else self._prepare(self.inputs)

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        return Fingerprint.of(model=self.model, inputs=self.inputs, connection=self._connection)

    def begin(self, *, replace_failed: bool = False) -> SubmissionRecord:
        """
        Return the record of a request that Segmind has accepted: the one of an earlier try, else a new one.

        :param replace_failed: look whether the request of an earlier try has FAILED, which cost nothing, and submit a
            new one then; for a task that does not wait for its request and so never hears of it.
        :raises SegmindSubmissionUnknownError: a POST may have arrived and nobody knows; nothing more was sent.
        :raises SegmindError: it was refused; nothing was billed.
        """
        decision = decide(self._state.read(), self._fingerprint, self.policies.on_stale)
        if isinstance(decision, Attach):
            self._log.info(
                "An earlier try submitted request %s at %s: going on with it, nothing is submitted or paid again "
                "(recorded in %s)",
                decision.record.request_id,
                iso(decision.record.intent_at),
                self._state.name,
            )
            return self._unless_failed(decision.record) if replace_failed else decision.record
        if isinstance(decision, LookUp):
            return self._resolve_unknown(decision.record, None)
        return self._submit(decision)

    def current(self, request_id: str | None = None) -> SubmissionRecord:
        """
        Return the record as it stands when a deferred task wakes up; nothing is ever submitted here.

        :param request_id: the request the trigger waited for; it completes a record whose id could not be written, and
            stands for one that was emptied out of its store meanwhile.
        :raises SegmindStateError: it is gone.
        """
        record = self._state.read()
        if record is None and request_id is not None:
            self._log.warning(
                "The record of request %s disappeared from %s while the task was deferred; continuing with it",
                request_id,
                self._state.name,
            )
            now = self._clock()
            return self._write(
                SubmissionRecord(self._fingerprint, intent_at=now, before=self._before).accepted(request_id, now)
            )
        if record is not None and record.request_id is None and record.outcome is None and request_id is not None:
            return self._write(record.accepted(request_id, record.intent_at))
        if record is None or record.request_id is None:
            raise SegmindStateError(
                f"The record of this task's request disappeared from {self._state.name} while the task was deferred. "
                "The request continues and may be billed; nothing was submitted again."
            )
        return record

    def after_failure(self, record: SubmissionRecord, error: SegmindRequestFailedError) -> SubmissionRecord:
        """
        Close a FAILED request, and submit once more where the policy says so.

        :raises SegmindRequestFailedError: it stays failed; nothing was billed, and clearing the task submits anew.
        """
        self._write(record.ended("failed"))
        if self.policies.on_failed == "fail":
            raise error
        return self.again(record, error, "It cost nothing.")

    def again(self, record: SubmissionRecord, error: SegmindRequestError, cost: str) -> SubmissionRecord:
        """
        Submit again because a policy says so.

        :raises SegmindRequestError: ``error``, when the policy has been used up.
        """
        if record.resubmits >= self.policies.max_resubmits:
            self._log.error("Not submitting again: max_resubmits (%d) is reached", self.policies.max_resubmits)
            raise error
        warning = f"{error} Submitting again, as the task asks. {cost}"
        return self._submit(SubmitNew(record.resubmits + 1, warning, record.known))

    def remember(self, record: SubmissionRecord, landed: dict[str, Any]) -> None:
        """Note where the result was landed, so that a cleared task finds it after Segmind has dropped it."""
        self._write(replace(record, landed=landed))

    def _submit(self, decision: SubmitNew) -> SubmissionRecord:
        if decision.warning:
            self._log.warning(decision.warning)
        if self._state.warning and self._before is None:
            self._log.warning(self._state.warning)
        body = self._body
        record = SubmissionRecord(
            self._fingerprint,
            intent_at=self._clock(),
            resubmits=decision.resubmits,
            former=decision.former,
            before=self._before,
        )
        attempts = retrying(self.client.config.patience, sleep=self._sleep, rng=random.Random(), paid=True)
        try:
            return self._write(attempts(self._send, record, body))
        except SegmindError as error:
            if error.billed is not None:
                raise
            return self._resolve_unknown(self._sending, error)

    def _send(self, record: SubmissionRecord, body: Mapping[str, Any]) -> SubmissionRecord:
        """
        Send the POST once, between two records.

        A worker that dies between two attempts leaves a record that says nothing was created, so the next try need not
        ask the history; only one that dies with the POST under way leaves a bare intent.
        """
        self._sending = record
        try:
            accepted = self.client.submit_once(self.model, body, on_permit=lambda: self._record_intent(record))
        except SegmindError as error:
            if error.billed is not None and self._sending is not record:
                self._write(self._sending.ended("refused"))
            raise
        self._log.info("Submitted request %s to model %s", accepted.request_id, self.model)
        return self._sending.accepted(accepted.request_id, self._sending.intent_at)

    def _record_intent(self, record: SubmissionRecord) -> None:
        intent = replace(record, intent_at=self._clock())
        try:
            self._state.write(intent)
        except Exception:
            # Nothing was sent. A store that has taken the intent must not make the next try believe otherwise.
            with contextlib.suppress(Exception):
                self._state.write(intent.ended("refused"))
            raise
        self._sending = intent
        self._log.info("Noted the intent to submit to model %s in %s", self.model, self._state.name)

    def _unless_failed(self, record: SubmissionRecord) -> SubmissionRecord:
        try:
            state = self.client.poll(str(record.request_id))
        except SegmindError:
            # Whoever waits for it will find out; without an answer the request counts as going on.
            return record
        if not state.failed:
            return record
        said = f"Segmind reports request {record.request_id!r} as FAILED: {state.error or 'no reason given'!r}."
        return self._submit(SubmitNew(record.resubmits, f"{said} It cost nothing: submitting a new one", record.known))

    def _resolve_unknown(self, record: SubmissionRecord, cause: SegmindError | None) -> SubmissionRecord:
        self._log.warning(unknown_message(record, "Looking for it in Segmind's request history; it is not sent again."))
        found, trouble = self._look_up(record, history.HISTORY_WAITS)
        deadline = record.intent_at + self.policies.unknown_patience
        pause = 2 * history.HISTORY_WAITS[-1]
        while found is None and self.policies.on_unknown == "wait" and self._clock() < deadline:
            self._sleep(min(pause, max(0.0, deadline - self._clock())))
            pause = min(2 * pause, history.LONGEST_WAIT)
            found, trouble = self._look_up(record, (0.0,))
        if found is not None:
            self._log.info("Found it: request %s. Going on with it, nothing is paid again", found.request_id)
            return self._write(record.accepted(found.request_id, history.submission_moment(found, record)))
        unheard = trouble is not None and history.leaves_open(trouble)
        if self.policies.on_unknown == "resubmit" and not unheard and record.resubmits < self.policies.max_resubmits:
            risk = "If that POST did arrive, it is billed as well."
            said = unknown_message(record, f"The request history does not show it. Submitting again as asked. {risk}")
            return self._submit(SubmitNew(record.resubmits + 1, said, record.former))
        raise self._unknown(record, cause, trouble) from (cause or trouble)

    def _look_up(
        self, record: SubmissionRecord, waits: tuple[float, ...]
    ) -> tuple[RequestRecord | None, SegmindError | None]:
        try:
            return self.client.drive(
                history.search(self.client.wire, record, self.inputs, now=self._clock(), waits=waits)
            ), None
        except SegmindError as trouble:
            return None, trouble

    def _unknown(
        self, record: SubmissionRecord, cause: SegmindError | None, trouble: SegmindError | None
    ) -> SegmindSubmissionUnknownError:
        if trouble is not None and trouble.billed is None:
            found = str(trouble)
        elif trouble is not None:
            found = f"The request history cannot be asked: {trouble}"
        else:
            found = "The request history does not show it (rows appear up to two hours late)."
        risk = "submits again, which pays twice if that POST did arrive"
        if trouble is not None and trouble.billed is None:
            risk = "does not submit again while that is open"
        elif self.policies.on_unknown == "resubmit" and record.resubmits >= self.policies.max_resubmits:
            risk = f"has submitted again as often as it may ({self.policies.max_resubmits} times)"
        look = f"{found} Nothing was sent again. Clear the task to look again; on_unknown='resubmit' {risk}."
        error = SegmindSubmissionUnknownError((f"{cause} " if cause else "") + unknown_message(record, look))
        # Trying the task again only looks again: the intent stays.
        error.retryable = trouble is not None and trouble.retryable
        return error

    def _write(self, record: SubmissionRecord) -> SubmissionRecord:
        try:
            Retrying(stop=stop_after_attempt(3), wait=wait_fixed(1), sleep=self._sleep, reraise=True)(
                self._state.write, record
            )
        except Exception:  # noqa: BLE001
            # The POST has been answered: going on keeps what was paid for, and the intent lets a later try find it.
            self._log.exception("Could not record request %s in %s", record.request_id, self._state.name)
        return record


def settle(
    task: SegmindRunOperator,
    context: Context,
    submission: Submission,
    record: SubmissionRecord,
    event: RequestEvent | None = None,
) -> Any:
    """
    Return what XCom carries of a request, or defer until there is something to return.

    :param record: the request of this task instance.
    :param event: how waiting in the triggerer ended, None when this worker waits itself.
    :raises SegmindError: the request ended otherwise, and no policy mends it.
    """
    if event is not None and event.request_id != record.request_id:
        # A trigger of an earlier request speaks for that one only.
        event = None
    while True:
        task.announce(context, record)
        try:
            return _outcome(task, context, submission, record, event)
        except SegmindRequestFailedError as error:
            record = submission.after_failure(record, error)
        except SegmindRequestExpiredError as error:
            if task.on_expired == "fail":
                raise
            if task.on_expired == "resubmit":
                risk = "This pays a second time: the first request may have been billed."
                record = submission.again(record, error, risk)
            else:
                try:
                    return recover_result(
                        submission.client, error, model=record.fingerprint.model, destination=task.destination
                    )
                except SegmindRequestFailedError as failed:
                    record = submission.after_failure(record, failed)
        event = None


def _outcome(
    task: SegmindRunOperator,
    context: Context,
    submission: Submission,
    record: SubmissionRecord,
    event: RequestEvent | None,
) -> Any:
    error = event.error() if event else None
    if isinstance(error, SegmindRequestError) and not error.retryable:
        raise error
    if event is not None and event.has_value:
        return _done(task, submission, record, event.value)
    value = stored_result(str(record.request_id), task.destination, record.landed)
    if value is not None:
        return value
    pending = Pending(
        request_id=str(record.request_id),
        submitted_at=record.age_from,
        end_time=record.age_from + task.timeout,
        poll_interval=task.poll_interval,
        model=record.fingerprint.model,
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
    return _done(
        task,
        submission,
        record,
        store_result(state, model=record.fingerprint.model, destination=task.destination, downloads=allowed),
    )


def _done(task: SegmindRunOperator, submission: Submission, record: SubmissionRecord, value: Any) -> Any:
    if isinstance(value, dict) and value.get("uris"):
        submission.remember(record, value)
    task.report(record, value)
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
            output_path=task.destination.output_path,
            max_xcom_bytes=task.max_xcom_bytes,
            overflow_path=task.destination.overflow_path,
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
