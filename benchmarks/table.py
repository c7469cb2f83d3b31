"""A table of rows, and a check of what was written about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL = "gemini-3.1-flash-lite"
PROMPT = "Describe {name} in one sentence. What the maker says of it: {words}"
WORDS = "It is light, it lasts, and it comes in four colours; batteries are not included. "
ANSWER = 1000
"""Characters of an answer."""


@dataclass(frozen=True)
class Table:
    """Rows whose names the server repeats in its replies."""

    folder: Path
    rows: int

    @property
    def source(self) -> Path:
        return self.folder / "source.jsonl"

    @property
    def output(self) -> Path:
        return self.folder / "output.jsonl"

    def row(self, number: int) -> dict[str, Any]:
        return {"id": number, "name": f"item-{number:07d}", "words": WORDS}

    def write(self) -> None:
        """Write the source."""
        with self.source.open("w") as file:
            for number in range(self.rows):
                file.write(json.dumps(self.row(number)) + "\n")

    def prompts(self) -> Iterator[str]:
        for number in range(self.rows):
            yield PROMPT.format(**self.row(number))

    def check(self) -> str:
        """Return what is wrong with the output; empty when it is complete, right and in order."""
        with self.output.open() as file:
            for number in range(self.rows):
                row, found = self.row(number), json.loads(file.readline() or "{}")
                answer = (found.get("answer") or "").removeprefix('{"text": "')
                if found.get("id") != row["id"] or not answer.startswith(row["name"]):
                    return f"row {number} is {str(found)[:200]}"
            return "there are too many rows" if file.readline() else ""
