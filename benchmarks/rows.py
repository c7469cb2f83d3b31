"""
What a table costs: the operator with its ledger and output, next to what others pay without a ledger.

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
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import processes, row_peers
from benchmarks.measure import Measure, versus
from benchmarks.processes import AIOHTTP, DEFAULT, Figures, of_peer
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


def operator(folder: str, url: str, **options: Any) -> Any:
    """Return the operator for the table in a folder."""
    connection = {"conn_type": "segmind", "host": url, "password": "SG_bench", "extra": {"history_url": url}}
    os.environ["AIRFLOW_CONN_SEGMIND_DEFAULT"] = json.dumps(connection)
    from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

    table = Table(Path(folder), 0)
    paths: dict[str, Any] = {"source": str(table.source), "output_path": str(table.output)}
    return SegmindEnrichFileOperator(task_id="enrich", model=MODEL, key="id", prompt=PROMPT, **paths | options)


def load() -> None:
    """Import what the operator's work imports, so that it is not measured."""
    with contextlib.suppress(ImportError):
        import aiohttp  # noqa: F401
    import airflow_provider_segmind.execution.enrichment  # noqa: F401


def ours(folder: str, url: str) -> Callable[[], Any]:
    """Return the operator's work on the table in a folder as a function; everything it imports is imported."""
    load()
    task = operator(folder, url)
    return lambda: task.execute({"ti": TaskInstance()})


def peer(name: str, folder: str, url: str, rows: int) -> Callable[[], Any]:
    """Return a peer's work on the same rows."""
    prompts = list(Table(Path(folder), rows).prompts())
    row_peers.load()
    return lambda: row_peers.PEERS[name](url, prompts)


def child(job: dict[str, Any]) -> None:
    """Do one job and report what it took."""
    processes.report(measured(peer(**job) if "name" in job else ours(**job))[1])


def measured(work: Callable[[], Any]) -> tuple[Any, Figures]:
    """Do some work; return its value, and ``cpu``, ``seconds``, and ``memory``: MB at the peak over those before it."""
    logging.disable(logging.ERROR)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak is counted anew
    before = processes.memory("VmRSS")
    print(f"BEGAN {time.time()}", flush=True)
    cpu, wall = time.process_time(), time.perf_counter()
    value = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return value, {"cpu": cpu, "seconds": wall, "memory": processes.memory("VmHWM") - before}


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
        (
            {install: answered(size.rows, install=install) for install in INSTALLS},
            {by: of_peer(partial(answered, size.peer_rows, by=by)) for by in (row_peers.HTTPX, row_peers.SDK)},
        )
        for _ in range(size.turns)
    ]
    found: list[Measure] = []
    for install in INSTALLS:

        def pairs(
            by: str, figure: Callable[[Figures, int], float], install: str = install
        ) -> list[tuple[float, float | None]]:
            return [
                (
                    figure(ours[install], size.rows),
                    None if (found := peers[by]) is None else figure(found, size.peer_rows),
                )
                for ours, peers in turns
            ]

        for by, goal in ((row_peers.HTTPX, HTTPX_GOAL), (row_peers.SDK, SDK_GOAL)):
            name = f"rows per second, to {by}"
            rate = pairs(by, lambda figures, rows: rows / figures["seconds"])
            found.append(versus(name, install, rate, unit="rows/s", goal=goal[install], at_least=True))
        cpu = pairs(row_peers.SDK, lambda figures, rows: figures["cpu"] / rows * 1e6)
        found.append(versus(f"CPU per row, to {row_peers.SDK}", install, cpu, unit="µs", goal=CPU_GOAL[install]))
        calls = max(ours[install]["calls"] for ours, _ in turns)
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
            wait_for_posts(server, size.resume, process)
        time.sleep(0.5)  # what the server has received is counted by then
        posts = server.count().posts
        with processes.started("rows", job, install=DEFAULT) as process:
            began = float(processes.line_of(process, "BEGAN "))
            wait_for_posts(server, posts + 1, process)
            seconds = time.time() - began
    return [Measure(f"resume, {size.resume:,} rows answered, until the first POST", DEFAULT, seconds, "s", RESUME_GOAL)]


def wait_for_posts(server: Server, posts: int, process: Any) -> None:
    while server.count().posts < posts:
        if process.poll() is not None:
            raise RuntimeError("the task ended before its submissions could be counted")
        time.sleep(0.02)


def measures(size: Size) -> list[Measure]:
    """Measure all of it."""
    return [*speed(size), *memory(size), *resume(size)]


if __name__ == "__main__":
    child(json.loads(sys.argv[1]))
