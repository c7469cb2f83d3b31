"""The DAGs of the documentation are imported by every supported Airflow."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from airflow.exceptions import AirflowOptionalProviderFeatureException

pytestmark = [pytest.mark.matrix, pytest.mark.airflow]

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^```python\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
DAGS = {
    f"{page.relative_to(ROOT)}[{number}]": text
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for number, text in enumerate(FENCED.findall(page.read_text()))
    if "DAG(" in text and "@task.llm(" not in text
}
"""Those of common-ai run in another process, in tests/matrix/test_common_ai.py and tests/e2e/test_moves.py."""
BESIDE = {
    "docs/how-to/approval.md[0]": "airflow.providers.standard.operators.hitl",
    "docs/how-to/move-from-http-operator.md[0]": "airflow.providers.http",
}
"""What a DAG needs that not every environment has, as its page says."""


@pytest.mark.parametrize("name", DAGS)
def test_a_dag_of_the_documentation_has_no_import_error(name: str) -> None:
    if name in BESIDE:
        try:
            importlib.import_module(BESIDE[name])
        except (ImportError, AirflowOptionalProviderFeatureException) as error:
            pytest.skip(f"{BESIDE[name]} cannot be used here: {error}")

    # A module with its own name, because pydantic resolves the names of annotations in it.
    exec(compile(DAGS[name], name, "exec", dont_inherit=True), {"__name__": "__main__"})


def test_the_pages_that_need_more_have_dags() -> None:
    assert BESIDE.keys() <= DAGS.keys()
    assert len(DAGS) > 25
