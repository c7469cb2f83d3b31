"""The example of pictures runs unchanged: a folder becomes rows, and each picture travels with its question."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from airflow_provider_segmind.bulk.sources import open_source
from airflow_provider_segmind.emulator import SegmindEmulator
from tests.running import run_dags

pytestmark = pytest.mark.airflow

NAME = "example_segmind_captions"


def test_every_picture_of_the_folder_gets_a_caption(
    airflow_database: Path, segmind_emulator: SegmindEmulator, tmp_path: Path
) -> None:
    segmind_emulator.script(json={"caption": "A plain picture.", "colours": ["blue"]})

    dags = [(f"dags_examples/{NAME}.py", NAME)]
    ended = run_dags(*dags, connection=segmind_emulator.connection_json, SEGMIND_EXAMPLE_OUTPUT=tmp_path.as_uri())[NAME]

    assert ended["state"] == "success", ended["log"]
    assert ended["values"]["report"].startswith("3 pictures captioned")
    folder = tmp_path / "captions"
    rows = list(open_source(folder / "captions.parquet"))
    assert [(row["name"], row["caption"]) for row in rows] == [
        (name, "A plain picture.") for name in ("brick.png", "grass.png", "sky.png")
    ]
    sent = [post.json["messages"]["contents"][0]["parts"][1]["inlineData"] for post in segmind_emulator.posts()]
    assert sorted(base64.b64decode(part["data"]) for part in sent) == sorted(
        path.read_bytes() for path in (folder / "photos").iterdir()
    )
