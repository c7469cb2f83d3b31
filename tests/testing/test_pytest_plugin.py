"""The fixture for users' tests: what it needs, and what it says when that is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.airflow


def test_every_pytest_run_imports_no_more_than_pytest() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import airflow_provider_segmind.testing.pytest_plugin; "
        "print({n.split('.')[0] for n in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "{'airflow_provider_segmind'}"
