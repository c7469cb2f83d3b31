"""Wait for a request that another task submitted."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_segmind.arguments import (
    check_choice,
    check_flag,
    check_path,
    check_request_id,
    check_waiting,
    is_given_later,
    path_or_none,
)
from airflow_provider_segmind.compat import BaseSensorOperator, PokeReturnValue, conf
from airflow_provider_segmind.defaults import DEFAULT_CONNECTION, RESULT_LIFETIME, SYNC_WAIT, OnExpiredFree
from airflow_provider_segmind.deferral import deadline_of_task, timed_out, warn_not_cancelled
from airflow_provider_segmind.exceptions import SegmindRequestError, SegmindRequestExpiredError
from airflow_provider_segmind.rendering import TemplatedOperator

if TYPE_CHECKING:
    from airflow_provider_segmind.client.polling import Pending
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.hooks.segmind import SegmindHook
    from airflow_provider_segmind.result_storage import ResultDestination, StoredResult


class SegmindRequestSensor(TemplatedOperator, BaseSensorOperator):
    """
    Wait for a request to complete.

    In deferrable mode it polls inline for ``sync_wait`` seconds, then waits in the triggerer without a worker slot.
    In poke and reschedule mode it behaves like any sensor. Polling is free; brief failures of Segmind or the network
    cost nothing but time.

    **XCom**: ``{"request_id", "model", "status", "submitted_at", "metrics"}``, which
    :class:`~airflow_provider_segmind.operators.request.SegmindResultOperator` takes as its ``request_id``.

    **A retry** polls the same request again; its deadline does not move. As with any sensor of Airflow, one that times
    out is not retried.

    **Templated**: ``request_id``, ``submitted_at``, ``segmind_conn_id``, ``output_path``.

    :param request_id: the id, or the output of a submit task.
    :param submitted_at: when it was submitted, ISO 8601 or epoch seconds; known from a submit task's output, else the
        first poll counts as submission.
    :param segmind_conn_id: the Connection.
    :param poll_interval: seconds between polls, None to choose; the ``poke_interval`` of the other modes.
    :param timeout: seconds after submission for which to wait.
    :param sync_wait: seconds to poll inline before deferring; a finished request is never deferred.
    :param deferrable: wait in the triggerer; Airflow's ``[operators] default_deferrable`` when not given.
    :param output_path: ObjectStoragePath URI of the folder (or file) where the body is stored as soon as it is
        complete.
    :param on_expired: the result is gone: ``recover`` what the request history has, or ``fail``.
    :raises AirflowFailException: the request failed, or its result is gone for good.
    :raises AirflowSensorTimeout: the deadline passed; the request continues and may be billed.
    """

    template_fields: Sequence[str] = ("request_id", "submitted_at", "segmind_conn_id", "output_path")
    late_fields: ClassVar[Sequence[str]] = ("poll_interval", "timeout", "sync_wait", "deferrable", "on_expired")
    ui_color = "#e3f1ff"

    def __init__(
        self,
        *,
        request_id: Any,
        submitted_at: Any = None,
        segmind_conn_id: str = DEFAULT_CONNECTION,
        poll_interval: float | None = None,
        timeout: float = RESULT_LIFETIME,
        sync_wait: float = SYNC_WAIT,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        output_path: str | os.PathLike[str] | None = None,
        on_expired: OnExpiredFree = "recover",
        **kwargs: Any,
    ) -> None:
        check_waiting(sync_wait=sync_wait, poll_interval=poll_interval, timeout=timeout)
        check_request_id(request_id)
        # Airflow's own check takes numbers only; what is given later follows in check_arguments().
        known = None if is_given_later(poll_interval) else poll_interval
        kwargs.setdefault("poke_interval", 10.0 if known is None else known)
        super().__init__(timeout=RESULT_LIFETIME if is_given_later(timeout) else timeout, **kwargs)
        self.timeout = timeout
        self.request_id = request_id
        self.submitted_at = submitted_at
        self.segmind_conn_id = segmind_conn_id
        self.poll_interval = poll_interval
        self.sync_wait = sync_wait
        self.deferrable = deferrable
        self.output_path = output_path
        self.on_expired = on_expired
        SegmindRequestSensor.check_arguments(self)
        self.find_late_fields()

    def check_arguments(self) -> None:
        """Check the arguments that have a range or a choice."""
        check_path("output_path", self.output_path, none=True)
        check_waiting(sync_wait=self.sync_wait, poll_interval=self.poll_interval, timeout=self.timeout)
        check_choice("on_expired", self.on_expired, OnExpiredFree)
        check_flag("deferrable", self.deferrable)

    def finish_rendering(self) -> None:
        """Poke at the ``poll_interval`` where it was given later."""
        if "poll_interval" in self.template_fields and isinstance(self.poll_interval, int | float):
            self.poke_interval = self.poll_interval

    @cached_property
    def hook(self) -> SegmindHook:
        """Return the hook of the connection."""
        from airflow_provider_segmind.hooks.segmind import SegmindHook

        return SegmindHook(self.segmind_conn_id)

    @cached_property
    def pending(self) -> Pending:
        """The request to wait for; a bare id counts as submitted when it is first polled."""
        from airflow_provider_segmind.client.polling import Pending
        from airflow_provider_segmind.client.submission import RequestRef

        ref = RequestRef.read(self.request_id, self.submitted_at)
        submitted_at = time.time() if ref.submitted_at is None else ref.submitted_at
        return Pending(ref.request_id, submitted_at, submitted_at + self.timeout, self.poll_interval, ref.model)

    def execute(self, context: Context) -> Any:
        """Wait, here or in the triggerer."""
        if not self.deferrable:
            return super().execute(context)
        with self._failures():
            self.check_rendered()
            return self._poll_then_defer(context)

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Poll once."""
        with self._failures():
            self.check_rendered()
            found = self._poll(self.pending, until=0.0)
            return False if found is None else PokeReturnValue(is_done=True, xcom_value=found)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """Continue after a deferral; without an event, poll from the worker."""
        from airflow_provider_segmind.triggers.events import RequestEvent

        with self._failures():
            self.check_rendered()
            self.hook.find_connection()
            if event is None:
                return self._poll_then_defer(context)
            read = RequestEvent.read(event)
            try:
                error = read.error()
                if isinstance(error, SegmindRequestError):
                    raise error
            except SegmindRequestExpiredError as expired:
                return self._recovered(expired)
            if error is not None:
                # The triggerer could not poll, which need not be true of this worker; polling is free.
                self.log.warning("%s Waiting on this worker instead", error)
                return self._poll(self.pending)
            if read.result is None:
                # A result that is too large for the triggerer is stored from here.
                return self._poll_then_defer(context)
            self.log.info("Request %s is COMPLETED", read.request_id)
            return self._to_xcom(read.result)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Poll once more when the deferral timed out without a trigger event."""
        if not timed_out(next_method, next_kwargs):
            return super().resume_execution(next_method, next_kwargs, context)
        self.log.warning("Deferral timed out without a trigger event; polling once from the worker")
        with self._failures():
            return self._poll(replace(self.pending, end_time=0.0))

    def on_kill(self) -> None:
        """Warn that the request continues."""
        warn_not_cancelled(self.log, "a request of another task", "polls it again")

    def _failures(self) -> AbstractContextManager[None]:
        from airflow_provider_segmind.failures import sensor_failures

        return sensor_failures(soft_fail=self.soft_fail, never_fail=getattr(self, "never_fail", False))

    def _poll(self, pending: Pending, until: float | None = None) -> dict[str, Any] | None:
        """Poll until ``until`` and return what XCom carries, None when the request is still in progress then."""
        from airflow_provider_segmind.chat.json_values import for_xcom
        from airflow_provider_segmind.client.downloads import Downloads
        from airflow_provider_segmind.client.models import RequestResult
        from airflow_provider_segmind.result_storage import StoredResult, store_result

        client = self.hook.get_conn()
        wants_body = self.output_path is not None
        try:
            state = client.wait(pending, fetch=wants_body, until=until, report=self.log.warning)
        except SegmindRequestExpiredError as error:
            return self._recovered(error)
        if state is None:
            return None
        self.log.info("Request %s is COMPLETED", pending.request_id)
        if not (isinstance(state, RequestResult) and wants_body):
            return self._to_xcom(StoredResult({"metrics": for_xcom(state.metrics.to_json()).value}))
        allowed = Downloads.of(client.config)
        return self._to_xcom(
            store_result(state, model=pending.model, destination=self._destination(), downloads=allowed)
        )

    def _poll_then_defer(self, context: Context) -> dict[str, Any]:
        from airflow_provider_segmind.triggers.request import defer_request

        found = self._poll(self.pending, until=time.time() + self.sync_wait)
        if found is not None:
            return found
        return defer_request(
            self.pending,
            self._destination(),
            segmind_conn_id=self.segmind_conn_id,
            deadline=deadline_of_task(context, self.execution_timeout),
            defer=self.defer,
            log=self.log,
        )

    def _recovered(self, error: SegmindRequestExpiredError) -> dict[str, Any]:
        from airflow_provider_segmind.result_storage import recover_result

        if self.on_expired == "fail":
            raise error
        client, model = self.hook.get_conn(), self.pending.model
        return self._to_xcom(recover_result(client, error, model=model, destination=self._destination()))

    def _to_xcom(self, stored: StoredResult) -> dict[str, Any]:
        from airflow_provider_segmind.client.models import RequestStatus
        from airflow_provider_segmind.client.submission import RequestRef

        ref = RequestRef(self.pending.request_id, self.pending.model, self.pending.submitted_at)
        found = stored.for_xcom if isinstance(stored.for_xcom, dict) else {}
        return {**found, **ref.to_json(), "status": RequestStatus.COMPLETED.value}

    def _destination(self) -> ResultDestination:
        """Return where a body goes; XCom carries none of it but what is recovered from the request history."""
        from airflow_provider_segmind.result_storage import ResultDestination

        path = path_or_none(self.output_path)
        return ResultDestination(path, max_xcom_bytes=0) if path else ResultDestination()
