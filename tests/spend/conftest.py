from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_segmind.spend.store import SpendStore, configured_store
from tests.support.tasks import chat, clock, emulator, run

__all__ = ["chat", "clock", "emulator", "record", "run"]


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SpendStore:
    """The spend record that tasks write."""
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_PATH", f"file://{tmp_path}/spend")
    store = configured_store()
    assert store is not None
    return store
