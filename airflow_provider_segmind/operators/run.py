"""Submit a request, wait for it and land its result in one task."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf

from airflow_provider_segmind.api.models import RequestResult
from airflow_provider_segmind.api.polling import RESULT_LIFETIME, Pending
from airflow_provider_segmind.api.submission import Note
from airflow_provider_segmind.arguments import check_choice, check_number, check_waiting
from airflow_provider_segmind.deferral import backstop, waiting_ends
from airflow_provider_segmind.exceptions import (
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindStateError,
)
from airflow_provider_segmind.failures import DEFERRAL_TIMEOUTS, task_failures
from airflow_provider_segmind.landing import MAX_XCOM_BYTES, Place, land, landed_before, recover
from airflow_provider_segmind.operators.submission import OnExpired, OnFailed, Policies, Submission
from airflow_provider_segmind.operators.submit import SegmindSubmitOperator
from airflow_provider_segmind.triggers.events import RequestEvent

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class SegmindRunOperator(SegmindSubmitOperator):
    """
    Submit a request, wait for it and land its result, in one task that holds no worker slot while it waits.

    Most language models answer within seconds: the task looks inline for ``sync_wait`` seconds first and defers only
    what takes longer.

    **XCom**: ``request_id`` under its key from the moment of submission; as return value the body of the result when
    it is small, else a manifest with ``uri``, ``status`` and ``metrics``.

    **A retry, a clear, a killed worker or triggerer** goes on with the same request; see ``docs/promises.md``.

    **Templated**: as :class:`SegmindSubmitOperator`, and ``output_path``.

    :param deferrable: wait in the triggerer; Airflow's ``[operators] default_deferrable`` when not given.
    :param sync_wait: seconds to wait inline before deferring.
    :param poll_interval: seconds between looks, None to choose.
    :param timeout: seconds after submission for which to wait.
    :param output_path: ObjectStoragePath URI of the folder (or file) for results that are large or media; the body is
        landed there the moment it is complete.
    :param max_xcom_bytes: bytes of JSON up to which the result is the XCom value.
    :param on_failed: Segmind reports FAILED, which costs nothing: ``fail``, or ``resubmit``.
    :param on_expired: the result is gone: ``recover`` from the request history, ``resubmit`` (pays twice), or ``fail``.
    :param max_resubmits: how often ``on_failed`` and ``on_expired`` may submit again.
    """

    template_fields: Sequence[str] = (*SegmindSubmitOperator.template_fields, "output_path")

    def __init__(
        self,
        *,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        sync_wait: float = 10.0,
        poll_interval: float | None = None,
        timeout: float = RESULT_LIFETIME,
        output_path: str | None = None,
        max_xcom_bytes: int = MAX_XCOM_BYTES,
        on_failed: OnFailed = "fail",
        on_expired: OnExpired = "recover",
        max_resubmits: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_waiting(sync_wait=sync_wait, poll_interval=poll_interval, timeout=timeout)
        check_number("max_xcom_bytes", max_xcom_bytes, zero=True)
        check_choice("on_failed", on_failed, OnFailed)
        check_choice("on_expired", on_expired, OnExpired)
        check_number("max_resubmits", max_resubmits, zero=True)
        self.deferrable = deferrable
        self.sync_wait = sync_wait
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.output_path = output_path
        self.max_xcom_bytes = max_xcom_bytes
        self.on_failed = on_failed
        self.on_expired = on_expired
        self.max_resubmits = max_resubmits

    @property
    def policies(self) -> Policies:
        """Return what to do where the safe answer is not the only one."""
        return Policies(
            on_stale=self.on_stale,
            on_unknown=self.on_unknown,
            on_failed=self.on_failed,
            on_expired=self.on_expired,
            max_resubmits=self.max_resubmits,
            unknown_patience=self.timeout,
        )

    @property
    def place(self) -> Place:
        """Return where the result goes."""
        return Place(self.output_path, self.max_xcom_bytes)

    def execute(self, context: Context) -> Any:
        """Submit, wait a little, and return the result or defer."""
        with task_failures():
            submission = self._submission(context)
            return self._settle(context, submission, submission.begin(), None)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """Go on where the trigger woke the task; without an event, look for ourselves."""
        with task_failures():
            read = None if event is None else RequestEvent.read(event)
            submission = self._submission(context)
            note = submission.current()
            if note is None:
                raise SegmindStateError(
                    f"The note of request {read.request_id if read else 'unknown'!r} is gone while the task was "
                    "deferred. The request goes on and may be billed; nothing was submitted again."
                )
            return self._settle(context, submission, note, read)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Look once more when Airflow ended the deferral because no trigger spoke: the result may be there."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except DEFERRAL_TIMEOUTS:
            self.log.warning("No triggerer reported before the deadline; looking for ourselves")
        return self.execute_complete(context)

    def _settle(self, context: Context, submission: Submission, note: Note, event: RequestEvent | None) -> Any:
        while True:
            self._announce(context, note)
            try:
                return self._outcome(context, submission, note, event)
            except SegmindRequestFailedError as error:
                note = submission.after_failure(note, error)
            except SegmindRequestExpiredError as error:
                if self.on_expired == "fail":
                    raise
                if self.on_expired == "recover":
                    return recover(submission.client, error, model=note.fingerprint.model, place=self.place)
                note = submission.again(note, error, "This pays a second time: the first request may have been billed.")
            event = None

    def _outcome(self, context: Context, submission: Submission, note: Note, event: RequestEvent | None) -> Any:
        error = event.error() if event else None
        if error is not None:
            raise error
        if event is not None and event.has_value:
            return self._done(submission, note, event.value)
        body = landed_before(str(note.request_id), self.place, note.landed)
        if body is not None:
            return body
        pending = self._pending(note)
        until = time.time() + self.sync_wait if self.deferrable else None
        state = submission.client.wait(pending, fetch=True, until=until, report=self.log.warning)
        if not isinstance(state, RequestResult):
            return self._defer(context, pending)
        return self._done(submission, note, land(state, model=note.fingerprint.model, place=self.place))

    def _done(self, submission: Submission, note: Note, value: Any) -> Any:
        if isinstance(value, dict) and value.get("uris"):
            submission.remember(note, value)
        self.log.info("%s", summary(note, value))
        return value

    def _pending(self, note: Note) -> Pending:
        return Pending(
            request_id=str(note.request_id),
            submitted_at=note.age_from,
            end_time=note.age_from + self.timeout,
            poll_interval=self.poll_interval,
            model=note.fingerprint.model,
        )

    def _defer(self, context: Context, pending: Pending) -> None:
        from airflow_provider_segmind.triggers.request import SegmindRequestTrigger, earliest_event

        now = time.time()
        end = waiting_ends(pending, context, self.execution_timeout)
        self.log.info("Request %s goes on; waiting for it in the triggerer", pending.request_id)
        self.defer(
            trigger=SegmindRequestTrigger(
                request_id=pending.request_id,
                segmind_conn_id=self.segmind_conn_id,
                submitted_at=pending.submitted_at,
                end_time=end,
                poll_interval=pending.poll_interval,
                model=pending.model,
                fetch=True,
                output_path=self.output_path,
                max_xcom_bytes=self.max_xcom_bytes,
                not_before=earliest_event(now),
            ),
            method_name="execute_complete",
            timeout=backstop(end, now),
        )


def summary(note: Note, value: Any) -> str:
    """Say in one line how a request ended: cost as billed and times, as far as Segmind told."""
    metrics = value.get("metrics") if isinstance(value, dict) else None
    told = metrics if isinstance(metrics, dict) else {}
    parts = [
        f"{label} {told[name]}{unit}"
        for name, label, unit in (
            ("cost", "cost", " USD"),
            ("total_time", "total", " s"),
            ("queue_time", "queued", " s"),
            ("inference_time", "inference", " s"),
        )
        if told.get(name) is not None
    ]
    return f"Request {note.request_id} (model {note.fingerprint.model}) completed" + (
        f": {', '.join(parts)}" if parts else ""
    )
