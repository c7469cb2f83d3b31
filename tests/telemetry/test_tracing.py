"""Spans below that of a task, as OpenTelemetry's own exporter in memory receives them."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.enrichment.ledger.events import Finished
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.stats import MOST_SAMPLED, RowSample
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator
from airflow_provider_segmind.operators.request import SegmindRunOperator
from airflow_provider_segmind.telemetry.tracing import task_tracer
from tests.support.airflow_fakes import Run

MODEL, IMAGES = "gemini-3.1-flash-lite", "seedream-4.5"
SECRET = "a prompt that no span may have"
Traced = Callable[[Any], tuple[ReadableSpan, list[ReadableSpan]]]


@pytest.fixture
def traced(segmind_emulator: SegmindEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traced]:
    """Execute a task inside a span of Airflow's; return that span and those below it."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)

    def execute(task: Any) -> tuple[ReadableSpan, list[ReadableSpan]]:
        with provider.get_tracer("airflow").start_as_current_span("worker.ask"):
            try:
                task.execute(Run().context())
            finally:
                task.hook.close()
        *below, worker = exporter.get_finished_spans()
        return worker, below

    yield execute
    provider.shutdown()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def own(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def test_a_chat_has_a_span_with_the_attributes_of_the_conventions(
    traced: Traced, segmind_emulator: SegmindEmulator
) -> None:
    worker, (span,) = traced(SegmindChatOperator(task_id="ask", model=MODEL, prompt=SECRET, sync_wait=30))

    (entry,) = segmind_emulator.bill
    found = attributes(span)
    assert (span.name, span.kind, parent(span)) == (f"chat {MODEL}", SpanKind.CLIENT, own(worker))
    assert found.pop("gen_ai.usage.input_tokens") > 0
    assert found.pop("gen_ai.usage.output_tokens") > 0
    assert found.pop("segmind.tokens") > 0
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "segmind",
        "gen_ai.system": "segmind",
        "gen_ai.request.model": MODEL,
        "gen_ai.response.id": entry.request_id,
        "gen_ai.response.finish_reasons": ("stop",),
        "segmind.cost_usd": pytest.approx(entry.cost),
    }
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time <= span.end_time
    assert SECRET not in span.to_json()


def test_another_model_has_a_span_of_generated_content(traced: Traced) -> None:
    _, (span,) = traced(SegmindRunOperator(task_id="ask", model=IMAGES, inputs={"prompt": SECRET}, sync_wait=30))

    assert span.name == f"generate_content {IMAGES}"
    assert SECRET not in span.to_json()


def test_a_failed_request_has_a_span_with_an_error(traced: Traced, segmind_emulator: SegmindEmulator) -> None:
    segmind_emulator.script(fail="out of paint", times=1)
    task = SegmindRunOperator(task_id="ask", model=MODEL, inputs={"prompt": "x"}, sync_wait=30, on_failed="resubmit")

    _, (failed, answered) = traced(task)

    assert (failed.status.status_code, attributes(failed)["error.type"]) == (StatusCode.ERROR, "failed")
    assert answered.status.status_code is StatusCode.UNSET


def test_a_table_has_one_span_and_below_it_those_of_rows(
    traced: Traced, segmind_emulator: SegmindEmulator, tmp_path: Path
) -> None:
    segmind_emulator.script(match="row 2", fail="no")
    worker, (table, *rows) = traced(
        SegmindEnrichFileOperator(
            task_id="ask",
            model=MODEL,
            source=[{"id": number, "text": f"row {number}: {SECRET}"} for number in range(3)],
            key="id",
            prompt="{text}",
            output_path=str(tmp_path / "answers.jsonl"),
            max_failed_rows=None,
        )
    )

    assert (table.name, parent(table)) == ("segmind.table", own(worker))
    assert attributes(table)["segmind.rows.success"] == 2
    assert attributes(table)["segmind.cost_usd"] == pytest.approx(sum(entry.cost for entry in segmind_emulator.bill))
    assert [(row.name, parent(row)) for row in rows] == [(f"chat {MODEL}", own(table))] * 3
    (failed,) = [row for row in rows if row.status.status_code is StatusCode.ERROR]
    assert attributes(failed)["error.type"] == "failed"
    assert not [span for span in (table, *rows) if SECRET in span.to_json()]


def test_nothing_is_traced_where_no_span_is_open() -> None:
    assert task_tracer() is None


def test_nothing_is_traced_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    assert task_tracer() is None


@pytest.mark.parametrize("rows", [1, 2 * MOST_SAMPLED - 1, 2 * MOST_SAMPLED, 12_345])
def test_a_sample_is_bounded_and_spread_over_all_rows(rows: int) -> None:
    sample = RowSample()
    for number in range(rows):
        sample.add(
            Finished(
                fingerprint=b"", attempt=1, at=float(number), run="r", model="m", outcome=Outcome.SUCCESS, answer=SECRET
            )
        )

    found = [int(row.at) for row in sample.rows]
    steps = {after - before for before, after in itertools.pairwise(found)}
    assert min(rows, MOST_SAMPLED) <= len(found) < 2 * MOST_SAMPLED
    assert found[0] == 0
    assert len(steps) <= 1
    assert not [row for row in sample.rows if row.answer is not None]
