"""The ``segmind_emulator`` fixture for tests of users' DAGs. Loaded in every pytest run, so it imports only pytest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow_provider_segmind.emulator.server import SegmindEmulator


@pytest.fixture
def segmind_emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[SegmindEmulator]:
    """Run a new offline Segmind for one test; the connection ``segmind_default`` points to it."""
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
