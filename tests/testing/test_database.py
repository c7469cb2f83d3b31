"""The empty metadata database of users' tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from airflow_provider_segmind.testing import database
from airflow_provider_segmind.testing.database import DatabaseError, migrated_database

pytestmark = pytest.mark.airflow


def test_a_database_is_migrated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.setattr(database, "_migrate", lambda path, *, home: (made.append(path), path.touch()))

    assert migrated_database(tmp_path) == migrated_database(tmp_path)
    assert len(made) == 1


def test_a_database_that_cannot_be_created_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'one line'; echo 'no module named airflow' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))

    with pytest.raises(DatabaseError, match="could not be created; `airflow db migrate` said: no module named airflow"):
        migrated_database(tmp_path)
    assert not (tmp_path / "segmind-airflow.db").exists()
