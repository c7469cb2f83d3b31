from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from airflow_provider_segmind.enrichment.local_database import LocalDatabase
from airflow_provider_segmind.exceptions import SegmindEnrichmentError


def test_the_file_of_a_database_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with closing(LocalDatabase("CREATE TABLE t (a)")) as database:
        database.write(("INSERT INTO t VALUES (?)", [(1,)]))
        assert list(tmp_path.iterdir()) == []
        assert database.first("SELECT a FROM t") == (1,)


def test_a_batch_is_written_completely_or_not_at_all() -> None:
    with closing(LocalDatabase("CREATE TABLE t (a UNIQUE)")) as database:
        database.write(("INSERT INTO t VALUES (?)", [(1,)]))
        with pytest.raises(SegmindEnrichmentError, match="UNIQUE"):
            database.write(("INSERT INTO t VALUES (?)", [(2,), (1,)]))
        assert list(database.each("SELECT a FROM t")) == [(1,)]
