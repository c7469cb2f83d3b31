"""
What asking about a table costs: the operator, ledger and output included, beside what others do without a ledger.

Every row is measured in a process of its own against one cheap server on loopback, which answers with 1,000 characters
at once; a process that is killed is killed with SIGKILL. Run it with ``make bench`` or
``.venvs/bench/bin/python benchmarks/enrich.py``; ``--quick`` takes a tenth of the rows, ``--only`` the sections whose
name holds a word: paid, speed, memory, resume, scheduler.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if "AIRFLOW_HOME" not in os.environ:
    # The processes that measure inherit it; the first one takes it away.
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="segmind-bench-")
    atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)
os.environ.setdefault("AIRFLOW__CORE__UNIT_TEST_MODE", "True")
os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "ERROR")
# A retry of a killed process waits no longer for the few rows that it had claimed.
os.environ.setdefault("AIRFLOW__SEGMIND__WRITER_TIMEOUT", "5")
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from local import asking, table
from local.server import Server, running

OURS = {"aiohttp installed": "aiohttp", "httpx only": "httpx"}
REACH = {asking.HTTPX: 4.0, asking.SDK: 2.4, asking.AIOHTTP: 0.4, asking.AIOHTTP_RESULT: 0.4}
"""How many times a peer's rows per second."""
REACH_CPU = 0.4
"""How many times the SDK's CPU."""
Figures = dict[str, float]


