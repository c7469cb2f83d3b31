"""Dead letters: what is written is what is read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from airflow_provider_segmind.enrichment.dead_letters import DeadLetter, open_letters, read_letters
from airflow_provider_segmind.exceptions import SegmindConfigError

if TYPE_CHECKING:
    from pathlib import Path

LETTER = DeadLetter(
    row=3, key={"id": 1}, outcome="failed", reason="overloaded", attempts=1, request_ids=["r1"], cost=0.1
)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "letters.jsonl"

    with open_letters(path) as write:
        write(LETTER)

    assert list(read_letters(path)) == [LETTER]
    assert json.loads(path.read_text()) == {
        "row": 3,
        "key": {"id": 1},
        "outcome": "failed",
        "reason": "overloaded",
        "attempts": 1,
        "request_ids": ["r1"],
        "cost": 0.1,
        "fingerprint": None,
    }


def test_without_a_path_nothing_is_written(tmp_path: Path) -> None:
    with open_letters(None) as write:
        write(LETTER)

    assert list(tmp_path.iterdir()) == []


def test_a_file_of_something_else_is_refused_by_the_field_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "letters.jsonl"
    path.write_text('{"id": 1, "reason": "none"}\n')

    with pytest.raises(SegmindConfigError, match="a line has no row, key, outcome"):
        list(read_letters(path))
