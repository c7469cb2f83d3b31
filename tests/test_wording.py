"""Counts and times are written in one form everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from airflow_provider_segmind.wording import counted, duration, moment


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0, "0 s"),
        (0.1234, "0.123 s"),
        (12.34, "12.3 s"),
        (59.4, "59.4 s"),
        (59.7, "1 min 0 s"),
        (185, "3 min 5 s"),
        (4980, "1 h 23 min"),
        (86_400 * 3 + 3600 * 7, "3 d 7 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_count_has_its_noun_in_the_right_number() -> None:
    assert [counted(1, "row"), counted(0, "row"), counted(1200, "row")] == ["1 row", "0 rows", "1,200 rows"]


def test_no_message_writes_a_count_with_a_noun_of_fixed_number() -> None:
    # "in its first 1 rows": what counts rows and requests must know one of them.
    fixed = re.compile(r"(?:\{(?![A-Z_]+\})[^{}]*(?<!f)\}|%d) (?:rows|requests|answers)\b(?! per)")
    lines = [
        f"{path.name}: {line.strip()}"
        for path in (Path(__file__).parents[1] / "airflow_provider_segmind").rglob("*.py")
        if "emulator" not in path.parts
        for line in path.read_text().splitlines()
        # A case of its own for one; a list of sizes.
        if fixed.search(line) and "== 1" not in line and "sorted(sizes)" not in line
    ]

    assert lines == []


def test_a_moment_is_in_utc() -> None:
    assert moment(0) == "1970-01-01 00:00:00 UTC"
