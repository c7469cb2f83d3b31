"""The metrics and spans of a task's single requests. Short because metrics and tracing do the work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.telemetry.metrics import MetricsSender, call_totals, cost_total
from airflow_provider_segmind.telemetry.tracing import task_tracer

if TYPE_CHECKING:
    from airflow_provider_segmind.client.rate_limiter import CallCounts
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.telemetry.tracing import Operation


class RequestTelemetry:
    """
    Metrics and spans of the requests of one task; make it in the task's main thread.

    :param tags: of the metrics.
    :param calls: as its client counts them.
    """

    def __init__(self, tags: Mapping[str, str], calls: CallCounts, *, operation: Operation) -> None:
        self._calls = calls
        self._operation = operation
        self._tracer = task_tracer()
        self._requests = self._tokens = 0
        self._cost = 0.0
        self._metrics = MetricsSender(tags, self._totals, since=call_totals(self._calls))

    def accepted(self) -> None:
        """Count a request that Segmind accepted."""
        self._requests += 1

    def finished(
        self, *, model: str, began: float | None, tokens: int | None, cost: float | None, **about: Any
    ) -> None:
        """
        Count a request that has ended, and add its span.

        :param began: epoch second of its submission, None if unknown.
        :param about: as :meth:`TaskTracer.request` takes it.
        """
        self._tokens += tokens or 0
        self._cost += cost or 0.0
        if self._tracer is not None:
            ended = time.time()
            began = ended if began is None else began
            self._tracer.request(
                self._operation, model=model, began=began, ended=ended, tokens=tokens, cost=cost, **about
            )

    def send(self) -> None:
        """Send the metrics."""
        self._metrics.send()

    def _totals(self) -> dict[str, float]:
        counts = {"requests": self._requests, "tokens": self._tokens, "cost_micros": cost_total(self._cost)}
        return {**call_totals(self._calls), **counts}


def telemetry_of(
    context: Context,
    calls: CallCounts,
    *,
    conn_id: str,
    model: str = "",
    operation: Operation = "generate_content",
) -> RequestTelemetry:
    """Return the metrics and spans of the task that is running."""
    ti = context["ti"]
    tags = {"dag_id": ti.dag_id, "task_id": ti.task_id, "model": model, "conn_id": conn_id}
    return RequestTelemetry(tags, calls, operation=operation)
