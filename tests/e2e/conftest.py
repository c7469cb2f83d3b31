"""One real Airflow for the whole directory, started at the first test that asks for it (about 30 s)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from demo.stack import AirflowStack

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here: it starts real processes."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def airflow_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowStack]:
    """Airflow on SQLite with the example DAGs and those of this directory."""
    dags = [ROOT / "dags_examples", ROOT / "tests" / "e2e" / "dags"]
    with AirflowStack(home=tmp_path_factory.mktemp("airflow"), dags=dags) as stack:
        yield stack
