"""
A table whose ledger has a million rows, and some rows that are new today, at its end.

The ledger is written by the package's own writer (:func:`to_line`, :func:`write_segment`), without HTTP, as a run of
yesterday leaves it: large segments of outcomes. The new rows are asked for against the server on loopback by the
operator, in a process of its own. No peer keeps what was paid for, so there is none to compare with.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import processes, replies
from benchmarks.measure import Measure
from benchmarks.processes import DEFAULT
from benchmarks.rows import measured, operator, ours, table_of, wait_for_posts
from benchmarks.server import running
from benchmarks.table import ANSWER, MODEL, Table

MEMORY_GOAL, RESUME_GOAL, OUTPUT_GOAL, PAGE_GOAL = 200.0, 30.0, 600.0, 1.0
SEGMENT_ROWS = 3000
RUN, AT = "yesterday", 1_760_000_000.0


@dataclass(frozen=True)
class Size:
    """
    How much is measured.

    :param ledger: rows that have their answers in the ledger.
    :param new: rows that are asked for.
    """

    ledger: int = 1_000_000
    new: int = 50_000


def write_ledger(folder: str, rows: int) -> None:
    """Write the ledger of a table that was answered."""
    from airflow_provider_segmind.enrichment.ledger.events import Finished, to_line
    from airflow_provider_segmind.enrichment.ledger.segments import segment_name, write_segment
    from airflow_provider_segmind.enrichment.outcomes import Outcome
    from airflow_provider_segmind.enrichment.rows import Row
    from airflow_provider_segmind.enrichment.storage import make_folder

    table, text = Table(Path(folder), rows), replies.gemini_text(ANSWER)
    task = operator(folder, "http://127.0.0.1:1")
    question, ledger = task._question(), Path(task.table_io(task._question()).ledger)
    make_folder(ledger)
    lines: list[bytes] = []
    for number in range(rows):
        prepared = question.prepare(Row(number, table.row(number)))
        event = Finished(
            fingerprint=prepared.fingerprint,
            attempt=1,
            at=AT + number / 100,
            run=RUN,
            model=MODEL,
            outcome=Outcome.SUCCESS,
            body=prepared.body,
            answer={"answer": text.replace("@ITEM@", f"{number:07d}")},
            request_ids=(f"r-{number}-{number:07d}-0",),
            cost=replies.COST,
            tokens=280,
            seconds=4.0,
            billed=True,
        )
        lines.append(to_line(event))
        if len(lines) == SEGMENT_ROWS or number == rows - 1:
            write_segment(ledger, segment_name(AT + number / 100, RUN, number // SEGMENT_ROWS), lines)
            lines = []


def page_seconds(manifest: dict[str, Any]) -> float:
    """Return how long the page's view of a run takes, over a database with that run, the second time it is shown."""
    from airflow.utils.db import initdb

    from benchmarks.page import view_seconds

    initdb()
    return view_seconds(manifest)


def measures(size: Size) -> list[Measure]:
    """Measure one run."""
    rows = size.ledger + size.new
    with table_of(rows) as table, running(answer=ANSWER) as server:
        job: dict[str, Any] = {"folder": str(table.folder), "url": server.url}
        processes.figures_of("big_ledger", {"folder": str(table.folder), "rows": size.ledger}, install=DEFAULT)
        with processes.started("big_ledger", job, install=DEFAULT) as process:
            began = float(processes.line_of(process, "BEGAN "))
            cpu = processes.cpu_of(process.pid)
            wait_for_posts(server, 1, process)
            seconds, cpu = time.time() - began, processes.cpu_of(process.pid) - cpu
            figures = json.loads(processes.line_of(process, "FIGURES "))
        posts = server.count().posts
        if wrong := table.check():
            raise RuntimeError(f"the output is not right: {wrong}")
    if posts != size.new:
        raise RuntimeError(f"{posts} requests were paid for, not {size.new}")
    name = f"{size.ledger:,} rows in the ledger, {size.new:,} new"
    return [
        Measure(f"memory, {name}", DEFAULT, figures["memory"], "MB", MEMORY_GOAL),
        Measure(f"resume until the first POST, {name}", DEFAULT, seconds, "s", RESUME_GOAL),
        Measure(f"its CPU, {name}", DEFAULT, cpu, "s", RESUME_GOAL),
        Measure(f"writing the output, {rows:,} rows", DEFAULT, figures["output"], "s", OUTPUT_GOAL),
        Measure(f"its CPU, {rows:,} rows", DEFAULT, figures["output_cpu"], "s", OUTPUT_GOAL),
        Measure(f"the page's view of the run, {rows:,} rows", DEFAULT, figures["page"], "s", PAGE_GOAL),
    ]


def child(job: dict[str, Any]) -> None:
    """Write a ledger, or ask for the rows that it lacks and report what that takes."""
    if "rows" in job:
        write_ledger(**job)
        processes.report({})
    # On a busy machine six heartbeats in five seconds are too many.
    os.environ["AIRFLOW__SEGMIND__WRITER_TIMEOUT"] = "60"
    from airflow_provider_segmind.execution import file_table

    write_output, seconds, cpu = file_table.write_output, 0.0, 0.0

    def timed(*args: Any, **options: Any) -> Any:
        nonlocal seconds, cpu
        began, cpu = time.perf_counter(), time.process_time()
        try:
            return write_output(*args, **options)
        finally:
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu

    file_table.write_output = timed
    value, figures = measured(ours(**job))
    logging.disable(logging.CRITICAL)
    processes.report({**figures, "output": seconds, "output_cpu": cpu, "page": page_seconds(value)})


if __name__ == "__main__":
    os.environ.setdefault("AIRFLOW__CORE__UNIT_TEST_MODE", "True")
    child(json.loads(sys.argv[1]))
