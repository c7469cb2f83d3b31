"""Measurements in processes of their own, each in the environment that the measured install has."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DEFAULT = "default"
AIOHTTP = "[aiohttp]"
DEVELOPMENT = "development"
PYTHONS = {
    DEVELOPMENT: str(ROOT / ".venv" / "bin" / "python"),
    DEFAULT: str(ROOT / ".venvs" / "bench-default" / "bin" / "python"),
    AIOHTTP: sys.executable,
}
"""The install of our package → an interpreter that has it. The peers are in the last one, Celery is in the first."""
Figures = dict[str, float]


class JobFailedError(RuntimeError):
    """A job ended without its figures; what it printed on stderr says why."""


def memory(field: str) -> float:
    """Return ``VmRSS`` or ``VmHWM`` (its peak) of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1000
    raise LookupError(field)


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(figures: Mapping[str, float]) -> None:
    """Print the figures of a child process and end it."""
    print("FIGURES " + json.dumps(figures), flush=True)
    os._exit(0)


@contextlib.contextmanager
def started(module: str, job: Mapping[str, Any], *, install: str = AIOHTTP) -> Iterator[subprocess.Popen[str]]:
    """Run a module of the benchmarks with a job as its argument, and kill it at the end."""
    command = [PYTHONS[install], "-m", f"benchmarks.{module}", json.dumps(job)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str], prefix: str) -> str:
    """Return the rest of the next line that begins with a prefix."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith(prefix):
            return line.removeprefix(prefix)
    raise JobFailedError(f"{process.args} ended without printing {prefix!r}")


def figures_of(module: str, job: Mapping[str, Any], *, install: str = AIOHTTP) -> Figures:
    """Run a job to its end and return what it reports."""
    with started(module, job, install=install) as process:
        figures: Figures = json.loads(line_of(process, "FIGURES "))
        return figures


def of_peer(measure: Callable[[], Figures]) -> Figures | None:
    """Return what measuring a peer gives, None where the peer fails; the rest is measured without it."""
    try:
        return measure()
    except JobFailedError as error:
        print(f"A peer failed: {error}", file=sys.stderr, flush=True)
        return None
