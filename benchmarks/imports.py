"""
What a DAG parse pays for our modules on top of ``airflow.sdk``: CPU of their import, in one fresh process for all.

Between two imports everything that the first one brought is removed from ``sys.modules``, because ``airflow.sdk``
itself takes seconds. The peer is the operator module of the HTTP provider.
"""

from __future__ import annotations

import gc
import importlib
import json
import re
import statistics
import sys
import time

from benchmarks import processes
from benchmarks.measure import Measure
from benchmarks.processes import AIOHTTP, DEFAULT

OURS = ("operators.request", "operators.chat", "operators.enrich", "sensors.request", "decorators.chat")
PACKAGE = "airflow_provider_segmind"
PEER = "airflow.providers.http.operators.http"
GOAL = 12.0


def milliseconds(module: str) -> float:
    """Import a module, return the CPU it took, and forget it again."""
    known = set(sys.modules)
    re.purge()
    gc.collect()
    started = time.process_time()
    importlib.import_module(module)
    took = 1000 * (time.process_time() - started)
    for name in set(sys.modules) - known:
        del sys.modules[name]
    return took


def child(modules: list[str], turns: int) -> None:
    """Report the median of each module, measured one after the other in every turn."""
    # airflow.sdk is lazy: what every DAG file uses is loaded before the clock starts.
    from airflow.sdk import DAG, BaseHook, BaseOperator, BaseSensorOperator, Context, ObjectStoragePath, task  # noqa: F401

    found = [{module: milliseconds(module) for module in modules} for _ in range(turns)]
    processes.report({module: statistics.median(turn[module] for turn in found) for module in modules})


def measures(turns: int) -> list[Measure]:
    """Measure each of our operator modules."""
    ours = [f"{PACKAGE}.{name}" for name in OURS]
    found = processes.figures_of("imports", {"modules": ours, "turns": turns}, install=DEFAULT)
    # Once: some libraries that it brings cannot be imported twice.
    job = {"modules": [PEER], "turns": 1}
    figures = processes.of_peer(lambda: processes.figures_of("imports", job, install=AIOHTTP))
    peer = figures and figures[PEER]
    return [
        Measure(
            f"CPU to import {name} over airflow.sdk, to HttpOperator's",
            DEFAULT,
            found[f"{PACKAGE}.{name}"],
            "ms",
            GOAL,
            peer,
            peer and found[f"{PACKAGE}.{name}"] / peer,
            absolute=True,
            peer_failed=peer is None,
        )
        for name in OURS
    ]


if __name__ == "__main__":
    child(**json.loads(sys.argv[1]))
