"""Spans as a collector receives them: Airflow's own tracing is on, and its exporter sends them over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.otlp import Collector, attributes, collecting

SECRET = "a prompt that no span may have"
RUN_TASK = f"""
import sys
from types import SimpleNamespace

from airflow import settings
from airflow.sdk.execution_time.task_runner import _make_task_span, flush_spans

from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator
from tests.support.airflow_fakes import Run

settings.initialize()
names = {{"dag_id": "shop", "task_id": "ask", "run_id": "monday", "try_number": 1, "map_index": -1}}
# What Airflow's task runner does around a task.
with flush_spans(), _make_task_span(SimpleNamespace(ti=SimpleNamespace(**names, context_carrier=None))):
    SegmindEnrichFileOperator(
        task_id="ask", model="gemini-3.1-flash-lite", key="id", prompt="{SECRET} {{id}}",
        source=[{{"id": number}} for number in range(3)], output_path=sys.argv[1] + "/out.jsonl",
    ).execute(Run(**names).context())
"""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as server:
        yield server


def test_a_collector_receives_the_spans_of_a_table_below_that_of_its_task(
    collector: Collector, segmind_emulator: SegmindEmulator, tmp_path: Path
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    environment = {**collector.environment, "AIRFLOW_CONN_SEGMIND_DEFAULT": segmind_emulator.connection_json}
    done = subprocess.run(
        [sys.executable, "-c", RUN_TASK, str(tmp_path)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr

    spans = {span.name: span for span in collector.spans()}
    worker, table = spans["worker.ask"], spans["segmind.table"]
    rows = [span for span in collector.spans() if span.name == "chat gemini-3.1-flash-lite"]
    assert table.parent_span_id == worker.span_id
    assert {span.parent_span_id for span in rows} == {table.span_id}
    assert {span.trace_id for span in (*rows, table)} == {worker.trace_id}
    assert {attributes(span)["gen_ai.response.id"] for span in rows} == {
        job.request_id for job in segmind_emulator.jobs
    }
    assert attributes(table)["segmind.cost_usd"] == pytest.approx(sum(one.cost for one in segmind_emulator.bill))
    assert SECRET.encode() not in b"".join(collector.bodies)
    assert segmind_emulator.api_key.encode() not in b"".join(collector.bodies)
