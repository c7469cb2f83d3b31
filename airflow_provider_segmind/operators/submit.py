"""Submit one request, once for a task instance."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_segmind.api.policies import DEFAULT_CONNECTION, OnStale, OnUnknown
from airflow_provider_segmind.arguments import (
    check_choice,
    check_flag,
    check_inputs,
    check_model,
    check_path,
    check_schema,
    check_share,
    path_or_none,
)
from airflow_provider_segmind.compat import BaseOperator
from airflow_provider_segmind.links import SegmindModelLink, SegmindOutputLink
from airflow_provider_segmind.rendering import TemplatedOperator, unmasked

if TYPE_CHECKING:
    # Every DAG parse imports this module, so what only a running task needs is imported where it runs.
    from airflow_provider_segmind.api.submission import Note
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.hooks.segmind import SegmindHook
    from airflow_provider_segmind.operators.submission import Policies, Submission


class SegmindSubmitOperator(TemplatedOperator, BaseOperator):
    """
    Submit one request to Segmind, once for this task instance, and hand on its id.

    Use it with :class:`~airflow_provider_segmind.sensors.request.SegmindRequestSensor` and
    :class:`~airflow_provider_segmind.operators.request.SegmindResultOperator` where other work is done meanwhile;
    :class:`~airflow_provider_segmind.operators.request.SegmindRunOperator` does all of it in one task.

    **XCom**: ``request_id`` under the key ``request_id``; as return value ``{"request_id", "model", "submitted_at"}``
    with ``submitted_at`` as ISO 8601.

    **A retry or a clear** finds the request of the earlier try and submits nothing: one task instance is one paid
    request. A worker that died between the POST and its answer leaves an intent; the request is then looked for in
    Segmind's history.

    **Templated**: ``model``, ``inputs``, ``inputs_schema``, ``segmind_conn_id``, ``state_path``.

    :param model: the model to run (Segmind calls it the slug); the connection's default when None.
    :param inputs: the JSON body, as the model's page describes it.
    :param inputs_schema: JSON Schema of the body, or the path of one; checked before anything is paid.
    :param validate_inputs: True checks ``inputs`` against ``inputs_schema``, or without one against what Segmind's
        model list says of the model; False checks nothing; None checks when there is an ``inputs_schema``.
    :param dry_run: submit nothing and return what the request may cost, see :meth:`estimate`.
    :param segmind_conn_id: the Connection.
    :param rate_share: the part of the account's limit for this task, above 0 up to 1, where several run at once; a
        share each for a pool of mapped tasks is one divided by the slots of the pool.
    :param state_path: folder on object storage for the note of what was submitted; ``[segmind] state_path``, then
        Airflow's own stores when not given.
    :param on_stale: the task changed since an earlier try submitted: ``resubmit`` pays for a new request, ``fail``
        stops.
    :param mask_prompts: keep ``inputs`` (of a chat task ``prompt``, ``system``, ``messages`` and the arguments of its
        function) out of the rendered fields that Airflow stores; ``[segmind] mask_prompts`` when None.
    :param on_unknown: a POST was lost and the history does not show it: ``fail``, ``resubmit`` (may pay twice), or
        ``wait`` (keep looking for an hour after the POST).
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
        self.request_id: str | None = None
        self.model_used: str | None = None
        self.result_uri: str | None = None
        SegmindSubmitOperator.check_arguments(self)
        self.find_late_fields()

    def check_arguments(self) -> None:
        """Check what has a range or a choice."""
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
    def state_folder(self) -> str | None:
        """Return ``state_path`` as a string."""
        return path_or_none(self.state_path)

    @property
    def policies(self) -> Policies:
        """Return what to do where the safe answer is not the only one."""
        from airflow_provider_segmind.operators.submission import Policies

        return Policies(on_stale=self.on_stale, on_unknown=self.on_unknown)

    @property
    def record_path(self) -> str | None:
        """Return the folder for results of the deployment, where a record of the request is kept as well."""
        return self.hook.output_path

    def execute(self, context: Context) -> Any:
        """Submit, or find what an earlier try submitted."""
        from airflow_provider_segmind.api.submission import iso
        from airflow_provider_segmind.failures import task_failures

        with task_failures(partial(self.sent_before, context)):
            self.check_rendered()
            if self.estimate_only:
                return self.estimate(context)
            note = self._submission(context).begin(replace_failed=True)
            self.announce(context, note)
            return {
                "request_id": note.request_id,
                "model": note.fingerprint.model,
                "submitted_at": iso(note.age_from),
            }

    def sent_before(self, context: Context, *, deferred: bool = False) -> str | None:
        """Say in words what this task instance has submitted, as far as is known here; None when nothing."""
        from airflow_provider_segmind.failures import earlier_try

        if self.request_id:
            return f"request {self.request_id!r} had been submitted before"
        return "a request had been submitted before" if deferred else earlier_try(context)

    def on_kill(self) -> None:
        """Say what becomes of the request: Segmind has no cancel call."""
        if self.request_id:
            self.log.warning(
                "This task stops, but Segmind has no cancel call: request %s goes on and may be billed; the next "
                "try goes on with it.",
                self.request_id,
            )

    def build_inputs(self, context: Context) -> Mapping[str, Any]:
        """
        Return the body of the request, checked as the task asks.

        :raises SegmindConfigError: it cannot work; nothing was sent.
        """
        from airflow_provider_segmind.arguments import as_inputs

        inputs = as_inputs(unmasked(self.inputs))
        self.check_inputs(inputs)
        return inputs

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """
        Check a body as ``validate_inputs`` asks. Free.

        :raises SegmindConfigError: it does not fit; nothing was sent.
        """
        from airflow_provider_segmind.arguments import load_schema, validate_inputs

        if self.validate_inputs is False:
            return
        if self.inputs_schema is not None:
            validate_inputs(inputs, load_schema("inputs_schema", self.inputs_schema))
        elif self.validate_inputs:
            schema = self.hook.get_inputs_schema(self.model)
            if schema is None:
                self.log.warning("Segmind lists no readable parameters for this model: the inputs go unchecked")
            else:
                validate_inputs(inputs, schema, "the parameters Segmind lists for the model")

    def estimate(self, context: Context) -> dict[str, Any]:
        """
        Say what this task's request may cost. Free: nothing is submitted.

        :returns: as :meth:`~airflow_provider_segmind.hooks.segmind.SegmindHook.estimate`.
        """
        estimate = self.hook.estimate(self.model, self.build_inputs(context))
        self.log.info("%s", estimate["summary"])
        if estimate["warning"]:
            self.log.warning("%s", estimate["warning"])
        return estimate

    def _submission(self, context: Context) -> Submission:
        from airflow_provider_segmind.journal import journal_for
        from airflow_provider_segmind.operators.submission import Submission

        return Submission(
            client=self.hook.get_conn(),
            journal=journal_for(context, self.state_folder, record_path=self.record_path),
            model=self.hook.model_or_default(self.model),
            inputs=partial(self.build_inputs, context),
            connection=f"{self.segmind_conn_id} at {self.hook.config.endpoints.gateway}",
            policies=self.policies,
            log=self.log,
        )

    def announce(self, context: Context, note: Note) -> None:
        """Tell Airflow, and ourselves for a kill, which request this task is about."""
        self.request_id = note.request_id
        self.model_used = note.fingerprint.model
        if self.do_xcom_push:
            context["ti"].xcom_push(key="request_id", value=note.request_id)
