from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.files.readers import open_source
from airflow_provider_segmind.enrichment.manifest import Manifest, merge
from airflow_provider_segmind.enrichment.output import write_output
from airflow_provider_segmind.enrichment.settings import Shard
from airflow_provider_segmind.enrichment.stats import Latencies
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from tests.support.engine_tuning import tuned
from tests.support.enrichment import PRICE, Clock, FakeSegmind, question, table


async def landed(folder: Path, rows: list[dict[str, Any]], name: str = "out.jsonl", **options: Any) -> Manifest:
    clock = Clock()
    answers = {"answer": options.pop("answer")} if "answer" in options else {}
    engine = Engine(
        question=question(key=options.pop("key", ("id",))),
        rows=rows,
        ledger_folder=folder / "ledger",
        client=FakeSegmind(clock, failing=lambda body: "bad words" if "bad" in body["prompt"] else None, **answers),
        run_id="r",
        settings=tuned(concurrency=4, commit_delay=0.001),
        clock=clock,
        **options,
    )
    await engine.run()
    manifest = write_output(engine, output=folder / "out" / name, dead_letters=folder / "out" / "dead_letters.jsonl")
    engine.close()
    return manifest


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


async def test_the_manifests_of_all_shards_add_up(tmp_path: Path) -> None:
    rows = table(*[str(number % 30) for number in range(50)], "bad")
    shards = [
        await landed(tmp_path, rows, f"part-{index}.jsonl", shard=Shard(index=index, count=3)) for index in range(3)
    ]
    whole = merge(shards)
    assert (whole.rows_read, whole.rows_in_source, whole.distinct_rows, whole.duplicates_saved) == (51, 51, 31, 20)
    assert whole.outcomes["failed"] == 1
    assert whole.cost == pytest.approx(30 * PRICE)
    assert len(whole.outputs) == 3
    assert sum(whole.latency_counts.values()) == 31
    assert (whole.calls, whole.posts) == (62, 31)
    assert [sum(whole.timeline[name]) for name in ("posts", "polls", "answered", "unanswered")] == [31, 31, 30, 1]
    assert sum(whole.timeline["cost"]) == pytest.approx(whole.cost)
    assert whole.reasons == {"failed": {"bad words": 1}}
    with pytest.raises(SegmindEnrichmentError, match=r"Shards \[0, 2\] were given"):
        merge([shards[0], shards[2]])
    with pytest.raises(SegmindEnrichmentError, match="differ in run:"):
        merge([shards[0], shards[1], replace(shards[2], run_id="other")])
    fewer = replace(shards[2], rows_read=shards[2].rows_read - 1)
    with pytest.raises(SegmindEnrichmentError, match="source changed"):
        merge([shards[0], shards[1], fewer])


def test_counts_that_do_not_add_up_are_an_error() -> None:
    with pytest.raises(SegmindEnrichmentError, match="add up to 0, 0 of them with a reason, but 1 rows"):
        Manifest(run_id="r", model="m", rows_read=1).check()
    unexplained = Manifest(run_id="r", model="m", rows_read=1)
    unexplained.outcomes["failed"] = 1
    with pytest.raises(SegmindEnrichmentError, match="add up to 1, 0 of them with a reason"):
        unexplained.check()


def test_shards_of_one_run_may_differ_in_the_last_part_of_its_name() -> None:
    def shard(index: int, run_id: str) -> Manifest:
        return Manifest(run_id=run_id, model="m", shard_index=index, shard_count=2)

    assert merge([shard(1, "dag/monday/task/1"), shard(0, "dag/monday/task/0")]).run_id == "dag/monday/task"
    with pytest.raises(SegmindEnrichmentError, match="differ in run:"):
        merge([shard(0, "dag/monday/task/0"), shard(1, "dag/sunday/task/1")])


def test_the_notes_of_all_shards_are_kept() -> None:
    shards = [
        Manifest(run_id="r", model="m", shard_index=index, shard_count=2, notes={"by": "Ada", f"part {index}": "x"})
        for index in range(2)
    ]

    assert merge(shards).notes == {"by": "Ada", "part 0": "x", "part 1": "x"}


def test_a_manifest_of_another_version_is_refused() -> None:
    with pytest.raises(SegmindEnrichmentError, match="version 99"):
        Manifest.from_json({"version": 99})


@pytest.mark.parametrize(
    "changes", [{"run_id": None}, {"outcomes": {}}, {"outcomes": None}, {"rows_read": "x"}, {"timeline": []}]
)
def test_a_manifest_with_an_odd_field_is_refused_by_name(changes: dict[str, Any]) -> None:
    value = Manifest(run_id="r", model="m").to_json()
    assert Manifest.from_json(value).to_json() == value

    with pytest.raises(SegmindEnrichmentError, match="A manifest cannot be read"):
        Manifest.from_json({**value, **changes})


@pytest.mark.parametrize("value", [[], "x", None, {}])
def test_what_is_not_a_manifest_is_refused(value: Any) -> None:
    with pytest.raises(SegmindEnrichmentError, match="version None"):
        Manifest.from_json(value)


def test_quantiles_are_within_three_percent_and_those_of_parts_add_up() -> None:
    parts = [Latencies() for _ in range(4)]
    for number in range(1, 1001):
        parts[number % 4].add(number / 100)
    total = Latencies()
    for part in parts:
        total.counts.update(part.counts)
    quantiles = total.quantiles()
    assert quantiles["p50"] == pytest.approx(5.0, rel=0.03)
    assert quantiles["p99"] == pytest.approx(9.9, rel=0.03)
    assert Latencies().quantiles() == {}
