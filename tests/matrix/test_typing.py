"""Both type checkers find the mistakes of a DAG file beside the installed Airflow, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_segmind.compat import airflow_version
from tests.decorators.test_chat_typing import FILE, LINES, WRONG

pytestmark = pytest.mark.matrix
# Before Airflow 3 there is no airflow.sdk; what the file imports from it is then unknown to a checker.
UNKNOWN = ("import-not-found", "import-untyped", "untyped-decorator", "misc")
IMPORTS = {number for number, line in enumerate(LINES, 1) if line.startswith("from airflow.sdk")}
PLANTED = 8


def found_by_mypy(folder: Path) -> dict[int, str]:
    command = [f"{os.environ['SEGMIND_TYPE_CHECKERS']}/mypy", "--strict", "--python-executable", sys.executable]
    command += ["--config-file=", f"--cache-dir={folder}", "--no-error-summary", str(FILE)]
    done = subprocess.run(command, cwd=FILE.parents[2], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors = [line for line in done.stdout.splitlines() if FILE.name in line and ": error:" in line]
    ignored = UNKNOWN if airflow_version() < (3,) else ()
    return {int(line.split(":")[1]): line for line in errors if not line.endswith(tuple(f"[{one}]" for one in ignored))}


def found_by_pyright(folder: Path) -> dict[int, str]:
    """Return what pyright reports in strict mode, without what follows from unknown types of Airflow."""
    settings = folder / "pyrightconfig.json"
    settings.write_text(json.dumps({"typeCheckingMode": "strict", "include": [FILE.name]}))
    (folder / FILE.name).write_text(FILE.read_text())
    command = [f"{os.environ['SEGMIND_TYPE_CHECKERS']}/basedpyright", "--project", str(settings), "--outputjson"]
    done = subprocess.run(
        [*command, "--pythonpath", sys.executable], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {
        one["range"]["start"]["line"] + 1: f"{one['rule']}: {one['message']}"
        for one in json.loads(done.stdout)["generalDiagnostics"]
        if one["severity"] == "error"
        and not one["rule"].startswith(("reportUnknown", "reportMissingImports", "reportUntypedFunctionDecorator"))
    }


@pytest.mark.parametrize("checker", [found_by_mypy, found_by_pyright])
def test_a_checker_finds_every_mistake_and_nothing_else(checker, tmp_path: Path) -> None:
    found = checker(tmp_path)

    assert {line: found[line] for line in set(found) - WRONG - IMPORTS} == {}
    assert WRONG - set(found) == set()
    assert len([line for line in LINES if line.endswith("# wrong")]) > PLANTED
