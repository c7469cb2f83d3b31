"""The ``segmind_dag_test`` fixture for users' tests. Loaded in every pytest run, so it imports only pytest."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow_provider_segmind.emulator.server import SegmindEmulator
    from airflow_provider_segmind.testing.dag_runs import DagTest


@pytest.fixture(scope="session")
def _segmind_airflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Return an empty metadata database of Airflow, migrated once per test session, even if that has several processes.
    """
    from airflow_provider_segmind.testing.database import DatabaseError, migrated_database

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Each of pytest-xdist's processes has a folder in the one of the session.
        folder = folder.parent
    try:
        return migrated_database(folder)
    except DatabaseError as problem:
        pytest.fail(f"segmind_dag_test: {problem}", pytrace=False)


@pytest.fixture
def segmind_dag_test(
    request: pytest.FixtureRequest, tmp_path: Path, segmind_emulator: SegmindEmulator, _segmind_airflow_database: Path
) -> Iterator[DagTest]:
    """
    Run a DAG, or the DAG of a file, with ``dag.test()`` against the emulator, and return how it ended.

    See :class:`~airflow_provider_segmind.testing.dag_runs.DagTest`.
    """
    from airflow_provider_segmind.testing.dag_runs import DagTest

    with DagTest(
        segmind_emulator, database=_segmind_airflow_database, folder=tmp_path, project=request.config.rootpath
    ) as dag_test:
        yield dag_test
