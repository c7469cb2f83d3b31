"""
What a DAG parse pays for this package: importing its modules on top of ``airflow.sdk``, and building one task.

Prints our modules beside those of the peers that are installed (HttpOperator and the AI providers are measured when
they can be imported). Every figure is the median of several fresh processes. Run it with ``make bench`` or
``python benchmarks/imports.py``; it is no test, because machines are shared and noisy.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

OURS = (
    "airflow_provider_segmind.operators.request",
    "airflow_provider_segmind.operators.chat",
    "airflow_provider_segmind.decorators.chat",
    "airflow_provider_segmind.operators.enrich",
    "airflow_provider_segmind.sensors.request",
    "airflow_provider_segmind.triggers.request",
)
PEERS = (
    "airflow.providers.http.operators.http",
    "airflow.providers.common.ai.operators.llm_batch",
    "airflow.providers.openai.operators.openai",
    "airflow.providers.anthropic.operators.batch",
)
IMPORT = """
import importlib.util, sys, time
import airflow.sdk
# airflow.sdk is lazy: what every DAG file touches is loaded before the clock starts.
from airflow.sdk import DAG, BaseOperator, BaseHook, BaseSensorOperator, task, ObjectStoragePath, Context
started = time.perf_counter()
try:
    __import__({module!r})
except ImportError:
    sys.exit(3)
print(1000 * (time.perf_counter() - started))
"""
BUILD = """
import time
from airflow.sdk import DAG
{load}
with DAG("bench"):
    {build_one}
    started = time.perf_counter()
    for number in range(500):
        {build}
print(1e6 * (time.perf_counter() - started) / 500)
"""
BUILDS = {
    "BashOperator": (
        "from airflow.providers.standard.operators.bash import BashOperator as Operator",
        "Operator(task_id=f't{number}', bash_command='true')",
    ),
    "SegmindSubmitOperator": (
        "from airflow_provider_segmind.operators.request import SegmindSubmitOperator as Operator",
        "Operator(task_id=f't{number}', model='gemini-3.1-flash-lite', inputs={'prompt': 'x'})",
    ),
    "SegmindRunOperator": (
        "from airflow_provider_segmind.operators.request import SegmindRunOperator as Operator",
        "Operator(task_id=f't{number}', model='gemini-3.1-flash-lite', inputs={'prompt': 'x'})",
    ),
    "SegmindRequestSensor": (
        "from airflow_provider_segmind.sensors.request import SegmindRequestSensor as Operator",
        "Operator(task_id=f't{number}', request_id='abc')",
    ),
}


def measure(code: str) -> float | None:
    """Run ``code`` in a fresh interpreter and return the number it prints, None when the module is not there."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    return float(done.stdout.strip().splitlines()[-1])


def median(code: str, runs: int) -> float | None:
    """Return the median of ``runs`` fresh processes."""
    first = measure(code)
    if first is None:
        return None
    return statistics.median(value for _ in range(runs) if (value := measure(code)) is not None)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    print(f"{'import on top of airflow.sdk':50} {'ms':>8}")
    for module in (*OURS, *PEERS):
        milliseconds = median(IMPORT.format(module=module), runs)
        print(f"{module:50} {'not here' if milliseconds is None else f'{milliseconds:8.1f}':>8}")
    print(f"\n{'building one task':50} {'us':>8}   ratio to BashOperator")
    reference = None
    for name, (load, build) in BUILDS.items():
        microseconds = median(BUILD.format(load=load, build=build, build_one=build.replace("{number}", "first")), runs)
        if microseconds is None:
            print(f"{name:50} not here")
            continue
        reference = reference or microseconds
        print(f"{name:50} {microseconds:8.0f}   {microseconds / reference:.2f}")


if __name__ == "__main__":
    main()
