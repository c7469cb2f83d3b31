"""The distributions, built once for all tests of this directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def build(source: Path, folder: Path, *options: str, project_url: str = "") -> None:
    """Build into a folder, with ``SEGMIND_PROJECT_URL`` set or not, whatever this process has."""
    environment = {name: value for name, value in os.environ.items() if name != "SEGMIND_PROJECT_URL"}
    if project_url:
        environment["SEGMIND_PROJECT_URL"] = project_url
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), *options, str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=120, env=environment)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    return folder


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))
