"""Submit a request, wait for it and land its result in one task."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_segmind.api.policies import (
    MAX_RESUBMITS,
    MAX_XCOM_BYTES,
    RESULT_LIFETIME,
    SYNC_WAIT,
    OnExpired,
    OnFailed,
)
from airflow_provider_segmind.arguments import (
    check_choice,
    check_flag,
    check_number,
    check_path,
    check_waiting,
    path_or_none,
)
from airflow_provider_segmind.compat import conf
from airflow_provider_segmind.deferral import timed_out
from airflow_provider_segmind.operators.submit import SegmindSubmitOperator

if TYPE_CHECKING:
    from airflow_provider_segmind.api.submission import Note
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.landing import Place
    from airflow_provider_segmind.operators.submission import Policies


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
        landed there the moment it is complete. Without it large bodies go to the folder ``output_path`` of the
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
        """Check what has a range or a choice."""
        super().check_arguments()
        check_path("output_path", self.output_path, none=True)
        check_waiting(sync_wait=self.sync_wait, poll_interval=self.poll_interval, timeout=self.timeout)
        check_number("max_xcom_bytes", self.max_xcom_bytes, zero=True)
        check_choice("on_failed", self.on_failed, OnFailed)
        check_choice("on_expired", self.on_expired, OnExpired)
        check_number("max_resubmits", self.max_resubmits, zero=True)
        check_flag("deferrable", self.deferrable)

    @property
    def policies(self) -> Policies:
        """Return what to do where the safe answer is not the only one."""
        from airflow_provider_segmind.operators.submission import Policies

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
        from airflow_provider_segmind.landing import Place

        if self.output_path:
            return Place(path_or_none(self.output_path), self.max_xcom_bytes)
        return Place(None, self.max_xcom_bytes, self.hook.output_path)

    @property
    def record_path(self) -> str | None:
        """Return the folder for results, where a record of the request is kept as well."""
        return self.place.folder or super().record_path

    def execute(self, context: Context) -> Any:
        """Submit, wait a little, and return the result or defer."""
        from airflow_provider_segmind.failures import task_failures
        from airflow_provider_segmind.operators.settling import settle

        with task_failures(partial(self.sent_before, context)):
            self.check_rendered()
            if self.estimate_only:
                return self.estimate(context)
            submission = self._submission(context)
            return self._point_to(settle(self, context, submission, submission.begin()))

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """Go on where the trigger woke the task; without an event, look for ourselves."""
        from airflow_provider_segmind.failures import task_failures
        from airflow_provider_segmind.operators.settling import settle
        from airflow_provider_segmind.triggers.events import RequestEvent

        with task_failures(partial(self.sent_before, context, deferred=True)):
            self.check_rendered()
            self.hook.find_connection()
            read = None if event is None else RequestEvent.read(event)
            submission = self._submission(context)
            note = submission.current(read.request_id if read else None)
            return self._point_to(settle(self, context, submission, note, read))

    def report(self, note: Note, value: Any) -> None:
        """Log in one line how a request ended."""
        from airflow_provider_segmind.operators.settling import summary

        self.log.info("%s", summary(note.request_id, note.fingerprint.model, value))

    def _point_to(self, value: Any) -> Any:
        from airflow_provider_segmind.links import result_address

        self.result_uri = result_address(value)
        return value

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Look once more when Airflow ended the deferral because no trigger spoke: the result may be there."""
        if not timed_out(next_method, next_kwargs):
            return super().resume_execution(next_method, next_kwargs, context)
        self.log.warning("No triggerer reported before the deadline; looking for ourselves")
        return self.execute_complete(context)
