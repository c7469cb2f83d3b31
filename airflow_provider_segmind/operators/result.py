"""Fetch the result of a request that another task submitted."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_segmind.api.policies import DEFAULT_CONNECTION, MAX_XCOM_BYTES, OnExpiredFree
from airflow_provider_segmind.arguments import check_choice, check_number, check_path, path_or_none
from airflow_provider_segmind.compat import BaseOperator
from airflow_provider_segmind.exceptions import (
    SegmindConfigError,
    SegmindRequestExpiredError,
    SegmindRequestTimeoutError,
)
from airflow_provider_segmind.rendering import TemplatedOperator

if TYPE_CHECKING:
    from airflow_provider_segmind.api.reference import RequestRef
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.hooks.segmind import SegmindHook
    from airflow_provider_segmind.landing import Place


class SegmindResultOperator(TemplatedOperator, BaseOperator):
    """
    Fetch the result of a completed request. Free, and safe to repeat for an hour after the submission.

    Use it downstream of a sensor. Set the same ``output_path`` on the sensor and the body is landed the moment it is
    complete, so that a long queue between the two tasks loses nothing: this task then reads the landed file.

    **XCom**: the body when it is small, else a manifest with ``uri``, ``status`` and ``metrics``.

    **A retry** fetches again and pays nothing.

    **Templated**: ``request_id``, ``segmind_conn_id``, ``output_path``.

    :param request_id: the id, or the output of a submit task or a sensor.
    :param segmind_conn_id: the Connection.
    :param output_path: ObjectStoragePath URI of the folder (or file) for results that are large or media. Without it
        large bodies go to the folder ``output_path`` of the connection's extra or of ``[segmind]``, else into XCom.
    :param max_xcom_bytes: bytes of JSON up to which the result is the XCom value.
    :param on_expired: the result is gone: ``recover`` what the request history holds, or ``fail``.
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
        if request_id in (None, ""):
            raise SegmindConfigError(
                f"'request_id' is {request_id!r}; it must be an id or the output of a submit task."
            )
        self.request_id = request_id
        self.segmind_conn_id = segmind_conn_id
        self.output_path = output_path
        self.max_xcom_bytes = max_xcom_bytes
        self.on_expired = on_expired
        SegmindResultOperator.check_arguments(self)
        self.find_late_fields()

    def check_arguments(self) -> None:
        """Check what has a range or a choice."""
        check_path("output_path", self.output_path, none=True)
        check_number("max_xcom_bytes", self.max_xcom_bytes, zero=True)
        check_choice("on_expired", self.on_expired, OnExpiredFree)

    @cached_property
    def hook(self) -> SegmindHook:
        """Return the hook of the connection."""
        from airflow_provider_segmind.hooks.segmind import SegmindHook

        return SegmindHook(self.segmind_conn_id)

    def execute(self, context: Context) -> Any:
        """Fetch and land the body."""
        from airflow_provider_segmind.api.reference import RequestRef
        from airflow_provider_segmind.failures import task_failures
        from airflow_provider_segmind.landing import Place, landed_before, recover

        with task_failures():
            self.check_rendered()
            ref = RequestRef.read(self.request_id)
            place = Place(
                path_or_none(self.output_path), self.max_xcom_bytes, None if self.output_path else self.hook.output_path
            )
            body = landed_before(ref.request_id, place, ref.landed)
            if body is not None:
                self.log.info("Request %s was landed already", ref.request_id)
                return body
            try:
                return self._fetch(ref, place)
            except SegmindRequestExpiredError as error:
                if self.on_expired == "fail":
                    raise
                self.log.warning("%s Looking it up in the request history", error)
                return recover(self.hook.get_conn(), error, model=ref.model, place=place)

    def _fetch(self, ref: RequestRef, place: Place) -> Any:
        from airflow_provider_segmind.api.media import Downloads
        from airflow_provider_segmind.api.polling import Pending, expired_error
        from airflow_provider_segmind.landing import land

        try:
            result = self.hook.get_result(ref.request_id)
        except SegmindRequestExpiredError as error:
            if ref.submitted_at is None:
                raise
            pending = Pending(ref.request_id, submitted_at=ref.submitted_at, end_time=0.0, model=ref.model)
            raise expired_error(pending, time.time()) from error
        if not result.completed:
            raise SegmindRequestTimeoutError(
                f"Request {ref.request_id!r} is {result.status}, so it has no result yet. Put a "
                "SegmindRequestSensor before this task, or give it retries; fetching is free.",
                request_id=ref.request_id,
            )
        self.log.info("Fetched the result of request %s", ref.request_id)
        return land(result, model=ref.model, place=place, downloads=Downloads.of(self.hook.config))
