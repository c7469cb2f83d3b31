"""The engine with the real client over real sockets, killed for real."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from airflow_provider_segmind.emulator.server import SegmindEmulator

ROWS, DISTINCT = 300, 270
CHILD = """
import asyncio, sys
from pathlib import Path
from airflow_provider_segmind.api.client import AsyncSegmindClient, ClientConfig
from airflow_provider_segmind.api.protocol import Endpoints
from airflow_provider_segmind.bulk.engine import Engine
from airflow_provider_segmind.bulk.output import land
from airflow_provider_segmind.bulk.plan import Client, Question, Settings
from airflow_provider_segmind.bulk.verdicts import Accept

url, folder = sys.argv[1], Path(sys.argv[2])
question = Question(
    model="gemini-3.1-flash-lite",
    build=lambda row: {"prompt": row.fill("Describe {text}")},
    read=lambda reply: Accept({"said": str(reply.result.output)}),
    key=("id",),
    answer_columns=("said",),
)

async def main():
    async with AsyncSegmindClient(ClientConfig(api_key=sys.argv[3], endpoints=Endpoints(url, url, url, url))) as client:
        rows = [{"id": number, "text": f"product {number % %d}"} for number in range(%d)]
        engine = Engine(
            question=question, rows=rows, ledger_folder=folder / "ledger", client=client, run_id="r",
            settings=Settings(concurrency=8, commit_delay=0.02, block_rows=32),
        )
        await engine.run()
        land(engine, output=folder / "out.jsonl").write(folder / "manifest.json")

asyncio.run(main())
""".replace("% %d}", f"% {DISTINCT}}}").replace("%d", str(ROWS))


def test_a_worker_killed_in_the_middle_pays_once_for_each_distinct_row(tmp_path: Path) -> None:
    with SegmindEmulator() as emulator:
        command = [sys.executable, "-c", CHILD, emulator.url, str(tmp_path), emulator.api_key]
        child = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while sum(1 for _ in (tmp_path / "ledger").glob("*.jsonl")) < 20:
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.kill()
        child.wait()
        subprocess.run(command, check=True, timeout=60)
        accepted = len(emulator.jobs)
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in out] == list(range(ROWS))
    assert {row["_segmind_status"] for row in out} == {"success"}
    assert accepted == DISTINCT
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["rows_read"], manifest["distinct_rows"], manifest["duplicates_saved"]) == (ROWS, DISTINCT, 30)
