"""The source archive, unpacked without its repository: its own tests run, and it builds the same wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.packaging.conftest import build


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


def test_it_has_what_its_tests_and_its_build_need(unpacked: Path) -> None:
    wanted = {
        *("pyproject.toml", "hatch_build.py", "Makefile", "constraints.txt", "LICENSE", "README.md", "SECURITY.md"),
        *("tests/conftest.py", "demo/stack.py", "constraints/airflow-3.3.2.txt", "airflow_provider_segmind/py.typed"),
    }

    assert {name for name in wanted if not (unpacked / name).is_file()} == set()
    assert not [path for path in unpacked.iterdir() if path.name in (".venv", ".demo", ".tmp", "build")]


def test_tests_of_the_fast_rooms_pass_in_it(unpacked: Path) -> None:
    # One file of each room: what the others import is in the same folders. `make fast` in it runs all of them.
    files = ["tests/guards/test_architecture.py", "tests/chat/test_replies.py", "tests/client/test_retry.py"]
    files += ["tests/enrichment/test_outcomes.py", "tests/emulator/test_wire.py"]
    # Without options of the run that starts it, which may make its output shorter.
    environment = {**os.environ, "SEGMIND_TESTS_FORBID_AIRFLOW": "1", "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not airflow", *files]

    done = subprocess.run(
        command, cwd=unpacked, env=environment, capture_output=True, text=True, check=False, timeout=300
    )

    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_it_builds_the_same_wheel(unpacked: Path, wheel: Path, tmp_path: Path) -> None:
    build(unpacked, tmp_path, "--wheel")

    assert next(tmp_path.glob("*.whl")).read_bytes() == wheel.read_bytes()
