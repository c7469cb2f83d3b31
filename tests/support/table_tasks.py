"""Tasks over tables of things, without Airflow's runner."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator
from tests.support.airflow_fakes import Run

MODEL = "gemini-3.1-flash-lite"
BLANK = "The colour of {thing}?"


class Colour(BaseModel):
    colour: str
    warm: bool


class Table:
    """A source file, and task instances that ask about it."""

    def __init__(self, folder: Path, emulator: SegmindEmulator) -> None:
        self.folder, self.emulator = folder, emulator
        self.run = Run()
        self.output = folder / "out" / "colours.jsonl"

    def write(self, rows: list[dict[str, Any]], name: str = "things.jsonl") -> str:
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def task(self, **fields: Any) -> SegmindEnrichFileOperator:
        given = {
            "model": MODEL,
            "key": "id",
            "prompt": BLANK,
            "output_path": str(self.output),
            **fields,
        }
        if "inputs" in given:
            del given["prompt"]
        task = SegmindEnrichFileOperator(task_id="a_task", **given)
        # Airflow 3 logs through structlog, 2.11 through a logger under the other name.
        hand: Any = task
        hand._cached_logger = hand._log = logging.getLogger("a_task")
        return task

    def ask(self, **fields: Any) -> Any:
        return self.task(**fields).execute(self.run.context())

    @property
    def rows(self) -> list[dict[str, Any]]:
        return read(self.output)

    @property
    def dead_letters(self) -> list[dict[str, Any]]:
        return read(self.output.with_name("colours.dead_letters.jsonl"))

    @property
    def posts(self) -> int:
        return len(self.emulator.posts())


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def things(*names: str) -> list[dict[str, Any]]:
    return [{"id": number, "thing": name} for number, name in enumerate(names)]


@pytest.fixture
def table(tmp_path: Path, segmind_emulator: SegmindEmulator) -> Table:
    return Table(tmp_path, segmind_emulator)
