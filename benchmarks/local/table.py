"""A table of rows, the operator that asks about it as Airflow would, and a check of what it wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MODEL = "gemini-3.1-flash-lite"
PROMPT = "Describe {name} in one sentence. What the maker says of it: {words}"
WORDS = "It is light, it lasts, and it comes in four colours; batteries are not included. "
SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
ANSWER = 1000
"""Characters of an answer."""


@dataclass(frozen=True)
class Table:
    """
    Rows whose names the server repeats in its answers.

    :param duplicates: whether every tenth row is equal to an earlier one but for its id.
    """

    folder: Path
    rows: int
    duplicates: bool = False

    @property
    def source(self) -> Path:
        return self.folder / "source.jsonl"

    @property
    def output(self) -> Path:
        return self.folder / "output.jsonl"

    def name(self, number: int) -> str:
        return f"item-{number - 5 if self.duplicates and number % 10 == 9 else number:07d}"

    def row(self, number: int) -> dict[str, Any]:
        return {"id": number, "name": self.name(number), "words": WORDS}

    def write(self, *, edited: int | None = None, first: dict[str, Any] | None = None) -> None:
        """
        Write the source.

        :param edited: the row whose words are other ones.
        :param first: a row before all others.
        """
        with self.source.open("w") as file:
            if first is not None:
                file.write(json.dumps(first) + "\n")
            for number in range(self.rows):
                row = self.row(number)
                if number == edited:
                    row["words"] = "It is new. "
                file.write(json.dumps(row) + "\n")

    def prompts(self) -> Iterator[str]:
        for number in range(self.rows):
            yield PROMPT.format(**self.row(number))

    def check(self, *, first: dict[str, Any] | None = None) -> str:
        """Say what is wrong with the output, nothing when it is complete, right and in order."""
        expected = ([first] if first is not None else []) + [self.row(number) for number in range(self.rows)]
        with self.output.open() as file:
            for row in expected:
                found = json.loads(file.readline() or "{}")
                answer = found.get("text") or (found.get("answer") or "").removeprefix('{"text": "')
                if found.get("id") != row["id"] or not answer.startswith(row["name"]):
                    return f"row {row['id']} is {str(found)[:200]}"
            return "rows too many" if file.readline() else ""


class Instance:
    """As much of a task instance as the operator looks at."""

    dag_id, task_id, map_index, try_number = "bench", "enrich", -1, 1

    def __init__(self, run_id: str) -> None:
        self.run_id, self.start_date = run_id, datetime.now(UTC)

    def xcom_push(self, key: str, value: object) -> None:
        """Nobody pulls it."""


def enrich(folder: str, url: str, *, run_id: str, schema: dict[str, Any] | None, library: str) -> Any:
    """Return the operator's work on the table of ``folder`` as a function; all that it imports is imported."""
    if library == "httpx":
        import importlib.util

        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == "aiohttp" else find(name, *rest)
    else:
        import aiohttp  # noqa: F401
    connection = {"conn_type": "segmind", "host": url, "password": "SG_bench", "extra": {"history_url": url}}
    os.environ["AIRFLOW_CONN_SEGMIND_DEFAULT"] = json.dumps(connection)
    import airflow_provider_segmind.execution.enrichment  # noqa: F401
    from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

    table = Table(Path(folder), 0)
    task = SegmindEnrichFileOperator(
        task_id="enrich",
        model=MODEL,
        source=str(table.source),
        key="id",
        prompt=PROMPT,
        output_type=schema,
        output_path=str(table.output),
    )
    return lambda: task.execute({"ti": Instance(run_id)})  # type: ignore[typeddict-item]
