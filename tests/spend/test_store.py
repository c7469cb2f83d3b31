"""The spend record that the configuration names."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_segmind.spend.store import configured_store
from tests.support.spend import an_entry


def test_without_a_setting_there_is_no_record() -> None:
    assert configured_store() is None


def test_a_path_names_a_folder_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_PATH", f"file://{tmp_path}/spend")
    store = configured_store()
    assert store is not None
    store.write([an_entry()])
    assert list(store.read()) == [an_entry()]
    assert (tmp_path / "spend").is_dir()
