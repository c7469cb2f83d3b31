from __future__ import annotations

from pathlib import Path

from blockbuster import BlockBuster, blockbuster_ctx

from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.files.readers import open_source
from airflow_provider_segmind.enrichment.output import write_output
from tests.support.engine_tuning import tuned
from tests.support.enrichment import Clock, FakeSegmind, question


def but_for_the_local_index(blocking: BlockBuster) -> None:
    """Let the loop look up one key or a block, or write one batch, in the index: at most a few milliseconds."""
    for name in ("Connection.execute", "Connection.executemany", "Cursor.fetchone", "Cursor.fetchall"):
        blocking.functions[f"sqlite3.{name}"].can_block_in("enrichment/local_database.py", {"first", "all", "write"})


async def test_files_are_never_read_or_written_on_the_event_loop(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("".join(f'{{"id": {n}, "text": "{n % 70}"}}\n' for n in range(100)))
    for _ in range(2):
        clock = Clock()
        engine = Engine(
            question=question(),
            rows=open_source(tmp_path / "t.jsonl"),
            ledger_folder=tmp_path / "ledger",
            client=FakeSegmind(clock, failing=lambda body: "no" if body["prompt"].endswith("7") else None),
            run_id="r",
            settings=tuned(concurrency=4, commit_delay=0.001, block_rows=16, fold_at=4),
            clock=clock,
        )
        with blockbuster_ctx("airflow_provider_segmind.enrichment") as blocking:
            but_for_the_local_index(blocking)
            await engine.run()
        manifest = write_output(engine)
        engine.close()
        assert (manifest.rows_read, manifest.outcomes["failed"]) == (100, 10)
