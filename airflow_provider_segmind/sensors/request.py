"""Wait for a request that another task submitted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Unpack

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
from airflow_provider_segmind.defaults import DEFAULT_CONNECTION, RESULT_LIFETIME, SYNC_WAIT, OnExpiredFree, as_seconds
from airflow_provider_segmind.deferral import deadline_of_task, timed_out, warn_not_cancelled
from airflow_provider_segmind.exceptions import SegmindRequestError, SegmindRequestExpiredError
from airflow_provider_segmind.rendering import TemplatedOperator, once_rendered

if TYPE_CHECKING:
    from airflow_provider_segmind.client.poll_schedule import Pending
    from airflow_provider_segmind.client.submission import RequestRef
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.hooks.segmind import SegmindHook
    from airflow_provider_segmind.result_storage import ResultDestination, StoredResult
    from airflow_provider_segmind.spend.recorder import SpendRecorder
    from airflow_provider_segmind.triggers.events import RequestEvent
    from airflow_provider_segmind.type_hints import AnyPath, GivenLater, SensorArguments


POKE_INTERVAL = 10.0
"""Seconds between polls in poke and reschedule mode."""


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

    **Templated**: ``request_id``, ``segmind_conn_id``, ``output_path``.

    *What to ask*

    :param request_id: the output of a submit task, or ``{"request_id": …, "submitted_at": …}`` with the time as ISO
        8601 or epoch seconds. With an id alone, the first poll counts as the submission.

    *Where*

    :param output_path: ObjectStoragePath URI of the folder (or file) where the body is stored as soon as it is
        complete.
    :param segmind_conn_id: the Connection.
    :param deferrable: wait in the triggerer; Airflow's ``[operators] default_deferrable`` when not given.

    *Limits*

    :param timeout: seconds after submission for which to wait.

    *When it goes wrong*

    :param on_expired: the result is gone: ``recover`` what the request history has, or ``fail``.

    *Rarely needed*

    :param poll_interval: seconds between polls; by default they adapt to the model. In poke and reschedule mode it is
        the ``poke_interval``, which is 10 by default.
    :param sync_wait: seconds to poll inline before deferring; a finished request is never deferred.

    :raises AirflowFailException: the request failed, or its result is gone for good.
    :raises AirflowSensorTimeout: the deadline passed; the request continues and may be billed.
    """

    template_fields: Sequence[str] = ("request_id", "segmind_conn_id", "output_path")
    late_fields: ClassVar[Sequence[str]] = ("poll_interval", "timeout", "sync_wait", "deferrable", "on_expired")
    ui_color = "#e3f1ff"
    _spend: SpendRecorder | None = None

    def __init__(
        self,
        *,
        request_id: Any,
        output_path: str | AnyPath | GivenLater | None = None,
        segmind_conn_id: str | GivenLater = DEFAULT_CONNECTION,
        deferrable: bool | GivenLater = conf.getboolean("operators", "default_deferrable", fallback=False),
        timeout: float | timedelta | GivenLater = RESULT_LIFETIME,
        on_expired: OnExpiredFree | GivenLater = "recover",
        poll_interval: float | timedelta | GivenLater | None = None,
        sync_wait: float | timedelta | GivenLater = SYNC_WAIT,
        **kwargs: Unpack[SensorArguments],
    ) -> None:
        check_waiting(sync_wait=sync_wait, poll_interval=poll_interval, timeout=timeout)
        check_request_id(request_id)
        known = as_seconds(poll_interval)
        # Airflow's own check takes numbers only; what is given later follows in check_arguments().
        kwargs.setdefault("poke_interval", POKE_INTERVAL if known is None or is_given_later(known) else known)
        super().__init__(timeout=RESULT_LIFETIME if is_given_later(timeout) else as_seconds(timeout), **kwargs)
        self.timeout = as_seconds(timeout)
        self.poll_interval = known
        self.request_id = request_id
        self.segmind_conn_id = once_rendered(segmind_conn_id)
        self.sync_wait = as_seconds(sync_wait)
        self.deferrable = once_rendered(deferrable)
        self.output_path = once_rendered(output_path)
        self.on_expired = once_rendered(on_expired)
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
    def reference(self) -> RequestRef:
        """The request as its submit task names it."""
        from airflow_provider_segmind.client.submission import RequestRef

        return RequestRef.read(self.request_id)

    @cached_property
    def pending(self) -> Pending:
        """The request to wait for; a bare id counts as submitted when it is first polled."""
        known = self.reference.submitted_at
        return self._pending(time.time() if known is None else known)

    def _pending(self, submitted_at: float) -> Pending:
        from airflow_provider_segmind.client.poll_schedule import Pending

        ref = self.reference
        return Pending(ref.request_id, submitted_at, submitted_at + self.timeout, self.poll_interval, ref.model)

    def execute(self, context: Context) -> Any:
        """Wait, here or in the triggerer."""
        if not self.deferrable:
            return super().execute(context)
        with self._failures(), self._recorded(context):
            return self._poll_then_defer(context)

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Poll once."""
        with self._failures(), self._recorded(context):
            found = self._poll(self.pending, until=0.0)
            return False if found is None else PokeReturnValue(is_done=True, xcom_value=found)

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """Continue after a deferral; without an event, poll from the worker."""
        from airflow_provider_segmind.triggers.events import RequestEvent

        with self._failures(), self._recorded(context):
            read = None if event is None else RequestEvent.read(event)
            self._find_connection(read, context)
            if read is None:
                return self._poll_then_defer(context)
            try:
                error = read.error()
                if isinstance(error, SegmindRequestError):
                    raise error
            except SegmindRequestExpiredError as expired:
                return self._recovered(expired)
            if error is not None:
                self.log.warning("%s Polling from this worker", error)
                return self._poll_after(read, context)
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
        with self._failures(), self._recorded(context):
            return self._poll(replace(self.pending, end_time=0.0))

    def on_kill(self) -> None:
        """Warn that the request continues."""
        warn_not_cancelled(self.log, "a request of another task", "polls it again")

    def _failures(self) -> AbstractContextManager[None]:
        from airflow_provider_segmind.failures import sensor_failures

        return sensor_failures(soft_fail=self.soft_fail, never_fail=getattr(self, "never_fail", False))

    @contextmanager
    def _recorded(self, context: Context) -> Iterator[None]:
        """Check the rendered arguments, and add the request to the spend record if the block raises how it ended."""
        from airflow_provider_segmind.hooks.budgets import task_owner
        from airflow_provider_segmind.spend.recorder import recorder_for

        self.check_rendered()
        budget = self.hook.budget_guard(task_owner(context), log=self.log, for_others=True)
        self._spend = recorder_for(context, self.segmind_conn_id, log=self.log, budget=budget)
        with self._spend.ends(**self._about_request()) if self._spend else nullcontext():
            yield

    def _about_request(self) -> dict[str, Any]:
        ref = self.reference
        return {
            "request_id": ref.request_id,
            "model": ref.model,
            "submitted_at": ref.submitted_at,
            "submitted_by": ref.submitted_by,
        }

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
        found = self._poll(self.pending, until=time.time() + self.sync_wait)
        return self._defer(context) if found is None else found

    def _poll_after(self, event: RequestEvent, context: Context) -> dict[str, Any] | None:
        """Poll from this worker, which may be able to where the triggerer was not; polling is free."""
        from airflow_provider_segmind.triggers.request import defer_again_from

        pending = self._pending_after(event.submitted_at, context)
        again_from = defer_again_from(event, pending, time.time()) if self.deferrable else None
        found = self._poll(pending, until=None if again_from is None else 0.0)
        return found if found is not None or again_from is None else self._defer(context, again_from)

    def _find_connection(self, event: RequestEvent | None, context: Context) -> None:
        from airflow_provider_segmind.triggers.request import find_connection_or_defer

        find_connection_or_defer(
            self.hook,
            event,
            pending=partial(self._pending_after, context=context),
            destination=self._destination(),
            defer=self.defer,
            log=self.log,
        )

    def _pending_after(self, submitted_at: float | None, context: Context) -> Pending:
        """Return the request as the trigger knew it, to wait for until the task must have ended."""
        if self.reference.submitted_at is None and submitted_at is not None:
            # A bare id counts as submitted when it was first polled, not when this process began.
            self.pending = self._pending(submitted_at)
        end_time = min(self.pending.end_time, deadline_of_task(context, self.execution_timeout))
        return replace(self.pending, end_time=end_time)

    def _defer(self, context: Context, poll_from: float = 0.0) -> NoReturn:
        from airflow_provider_segmind.triggers.request import defer_request

        defer_request(
            self.pending,
            self._destination(),
            segmind_conn_id=self.segmind_conn_id,
            deadline=deadline_of_task(context, self.execution_timeout),
            defer=self.defer,
            log=self.log,
            poll_from=poll_from,
        )

    def _recovered(self, error: SegmindRequestExpiredError) -> dict[str, Any]:
        from airflow_provider_segmind.result_storage import recover_result

        if self.on_expired == "fail":
            raise error
        client, model = self.hook.get_conn(), self.pending.model
        return self._to_xcom(recover_result(client, error, model=model, destination=self._destination()))

    def _to_xcom(self, stored: StoredResult) -> dict[str, Any]:
        from airflow_provider_segmind.client.models import RequestStatus
        from airflow_provider_segmind.enrichment.outcomes import Outcome

        if self._spend is not None:
            self._spend.record(outcome=Outcome.SUCCESS, metrics=stored.metrics, **self._about_request())
        ref = replace(self.reference, submitted_at=self.pending.submitted_at)
        found = stored.for_xcom if isinstance(stored.for_xcom, dict) else {}
        return {**found, **ref.to_json(), "status": RequestStatus.COMPLETED.value}

    def _destination(self) -> ResultDestination:
        """Return where a body goes; XCom carries only what is recovered from the request history."""
        from airflow_provider_segmind.result_storage import ResultDestination

        path = path_or_none(self.output_path)
        return ResultDestination(path, max_xcom_bytes=0) if path else ResultDestination()
