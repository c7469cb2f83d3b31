"""The examples that enrich files run unchanged, one after the other on a real task runner."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.emulator.control import RecordedRequest
from airflow_provider_segmind.enrichment.files.readers import open_source
from tests.support.dag_runs import run_dags

pytestmark = pytest.mark.airflow

ALONE, SHARDED, PICTURES = "example_segmind_enrich_file", "example_segmind_sharded", "example_segmind_captions"
TRIAGE = {"team": "delivery", "urgent": False, "summary": "A question."}
CAPTION = {"caption": "A plain picture.", "colours": ["blue"]}


class Ended(NamedTuple):
    runs: dict[str, dict[str, Any]]
    folder: Path
    posts: list[RecordedRequest]
    billed: int


@pytest.fixture(scope="module")
def ended(airflow_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("files")
    with SegmindEmulator() as emulator:
        emulator.script(json=TRIAGE)
        emulator.script(match="image", json=CAPTION)
        dags = [(f"dags_examples/{name}.py", name) for name in (ALONE, SHARDED, PICTURES)]
        runs = run_dags(*dags, connection=emulator.connection_json, SEGMIND_EXAMPLE_OUTPUT=folder.as_uri())
        return Ended(runs, folder, emulator.posts(), len(emulator.bill))


def test_tickets_are_classified_into_a_file_and_duplicates_paid_once(ended: Ended) -> None:
    run = ended.runs[ALONE]

    assert run["state"] == "success", run["log"]
    assert run["values"]["report"].startswith("4 of 4 tickets classified")
    assert run["values"]["triage"]["posts"] == 3
    (output,) = (ended.folder / "tickets").glob("*/triage.jsonl")
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["ticket_id"] for row in rows] == [1, 2, 3, 4]
    assert {row["team"] for row in rows} == {"delivery"}
    assert run["values"]["triage"]["duplicates_saved"] == 1
    assert "I was charged twice" not in run["log"]


def test_four_shards_become_one_file_in_the_order_of_the_source(ended: Ended) -> None:
    run = ended.runs[SHARDED]

    assert run["state"] == "success", run["log"]
    assert run["values"]["report"].startswith("40 of 40 tickets classified")
    shards, whole = run["values"]["triage"], run["values"]["merge"]
    assert [shard["shard_index"] for shard in shards] == [0, 1, 2, 3]
    assert sum(shard["rows_read"] for shard in shards) == whole["rows_read"] == 40
    assert whole["posts"] == whole["distinct_rows"] == 30
    (output,) = (ended.folder / "tickets_in_shards").glob("*/triage_of_all_shards.parquet")
    rows = list(open_source(output))
    assert [row["ticket_id"] for row in rows] == list(range(40))
    assert {row["team"] for row in rows} == {"delivery"}
    assert output.with_name("triage_of_all_shards.report.html").stat().st_size > 1000


def test_each_image_of_a_folder_is_attached_and_gets_a_caption(ended: Ended) -> None:
    run = ended.runs[PICTURES]

    assert run["state"] == "success", run["log"]
    assert run["values"]["report"].startswith("3 images captioned")
    folder = ended.folder / "captions"
    (output,) = folder.glob("*/captions.parquet")
    rows = list(open_source(output))
    assert [row["name"] for row in rows] == ["brick.png", "grass.png", "sky.png"]
    assert {row["caption"] for row in rows} == {CAPTION["caption"]}
    parts = [post.json["messages"]["contents"][0]["parts"] for post in ended.posts]
    sent = [base64.b64decode(files[0]["inlineData"]["data"]) for _, *files in parts if files]
    assert sorted(sent) == sorted(path.read_bytes() for path in (folder / "photos").iterdir())


def test_the_account_was_billed_once_per_distinct_row_of_each_example(ended: Ended) -> None:
    assert len(ended.posts) == ended.billed == 3 + 30 + 3
