"""Mapped tasks of the example reuse answers, within a run and over runs: the emulator's bill is the witness."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.dag_runs import run_dags

pytestmark = pytest.mark.airflow
EXAMPLE = ("dags_examples/example_segmind_reuse.py", "example_segmind_reuse")


def test_equal_letters_are_paid_once_and_a_second_run_pays_nothing(
    airflow_database: Path, segmind_emulator: SegmindEmulator, tmp_path: Path
) -> None:
    ended = run_dags(
        EXAMPLE, EXAMPLE, connection=segmind_emulator.connection_json, SEGMIND_EXAMPLE_OUTPUT=tmp_path.as_uri()
    )["example_segmind_reuse"]

    assert ended["state"] == "success", ended["log"]
    replies = ended["values"]["triage"]
    assert len(replies) == 4
    assert replies[0] == replies[3]
    assert len(segmind_emulator.posts()) == len(segmind_emulator.bill) == 3
    assert ended["log"].count("Reusing the answer to request") == 4
    assert ended["values"]["count_reused"] == 4
