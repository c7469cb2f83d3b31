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

from airflow_provider_segmind.answer_cache import WHOLE_RESULT, Answer, AnswerCache, question_fingerprint
from airflow_provider_segmind.budget.guard import BudgetGuard
from airflow_provider_segmind.budget.store import Reservation
from airflow_provider_segmind.chat.replies import TokenUsage
from airflow_provider_segmind.client import request_history as history
from airflow_provider_segmind.client.client import SegmindClient
from airflow_provider_segmind.client.downloads import Downloads
from airflow_provider_segmind.client.models import Metrics, RequestRecord, RequestResult
from airflow_provider_segmind.client.poll_schedule import Pending
from airflow_provider_segmind.client.retry import DEFAULT_LIMITS, retrying
from airflow_provider_segmind.client.submission import (
    Attach,
    Fingerprint,
    LookUp,
    SubmissionRecord,
    SubmitNew,
    decide_submission,
    filled_in,
    given_up_message,
    iso,
    unknown_message,
)
from airflow_provider_segmind.defaults import (
    DEFAULT_CONNECTION,
    MAX_XCOM_BYTES,
    RESULT_LIFETIME,
    SYNC_WAIT,
    OnBudget,
    OnExpired,
    OnFailed,
    OnStale,
    OnUnknown,
)
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.exceptions import (
    SegmindBudgetError,
    SegmindError,
    SegmindInFlightError,
    SegmindPausedError,
    SegmindRequestError,
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindRequestTimeoutError,
    SegmindStateError,
    SegmindSubmissionUnknownError,
    after_sending,
)
from airflow_provider_segmind.execution.answers import lasting_result, recalled_result
from airflow_provider_segmind.execution.result import summary, tokens_of
from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.pausing import CHECK_INTERVAL
from airflow_provider_segmind.result_storage import (
    ResultDestination,
    StoredResult,
    check_destination,
    recover_result,
    store_result,
    stored_result,
)
from airflow_provider_segmind.spend.recorder import SpendRecorder
from airflow_provider_segmind.task_state import TaskState
from airflow_provider_segmind.telemetry.requests import RequestTelemetry
from airflow_provider_segmind.triggers.events import RequestEvent
from airflow_provider_segmind.triggers.request import defer_again_from, defer_request
from airflow_provider_segmind.triggers.spending import defer_for_slot, defer_until_reset, defer_while_paused

XComPush = Callable[..., Any]
"""Airflow's ``xcom_push`` of the task instance."""
Defer = Callable[..., NoReturn]
"""Airflow's ``defer`` of the operator."""
MAX_RESUBMITS = 2
"""How many times a policy may submit again for one task instance."""
SLOT_PAUSE = 5.0
"""Seconds, on average, between two attempts to get a slot of the Connection's ``max_paid_in_flight``."""
RETURN_PATIENCE = 300.0
"""Seconds for which a worker waits for what other requests have reserved in a budget; then a retry tries again."""


class AnsweredMeanwhileError(Exception):
    """
    Another task stored the answer before this one submitted again; that answer is the result.

    This is not a failure: it ends the code that was about to pay.
    """

    def __init__(self, stored: StoredResult) -> None:
        super().__init__("Another task has stored the answer.")
        self.stored = stored


