"""The output of an enrichment, written by a run over a fake client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.output import write_output
from tests.support.engine_tuning import tuned
from tests.support.enrichment import Clock, FakeSegmind, question


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
