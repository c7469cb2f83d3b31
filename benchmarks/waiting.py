"""
What waiting costs a triggerer: ourselves and the peers, side by side, against one cheap server on loopback.

Every trigger waits for one request that is not done, looking every 5 s; each row runs in a process of its own. CPU is
that process's, the server's is not in it. Run it with ``make bench`` or
``.venvs/bench/bin/python benchmarks/waiting.py``; ``--quick`` takes 200 triggers, ``--real-time`` instead sends 100
requests and their looks past a server that allows 50 calls in a real minute.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

if "AIRFLOW_HOME" not in os.environ:
    # The processes that measure inherit it; the first one takes it away.
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="segmind-bench-")
    atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)
os.environ.setdefault("AIRFLOW__CORE__UNIT_TEST_MODE", "True")
os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "ERROR")
sys.path.insert(0, str(Path(__file__).parent))

from local.server import Server, running

INTERVAL = 5.0
ROUNDS = 3
NEVER = "9999999999.0"
Run = Callable[[int], Awaitable[None]]


def connection(kind: str, url: str, **extra: object) -> None:
    value = {"conn_type": kind, "host": url, "password": "SG_bench", "extra": extra}
    if kind == "http":
        host, port = url.removeprefix("http://").split(":")
        value |= {"host": f"http://{host}", "port": int(port)}
    os.environ[f"AIRFLOW_CONN_{kind.upper()}_DEFAULT"] = json.dumps(value)


def drain(make: Callable[[int], Any]) -> Run:
    async def run(number: int) -> None:
        async for _ in make(number).run():
            raise AssertionError("it was never to end")

    return run


def ours(url: str) -> Run:
    connection("segmind", url)
    from airflow_provider_segmind.triggers.request import SegmindRequestTrigger

    now = time.time()
    return drain(
        lambda number: SegmindRequestTrigger(
            request_id=f"r-{number}-{NEVER}", submitted_at=now, end_time=now + 3600, poll_interval=INTERVAL
        )
    )


def http_sensor(url: str) -> Run:
    connection("http", url)
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    return drain(
        lambda number: HttpSensorTrigger(
            endpoint=f"pending/{number}", http_conn_id="http_default", poke_interval=INTERVAL, method="GET"
        )
    )


def openai(url: str) -> Run:
    connection("openai", f"{url}/v1")
    from airflow.providers.openai.triggers.openai import OpenAIBatchTrigger

    end = time.time() + 3600
    return drain(
        lambda number: OpenAIBatchTrigger(
            conn_id="openai_default", batch_id=f"b-{number}", poll_interval=INTERVAL, end_time=end
        )
    )


def anthropic(url: str) -> Run:
    connection("anthropic", url)
    from airflow.providers.anthropic.triggers.batch import AnthropicBatchTrigger

    end = time.time() + 3600
    return drain(
        lambda number: AnthropicBatchTrigger(
            batch_id=f"b-{number}", conn_id="anthropic_default", poll_interval=INTERVAL, end_time=end
        )
    )


def client_each(url: str) -> Run:
    import httpx

    async def run(number: int) -> None:
        async with httpx.AsyncClient() as client:
            while True:
                await client.get(f"{url}/v2/requests/r-{number}-{NEVER}/status")
                await asyncio.sleep(INTERVAL)

    return run


ROWS: dict[str, Callable[[str], Run]] = {
    "SegmindRequestTrigger": ours,
    "HttpSensorTrigger": http_sensor,
    "AnthropicBatchTrigger": anthropic,
    "OpenAIBatchTrigger": openai,
    "one httpx client each": client_each,
}


async def measure(run: Run, server: Server, pending: int) -> dict[str, float]:
    """Start so many triggers at once; return what it cost."""
    import psutil

    process = psutil.Process()
    stalls: list[float] = []

    async def beat() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            stalls.append(time.perf_counter() - before - 0.01)

    # One that looks once first, so that imports and the TLS context are nobody's share.
    warm = asyncio.create_task(run(0))
    await asyncio.sleep(1.5)
    gc.collect()
    memory, looked, opened = process.memory_info().rss, server.count().calls, server.count().connections
    ticking = asyncio.create_task(beat())
    cpu = time.process_time()
    await asyncio.sleep(2.0)
    # What the beat itself costs is nobody's share either.
    beating = (time.process_time() - cpu) / 2.0
    stalls.clear()
    cpu = time.process_time()
    tasks = [asyncio.create_task(run(number)) for number in range(1, pending + 1)]
    started = time.perf_counter()
    while (await asyncio.to_thread(server.count)).calls < looked + pending and time.perf_counter() - started < 120:
        await asyncio.sleep(0.2)
    start_cpu, stall_at_start, wall = time.process_time() - cpu, max(stalls), time.perf_counter() - started
    stalls.clear()
    calls, cpu = (await asyncio.to_thread(server.count)).calls, time.process_time()
    await asyncio.sleep(INTERVAL * ROUNDS)
    count = await asyncio.to_thread(server.count)
    look_cpu = (time.process_time() - cpu - beating * INTERVAL * ROUNDS) / max(1, count.calls - calls) * 1000
    figures = {
        "memory": (process.memory_info().rss - memory) / pending / 1000,
        "start": (start_cpu - beating * wall) / pending * 1000,
        "stall": stall_at_start,
        "later": max(stalls),
        "connections": count.connections - opened,
        "looks": look_cpu,
    }
    for task in (*tasks, warm, ticking):
        task.cancel()
    with contextlib.suppress(Exception):
        await asyncio.gather(*tasks, warm, ticking, return_exceptions=True)
    return figures


def child(row: str, url: str, pending: int) -> None:
    import logging

    run = ROWS[row](url)
    logging.disable(logging.ERROR)
    figures = asyncio.run(measure(run, Server(url, None), pending))
    print("FIGURES " + json.dumps(figures), flush=True)
    os._exit(0)


def ratio(name: str, row: dict[str, float], base: dict[str, float]) -> str:
    return "" if row is base else f" ({row[name] / max(base[name], 1e-9):,.1f} times)"


def compare(pending: int, runs: int) -> None:
    print(f"\n{pending:,} pending in one loop, {INTERVAL:.0f} s interval, medians of {runs}\n")
    print(
        "| trigger | RSS each | CPU to start one | stall at start | stall later | connections | CPU s / 1,000 looks |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    base: dict[str, float] = {}
    for row in ROWS:
        found = []
        for _ in range(runs):
            with running() as server:
                command = [sys.executable, __file__, "--child", row, server.url, str(pending)]
                output = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
                lines = [line for line in output.stdout.splitlines() if line.startswith("FIGURES ")]
                if not lines:
                    print(f"| {row} | failed: {output.stderr.strip().splitlines()[-1:]} |")
                    break
                found.append(json.loads(lines[0][8:]))
        if not found:
            continue
        median = {name: statistics.median(run[name] for run in found) for name in found[0]}
        base = base or median

        memory, start, looks = (ratio(name, median, base) for name in ("memory", "start", "looks"))
        print(
            f"| {row} | {median['memory']:,.1f} KB{memory} | {median['start']:.2f} ms{start} "
            f"| {median['stall'] * 1000:,.0f} ms | {median['later'] * 1000:,.0f} ms "
            f"| {median['connections']:,.0f} | {median['looks']:.2f}{looks} |",
            flush=True,
        )


def real_time() -> None:
    """Send 100 requests and wait for each, under a limit of 50 calls a minute that counts them all."""
    from airflow_provider_segmind.client.client import AsyncSegmindClient, ClientConfig
    from airflow_provider_segmind.client.endpoints import Endpoints
    from airflow_provider_segmind.client.poll_schedule import shared_history
    from airflow_provider_segmind.client.polling import Pending

    requests, allowed = 100, 50
    for _ in range(20):
        shared_history.observe("m", 4.0)

    async def run(url: str) -> float:
        config = ClientConfig(
            api_key="SG_bench", endpoints=Endpoints(gateway=url), requests_per_minute=allowed, count_polls=True
        )
        began = time.time()
        async with await AsyncSegmindClient.create(config) as client:

            async def one() -> None:
                submitted = await client.submit("m", {})
                now = time.time()
                await client.wait(Pending(submitted.request_id, now, now + 3000, model="m"), fetch=True)

            await asyncio.gather(*(one() for _ in range(requests)))
        return time.time() - began

    with running(allowed=allowed, latency=4.0) as server:
        seconds, count = asyncio.run(run(server.url)), server.count()
    floor = (2 * requests / allowed - 1) * 60
    print(
        f"\n{requests} requests past {allowed} calls a minute: {seconds:.0f} s (floor {floor:.0f} s), "
        f"{count.calls / requests:.2f} calls each, {count.refused} answered 429, busiest minute {count.busiest}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--real-time", action="store_true")
    parser.add_argument("--pending", type=int)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--only", help="rows whose name holds this")
    parser.add_argument("--child", nargs=3)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], options.child[1], int(options.child[2]))
    if options.only:
        ROWS = {name: row for name, row in ROWS.items() if options.only in name}
    if options.real_time:
        real_time()
        sys.exit()
    compare(options.pending or (200 if options.quick else 1000), options.runs or (1 if options.quick else 3))
