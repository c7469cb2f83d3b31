"""An enrichment that only waits defers, and continues where it was; its worker's spans reach a collector."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.support.otlp import attributes

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_segmind.emulator.control import EmulatorControl
    from demo.stack import AirflowStack
    from tests.support.otlp import Collector

DAG_ID, TASK_ID, MODEL = "e2e_table", "ask", "slow-video"


def test_an_enrichment_with_a_slow_model_defers_pays_once_and_is_traced(
    airflow_stack: AirflowStack, emulator: EmulatorControl, collector: Collector, tmp_path: Path
) -> None:
    rest = airflow_stack.rest
    emulator.settings(models={**emulator.settings()["models"], MODEL: "gemini"})
    emulator.script(model=MODEL, latency=1200)
    rest.wait_for_dag(DAG_ID)

    run_id = rest.trigger(DAG_ID, conf={"folder": str(tmp_path)})
    rest.wait_for_task(DAG_ID, run_id, TASK_ID, states={"deferred"}, timeout=120)
    assert len(emulator.posts(MODEL)) == 2
    assert not (tmp_path / "out.jsonl").exists()

    emulator.advance(1200)
    rest.wait_for("the third row", lambda: len(emulator.posts(MODEL)) == 3, timeout=300)
    emulator.advance(1200)
    state = rest.wait_for_run(DAG_ID, run_id, timeout=300)

    log = rest.log(DAG_ID, run_id, TASK_ID, try_number=1)
    assert state == "success", log
    manifest = rest.xcom(DAG_ID, run_id, TASK_ID)
    assert (manifest["posts"], manifest["outcomes"]["success"]) == (3, 3)
    # The third row may cause another deferral.
    assert manifest["resumed"] in (2, 3)
    assert sum(entry.model == MODEL for entry in emulator.bill) == 3
    assert [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [0, 1, 2]
    assert rest.task_instance(DAG_ID, run_id, TASK_ID)["try_number"] == 1
    assert "Film thing" not in log
    check_spans(collector, requests={job.request_id for job in emulator.jobs if job.model == MODEL})


def check_spans(collector: Collector, *, requests: set[str]) -> None:
    spans = [span for span in collector.spans() if attributes(span).get("gen_ai.request.model") == MODEL]
    tables = [span for span in spans if span.name == "segmind.table"]
    rows = [span for span in spans if span.name != "segmind.table"]
    tasks = {span.span_id: span for span in collector.spans() if span.name == f"worker.{TASK_ID}"}
    # One for each part of the try between two deferrals, below the span that Airflow's worker opened for it.
    assert len(tables) == len({span.parent_span_id for span in tables}) >= 2
    assert {span.parent_span_id for span in tables} <= tasks.keys()
    assert {span.trace_id for span in spans} == {tasks[tables[0].parent_span_id].trace_id}
    assert {span.parent_span_id for span in rows} <= {span.span_id for span in tables}
    assert {attributes(span)["gen_ai.response.id"] for span in rows} == requests
    assert b"Film thing" not in b"".join(collector.bodies)
