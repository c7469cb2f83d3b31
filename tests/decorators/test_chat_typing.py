"""A type checker finds each mistake in a DAG file, and nothing wrong in what is right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).with_name("typed.py")
LINES = FILE.read_text().splitlines()
WRONG = {number for number, line in enumerate(LINES, 1) if line.endswith("# wrong")}


def test_mypy_accepts_what_is_right_and_reports_what_is_wrong() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(FILE)]

    said = subprocess.run(command, cwd=FILE.parents[2], capture_output=True, text=True, check=False).stdout

    found = {int(line.split(":")[1]) for line in said.splitlines() if FILE.name in line and ": error:" in line}
    assert len(WRONG) == 16
    assert found == WRONG, said
