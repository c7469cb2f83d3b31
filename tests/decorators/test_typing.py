"""A type checker sees ``@task.segmind``, and by its own name every argument of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).with_name("typed.py")
WRONG = ("    by_name(7", '    by_name("a", colour', "    segmind_task(")


def test_a_type_checker_accepts_what_is_right_and_reports_what_is_wrong() -> None:
    lines = FILE.read_text().splitlines()
    wrong = [number for number, line in enumerate(lines, 1) if line.startswith(WRONG)]
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(FILE)]

    said = subprocess.run(command, cwd=FILE.parents[2], capture_output=True, text=True, check=False).stdout

    found = {int(line.split(":")[1]) for line in said.splitlines() if FILE.name in line and ": error:" in line}
    assert len(wrong) == 4
    assert found == set(wrong), said
