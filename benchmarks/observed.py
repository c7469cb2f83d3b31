"""
What observing costs: a table and a chat task with a spend record and metrics, next to the same without.

Both run alternately, each time in a process of its own against one server on loopback. The metrics go to a port on
loopback that nobody reads, as StatsD's do.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import processes, rows
from benchmarks.measure import Measure
from benchmarks.processes import AIOHTTP, Figures
from benchmarks.server import running
from benchmarks.table import ANSWER, MODEL

ROW_GOAL, TASK_GOAL = 1.03, 50.0
"""CPU with observing over CPU without, and milliseconds that a chat task may take longer."""
CHATS = 20


@contextlib.contextmanager
def options(*, observed: bool) -> Iterator[None]:
    """Set the options of a child process."""
    names = {"AIRFLOW__SEGMIND__SPEND_PATH": "", "AIRFLOW__SEGMIND__STATE_PATH": ""}
    with tempfile.TemporaryDirectory(prefix="segmind-bench-") as folder:
        names["AIRFLOW__SEGMIND__STATE_PATH"] = f"file://{folder}/state"
        if observed:
            names["AIRFLOW__SEGMIND__SPEND_PATH"] = f"file://{folder}/spend"
            if importlib.util.find_spec("statsd") is not None:
                names |= {"AIRFLOW__METRICS__STATSD_ON": "True", "AIRFLOW__METRICS__STATSD_PORT": "18125"}
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(names)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def chats(folder: str, url: str) -> Figures:
    """Return the seconds that each of some chat tasks takes in the median."""
    connection = {"conn_type": "segmind", "host": url, "password": "SG_bench", "extra": {"history_url": url}}
    os.environ["AIRFLOW_CONN_SEGMIND_DEFAULT"] = json.dumps(connection)
    from airflow_provider_segmind.operators.chat import SegmindChatOperator

    logging.disable(logging.ERROR)
    seconds = []
    for number in range(CHATS + 1):
        task = SegmindChatOperator(task_id="chat", model=MODEL, prompt=f"Say {number}", output_path=f"file://{folder}")
        instance = rows.TaskInstance()
        instance.run_id = f"run-{number}"
        gc.collect()
        began = time.perf_counter()
        task.execute({"ti": instance})
        seconds.append(time.perf_counter() - began)
    # The first one imports.
    return {"seconds": statistics.median(seconds[1:])}


def a_table(size: int) -> Figures:
    return rows.answered(size, install=AIOHTTP)


def some_chats() -> Figures:
    with tempfile.TemporaryDirectory(prefix="segmind-bench-") as folder, running(answer=ANSWER) as server:
        return processes.figures_of("observed", {"folder": folder, "url": server.url}, install=AIOHTTP)


def measures(size: rows.Size) -> list[Measure]:
    """Measure both, alternately."""
    cpu, longer = [], []
    for _ in range(size.turns + 2):
        with options(observed=False):
            plain, chat = a_table(size.rows), some_chats()
        with options(observed=True):
            seen, chat_seen = a_table(size.rows), some_chats()
        cpu.append((seen["cpu"] / size.rows * 1e6, plain["cpu"] / size.rows * 1e6))
        longer.append((chat_seen["seconds"] - chat["seconds"]) * 1000)
    with_it, without = (statistics.median(values) for values in zip(*cpu, strict=True))
    ratio = statistics.median(one / other for one, other in cpu)
    return [
        Measure("CPU per row, observed to not observed", AIOHTTP, with_it, "µs", ROW_GOAL, without, ratio),
        Measure("a chat task longer for being observed", AIOHTTP, statistics.median(longer), "ms", TASK_GOAL),
    ]


def child(job: dict[str, Any]) -> None:
    """Do one job and report what it took."""
    Path(job["folder"]).mkdir(exist_ok=True)
    processes.report(chats(**job))


if __name__ == "__main__":
    child(json.loads(sys.argv[1]))
