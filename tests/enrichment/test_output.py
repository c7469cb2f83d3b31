from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.files.readers import open_source
from airflow_provider_segmind.enrichment.manifest import Manifest
from tests.support.enrichment import PRICE, table
from tests.support.enrichment_output import landed


async def test_output_dead_letters_and_manifest_are_written_side_by_side(tmp_path: Path) -> None:
    manifest = await landed(tmp_path, table("a", "bad", "a"))
    manifest.write(tmp_path / "out" / "manifest.json")
    assert [row["_segmind_status"] for row in open_source(tmp_path / "out" / "out.jsonl")] == [
        "success",
        "failed",
        "success",
    ]
    letter = json.loads((tmp_path / "out" / "dead_letters.jsonl").read_text())
    assert {name: letter[name] for name in ("row", "key", "outcome", "reason", "attempts", "cost")} == {
        "row": 1,
        "key": {"id": 1},
        "outcome": "failed",
        "reason": "bad words",
        "attempts": 1,
        "cost": 0.0,
    }
    stored = Manifest.from_json(json.loads((tmp_path / "out" / "manifest.json").read_text()))
    assert stored == manifest
    assert (stored.rows_read, stored.distinct_rows, stored.duplicates_saved, stored.failed_rows) == (3, 2, 1, 1)
    assert (stored.cost, stored.tokens, stored.requests, stored.posts, stored.complete) == (PRICE, 5, 2, 2, True)
    assert stored.outputs == [str(tmp_path / "out" / "out.jsonl")]
    assert set(stored.latency) == {"p50", "p90", "p99"}


async def test_key_columns_keep_their_types_from_source_to_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = [{"id": Decimal("1.5"), "day": date(2026, 1, number), "text": str(number)} for number in (1, 2)]
    await landed(tmp_path, rows, "out.parquet", key=("id", "day"))
    out = list(open_source(tmp_path / "out" / "out.parquet"))
    assert [(row["id"], row["day"], row["said"]) for row in out] == [
        (Decimal("1.5"), date(2026, 1, 1), "SAY 1"),
        (Decimal("1.5"), date(2026, 1, 2), "SAY 2"),
    ]


def deep(levels: int) -> Any:
    value: Any = "core"
    for _ in range(levels):
        value = {"in": [value]}
    return value


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz", "out.jsonl", "out.parquet"])
async def test_answers_that_a_file_format_refuses_are_written_out(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    answers = ["half \ud83d pair", "one\rtwo", "nul \x00", 10**400, deep(200), [1.5, None], True, {"a": "\udc00"}]
    keys = [
        "k\ud83d",
        "k\r1",
        Decimal("1.50"),
        Decimal("0.12345678901234567890123456789012345"),
        deep(60),
        2**70,
        b"k",
        date.min,
    ]
    rows = [{"id": key, "text": str(number)} for number, key in enumerate(keys)]

    def answer(body: Any) -> Any:
        return answers[int(body["prompt"].removeprefix("Say "))]

    for _ in range(2):
        # The second time everything comes out of the ledger of the first.
        manifest = await landed(tmp_path, rows, name, answer=answer)
        assert manifest.outcomes["success"] == len(rows)
        out = list(open_source(tmp_path / "out" / name))
        assert len(out) == len(rows)
        assert out[1]["said"] == "one\rtwo"
        assert out[1]["id"] == "k\r1"
        half = chr(0xD83D if name == "out.jsonl" else 0xFFFD)
        assert (out[0]["id"], out[0]["said"]) == (f"k{half}", f"half {half} pair")


HALVES = [("a\ud83d", "a\udc00"), ("a\udc00", "a\ud83d", "a\ufffd"), ("a\ufffd_2", "a\ud83d", "a\udc00", "a\ud800")]


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz", "out.jsonl", "out.parquet"])
@pytest.mark.parametrize("key", HALVES, ids=ascii)
async def test_key_columns_whose_names_a_format_cannot_tell_apart_keep_their_values(
    tmp_path: Path, key: tuple[str, ...], name: str
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    rows = [{"text": str(row), **{column: f"{row}-{place}" for place, column in enumerate(key)}} for row in range(3)]
    await landed(tmp_path, rows, name, key=key)
    out = list(open_source(tmp_path / "out" / name))
    assert [list(row.values())[: len(key)] for row in out] == [[row[column] for column in key] for row in rows]
    assert all(len(row) == len(key) + 7 for row in out)
