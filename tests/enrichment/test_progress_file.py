"""The progress of a run as a file in its ledger."""

from __future__ import annotations

from pathlib import Path

from airflow_provider_segmind.enrichment.ledger.segments import segment_names
from airflow_provider_segmind.enrichment.progress_file import (
    all_progress,
    delete_progress,
    read_progress,
    write_progress,
)


def test_the_latest_progress_of_each_run_is_kept(tmp_path: Path) -> None:
    write_progress(tmp_path, "a/1/t/-1", {"rows_done": 1, "at": 10})
    write_progress(tmp_path, "a/1/t/-1", {"rows_done": 2, "at": 12})
    write_progress(tmp_path, "a/2/t/-1", {"rows_done": 5, "at": 11})

    assert read_progress(tmp_path, "a/1/t/-1") == {"run": "a/1/t/-1", "rows_done": 2, "at": 12}
    assert [one["run"] for one in all_progress(tmp_path)] == ["a/1/t/-1", "a/2/t/-1"]


def test_a_run_that_has_ended_has_none(tmp_path: Path) -> None:
    write_progress(tmp_path, "run", {"at": 1})
    delete_progress(tmp_path, "run")
    delete_progress(tmp_path, "run")

    assert read_progress(tmp_path, "run") is None
    assert all_progress(tmp_path) == []
    assert all_progress(tmp_path / "no ledger") == []


def test_a_file_that_is_damaged_or_half_written_counts_as_none(tmp_path: Path) -> None:
    write_progress(tmp_path, "run", {"at": 1})
    (file,) = (tmp_path / "progress").iterdir()
    (tmp_path / "progress" / f".{file.name}.1234.tmp").write_text('{"at"')
    file.write_text('{"at": 1')

    assert read_progress(tmp_path, "run") is None
    assert all_progress(tmp_path) == []


def test_the_ledger_does_not_take_it_for_a_segment(tmp_path: Path) -> None:
    write_progress(tmp_path, "run", {"at": 1})

    assert segment_names(tmp_path) == []
