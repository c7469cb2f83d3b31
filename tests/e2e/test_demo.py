"""``make demo`` as a user runs it; it starts an Airflow of its own."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
import pytest
from rich.console import Console

from demo.display import Display

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
UI = re.compile(r"(http://127\.0\.0\.1:\d+)/dags/example_segmind_request/runs/\S+")


@pytest.fixture
def kept_demo(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    output = tmp_path / "output"
    with output.open("wb") as sink:
        demo = subprocess.Popen([sys.executable, "-m", "demo", "--keep"], cwd=ROOT, stdout=sink, stderr=sink)
    yield demo, output
    if demo.poll() is None:
        demo.send_signal(signal.SIGINT)
        demo.wait(timeout=60)


def test_the_demo_shows_the_reply_keeps_the_ui_until_interrupted_and_cleans_up(
    kept_demo: tuple[subprocess.Popen[bytes], Path],
) -> None:
    demo, output = kept_demo
    homes = set((ROOT / ".demo").glob("run-*"))

    deadline = time.monotonic() + 240
    while not (ui := UI.search(output.read_text())):
        assert demo.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.2)
    text = output.read_text()
    page = httpx.get(ui.group(1), trust_env=False, follow_redirects=True)
    children = psutil.Process(demo.pid).children(recursive=True)
    demo.send_signal(signal.SIGINT)

    assert demo.wait(timeout=60) == 0
    assert page.status_code == 200
    assert re.search(r"request id +\S{8,}", text)
    assert re.search(r"tokens +\d+ in, \d+ out", text)
    assert re.search(r"cost +\$0\.\d+", text)
    assert "submit success, wait success, result success" in text
    assert len(children) >= 5
    assert [child for child in children if child.is_running()] == []
    assert set((ROOT / ".demo").glob("run-*")) <= homes


def test_the_demo_with_the_real_service_requires_a_key() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "SEGMIND_API_KEY"}

    done = subprocess.run(
        [sys.executable, "-m", "demo", "--live"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 2
    assert "SEGMIND_API_KEY=" in done.stdout


def test_the_last_progress_of_a_short_run_is_printed_without_a_terminal() -> None:
    output = io.StringIO()
    display = Display(Console(file=output, force_terminal=False))

    with display.bar("Enriching rows", 120) as bar:
        bar.show(0, "describe running")
        bar.show(60, "20 rows/s")
        bar.show(120, "40 rows/s")

    lines = [line.strip() for line in output.getvalue().splitlines()]
    assert lines[1:3] == ["Enriching rows: 0 of 120; describe running", "Enriching rows: 120 of 120; 40 rows/s"]


def test_the_demo_enriches_a_table_and_shows_where_its_files_are(tmp_path: Path) -> None:
    homes = set((ROOT / ".demo").glob("run-*"))
    output = tmp_path / "output"

    with output.open("wb") as sink:
        command = [sys.executable, "-m", "demo.enrich", "--rows", "120", "--output", str(tmp_path / "files")]
        demo = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink)
    started: set[psutil.Process] = set()
    while demo.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            started.update(psutil.Process(demo.pid).children(recursive=True))
        time.sleep(0.5)
    text = output.read_text()

    assert demo.returncode == 0, text
    assert re.search(r"rows +120: \d+ success", text)
    assert re.search(r"cost +\$0\.\d+", text)
    assert re.search(r"Enriching rows: [1-9]\d* of 120; \d+ rows/s", text), text
    report = re.search(r"report +(\S+\.report\.html)", text)
    assert report
    assert Path(report.group(1)).is_relative_to(tmp_path / "files")
    assert "120 rows answered" in Path(report.group(1)).read_text()
    assert len(started) >= 5
    assert [process for process in started if process.is_running()] == []
    assert set((ROOT / ".demo").glob("run-*")) <= homes
