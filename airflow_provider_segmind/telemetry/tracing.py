"""
Spans of requests and tables, below the span that Airflow opens for a task where tracing is on.

They are made when a request has ended, since a task may be deferred between its submission and its result. Attributes
follow OpenTelemetry's conventions for generative AI; prompts and answers are not among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from airflow_provider_segmind import __version__

Operation = Literal["chat", "generate_content"]
_PROVIDER = {"gen_ai.provider.name": "segmind", "gen_ai.system": "segmind"}


class TaskTracer:
    """
    Makes spans below the current one.

    :param trace: OpenTelemetry's module of that name.
    :param below: the span of the task, or of a table.
    """

    def __init__(self, trace: Any, below: Any) -> None:
        self._trace = trace
        self._below = trace.set_span_in_context(below)
        self._tracer = trace.get_tracer("airflow_provider_segmind", __version__)

    def request(
        self, operation: Operation, *, model: str, began: float, ended: float, error: str | None = None, **about: Any
    ) -> TaskTracer:
        """
        Add the span of a request that has ended.

        :param began: epoch seconds.
        :param error: its outcome, None if it has an answer.
        :param about: as :func:`request_attributes` takes it.
        """
        attributes = {
            **_PROVIDER,
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": model,
            **request_attributes(**about),
        }
        return self._add(f"{operation} {model}", self._trace.SpanKind.CLIENT, attributes, began, ended, error)

    def table(
        self, *, began: float, ended: float, attributes: Mapping[str, Any], error: str | None = None
    ) -> TaskTracer:
        """Add the span of a table; the tracer returned adds spans below it."""
        known = {**_PROVIDER, **attributes}
        return self._add("segmind.table", self._trace.SpanKind.INTERNAL, known, began, ended, error)

    def _add(
        self, name: str, kind: Any, attributes: Mapping[str, Any], began: float, ended: float, error: str | None
    ) -> TaskTracer:
        known = {key: value for key, value in attributes.items() if value is not None}
        if error is not None:
            known["error.type"] = error
        span = self._tracer.start_span(
            name, context=self._below, kind=kind, attributes=known, start_time=_nanoseconds(min(began, ended))
        )
        if error is not None:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(end_time=_nanoseconds(ended))
        return TaskTracer(self._trace, span)


def request_attributes(
    *,
    request_id: str | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    tokens: int | None = None,
    finish_reason: str | None = None,
    cost: float | None = None,
) -> dict[str, Any]:
    """
    Return the attributes of a request.

    :param tokens: of both sorts, where no more is known.
    :param cost: USD.
    """
    return {
        "gen_ai.response.id": request_id,
        "gen_ai.usage.input_tokens": input_tokens,
        "gen_ai.usage.output_tokens": output_tokens,
        "gen_ai.response.finish_reasons": None if finish_reason is None else [finish_reason],
        "segmind.tokens": tokens,
        "segmind.cost_usd": cost,
    }


def task_tracer() -> TaskTracer | None:
    """Return what makes spans below the current one; None without OpenTelemetry, or where no span is recorded."""
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    span = trace.get_current_span()
    return TaskTracer(trace, span) if span.is_recording() else None


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
