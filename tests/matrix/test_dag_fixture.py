"""The fixture for users' tests in a project of its own, word for word as the documentation shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.user_project import make_project, run_tests

pytestmark = pytest.mark.matrix


def test_the_tests_of_a_user_pass_on_this_airflow(tmp_path: Path) -> None:
    make_project(tmp_path)

    done = run_tests(tmp_path)

    assert "7 passed" in done.stdout, done.stdout[-20_000:] + done.stderr
