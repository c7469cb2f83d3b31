"""Submit a request, fetch its result, or do both in one task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from airflow_provider_segmind.arguments import (
    as_inputs,
    check_budget,
    check_choice,
    check_flag,
    check_inputs,
    check_model,
    check_number,
    check_path,
    check_request_id,
    check_reuse,
    check_schema,
    check_waiting,
    load_schema,
    path_or_none,
    validate_inputs,
)
from airflow_provider_segmind.compat import BaseOperator, conf
from airflow_provider_segmind.defaults import (
    DEFAULT_CONNECTION,
    MAX_XCOM_BYTES,
    RESULT_LIFETIME,
    SYNC_WAIT,
    OnBudget,
    OnExpired,
    OnExpiredFree,
    OnFailed,
    OnStale,
    OnUnknown,
    ReuseAnswers,
    as_seconds,
)
from airflow_provider_segmind.deferral import deadline_of_task, timed_out, warn_not_cancelled
from airflow_provider_segmind.links import SegmindModelLink, SegmindOutputLink, result_address
from airflow_provider_segmind.rendering import TemplatedOperator, once_rendered, unmasked

if TYPE_CHECKING:
    # Every DAG parse imports this module, so what only a running task needs is imported where it runs.
    from datetime import timedelta

    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.execution.chat import ChatExecution
    from airflow_provider_segmind.execution.request import RequestExecution, RequestSettings
    from airflow_provider_segmind.hooks.segmind import SegmindHook
    from airflow_provider_segmind.result_storage import ResultDestination, StoredResult
    from airflow_provider_segmind.task_state import TaskState
    from airflow_provider_segmind.telemetry.requests import RequestTelemetry
    from airflow_provider_segmind.telemetry.tracing import Operation
    from airflow_provider_segmind.triggers.events import RequestEvent
    from airflow_provider_segmind.type_hints import AnyPath, GivenLater, OperatorArguments


class SegmindSubmitOperator(TemplatedOperator, BaseOperator):
    """
    Submit one request to Segmind, once for this task instance, and return its id.

    Use it with :class:`~airflow_provider_segmind.sensors.request.SegmindRequestSensor` and
    :class:`~airflow_provider_segmind.operators.request.SegmindResultOperator` to do other work meanwhile;
    :class:`~airflow_provider_segmind.operators.request.SegmindRunOperator` does all of it in one task.

    **XCom**: ``request_id`` under the key ``request_id``; as return value ``{"request_id", "model", "submitted_at"}``
    with ``submitted_at`` as ISO 8601, and the names of this task as ``submitted_by`` where spend is recorded.

    **A retry or a clear** finds the request of the earlier try and submits nothing: one task instance is one paid
    request. A worker that died between the POST and its response leaves an intent; the request is then looked up in
    Segmind's history.

    **Templated**: ``model``, ``inputs``, ``inputs_schema``, ``segmind_conn_id``, ``state_path``.

    *What to ask*

    :param model: the model to run (Segmind calls it the slug); the connection's default when None.
    :param inputs: the JSON body, as the model's page describes it.
    :param inputs_schema: check the body before anything is paid: against a JSON Schema, given here or by its path, or
        with True against the parameters in Segmind's model list.

    *Where*

    :param segmind_conn_id: the Connection.

    *Limits*

    :param budget: a budget of ``[segmind] budgets`` that applies to this task in addition to that of its connection.
    :param dry_run: submit nothing and return what the request may cost, see :meth:`estimate`.

    *When it goes wrong*

    :param on_budget: what to do when a budget has no room for the request: ``fail``, ``skip_downstream`` (which skips
        the task and with it the tasks downstream), or ``defer`` until its next day or month begins. If only the
        reservations of other requests are in the way, the task first waits for them, whichever value is set.
    :param on_stale: what to do if the task changed since an earlier try submitted: ``resubmit`` pays for a new request,
        ``fail`` stops.
    :param on_unknown: what to do if a POST was lost and the history does not show it: ``fail``, ``resubmit`` (may pay
        twice), or ``wait`` (search the history for an hour after the POST).

    *Rarely needed*

    :param state_path: folder on object storage for the record of what was submitted; ``[segmind] state_path``, then
        Airflow's own stores when not given.
    :param mask_prompts: keep ``inputs`` (of a chat task ``prompt``, ``system``, ``messages`` and the arguments of its
        function) out of the rendered fields that Airflow stores; ``[segmind] mask_prompts`` when None.

    :raises AirflowFailException: if a retry cannot help; the message says whether money was spent.
    """

    template_fields: Sequence[str] = ("model", "inputs", "inputs_schema", "segmind_conn_id", "state_path")
    template_fields_renderers: ClassVar[dict[str, str]] = {"inputs": "json", "inputs_schema": "json"}
    late_fields: ClassVar[Sequence[str]] = (
        "inputs_schema",
        "estimate_only",
        "on_stale",
        "on_unknown",
        "mask_prompts",
        "budget",
        "on_budget",
    )
    ui_color = "#e3f1ff"
    operation: ClassVar[Operation] = "generate_content"
    """What a span calls the operation."""
    operator_extra_links = (SegmindModelLink(), SegmindOutputLink())

    def __init__(
        self,
        *,
        inputs: Mapping[str, Any] | GivenLater,
        model: str | GivenLater | None = None,
        inputs_schema: bool | Mapping[str, Any] | str | AnyPath | GivenLater | None = None,
        segmind_conn_id: str | GivenLater = DEFAULT_CONNECTION,
        budget: str | GivenLater | None = None,
        dry_run: bool | GivenLater = False,
        on_budget: OnBudget | GivenLater = "fail",
        on_stale: OnStale | GivenLater = "resubmit",
        on_unknown: OnUnknown | GivenLater = "fail",
        state_path: str | AnyPath | GivenLater | None = None,
        mask_prompts: bool | GivenLater | None = None,
        **kwargs: Unpack[OperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        check_inputs(inputs)
        self.model = once_rendered(model)
        self.inputs = once_rendered(inputs)
        self.inputs_schema = once_rendered(inputs_schema)
        # The name "dry_run" is a method of every operator.
        self.estimate_only = once_rendered(dry_run)
        self.segmind_conn_id = once_rendered(segmind_conn_id)
        self.state_path = once_rendered(state_path)
        self.on_stale: OnStale = once_rendered(on_stale)
        self.on_unknown: OnUnknown = once_rendered(on_unknown)
        self.mask_prompts = once_rendered(mask_prompts)
        self.budget = once_rendered(budget)
        self.on_budget: OnBudget = once_rendered(on_budget)
        self.model_used: str | None = None
        self.result_uri: str | None = None
        self._execution: RequestExecution | ChatExecution | None = None
        self._telemetry: RequestTelemetry | None = None
        SegmindSubmitOperator.check_arguments(self)
        self.find_late_fields()

    def check_arguments(self) -> None:
        """Check the arguments that have a range or a choice."""
        check_model(self.model)
        check_path("state_path", self.state_path, none=True)
        if not isinstance(self.inputs_schema, bool | None):
            check_schema("inputs_schema", self.inputs_schema)
        check_flag("dry_run", self.estimate_only)
        check_choice("on_stale", self.on_stale, OnStale)
        check_choice("on_unknown", self.on_unknown, OnUnknown)
        check_flag("mask_prompts", self.mask_prompts, none=True)
        check_budget(self.budget, self.on_budget)

    @cached_property
    def hook(self) -> SegmindHook:
        """Return the hook of the connection."""
        from airflow_provider_segmind.hooks.segmind import SegmindHook

        return SegmindHook(self.segmind_conn_id)

    @property
    def request_id(self) -> str | None:
        """The request of this task instance, once it has one."""
        return None if self._execution is None else self._execution.request_id

    def execute(self, context: Context) -> Any:
        """Submit, or find what an earlier try submitted."""
        from airflow_provider_segmind.client.submission import RequestRef

        with self._failures(context):
            self.check_rendered()
            if self.estimate_only:
                return self.estimate(context)
            execution = self._request_execution(context)
            record = execution.submit(replace_failed=True)
            self._xcom_push(context)(key="request_id", value=record.request_id)
            task = None if execution.spend is None else execution.spend.task
            return RequestRef(str(record.request_id), self.model_used, record.age_from, submitted_by=task).to_json()

    def execute_after_pause(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """Begin again after a pause of spending for which the task had deferred; an earlier request is found again."""
        return self.execute(context)

    def on_kill(self) -> None:
        """Warn that the request continues."""
        if self.request_id:
            warn_not_cancelled(self.log, f"request {self.request_id}", "continues with it")

    def _settings(self, context: Context) -> RequestSettings:
        from airflow_provider_segmind.execution.request import RequestSettings
        from airflow_provider_segmind.hooks.budgets import task_owner
        from airflow_provider_segmind.spend.recorder import recorder_for
        from airflow_provider_segmind.telemetry.requests import telemetry_of

        model = self.hook.model_or_default(self.model)
        self._telemetry = telemetry_of(
            context,
            self.hook.get_conn().throttle.counts,
            conn_id=self.segmind_conn_id,
            model=model,
            operation=self.operation,
        )
        return RequestSettings(
            model=model,
            segmind_conn_id=self.segmind_conn_id,
            on_stale=self.on_stale,
            on_unknown=self.on_unknown,
            spend=recorder_for(context, self.segmind_conn_id, log=self.log),
            budget=self.hook.budget_guard(task_owner(context), self.budget, log=self.log),
            on_budget=self.on_budget,
            telemetry=self._telemetry,
        )

    def _request_execution(self, context: Context) -> RequestExecution:
        from airflow_provider_segmind.execution.request import RequestExecution

        settings = self._settings(context)
        self.model_used = settings.model
        self._execution = execution = RequestExecution(
            settings,
            partial(self.build_inputs, context),
            client=self.hook.get_conn(),
            state=self._task_state(context),
            log=self.log,
            defer=self.defer,
            xcom_push=self._xcom_push(context),
        )
        return execution

    def _task_state(self, context: Context, part: str = "") -> TaskState:
        from airflow_provider_segmind.task_state import task_state_for

        return task_state_for(context, path_or_none(self.state_path), part, *self._record_folder())

    def _record_folder(self) -> tuple[str | None, str]:
        """Return the folder for results, which takes a copy of the submission record, and the setting that names it."""
        return self.hook.output_folder

    def _xcom_push(self, context: Context) -> Callable[..., Any]:
        from airflow_provider_segmind.execution.request import push_nothing

        push: Callable[..., Any] = context["ti"].xcom_push if self.do_xcom_push else push_nothing
        return push

    def _failures(self, context: Context, *, deferred: bool = False) -> AbstractContextManager[None]:
        from airflow_provider_segmind.failures import earlier_try, task_failures

        def submitted() -> str | None:
            if self.request_id:
                return f"request {self.request_id!r} had been submitted before"
            return "a request had been submitted before" if deferred else earlier_try(context)

        def send_telemetry() -> None:
            if self._telemetry is not None:
                self._telemetry.send()

        return task_failures(submitted, ended=send_telemetry, on_budget=self.on_budget)

    def build_inputs(self, context: Context) -> Mapping[str, Any]:
        """
        Return the body of the request, checked against ``inputs_schema``.

        :raises SegmindConfigError: it cannot work; nothing was sent.
        """
        inputs = as_inputs(unmasked(self.inputs))
        self.check_inputs(inputs)
        return inputs

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """
        Check a body against ``inputs_schema``. Free.

        :raises SegmindConfigError: it does not fit; nothing was sent.
        """
        if not isinstance(self.inputs_schema, bool | None):
            validate_inputs(inputs, load_schema("inputs_schema", self.inputs_schema))
        elif self.inputs_schema:
            schema = self.hook.get_inputs_schema(self.model)
            if schema is None:
                self.log.warning("Segmind lists no readable parameters for this model: the inputs are not checked")
            else:
                validate_inputs(inputs, schema, "the parameters Segmind lists for the model")

    def estimate(self, context: Context) -> dict[str, Any]:
        """
        Estimate what this task's request may cost. Free: nothing is submitted.

        :returns: as :meth:`~airflow_provider_segmind.hooks.segmind.SegmindHook.estimate`.
        """
        estimate = self.hook.estimate(self.model, self.build_inputs(context))
        self.log.info("%s", estimate["summary"])
        if estimate["warning"]:
            self.log.warning("%s", estimate["warning"])
        return estimate


class SegmindResultOperator(TemplatedOperator, BaseOperator):
    """
    Fetch the result of a completed request. Free, and safe to repeat for an hour after the submission.

    Use it downstream of a sensor. Set the same ``output_path`` on the sensor and the body is stored as soon as it is
    complete, so that a long queue between the two tasks loses nothing: this task then reads the stored file.

    **XCom**: the body when it is small, else a manifest with ``uri``, ``status`` and ``metrics``.

    **A retry** fetches again and pays nothing.

    **Templated**: ``request_id``, ``segmind_conn_id``, ``output_path``.

    *What to ask*

    :param request_id: the id, or the output of a submit task or a sensor.

    *Where*

    :param output_path: ObjectStoragePath URI of the folder (or file) for results that are large or media. Without it
        large bodies go to the ``output_path`` of the connection or of ``[segmind]``, else into XCom.
    :param segmind_conn_id: the Connection.

    *When it goes wrong*

    :param on_expired: the result is gone: ``recover`` what the request history has, or ``fail``.

    *Rarely needed*

    :param max_xcom_bytes: bytes of JSON up to which the result is the XCom value.

    :raises AirflowFailException: the request failed, or its result is gone for good.
    """

    template_fields: Sequence[str] = ("request_id", "segmind_conn_id", "output_path")
    late_fields: ClassVar[Sequence[str]] = ("max_xcom_bytes", "on_expired")
    ui_color = "#e3f1ff"

    def __init__(
        self,
        *,
        request_id: Any,
        output_path: str | AnyPath | GivenLater | None = None,
        segmind_conn_id: str | GivenLater = DEFAULT_CONNECTION,
        on_expired: OnExpiredFree | GivenLater = "recover",
        max_xcom_bytes: int | GivenLater = MAX_XCOM_BYTES,
        **kwargs: Unpack[OperatorArguments],
    ) -> None:
        super().__init__(**kwargs)
        check_request_id(request_id)
        self.request_id = request_id
        self.segmind_conn_id = once_rendered(segmind_conn_id)
        self.output_path = once_rendered(output_path)
        self.max_xcom_bytes = once_rendered(max_xcom_bytes)
        self.on_expired = once_rendered(on_expired)
        SegmindResultOperator.check_arguments(self)
        self.find_late_fields()

    def check_arguments(self) -> None:
        """Check the arguments that have a range or a choice."""
        check_path("output_path", self.output_path, none=True)
        check_number("max_xcom_bytes", self.max_xcom_bytes, zero=True)
        check_choice("on_expired", self.on_expired, OnExpiredFree)

    @cached_property
    def hook(self) -> SegmindHook:
        """Return the hook of the connection."""
        from airflow_provider_segmind.hooks.segmind import SegmindHook

        return SegmindHook(self.segmind_conn_id)

    def execute(self, context: Context) -> Any:
        """Fetch the result and store it."""
        from airflow_provider_segmind.execution.result import fetch_result
        from airflow_provider_segmind.failures import task_failures
        from airflow_provider_segmind.hooks.budgets import task_owner
        from airflow_provider_segmind.result_storage import ResultDestination
        from airflow_provider_segmind.spend.recorder import recorder_for
        from airflow_provider_segmind.telemetry.requests import telemetry_of

        with task_failures():
            self.check_rendered()
            telemetry = telemetry_of(context, self.hook.get_conn().throttle.counts, conn_id=self.segmind_conn_id)
            stored = fetch_result(
                self.request_id,
                ResultDestination(
                    path_or_none(self.output_path),
                    self.max_xcom_bytes,
                    None if self.output_path else self.hook.output_folder[0],
                ),
                client=self.hook.get_conn(),
                recover=self.on_expired == "recover",
                log=self.log,
                spend=recorder_for(
                    context,
                    self.segmind_conn_id,
                    log=self.log,
                    budget=self.hook.budget_guard(task_owner(context), log=self.log, for_others=True),
                ),
                telemetry=telemetry,
            )
            telemetry.send()
            return stored.for_xcom


class SegmindRunOperator(SegmindSubmitOperator):
    """
    Submit a request, wait for it and store its result, in one task that needs no worker slot while it waits.

    Most language models answer within seconds: the task polls inline for ``sync_wait`` seconds first and defers only
    what takes longer.

    **XCom**: ``request_id`` under its key from the moment of submission; as return value the body of the result when
    it is small, else a manifest with ``uri``, ``status`` and ``metrics``. If the result was paid for before, see
    ``reuse_answers``: ``reused`` (True), ``cost`` (0), and the ``request_id`` of the request that was paid for.

    **A retry, a clear, a killed worker or triggerer** continues with the same request; see
    ``docs/explanation/promises.md``.

    **Templated**: as :class:`SegmindSubmitOperator`, and ``output_path``, ``answers_path``.

    *Where*

    :param output_path: ObjectStoragePath URI of the folder (or file) for results that are large or media; the body is
        stored there as soon as it is complete. Without it large bodies go to the ``output_path`` of the connection or
        of ``[segmind]``, else into XCom with a warning.
    :param answers_path: folder on object storage of the results to reuse; ``[segmind] answers_path`` when None.
    :param deferrable: wait in the triggerer; Airflow's ``[operators] default_deferrable`` when not given.

    *Limits*

    :param reuse_answers: whether to use the result of an equal request that was paid for before: ``never``,
        ``always``, or up to an age; see ``docs/how-to/reuse.md``.
    :param timeout: seconds after submission for which to wait.

    *When it goes wrong*

    :param on_failed: what to do if Segmind reports FAILED, which costs nothing: ``fail``, or ``resubmit``.
    :param on_expired: the result is gone: ``recover`` from the request history, ``resubmit`` (pays twice), or ``fail``.

    *Rarely needed*

    :param sync_wait: seconds to wait inline before deferring.
    :param poll_interval: seconds between polls; by default they adapt to the model.
    :param max_xcom_bytes: bytes of JSON up to which the result is the XCom value.
    """

    template_fields: Sequence[str] = (*SegmindSubmitOperator.template_fields, "output_path", "answers_path")
    late_fields: ClassVar[Sequence[str]] = (
        *SegmindSubmitOperator.late_fields,
        *("deferrable", "sync_wait", "poll_interval", "timeout", "max_xcom_bytes"),
        *("on_failed", "on_expired", "reuse_answers"),
    )

    def __init__(
        self,
        *,
        inputs: Mapping[str, Any] | GivenLater,
        model: str | GivenLater | None = None,
        inputs_schema: bool | Mapping[str, Any] | str | AnyPath | GivenLater | None = None,
        output_path: str | AnyPath | GivenLater | None = None,
        answers_path: str | AnyPath | GivenLater | None = None,
        segmind_conn_id: str | GivenLater = DEFAULT_CONNECTION,
        deferrable: bool | GivenLater = conf.getboolean("operators", "default_deferrable", fallback=False),
        reuse_answers: ReuseAnswers | timedelta | GivenLater = "never",
        budget: str | GivenLater | None = None,
        timeout: float | timedelta | GivenLater = RESULT_LIFETIME,
        dry_run: bool | GivenLater = False,
        on_budget: OnBudget | GivenLater = "fail",
        on_stale: OnStale | GivenLater = "resubmit",
        on_unknown: OnUnknown | GivenLater = "fail",
        on_failed: OnFailed | GivenLater = "fail",
        on_expired: OnExpired | GivenLater = "recover",
        sync_wait: float | timedelta | GivenLater = SYNC_WAIT,
        poll_interval: float | timedelta | GivenLater | None = None,
        max_xcom_bytes: int | GivenLater = MAX_XCOM_BYTES,
        state_path: str | AnyPath | GivenLater | None = None,
        mask_prompts: bool | GivenLater | None = None,
        **kwargs: Unpack[OperatorArguments],
    ) -> None:
        super().__init__(
            inputs=inputs,
            model=model,
            inputs_schema=inputs_schema,
            dry_run=dry_run,
            segmind_conn_id=segmind_conn_id,
            state_path=state_path,
            budget=budget,
            on_budget=on_budget,
            on_stale=on_stale,
            on_unknown=on_unknown,
            mask_prompts=mask_prompts,
            **kwargs,
        )
        self.deferrable = once_rendered(deferrable)
        self.sync_wait = as_seconds(sync_wait)
        self.poll_interval = as_seconds(poll_interval)
        self.timeout = as_seconds(timeout)
        self.output_path = once_rendered(output_path)
        self.max_xcom_bytes = once_rendered(max_xcom_bytes)
        self.on_failed: OnFailed = once_rendered(on_failed)
        self.on_expired: OnExpired = once_rendered(on_expired)
        self.reuse_answers: ReuseAnswers | timedelta = once_rendered(reuse_answers)
        self.answers_path = once_rendered(answers_path)
        SegmindRunOperator.check_arguments(self)
        self.find_late_fields()

    def check_arguments(self) -> None:
        """Check the arguments that have a range or a choice."""
        super().check_arguments()
        check_path("output_path", self.output_path, none=True)
        check_waiting(sync_wait=self.sync_wait, poll_interval=self.poll_interval, timeout=self.timeout)
        check_number("max_xcom_bytes", self.max_xcom_bytes, zero=True)
        check_choice("on_failed", self.on_failed, OnFailed)
        check_choice("on_expired", self.on_expired, OnExpired)
        check_flag("deferrable", self.deferrable)
        check_reuse(self.reuse_answers, self.answers_path)

    def execute(self, context: Context) -> Any:
        """Submit, wait a little, and return the result or defer."""
        with self._failures(context):
            self.check_rendered()
            if self.estimate_only:
                return self.estimate(context)
            execution = self._new_execution(context)
            return self._finish(context, execution, execution.start())

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """Continue after a deferral; without an event, poll from the worker."""
        from airflow_provider_segmind.triggers.events import RequestEvent

        with self._failures(context, deferred=True):
            self.check_rendered()
            read = None if event is None else RequestEvent.read(event)
            self._find_connection(read, context)
            execution = self._new_execution(context)
            return self._finish(context, execution, execution.resume(read))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Poll once more when the deferral timed out without a trigger event: the result may be there."""
        if not timed_out(next_method, next_kwargs):
            return super().resume_execution(next_method, next_kwargs, context)
        self.log.warning("Deferral timed out without a trigger event; polling once from the worker")
        return self.execute_complete(context)

    def _find_connection(self, event: RequestEvent | None, context: Context) -> None:
        from airflow_provider_segmind.client.poll_schedule import Pending
        from airflow_provider_segmind.result_storage import ResultDestination
        from airflow_provider_segmind.triggers.request import find_connection_or_defer

        def pending(submitted_at: float) -> Pending:
            end_time = min(submitted_at + self.timeout, deadline_of_task(context, self.execution_timeout))
            request_id = "" if event is None else event.request_id
            return Pending(request_id, submitted_at, end_time, self.poll_interval, self.model)

        # Without the Connection it is unknown where the result goes, so the event carries none and the worker fetches
        # it.
        nowhere = ResultDestination(max_xcom_bytes=0)
        find_connection_or_defer(
            self.hook, event, pending=pending, destination=nowhere, defer=self.defer, log=self.log, fetch=True
        )

    def _new_execution(self, context: Context) -> RequestExecution | ChatExecution:
        return self._request_execution(context)

    def _settings(self, context: Context) -> RequestSettings:
        from airflow_provider_segmind.execution.answers import answers_for

        return replace(
            super()._settings(context),
            destination=self._destination(),
            max_event_bytes=self.max_xcom_bytes,
            deferrable=self.deferrable,
            sync_wait=self.sync_wait,
            poll_interval=self.poll_interval,
            timeout=self.timeout,
            deadline=deadline_of_task(context, self.execution_timeout),
            on_failed=self.on_failed,
            on_expired=self.on_expired,
            answers=answers_for(self.reuse_answers, path_or_none(self.answers_path)),
        )

    def _destination(self) -> ResultDestination:
        from airflow_provider_segmind.result_storage import ResultDestination

        if self.output_path:
            return ResultDestination(path_or_none(self.output_path), self.max_xcom_bytes)
        return ResultDestination(None, self.max_xcom_bytes, *self.hook.output_folder)

    def _record_folder(self) -> tuple[str | None, str]:
        folder = self._destination().folder
        return (folder, "output_path") if folder else super()._record_folder()

    def _finish(self, context: Context, execution: RequestExecution | ChatExecution, stored: StoredResult) -> Any:
        from airflow_provider_segmind.execution.asset_events import describe_outlets

        self.result_uri = stored.uri or result_address(stored.for_xcom)
        answered = execution.request_id if execution.reused is None else execution.reused.request_id
        figures = {"cost_usd": execution.cost, "model": self.model_used, "request_id": answered}
        describe_outlets(context, self.outlets, figures)
        return stored.for_xcom
