from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import airflow_provider_segmind

PLUGIN = "airflow_provider_segmind.emulator.pytest_plugin"

TEST_FILE = """
import json, os, urllib.request

def test_first(segmind_emulator):
    connection = json.loads(os.environ["AIRFLOW_CONN_SEGMIND_DEFAULT"])
    request = urllib.request.Request(
        connection["host"] + "/v2/gpt-5",
        data=b'{"prompt": "x"}',
        headers={"x-api-key": connection["password"], "content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["status"] == "QUEUED"
    assert len(segmind_emulator.posts("gpt-5")) == 1

def test_second_is_fresh(segmind_emulator):
    assert segmind_emulator.requests == []

def test_third_has_no_connection_left():
    assert "AIRFLOW_CONN_SEGMIND_DEFAULT" not in os.environ
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_each_test_gets_a_new_emulator_and_a_connection(tmp_path):
    (tmp_path / "test_mine.py").write_text(TEST_FILE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")  # no file further up decides
    # where the package is installed its entry point has loaded the plugin already; naming it a second time does no harm
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        PLUGIN,
        "-p",
        "no:cacheprovider",
        str(tmp_path),
    ]

    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=_environment())

    assert "3 passed" in done.stdout, done.stdout + done.stderr


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\n")  # no file further up decides
    command = [sys.executable, "-m", "pytest", "-q", "-p", PLUGIN, "-p", "no:cacheprovider", *options, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=_environment())


def _environment() -> dict[str, str]:
    root = str(Path(airflow_provider_segmind.__file__).parents[1])
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTEST"))}
    return kept | {"PYTHONPATH": root, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def test_the_plugin_and_the_package_import_nothing_heavy():
    heavy = ["airflow", "starlette", "uvicorn", "httpx", "pydantic", "asyncio"]
    done = run(
        f"import json, sys, pytest; before = set(sys.modules); import {PLUGIN}; "
        f"print(json.dumps(sorted(set({heavy}) & (set(sys.modules) - before))))"
    )

    assert json.loads(done.stdout) == [], done.stderr


def test_the_emulator_imports_neither_airflow_nor_the_client():
    done = run(
        "import sys; from airflow_provider_segmind.emulator import SegmindEmulator, EmulatorControl; "
        "bad = [n for n in sys.modules if n.split('.')[0] == 'airflow' or n.startswith('airflow_provider_segmind.a')]; "
        "assert not bad, bad"
    )

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("how", ["fixture", "command"])
def test_a_missing_extra_is_named(tmp_path, how):
    blocked = "import sys; sys.modules['uvicorn'] = None; sys.modules['starlette'] = None\n"
    if how == "command":
        done = run(blocked + "from airflow_provider_segmind.emulator.__main__ import main; main([])")
    else:
        (tmp_path / "test_mine.py").write_text("def test_it(segmind_emulator): pass")
        (tmp_path / "conftest.py").write_text(blocked)
        done = run_pytest(tmp_path)

    assert done.returncode != 0
    assert "airflow-provider-segmind[emulator]" in done.stdout + done.stderr