def push_nothing(key: str, value: Any) -> None:
    """The ``xcom_push`` of a task whose ``do_xcom_push`` is off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings:
    """
    What to run and how to wait; every default of a policy avoids paying twice.

    :param destination: where the result goes.
    :param answer_destination: where the caller stores what it reads from the result, None if nowhere.
    :param max_event_bytes: bytes of JSON up to which a trigger's event carries the result.
    :param sync_wait: seconds to wait inline before deferring.
    :param timeout: seconds after the submission for which to wait, and after the intent for which
        ``on_unknown="wait"`` searches the request history.
    :param deadline: epoch second at which the task must have ended.
    :param on_stale: the task changed since it submitted.
    :param on_unknown: the outcome of a POST is unknown and the history does not show it.
    :param on_failed: Segmind reports FAILED, which costs nothing.
    :param on_expired: the result is gone.
    :param spend: records finished requests, None without a spend record.
    :param budget: reserves what each request may cost and settles it, None where nothing can limit it.
    :param on_budget: a budget has no room; ``defer`` waits until its next day or month begins.
    :param telemetry: metrics and spans of the requests, None for neither.
    :param answers: the answer cache, None for a task that asks without it.
    """

    model: str
    segmind_conn_id: str = DEFAULT_CONNECTION
    destination: ResultDestination = field(default_factory=ResultDestination)
    answer_destination: ResultDestination | None = None
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
    spend: SpendRecorder | None = None
    budget: BudgetGuard | None = None
    on_budget: OnBudget = "fail"
    telemetry: RequestTelemetry | None = None
    answers: AnswerCache | None = None


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
    :param recall: returns the task's result from the answer cache, None where it has none; by default the whole
        result of the request.
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
        recall: Callable[[], StoredResult | None] | None = None,
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
        self._recall = recall or self._recalled
        self._looks_again = False
        self._clock = clock
        self._sleep = sleep
        self._record: SubmissionRecord | None = None
        self._reservation: Reservation | None = None
        self.cost: float | None = None
        """USD billed for the result, None if unknown."""
        self.reused: Answer | None = None
        """The cached answer that this try returns, None if the try has a request of its own."""

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

    @property
    def spend(self) -> SpendRecorder | None:
        """What records the request when it has finished, None without a spend record."""
        return self._settings.spend

    def start(self) -> StoredResult:
        """
        Submit, or attach to the request of an earlier try; return its result or defer.

        :raises SegmindError: see :meth:`submit` and :meth:`finish`.
        """
        stored = self._recall()
        if stored is not None:
            return stored
        try:
            self.submit()
            return self._kept(self._summarised(self.finish()))
        except AnsweredMeanwhileError as answered:
            return answered.stored

    def resume(self, event: RequestEvent | None) -> StoredResult:
        """
        Continue after a deferral.

        :param event: how waiting in the triggerer ended, None when this worker is to poll.
        :raises SegmindError: see :meth:`reattach` and :meth:`finish`.
        """
        self.reattach(event.request_id if event else None)
        try:
            return self._kept(self._summarised(self.finish(event)))
        except AnsweredMeanwhileError as answered:
            return answered.stored

    def _summarised(self, stored: StoredResult) -> StoredResult:
        self.cost = stored.metrics.get("cost")
        self._log.info("%s", summary(self.record.request_id, self._model, stored))
        settings = self._settings
        if not (settings.spend is None and settings.budget is None and settings.telemetry is None):
            self.finished(Outcome.SUCCESS, metrics=stored.metrics, usage=tokens_of(stored, self._model))
        return stored

    def finished(
        self,
        outcome: Outcome,
        *,
        metrics: Mapping[str, Any] | None = None,
        cost: float | None = None,
        usage: TokenUsage | None = None,
        finish_reason: str | None = None,
    ) -> None:
        """
        Record in the spend record, metrics and traces that the request has ended.

        :param metrics: as Segmind reported them; their cost precedes ``cost``.
        """
        usage = usage or TokenUsage()
        self.record_spend(outcome, metrics=metrics, cost=cost, tokens=usage.total_tokens)
        if self._settings.telemetry is None:
            return
        billed = Metrics.model_validate(metrics or {}).cost
        self._settings.telemetry.finished(
            model=self._model,
            began=self.record.age_from,
            tokens=usage.total_tokens,
            cost=cost if billed is None else billed,
            request_id=self.request_id,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            finish_reason=finish_reason,
            error=None if outcome is Outcome.SUCCESS else str(outcome),
        )

    def record_spend(
        self, outcome: Outcome, *, metrics: Mapping[str, Any] | None = None, cost: float | None = None, **known: Any
    ) -> None:
        """Settle the request in its budgets, and add it to the spend record, if there are any."""
        known |= {"metrics": metrics, "cost": cost}
        if self._settings.budget is not None:
            billed = Metrics.model_validate(metrics or {}).cost
            self._settings.budget.settled(str(self.record.request_id), cost if billed is None else billed)
        if self._settings.spend is not None:
            self._settings.spend.record(
                str(self.record.request_id), outcome, model=self._model, submitted_at=self.record.age_from, **known
            )

    # Answers that were paid for before.

    def known_answer(self, *, schema: Any = None, options: Any = None) -> Answer | None:
        """
        Return the cached answer, if this try would otherwise submit its first request.

        A request of an earlier try comes first: it is paid for, and may be in flight.

        :param schema: as in :func:`~airflow_provider_segmind.answer_cache.question_fingerprint`.
        :raises SegmindStateError: the answer cache cannot be read; nothing was sent.
        """
        answers = self._settings.answers
        if answers is None or not isinstance(self._decision, SubmitNew):
            return None
        return answers.find(question_fingerprint(self._settings.model, self._inputs, schema=schema, options=options))

    def reuse(self, answer: Answer) -> None:
        """Record in the log, in XCom and in the spend record that an answer was paid for before."""
        self.reused, self.cost = answer, 0.0
        self._log.info(
            "Reusing the answer to request %s (model %s, submitted %s, cost %s): nothing is submitted or paid",
            *(answer.request_id, answer.model, iso(answer.at), format_usd(answer.cost)),
        )
        for key, value in (("request_id", answer.request_id), ("reused", True), ("cost", 0.0)):
            self._xcom_push(key=key, value=value)
        if self._settings.spend is not None:
            self._settings.spend.record(answer.request_id, Outcome.SUCCESS, model=answer.model, reused=True)

    def keep_answer(self, answer: Callable[[bytes], Answer | str], *, schema: Any = None, options: Any = None) -> None:
        """
        Keep an answer in the answer cache, if the task uses it; never raises, because the answer is paid for.

        :param answer: makes it from the fingerprint of the question, or says why it is not kept.
        """
        if self._settings.answers is None:
            return
        try:
            if changes := self._fingerprint.changes_from(self.record.fingerprint):
                # The task was changed while it was deferred, so this is not the answer to what it asks now.
                self._log.info("The answer is not kept for reuse: the task's %s changed", " and ".join(changes))
                return
            question = question_fingerprint(self._model, self._inputs, schema=schema, options=options)
            found = answer(question)
            if isinstance(found, str):
                self._log.info("The result of request %s is not kept for reuse: %s", self.request_id, found)
            else:
                self._settings.answers.keep(found)
        except Exception as error:  # noqa: BLE001 - stores raise errors of their own
            self._log.warning(
                "The answer to request %s could not be kept for reuse (%s): the same request will be paid for again",
                *(self.request_id, type(error).__name__),
            )

    def _recalled(self) -> StoredResult | None:
        answer = self.known_answer(options=WHOLE_RESULT)
        found = None if answer is None else recalled_result(answer, self._settings.destination)
        if answer is None or found is None:
            return None
        if isinstance(found, RequestResult):
            found = store_result(found, model=answer.model, destination=self._settings.destination)
        self.reuse(answer)
        return found

    def _kept(self, stored: StoredResult) -> StoredResult:
        self.keep_answer(lambda question: self._answer(question, stored), options=WHOLE_RESULT)
        return stored

    def _answer(self, question: bytes, stored: StoredResult) -> Answer | str:
        request_id = str(self.request_id)
        lasting = lasting_result(stored, request_id, self._model)
        if isinstance(lasting, str):
            return lasting
        return Answer(
            fingerprint=question,
            model=self._model,
            at=self.record.age_from,
            request_id=request_id,
            cost=self.cost,
            body=lasting[0],
            manifest=lasting[1],
        )

    # Submit once.

    def submit(self, *, replace_failed: bool = False) -> SubmissionRecord:
        """
        Return the record of a request that Segmind has accepted: that of an earlier try, else a new one.

        :param replace_failed: poll whether the request of an earlier try has FAILED, which cost nothing, and submit a
            new one then; for a task that does not wait for its request and so never learns of it.
        :raises SegmindSubmissionUnknownError: a POST may have arrived and its outcome is unknown; nothing more was
            sent.
        :raises SegmindError: it was refused; nothing was billed.
        :raises AnsweredMeanwhileError: another task has stored the answer since this one looked for it.
        """
        decision = self._decision
        if isinstance(decision, Attach):
            self._record = decision.record
            self._note_found()
            self._log.info(
                "An earlier try submitted request %s at %s: continuing with it, nothing is submitted or paid for again "
                "(recorded in %s)",
                decision.record.request_id,
                iso(decision.record.intent_at),
                self._state.name,
            )
            if replace_failed:
                self._replace_if_failed()
        elif isinstance(decision, LookUp):
            self._look_up(decision.record)
        else:
            self._submit_new(decision)
        return self.record

    def reattach(self, request_id: str | None = None) -> SubmissionRecord:
        """
        Return the record of a deferred task that resumes; nothing is ever submitted here.

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
        self._note_found()
        return record

    def _note_found(self) -> None:
        """Tell the budgets which reservation belongs to the request, and log what else may be billed."""
        if self.record.given_up:
            self._log.warning("%s", given_up_message(self.record.given_up))
        if self._settings.budget is not None:
            self._settings.budget.found(str(self.record.request_id), self.record.reservation)

    @cached_property
    def _decision(self) -> SubmitNew | Attach | LookUp:
        return decide_submission(self._state.read(), self._fingerprint, self._settings.on_stale)

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

    def _submit_again(self, decision: SubmitNew, ended: str) -> None:
        """
        Submit in place of an earlier request, unless another task has stored the answer since.

        :param ended: how that request ended, for the log.
        """
        self._decision = decision
        self._looks_again = True
        try:
            self._use_stored_answer()
        except AnsweredMeanwhileError:
            self._log.warning("%s Another task has stored the answer since; it is not submitted again", ended)
            raise
        self._submit_new(decision)

    def _use_stored_answer(self) -> None:
        """
        Look once more for the answer, if time has passed since this try looked for it.

        :raises AnsweredMeanwhileError: it is there.
        :raises SegmindStateError: the answer cache cannot be read; nothing was sent.
        """
        looks, self._looks_again = self._looks_again, False
        stored = self._recall() if looks else None
        if stored is not None:
            raise AnsweredMeanwhileError(stored)

    def _submit_new(self, decision: SubmitNew) -> None:
        if decision.warning:
            self._log.warning(decision.warning)
        if self._state.warning and self._spent_before is None:
            self._log.warning(self._state.warning)
        for destination in (self._settings.destination, self._settings.answer_destination):
            if destination is not None:
                check_destination(destination)
        body = self._body
        new = SubmissionRecord(
            self._fingerprint,
            intent_at=self._clock(),
            resubmits=decision.resubmits,
            previous_ids=decision.previous_ids,
            given_up=decision.given_up,
            spent_before=self._spent_before,
            filled_in={} if body is self._inputs else filled_in(self._inputs, body),
        )
        attempts = retrying(DEFAULT_LIMITS, sleep=self._sleep, rng=random.Random())
        while True:
            self._reservation = self._reserve(body)
            try:
                self._record = self._write(attempts(self._post, new, body))
            except SegmindPausedError as error:
                self._return_reservation()
                self._wait_while_paused(error)
                self._looks_again = True
                continue
            except SegmindError as error:
                if error.billed is not None:
                    self._return_reservation()
                    if decision.given_up:
                        after_sending(error, "a POST before it, whose outcome is unknown, may be billed")
                    raise
                self._resolve_unknown(self._sending, error)
                return
            if self._settings.budget is not None:
                self._settings.budget.accepted(self._reservation, str(self.record.request_id))
            return

    def _reserve(self, body: Mapping[str, Any]) -> Reservation | None:
        """
        Reserve what the request may cost, or wait until it can be; another task may store the answer meanwhile.

        :raises SegmindBudgetError: a budget is used up, and the task does not wait for its next window; or what others
            have reserved was not returned for a while, and a retry tries again.
        """
        budget = self._settings.budget
        waits_since: float | None = None
        while True:
            self._use_stored_answer()
            if budget is None:
                return None
            try:
                return budget.reserve(self._settings.model, body, self._fingerprint.inputs)
            except SegmindBudgetError as error:
                if error.ask_again_in is None:
                    waits_since = None
                    self._wait_for_next_window(error)
                else:
                    waits_since = self._clock() if waits_since is None else waits_since
                    self._wait_for_others(error, error.ask_again_in, waits_since + RETURN_PATIENCE)
            except SegmindInFlightError as error:
                # While it waits for a slot it could not reserve anyway, so this time does not count.
                waits_since = None
                self._wait_for_slot(error)
            self._looks_again = True

    @property
    def _may_leave_the_worker(self) -> bool:
        """
        Whether every paid reply is also kept elsewhere; the reply before a follow-up is only in memory unless it was
        stored.
        """
        return self._spent_before is None or self._settings.destination.folder is not None

    def _wait_for_next_window(self, error: SegmindBudgetError) -> None:
        resets_at, now = error.resets_at, self._clock()
        latest = self._settings.deadline
        if not self._may_leave_the_worker:
            latest = min(latest, now + RESULT_LIFETIME / 2)
        if self._settings.on_budget != "defer" or resets_at is None or resets_at >= latest:
            raise error
        if self._may_leave_the_worker:
            self._log.warning("%s Deferring until %s", error, iso(resets_at))
            defer_until_reset(self._defer, resets_at=resets_at, method_name="execute_after_pause")
        self._log.warning("%s Waiting until %s", error, iso(resets_at))
        self._sleep(max(0.0, resets_at - now))

    def _wait_for_others(self, error: SegmindBudgetError, pause: float, give_up_at: float) -> None:
        """Wait a while for what other requests have reserved."""
        settings, now = self._settings, self._clock()
        if now >= min(give_up_at, settings.deadline):
            raise error
        if (settings.deferrable or settings.on_budget == "defer") and self._may_leave_the_worker:
            self._log.info("%s Deferring for about %.0f s", error, pause)
            until = min(now + pause, settings.deadline, error.resets_at or math.inf)
            defer_until_reset(self._defer, resets_at=until, method_name="execute_after_pause")
        self._log.info("%s Waiting", error)
        self._sleep(min(pause * (0.5 + random.random()), max(0.0, min(give_up_at, settings.deadline) - now)))

    def _wait_for_slot(self, error: SegmindInFlightError) -> None:
        settings = self._settings
        if self._clock() >= settings.deadline:
            raise error
        if settings.deferrable and self._may_leave_the_worker:
            self._log.info("%s Deferring until a slot is free", error)
            defer_for_slot(
                self._defer,
                segmind_conn_id=settings.segmind_conn_id,
                until=settings.deadline,
                method_name="execute_after_pause",
            )
        self._log.info("%s Waiting", error)
        self._sleep(min(SLOT_PAUSE * (0.5 + random.random()), max(0.0, settings.deadline - self._clock())))

    def _return_reservation(self) -> None:
        if self._settings.budget is not None:
            self._settings.budget.unsent(self._reservation)

    def _wait_while_paused(self, error: SegmindPausedError) -> None:
        """
        Return when spending is allowed again, or defer until it is; then the task begins again.

        A follow-up whose reply before it is not stored waits on its worker, however long: Segmind drops it after an
        hour.

        :raises SegmindPausedError: it was paused for as long as the task may take.
        """
        deadline = self._settings.deadline
        if self._clock() >= deadline:
            raise error
        defers = self._settings.deferrable and self._may_leave_the_worker
        self._log.warning("%s %s", error, "Deferring" if defers else "Waiting")
        if defers:
            defer_while_paused(self._defer, until=deadline, method_name="execute_after_pause")
        while True:
            self._sleep(min(CHECK_INTERVAL, max(0.0, deadline - self._clock())))
            try:
                self._client.may_spend()
            except SegmindPausedError:
                if self._clock() >= deadline:
                    raise
            else:
                self._log.info("Spending is allowed again")
                return

    def _post(self, new: SubmissionRecord, body: Mapping[str, Any]) -> SubmissionRecord:
        """
        Send the POST once, between two writes of the record: the intent, and that it was accepted.

        A worker that dies between two attempts leaves a record that says nothing was created, so the next try need not
        search the history; only a worker that dies during the POST leaves an intent without an id.
        """
        self._sending = new
        try:
            accepted = self._client.submit_once(self._settings.model, body, on_permit=lambda: self._record_intent(new))
        except SegmindError as error:
            if error.billed is not None and self._sending is not new:
                self._write(self._sending.ended("refused"))
            raise
        if self._settings.telemetry is not None:
            self._settings.telemetry.accepted()
        self._log.info("Submitted request %s to model %s", accepted.request_id, self._settings.model)
        return self._sending.accepted(accepted.request_id, self._sending.intent_at)

    def _record_intent(self, new: SubmissionRecord) -> None:
        reserved = None if self._reservation is None else self._reservation.id
        intent = replace(new, intent_at=self._clock(), reservation=reserved)
        try:
            self._state.write(intent)
        except Exception:
            # Nothing was sent. If a store has the intent all the same, the next try must not take it for a sent
            # request.
            with contextlib.suppress(Exception):
                self._state.write(intent.ended("refused"))
            raise
        try:
            if self._settings.budget is not None:
                self._settings.budget.sending(self._reservation)
        except Exception:
            with contextlib.suppress(Exception):
                # A later try may have taken the reservation over, and may have recorded its own request since.
                if self._state.read() == intent:
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
            self.finished(Outcome.FAILED, cost=0.0)
            reason = state.error or "no reason given"
            failed = f"Segmind reports request {self.record.request_id!r} as FAILED: {reason!r}."
            warning = f"{failed} It was not billed: submitting a new request"
            self._submit_new(SubmitNew.after(self.record, warning=warning))

    # A POST whose outcome is unknown.

    def _look_up(self, record: SubmissionRecord) -> None:
        budget = self._settings.budget
        if budget is not None and budget.never_sent(record.reservation):
            self._log.info(
                "An earlier try was killed before it sent the request that it had recorded at %s: submitting it now",
                iso(record.intent_at),
            )
            self._submit_new(SubmitNew.after(self._write(record.ended("refused"))))
        else:
            self._resolve_unknown(record, None)

    def _resolve_unknown(self, record: SubmissionRecord, cause: SegmindError | None) -> None:
        settings = self._settings
        self._log.warning(
            unknown_message(record, "Searching Segmind's request history; the request is not sent again.")
        )
        found, failure = self._search_history(record, history.HISTORY_WAITS)
        deadline = record.intent_at + settings.timeout
        pause = 2 * history.HISTORY_WAITS[-1]
        while found is None and settings.on_unknown == "wait" and self._clock() < deadline:
            self._sleep(min(pause, max(0.0, deadline - self._clock())))
            pause = min(2 * pause, history.LONGEST_WAIT)
            found, failure = self._search_history(record, (0.0,))
        if found is not None:
            self._log.info(
                "Found request %s in the request history. Continuing with it; nothing is paid for again",
                found.request_id,
            )
            self._record = self._write(record.accepted(found.request_id, history.submission_time(found, record)))
            self._note_found()
            return
        undecided = failure is not None and history.leaves_open(failure)
        if settings.on_unknown != "resubmit" or undecided or record.resubmits >= MAX_RESUBMITS:
            raise self._unknown(record, cause, failure) from (cause or failure)
        shown = "The request history does not show it" if failure is None else "There is no request history"
        warning = unknown_message(
            record,
            f"{shown}. Submitting again because of on_unknown='resubmit'; if the lost POST did arrive, it is billed as "
            "well.",
        )
        ended = unknown_message(record, f"{shown}; if it did arrive, it is billed.")
        self._submit_again(SubmitNew.after(record, resubmits=record.resubmits + 1, warning=warning), ended)

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
        risk = "submits again, which pays twice if the lost POST did arrive"
        if failure is None:
            found = "The request history does not show it (rows appear up to two hours late)."
        elif failure.billed is not None:
            found = f"The request history cannot be read: {failure}"
        else:
            found = str(failure)
        if failure is not None and history.leaves_open(failure):
            risk = "does not submit again while that is undecided"
        elif self._settings.on_unknown == "resubmit" and record.resubmits >= MAX_RESUBMITS:
            risk = f"has submitted again {MAX_RESUBMITS} times already"
        next_step = f"Nothing was sent again. Clear the task to search again; on_unknown='resubmit' {risk}."
        earlier = f" {given_up_message(record.given_up)}" if record.given_up else ""
        message = unknown_message(record, f"{found} {next_step}{earlier}")
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
        :raises AnsweredMeanwhileError: it did, and another task has stored the answer.
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
                try:
                    return self._after_expiry(error)
                except SegmindRequestFailedError as failed:
                    self.after_failure(failed)
                except SegmindRequestExpiredError as lost:
                    if not lost.retryable:
                        self.finished(Outcome.FAILED, cost=lost.cost)
                    if self._settings.on_expired != "resubmit":
                        raise
                    self.submit_again(error, "This pays a second time: the first request may have been billed.")
            event = None

    def _after_expiry(self, error: SegmindRequestExpiredError) -> StoredResult:
        if self._settings.on_expired != "recover":
            raise error
        return recover_result(self._client, error, model=self._model, destination=self._settings.destination)

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
        again_from = None
        if isinstance(error, SegmindRequestTimeoutError):
            self._log.warning("%s Polling once from the worker", error)
            until = 0.0
        elif event is not None and error is not None:
            # The triggerer could not poll, but this worker may be able to; the request is paid for.
            pending = replace(pending, end_time=min(pending.end_time, settings.deadline))
            again_from = defer_again_from(event, pending, self._clock()) if settings.deferrable else None
            until = None if again_from is None else 0.0
            self._log.warning(
                "%s %s", error, "Waiting on this worker instead" if until is None else "Polling once from this worker"
            )
        state = self._client.wait(pending, fetch=True, until=until, report=self._log.warning)
        if isinstance(state, RequestResult):
            allowed = Downloads.of(self._client.config)
            return self._done(
                store_result(state, model=self._model, destination=settings.destination, downloads=allowed)
            )
        if error is not None and again_from is None:
            raise error
        return defer_request(
            pending,
            replace(settings.destination, max_xcom_bytes=settings.max_event_bytes),
            segmind_conn_id=settings.segmind_conn_id,
            deadline=settings.deadline,
            defer=self._defer,
            log=self._log,
            fetch=True,
            poll_from=again_from or 0.0,
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
        self.finished(Outcome.FAILED, cost=error.cost)
        self._record = self._write(self.record.ended("failed"))
        if self._settings.on_failed == "fail":
            raise error
        self.submit_again(error, "It cost nothing.")

    def submit_again(self, error: SegmindRequestError, cost: str) -> None:
        """
        Submit again because a policy says so.

        :raises SegmindRequestError: ``error``, when the policy has been used up.
        :raises AnsweredMeanwhileError: another task has stored the answer.
        """
        if self.record.resubmits >= MAX_RESUBMITS:
            self._log.error("Not submitting again: the task has done so %d times already", MAX_RESUBMITS)
            raise error
        warning = f"{error} Submitting again because of the task's policy. {cost}"
        decision = SubmitNew.after(self.record, resubmits=self.record.resubmits + 1, warning=warning)
        self._submit_again(decision, str(error))
