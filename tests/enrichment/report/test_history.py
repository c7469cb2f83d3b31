"""Earlier runs of a table, and keys of rows without an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.report.history import KEY_CHARACTERS, earlier_runs, example_keys
from tests.support.manifests import manifest_of


def write(path: Path, day: int, *, task: str = "a_dag/{}/a_task/-1", **fields: Any) -> Manifest:
    """Write the manifest of a day's run as a task does."""
    manifest = manifest_of(100 + day, run_id=task.format(f"day {day}"), ended=float(day), **fields)
    manifest.earlier = earlier_runs(path, run_id=manifest.run_id)
    manifest.write(path)
    return manifest


def days(manifest: Manifest) -> list[float]:
    return [one["ended"] for one in manifest.earlier]


def test_a_manifest_carries_the_runs_before_it_whose_place_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "out" / "a.manifest.json"
    for day in range(1, 13):
        manifest = write(path, day, failed=day)

    assert days(manifest) == [11.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]
    assert manifest.earlier[0] == {
        "run_id": "a_dag/day 11/a_task/-1",
        "ended": 11.0,
        "rows": 111,
        "answered": 100,
        "cost": pytest.approx(0.035),
        "model": "gemini-3.1-flash-lite",
        "prompt_hash": "",
    }
    assert Manifest.from_json(json.loads(path.read_text())) == manifest


def test_the_runs_before_are_found_beside_it_where_each_has_its_own_path(tmp_path: Path) -> None:
    for day in range(1, 13):
        manifest = write(tmp_path / f"2026-11-{day:02}.manifest.json", day)

    assert days(manifest) == [11.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]


def test_runs_of_other_tasks_and_samples_are_not_listed(tmp_path: Path) -> None:
    write(tmp_path / "a.manifest.json", 1)
    write(tmp_path / "b.manifest.json", 2, task="a_dag/{}/another_task/-1")
    write(tmp_path / "c.manifest.json", 3, task="another_dag/{}/a_task/-1")
    write(tmp_path / "d.manifest.json", 4, task="a_dag/{}/a_task/3")
    write(tmp_path / "a.sample.manifest.json", 5)
    (tmp_path / "e.manifest.json").write_text("{not JSON")
    (tmp_path / "f.manifest.json").write_text('{"version": 99}')

    assert days(write(tmp_path / "a.manifest.json", 6)) == [1.0]
    assert days(write(tmp_path / "a.sample.manifest.json", 7)) == [5.0]


def test_a_retry_is_the_same_run(tmp_path: Path) -> None:
    path = tmp_path / "a.manifest.json"
    for day in (1, 2, 2, 2):
        manifest = write(path, day)

    assert days(manifest) == [1.0]


def test_a_store_that_cannot_be_listed_costs_the_list_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: Any) -> Any:
        raise RuntimeError("no such store")

    monkeypatch.setattr("airflow_provider_segmind.enrichment.report.history.names_if_any", refuse)

    assert earlier_runs(tmp_path / "a.manifest.json", run_id="a_dag/day 1/a_task/-1") == []
    assert "Earlier runs of the table cannot be read: RuntimeError: no such store" in caplog.text


def test_a_few_keys_of_each_reason_are_taken_from_the_dead_letters(tmp_path: Path) -> None:
    letters = [
        *({"key": {"id": number}, "outcome": "failed", "reason": f"overloaded, try {number}"} for number in range(9)),
        {"key": {"shop": "a", "sku": "ü"}, "outcome": "blocked", "reason": "SAFETY"},
        {"key": {"id": "x" * 500}, "outcome": "invalid", "reason": "not JSON"},
    ]
    letters = [{"row": number, **letter} for number, letter in enumerate(letters)]
    path = tmp_path / "dead_letters.jsonl"
    path.write_text("".join(json.dumps(letter) + "\n" for letter in letters))

    keys = example_keys([path])

    assert keys["failed", "overloaded, try …"] == ["0", "1", "2"]
    assert keys["blocked", "SAFETY"] == ['{"shop": "a", "sku": "ü"}']
    assert len(keys["invalid", "not JSON"][0]) == KEY_CHARACTERS + 1


@pytest.mark.parametrize(
    ("run_id", "task"),
    [
        ("a_dag/a run/a_task/-1", ("a_dag", "a run", "a_task", -1)),
        ("a_dag/a/run/a_task/3", ("a_dag", "a/run", "a_task", 3)),
        ("a_dag/a run/a_task", ("a_dag", "a run", "a_task", -1)),
        ("by hand", ("by hand", "", "", -1)),
    ],
)
def test_a_manifest_knows_its_task(run_id: str, task: tuple[str, str, str, int]) -> None:
    assert Manifest(run_id=run_id, model="m").task == task
