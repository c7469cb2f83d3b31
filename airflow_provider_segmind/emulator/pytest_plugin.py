"""The ``segmind_emulator`` fixture for users' own DAG tests. Loaded in every pytest run, so it imports pytest only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_provider_segmind.emulator.server import SegmindEmulator


@pytest.fixture
def segmind_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[SegmindEmulator]:
    """Run a fresh offline Segmind and point the connection ``segmind_default`` at it for one test."""
    try:
        from airflow_provider_segmind.emulator.server import SegmindEmulator
    except ModuleNotFoundError as problem:
        pytest.fail(
            f"The segmind_emulator fixture needs starlette and uvicorn (missing: {problem.name}): "
            "pip install 'airflow-provider-segmind[emulator]'",
            pytrace=False,
        )
    with SegmindEmulator() as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", emulator.connection_json)
        yield emulator
