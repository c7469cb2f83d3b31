"""
What a table costs: the operator with its ledger and output, beside what others pay without a ledger.

Every run has a process of its own, against one server on loopback that is done at once and replies with 1,000
characters; all imports are done before anything is measured. A process that is killed is killed with SIGKILL.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import processes, row_peers
from benchmarks.measure import Measure, versus
from benchmarks.processes import AIOHTTP, DEFAULT, Figures
from benchmarks.server import Server, running
from benchmarks.table import ANSWER, MODEL, PROMPT, Table

INSTALLS = (DEFAULT, AIOHTTP)
HTTPX_GOAL = {DEFAULT: 2.5, AIOHTTP: 4.5}
SDK_GOAL = {DEFAULT: 1.3, AIOHTTP: 2.5}
CPU_GOAL = {DEFAULT: 0.75, AIOHTTP: 0.36}
CALLS_GOAL, RESUME_GOAL, MEMORY_GOAL = 2.1, 5.0, 150.0


@dataclass(frozen=True)
class Size:
    """
    How much is measured.

    :param rows: of our table that is compared with the peers'.
    :param peer_rows: of theirs; they pay for each row alike, we also for a start and an end.
    :param turns: how often all are measured, one after the other.
    :param memory: rows of the tables whose memory is measured.
    :param resume: rows that are answered when a process is killed, half of the table.
    """

    rows: int = 2000
    peer_rows: int = 400
    turns: int = 3
    memory: tuple[int, ...] = (5_000, 10_000)
    resume: int = 5_000


class TaskInstance:
    """The part of a task instance that the operator uses."""

    dag_id, task_id, map_index, try_number = "bench", "enrich", -1, 1

    def __init__(self) -> None:
        self.run_id, self.start_date = "first", datetime.now(UTC)

    def xcom_push(self, key: str, value: object) -> None:
        """No-op."""


def ours(folder: str, url: str) -> Callable[[], Any]:
    """Return the operator's work on the table in a folder as a function; everything it imports is imported."""
    connection = {"conn_type": "segmind", "host": url, "password": "SG_bench", "extra": {"history_url": url}}
    os.environ["AIRFLOW_CONN_SEGMIND_DEFAULT"] = json.dumps(connection)
    with contextlib.suppress(ImportError):
        import aiohttp  # noqa: F401
    import airflow_provider_segmind.execution.enrichment  # noqa: F401
    from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

    table = Table(Path(folder), 0)
    task = SegmindEnrichFileOperator(
        task_id="enrich",
        model=MODEL,
        source=str(table.source),
        key="id",
        prompt=PROMPT,
        output_path=str(table.output),
    )
    return lambda: task.execute({"ti": TaskInstance()})  # type: ignore[typeddict-item]


def peer(name: str, folder: str, url: str, rows: int) -> Callable[[], Any]:
    """Return a peer's work on the same rows."""
    prompts = list(Table(Path(folder), rows).prompts())
    row_peers.load()
    return lambda: row_peers.PEERS[name](url, prompts)


def child(job: dict[str, Any]) -> None:
    """Do one job and report ``cpu`` and ``seconds``, and ``memory``: MB at the peak over those before it began."""
    work = peer(**job) if "name" in job else ours(**job)
    logging.disable(logging.ERROR)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak is counted anew
    before = processes.memory("VmRSS")
    print(f"BEGAN {time.time()}", flush=True)
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    processes.report({"cpu": cpu, "seconds": wall, "memory": processes.memory("VmHWM") - before})


@contextlib.contextmanager
def table_of(rows: int) -> Iterator[Table]:
    with tempfile.TemporaryDirectory(prefix="segmind-bench-") as path:
        table = Table(Path(path), rows)
        table.write()
        yield table


def answered(rows: int, *, install: str = AIOHTTP, by: str = "") -> Figures:
    """Have a table answered by us or by a peer; return what it cost here, and the ``calls`` a row."""
    with table_of(rows) as table, running(answer=ANSWER) as server:
        job: dict[str, Any] = {"folder": str(table.folder), "url": server.url}
        before = server.count()
        figures = processes.figures_of("rows", {**job, "name": by, "rows": rows} if by else job, install=install)
        after = server.count()
        if not by and (wrong := table.check()):
            raise RuntimeError(f"the output is not right: {wrong}")
    return {**figures, "calls": (after.calls - before.calls) / rows}


def speed(size: Size) -> list[Measure]:
    """Compare rows per second, CPU and calls with the peers'."""
    turns = [
        {install: answered(size.rows, install=install) for install in INSTALLS}
        | {by: answered(size.peer_rows, by=by) for by in (row_peers.HTTPX, row_peers.SDK)}
        for _ in range(size.turns)
    ]
    found: list[Measure] = []
    for install in INSTALLS:

        def rate(by: str, install: str = install) -> list[tuple[float, float]]:
            return [(size.rows / turn[install]["seconds"], size.peer_rows / turn[by]["seconds"]) for turn in turns]

        for by, goal in ((row_peers.HTTPX, HTTPX_GOAL), (row_peers.SDK, SDK_GOAL)):
            name = f"rows per second, to {by}"
            found.append(versus(name, install, rate(by), unit="rows/s", goal=goal[install], at_least=True))
        cpu = [
            (turn[install]["cpu"] / size.rows * 1e6, turn[row_peers.SDK]["cpu"] / size.peer_rows * 1e6)
            for turn in turns
        ]
        found.append(versus(f"CPU per row, to {row_peers.SDK}", install, cpu, unit="µs", goal=CPU_GOAL[install]))
        calls = max(turn[install]["calls"] for turn in turns)
        found.append(Measure("calls a row", install, calls, "calls", CALLS_GOAL))
    return found


def memory(size: Size) -> list[Measure]:
    """Measure memory at its peak over memory before the first row."""
    return [
        Measure(f"memory, {rows:,} rows", DEFAULT, answered(rows, install=DEFAULT)["memory"], "MB", MEMORY_GOAL)
        for rows in size.memory
    ]


def resume(size: Size) -> list[Measure]:
    """Measure how soon a retry after a kill submits its first row."""
    with table_of(2 * size.resume) as table, running(answer=ANSWER, history=True) as server:
        job = {"folder": str(table.folder), "url": server.url}
        with processes.started("rows", job) as process:
            _wait_for_posts(server, size.resume, process)
        time.sleep(0.5)  # what the server has received is counted by then
        posts = server.count().posts
        with processes.started("rows", job, install=DEFAULT) as process:
            began = float(processes.line_of(process, "BEGAN "))
            _wait_for_posts(server, posts + 1, process)
            seconds = time.time() - began
    return [Measure(f"resume, {size.resume:,} rows answered, until the first POST", DEFAULT, seconds, "s", RESUME_GOAL)]


def _wait_for_posts(server: Server, posts: int, process: Any) -> None:
    while server.count().posts < posts:
        if process.poll() is not None:
            raise RuntimeError("the task ended before its submissions could be counted")
        time.sleep(0.02)


def measures(size: Size) -> list[Measure]:
    """Measure all of it."""
    return [*speed(size), *memory(size), *resume(size)]


if __name__ == "__main__":
    child(json.loads(sys.argv[1]))
