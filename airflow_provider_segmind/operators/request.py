"""Submit a request, fetch its result, or do both in one task."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_segmind.arguments import (
    as_inputs,
    check_choice,
    check_flag,
    check_inputs,
    check_model,
    check_number,
    check_path,
    check_request_id,
    check_schema,
    check_share,
    check_waiting,
    load_schema,
    path_or_none,
    validate_inputs,
)
from airflow_provider_segmind.compat import BaseOperator, conf
from airflow_provider_segmind.defaults import (
    DEFAULT_CONNECTION,
    MAX_RESUBMITS,
    MAX_XCOM_BYTES,
    RESULT_LIFETIME,
    SYNC_WAIT,
    OnExpired,
    OnExpiredFree,
    OnFailed,
    OnStale,
    OnUnknown,
)
from airflow_provider_segmind.deferral import deadline_of_task, timed_out, warn_not_cancelled
from airflow_provider_segmind.links import SegmindModelLink, SegmindOutputLink, result_address
from airflow_provider_segmind.rendering import TemplatedOperator, unmasked

if TYPE_CHECKING:
    # Every DAG parse imports this module, so what only a running task needs is imported where it runs.
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.execution.chat import ChatExecution
    from airflow_provider_segmind.execution.request import RequestExecution, RequestSettings
    from airflow_provider_segmind.hooks.segmind import SegmindHook
    from airflow_provider_segmind.result_storage import ResultDestination, StoredResult
    from airflow_provider_segmind.task_state import TaskState


class SegmindSubmitOperator(TemplatedOperator, BaseOperator):
    """
    Submit one request to Segmind, once for this task instance, and return its id.

    Use it with :class:`~airflow_provider_segmind.sensors.request.SegmindRequestSensor` and
    :class:`~airflow_provider_segmind.operators.request.SegmindResultOperator` to do other work meanwhile;
    :class:`~airflow_provider_segmind.operators.request.SegmindRunOperator` does all of it in one task.

    **XCom**: ``request_id`` under the key ``request_id``; as return value ``{"request_id", "model", "submitted_at"}``
    with ``submitted_at`` as ISO 8601.

    **A retry or a clear** finds the request of the earlier try and submits nothing: one task instance is one paid
    request. A worker that died between the POST and its response leaves an intent; the request is then looked up in
    Segmind's history.

    **Templated**: ``model``, ``inputs``, ``inputs_schema``, ``segmind_conn_id``, ``state_path``.

    :param model: the model to run (Segmind calls it the slug); the connection's default when None.
    :param inputs: the JSON body, as the model's page describes it.
    :param inputs_schema: JSON Schema of the body, or the path of one; checked before anything is paid.
    :param validate_inputs: True checks ``inputs`` against ``inputs_schema``, or without one against what Segmind's
        model list has on the model; False checks nothing; None checks when there is an ``inputs_schema``.
    :param dry_run: submit nothing and return what the request may cost, see :meth:`estimate`.
    :param segmind_conn_id: the Connection.
    :param rate_share: the part of the account's limit for this task, above 0 up to 1, where several run at once; a
        share each for a pool of mapped tasks is one divided by the slots of the pool.
    :param state_path: folder on object storage for the record of what was submitted; ``[segmind] state_path``, then
        Airflow's own stores when not given.
    :param on_stale: the task changed since an earlier try submitted: ``resubmit`` pays for a new request, ``fail``
        stops.
    :param mask_prompts: keep ``inputs`` (of a chat task ``prompt``, ``system``, ``messages`` and the arguments of its
        function) out of the rendered fields that Airflow stores; ``[segmind] mask_prompts`` when None.
    :param on_unknown: a POST was lost and the history does not show it: ``fail``, ``resubmit`` (may pay twice), or
        ``wait`` (search it for an hour after the POST).
    :raises AirflowFailException: where a retry cannot help; the message says whether money was spent.
    """

    template_fields: Sequence[str] = ("model", "inputs", "inputs_schema", "segmind_conn_id", "state_path")
    template_fields_renderers: ClassVar[dict[str, str]] = {"inputs": "json", "inputs_schema": "json"}
    late_fields: ClassVar[Sequence[str]] = (
        "validate_inputs",
        "estimate_only",
        "rate_share",
        "on_stale",
        "on_unknown",
        "mask_prompts",
    )
    ui_color = "#e3f1ff"
    operator_extra_links = (SegmindModelLink(), SegmindOutputLink())

    def __init__(
        self,
        *,
        inputs: Mapping[str, Any],
        model: str | None = None,
        inputs_schema: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        validate_inputs: bool | None = None,
        dry_run: bool = False,
        segmind_conn_id: str = DEFAULT_CONNECTION,
        rate_share: float | None = None,
        state_path: str | os.PathLike[str] | None = None,
        on_stale: OnStale = "resubmit",
        on_unknown: OnUnknown = "fail",
        mask_prompts: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_inputs(inputs)
        self.model = model
        self.inputs = inputs
        self.inputs_schema = inputs_schema
        self.validate_inputs = validate_inputs
        # The name "dry_run" is a method of every operator.
        self.estimate_only = dry_run
        self.segmind_conn_id = segmind_conn_id
        self.rate_share = rate_share
        self.state_path = state_path
        self.on_stale = on_stale
        self.on_unknown = on_unknown
        self.mask_prompts = mask_prompts
        self.model_used: str | None = None
        self.result_uri: str | None = None
        self._execution: RequestExecution | ChatExecution | None = None
        SegmindSubmitOperator.check_arguments(self)
        self.find_late_fields()

    def check_arguments(self) -> None:
        """Check the arguments that have a range or a choice."""
        check_model(self.model)
        check_path("state_path", self.state_path, none=True)
        check_schema("inputs_schema", self.inputs_schema)
        check_flag("validate_inputs", self.validate_inputs, none=True)
        check_flag("dry_run", self.estimate_only)
        check_share(self.rate_share)
        check_choice("on_stale", self.on_stale, OnStale)
        check_choice("on_unknown", self.on_unknown, OnUnknown)
        check_flag("mask_prompts", self.mask_prompts, none=True)

    @cached_property
    def hook(self) -> SegmindHook:
        """Return the hook of the connection."""
        from airflow_provider_segmind.hooks.segmind import SegmindHook

        return SegmindHook(self.segmind_conn_id, rate_share=self.rate_share)

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
            record = self._request_execution(context).submit(replace_failed=True)
            self._xcom_push(context)(key="request_id", value=record.request_id)
            return RequestRef(str(record.request_id), self.model_used, record.age_from).to_json()

    def on_kill(self) -> None:
        """Warn that the request continues."""
        if self.request_id:
            warn_not_cancelled(self.log, f"request {self.request_id}", "continues with it")

    def _settings(self, context: Context) -> RequestSettings:
        from airflow_provider_segmind.execution.request import RequestSettings

        return RequestSettings(
            model=self.hook.model_or_default(self.model),
            segmind_conn_id=self.segmind_conn_id,
            on_stale=self.on_stale,
            on_unknown=self.on_unknown,
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

        return task_state_for(context, path_or_none(self.state_path), part, self._record_folder())

    def _record_folder(self) -> str | None:
        """Return the folder for results, which takes a copy of the submission record."""
        return self.hook.output_path

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

        return task_failures(submitted)

    def build_inputs(self, context: Context) -> Mapping[str, Any]:
        """
        Return the body of the request, checked as ``validate_inputs`` says.

        :raises SegmindConfigError: it cannot work; nothing was sent.
        """
        inputs = as_inputs(unmasked(self.inputs))
        self.check_inputs(inputs)
        return inputs

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """
        Check a body as ``validate_inputs`` says. Free.

        :raises SegmindConfigError: it does not fit; nothing was sent.
        """
        if self.validate_inputs is False:
            return
        if self.inputs_schema is not None:
            validate_inputs(inputs, load_schema("inputs_schema", self.inputs_schema))
        elif self.validate_inputs:
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

    :param request_id: the id, or the output of a submit task or a sensor.
    :param segmind_conn_id: the Connection.
    :param output_path: ObjectStoragePath URI of the folder (or file) for results that are large or media. Without it
        large bodies go to the folder ``output_path`` of the connection's extra or of ``[segmind]``, else into XCom.
    :param max_xcom_bytes: bytes of JSON up to which the result is the XCom value.
    :param on_expired: the result is gone: ``recover`` what the request history has, or ``fail``.
    :raises AirflowFailException: the request failed, or its result is gone for good.
    """

    template_fields: Sequence[str] = ("request_id", "segmind_conn_id", "output_path")
    late_fields: ClassVar[Sequence[str]] = ("max_xcom_bytes", "on_expired")
    ui_color = "#e3f1ff"

    def __init__(
        self,
        *,
        request_id: Any,
        segmind_conn_id: str = DEFAULT_CONNECTION,
        output_path: str | os.PathLike[str] | None = None,
        max_xcom_bytes: int = MAX_XCOM_BYTES,
        on_expired: OnExpiredFree = "recover",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_request_id(request_id)
        self.request_id = request_id
        self.segmind_conn_id = segmind_conn_id
        self.output_path = output_path
        self.max_xcom_bytes = max_xcom_bytes
        self.on_expired = on_expired
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
        from airflow_provider_segmind.execution.request import fetch_result
        from airflow_provider_segmind.failures import task_failures
        from airflow_provider_segmind.result_storage import ResultDestination

        with task_failures():
            self.check_rendered()
            stored = fetch_result(
                self.request_id,
                ResultDestination(
                    path_or_none(self.output_path),
                    self.max_xcom_bytes,
                    None if self.output_path else self.hook.output_path,
                ),
                client=self.hook.get_conn(),
                recover=self.on_expired == "recover",
                log=self.log,
            )
            return stored.for_xcom


class SegmindRunOperator(SegmindSubmitOperator):
    """
    Submit a request, wait for it and store its result, in one task that needs no worker slot while it waits.

    Most language models answer within seconds: the task polls inline for ``sync_wait`` seconds first and defers only
    what takes longer.

    **XCom**: ``request_id`` under its key from the moment of submission; as return value the body of the result when
    it is small, else a manifest with ``uri``, ``status`` and ``metrics``.

    **A retry, a clear, a killed worker or triggerer** continues with the same request; see ``docs/promises.md``.

    **Templated**: as :class:`SegmindSubmitOperator`, and ``output_path``.

    :param deferrable: wait in the triggerer; Airflow's ``[operators] default_deferrable`` when not given.
    :param sync_wait: seconds to wait inline before deferring.
    :param poll_interval: seconds between polls, None to choose.
    :param timeout: seconds after submission for which to wait.
    :param output_path: ObjectStoragePath URI of the folder (or file) for results that are large or media; the body is
        stored there as soon as it is complete. Without it large bodies go to the folder ``output_path`` of the
        connection's extra or of ``[segmind]``, else into XCom with a warning.
    :param max_xcom_bytes: bytes of JSON up to which the result is the XCom value.
    :param on_failed: Segmind reports FAILED, which costs nothing: ``fail``, or ``resubmit``.
    :param on_expired: the result is gone: ``recover`` from the request history, ``resubmit`` (pays twice), or ``fail``.
    :param max_resubmits: how often ``on_failed`` and ``on_expired`` may submit again.
    """

    template_fields: Sequence[str] = (*SegmindSubmitOperator.template_fields, "output_path")
    late_fields: ClassVar[Sequence[str]] = (
        *SegmindSubmitOperator.late_fields,
        *("deferrable", "sync_wait", "poll_interval", "timeout", "max_xcom_bytes"),
        *("on_failed", "on_expired", "max_resubmits"),
    )

    def __init__(
        self,
        *,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        sync_wait: float = SYNC_WAIT,
        poll_interval: float | None = None,
        timeout: float = RESULT_LIFETIME,
        output_path: str | os.PathLike[str] | None = None,
        max_xcom_bytes: int = MAX_XCOM_BYTES,
        on_failed: OnFailed = "fail",
        on_expired: OnExpired = "recover",
        max_resubmits: int = MAX_RESUBMITS,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable
        self.sync_wait = sync_wait
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.output_path = output_path
        self.max_xcom_bytes = max_xcom_bytes
        self.on_failed = on_failed
        self.on_expired = on_expired
        self.max_resubmits = max_resubmits
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
        check_number("max_resubmits", self.max_resubmits, zero=True)
        check_flag("deferrable", self.deferrable)

    def execute(self, context: Context) -> Any:
        """Submit, wait a little, and return the result or defer."""
        with self._failures(context):
            self.check_rendered()
            if self.estimate_only:
                return self.estimate(context)
            return self._to_xcom(self._new_execution(context).start())

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """Continue after a deferral; without an event, poll from the worker."""
        from airflow_provider_segmind.triggers.events import RequestEvent

        with self._failures(context, deferred=True):
            self.check_rendered()
            self.hook.find_connection()
            read = None if event is None else RequestEvent.read(event)
            return self._to_xcom(self._new_execution(context).resume(read))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Poll once more when the deferral timed out without a trigger event: the result may be there."""
        if not timed_out(next_method, next_kwargs):
            return super().resume_execution(next_method, next_kwargs, context)
        self.log.warning("Deferral timed out without a trigger event; polling once from the worker")
        return self.execute_complete(context)

    def _new_execution(self, context: Context) -> RequestExecution | ChatExecution:
        return self._request_execution(context)

    def _settings(self, context: Context) -> RequestSettings:
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
            max_resubmits=self.max_resubmits,
        )

    def _destination(self) -> ResultDestination:
        from airflow_provider_segmind.result_storage import ResultDestination

        if self.output_path:
            return ResultDestination(path_or_none(self.output_path), self.max_xcom_bytes)
        return ResultDestination(None, self.max_xcom_bytes, self.hook.output_path)

    def _record_folder(self) -> str | None:
        return self._destination().folder or super()._record_folder()

    def _to_xcom(self, stored: StoredResult) -> Any:
        self.result_uri = stored.uri or result_address(stored.for_xcom)
        return stored.for_xcom