def memory(field: str) -> float:
    """Return ``VmRSS`` or ``VmHWM`` (its peak) in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1000
    raise LookupError(field)


def child(job: dict[str, Any]) -> None:
    """Do one job and print what it cost; all imports are done before the clock starts."""
    work: Callable[[], Any]
    if "peer" in job:
        peer, prompts = asking.PEERS[job["peer"]], list(table.Table(Path(job["folder"]), job["rows"]).prompts())
        work = lambda: peer(job["url"], prompts)  # noqa: E731
        asking.load()
    else:
        work = table.enrich(
            job["folder"],
            job["url"],
            run_id=job["run"],
            schema=job.get("schema"),
            library=job.get("library", "aiohttp"),
        )
    logging.disable(logging.ERROR)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # from here on the peak counts anew
    before = memory("VmRSS")
    print(f"BEGAN {time.time()}", flush=True)
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    figures = {"cpu": cpu, "seconds": wall, "growth": memory("VmHWM") - before}
    print("FIGURES " + json.dumps(figures), flush=True)
    os._exit(0)


@contextlib.contextmanager
def started(job: dict[str, Any]) -> Iterator[tuple[subprocess.Popen[str], float]]:
    """Start a job and give its process and the moment at which the work itself began."""
    command = [sys.executable, __file__, "--child", json.dumps(job)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("BEGAN "):
                yield process, float(line[6:])
                return
        raise RuntimeError(f"{job} did not begin")
    finally:
        process.kill()
        process.communicate()


def done(job: dict[str, Any]) -> Figures:
    """Do a job to its end."""
    with started(job) as (process, _):
        assert process.stdout
        for line in process.stdout:
            if line.startswith("FIGURES "):
                figures: Figures = json.loads(line[8:])
                return figures
    raise RuntimeError(f"{job} failed")


def killed_at(job: dict[str, Any], server: Server, posts: int) -> None:
    """Start a job and end it by SIGKILL when the server has seen so many POSTs."""
    with started(job) as (process, _):
        while server.count().posts < posts:
            if process.poll() is not None:
                raise RuntimeError(f"{job} ended before it could be killed")
            time.sleep(0.02)
        process.kill()
    time.sleep(0.5)  # what the server had received is counted by then


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="segmind-bench-") as path:
        yield Path(path)


def line(figure: str, found: str, reach: str) -> None:
    print(f"| {figure} | {found} | {reach} |", flush=True)


def heading(title: str, first: str = "figure") -> None:
    print(f"\n{title}\n\n| {first} | measured | to reach |\n| --- | --- | --- |", flush=True)


def paid(rows: int) -> None:
    """How many POSTs a table costs over a kill and four more runs."""
    heading(f"Paid once: {rows:,} rows, {rows // 10:,} of them duplicates")
    with folder() as place, running(answer=table.ANSWER, history=True) as server:
        given = table.Table(place, rows, duplicates=True)
        given.write()
        job = {"folder": str(place), "url": server.url, "schema": table.SCHEMA}
        distinct = rows - rows // 10
        killed_at({**job, "run": "first"}, server, distinct // 2)
        at_kill = server.count().posts
        done({**job, "run": "first"})
        wrong = given.check()
        line("POSTs at the SIGKILL", f"{at_kill:,}", "about half")
        line("POSTs in all", f"{server.count().posts:,}", f"≤ {distinct:,}")
        line("output complete, right and in order", wrong or "yes", "yes")
        before = server.count().posts

        def again(change: str, reach: str, **fields: Any) -> None:
            nonlocal before
            done({**job, "run": change, **fields})
            wrong = given.check(first=first)
            posts, before = server.count().posts - before, server.count().posts
            line(f"{change}: POSTs", f"{posts:,}{' but ' + wrong if wrong else ''}", reach)

        first: dict[str, Any] | None = None
        middle = rows // 20 * 10
        given.write(edited=middle)
        again("edit one row", "1")
        first = {"id": -1, "name": f"item-{rows:07d}", "words": table.WORDS}
        given.write(edited=middle, first=first)
        again("insert one at the front", "1")
        again("nothing changed", "0")
        again("another schema", f"{distinct + 1:,}", schema={**table.SCHEMA, "title": "Another"})


def speed(rows: int) -> None:
    """Rows per second and CPU beside the peers."""
    jobs: dict[str, dict[str, Any]] = {f"ours, {name}": {"library": library} for name, library in OURS.items()}
    jobs["ours, typed answers"] = {"library": "aiohttp", "schema": table.SCHEMA}
    jobs |= {name: {"peer": name} for name in asking.PEERS}
    # In turns, because whatever else the machine does should fall on all alike.
    turns = [{name: asked(rows, job) for name, job in jobs.items()} for _ in range(options.runs)]
    print(f"\nSpeed: {rows:,} rows, a server without delay, medians of {options.runs}\n")
    print("| | rows/s | CPU s / 1,000 rows | calls a row | connections | server busy |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in jobs:
        seconds, cpu, calls, connections, busy = (
            statistics.median(turn[name][figure] for turn in turns)
            for figure in ("seconds", "cpu", "calls", "connections", "server")
        )
        print(
            f"| {name} | {rows / seconds:,.0f} | {cpu / rows * 1000:.2f} "
            f"| {calls / rows:.2f} | {connections:,.0f} | {busy / seconds:.0%} |"
        )
    for ours in OURS:
        heading(f"Ours with {ours}", "beside")

        def ratio(figure: str, over: str, under: str) -> float:
            return statistics.median(turn[over][figure] / turn[under][figure] for turn in turns)

        mine = f"ours, {ours}"
        for peer, reach in REACH.items():
            line(f"rows per second, {peer}", f"{ratio('seconds', peer, mine):.2f} times", f"≥ {reach} times")
        line(f"CPU per row, {asking.SDK}", f"{ratio('cpu', mine, asking.SDK):.2f} times", f"≤ {REACH_CPU} times")


def asked(rows: int, job: dict[str, Any]) -> Figures:
    """Ask about a table and return what it cost here and at the server."""
    with folder() as place, running(answer=table.ANSWER) as server:
        given = table.Table(place, rows)
        given.write()
        before = server.count()
        figures = done({"folder": str(place), "url": server.url, "rows": rows, "run": "first", **job})
        count = server.count()
        if "peer" not in job and (wrong := given.check()):
            raise RuntimeError(f"the output is not right: {wrong}")
    return {
        **figures,
        "calls": count.calls - before.calls,
        "connections": count.connections - before.connections,
        "server": count.cpu - before.cpu,
    }


def growth(rows: int) -> None:
    """Memory at its peak over memory before the first row."""
    heading("Memory over the start, at its peak")
    measured: list[float] = []
    for size in (rows, 2 * rows):
        with folder() as place, running(answer=table.ANSWER) as server:
            table.Table(place, size).write()
            measured.append(done({"folder": str(place), "url": server.url, "run": "first"})["growth"])
        line(f"{size:,} rows", f"{measured[-1]:.0f} MB", "≤ 150 MB")
    line("the second beside the first", f"{measured[1] / measured[0]:.2f} times", "≤ 1.1 times")


def resume(rows: int) -> None:
    """How soon a retry after a kill submits again."""
    heading(f"Resume: {rows:,} rows, SIGKILL at {rows // 2:,} POSTs")
    with folder() as place, running(answer=table.ANSWER, history=True) as server:
        table.Table(place, rows).write()
        job = {"folder": str(place), "url": server.url, "run": "first"}
        killed_at(job, server, rows // 2)
        before = server.count()
        with started(job) as (process, began):
            while (count := server.count()).posts == before.posts:
                if process.poll() is not None:
                    raise RuntimeError("the retry ended without a POST")
                time.sleep(0.02)
            seconds = time.time() - began
        line("until the first new POST", f"{seconds:.1f} s", "≤ 10 s")
        line("free calls before it", f"{count.calls - before.calls - 1:,}", "")


def scheduler(rows: int) -> None:
    """One task for all rows beside one mapped task a row, on a real scheduler."""
    from local import scheduled

    mapped, ours = scheduled.measure(mapped=max(20, rows // 166), rows=rows)
    heading("On a real scheduler: LocalExecutor, parallelism 4, PostgreSQL", "seconds per row")
    line(f"one mapped task a row, {mapped.rows} rows", f"{mapped.each:.3f}", "")
    line(f"one SegmindEnrichFileOperator, {ours.rows:,} rows", f"{ours.each:.5f}", "")
    line("ratio", f"{mapped.each / ours.each:,.0f} times less", "≥ 300 times less")


SECTIONS: dict[str, tuple[Callable[[int], None], int]] = {
    "paid": (paid, 10_000),
    "speed": (speed, 10_000),
    "memory": (growth, 100_000),
    "resume": (resume, 100_000),
    "scheduler": (scheduler, 10_000),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="sections whose name holds this")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--runs", type=int, default=1, help="of the section speed")
    parser.add_argument("--child")
    options = parser.parse_args()
    if options.child:
        child(json.loads(options.child))
    for name, (section, rows) in SECTIONS.items():
        if options.only in name:
            section(options.rows or (rows // 10 if options.quick else rows))
