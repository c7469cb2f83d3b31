"""DAGs that run in a user's tests, and those that cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.user_project import make_project, run_tests

pytestmark = pytest.mark.airflow
READY = """
import shutil
from pathlib import Path
import pytest

@pytest.fixture(scope="session")
def _segmind_airflow_database(tmp_path_factory):
    return Path(shutil.copy("{database}", tmp_path_factory.mktemp("database")))
"""
MISSING = """
import pytest

@pytest.mark.parametrize("path", ["dags/none.py", "dags/broken.py", "dags/empty.py", "dags/two.py"])
def test_missing(segmind_dag_test, path):
    segmind_dag_test(path)

def test_unknown(segmind_dag_test):
    segmind_dag_test("dags/two.py", "third")
"""
TWO = "from airflow import DAG\nwith DAG('first'):\n    pass\nwith DAG('second'):\n    pass\n"


def test_the_tests_of_the_documentation_pass_and_what_is_missing_is_named(
    airflow_database: Path, tmp_path: Path
) -> None:
    make_project(tmp_path)
    (tmp_path / "conftest.py").write_text(READY.format(database=airflow_database))
    (tmp_path / "tests" / "test_more.py").unlink()
    (tmp_path / "tests" / "test_missing.py").write_text(MISSING)
    for name, text in {"broken": "import nothing_like_it", "empty": "", "two": TWO}.items():
        (tmp_path / "dags" / f"{name}.py").write_text(text)

    said = run_tests(tmp_path, "-Werror").stdout

    assert "5 failed, 2 passed" in said, said
    assert f"there is no DAG file 'dags/none.py'; looked for {tmp_path}/dags/none.py and " in said
    assert "broken.py cannot be imported:" in said
    assert "No module named 'nothing_like_it'" in said
    assert "empty.py does not define exactly one DAG: name its dag_id; it defines none." in said
    assert "two.py does not define exactly one DAG: name its dag_id; it defines first, second." in said
    assert "two.py has no DAG 'third'; it defines first, second." in said
