"""A task that writes into a table is killed while it submits and while it writes; each row is paid for once."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.databases import OneDatabase, opened

ROOT = Path(__file__).resolve().parents[2]
ROWS, DISTINCT = 300, 270
CHILD = """
import json, sys
from airflow_provider_segmind.operators.enrich import SegmindEnrichSqlOperator
from tests.support.airflow_fakes import Run

task = SegmindEnrichSqlOperator(
    task_id="a_task", sql_conn_id="shop", source_table="things", key="id", target_table="answers",
    model="gemini-3.1-flash-lite", prompt="The colour of {thing}?", ledger_path=sys.argv[1], concurrency=8,
    batch_rows=1,
)
print(json.dumps(task.execute(Run().context())))
"""


def rows_written(database: OneDatabase) -> int:
    # The table may not be there yet, or be locked.
    with contextlib.suppress(Exception):
        return int(database.rows("SELECT count(*) FROM answers")[0][0])
    return 0


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_a_killed_sql_task_pays_once_and_writes_every_row(kind: str, tmp_path: Path) -> None:
    with opened(kind, tmp_path) as database, SegmindEmulator(latency=0.02) as emulator:
        rows = [(number, f"thing {number % DISTINCT}") for number in range(ROWS)]
        database.fill("things", "id INTEGER, thing VARCHAR(20)", rows)
        moments: list[Callable[[], bool]] = [
            lambda: len(emulator.jobs) >= 40,
            lambda: len(emulator.jobs) >= 180,
            lambda: rows_written(database) >= 1,
        ]
        for moment in moments:
            child = start(emulator, database, tmp_path)
            deadline = time.monotonic() + 120
            while not moment():
                assert child.poll() is None, "it ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.002)
            child.kill()
            child.communicate()
        written = rows_written(database)
        out, _ = start(emulator, database, tmp_path).communicate(timeout=120)

        manifest = json.loads(out.splitlines()[-1])
        found = database.dicts("answers", "id")
        # SQLite may have written all of it between two checks.
        assert 1 <= written < ROWS or kind == "sqlite"
        assert len(emulator.jobs) == len(emulator.bill) == DISTINCT
        assert [row["id"] for row in found] == list(range(ROWS))
        assert [row["answer"] for row in found] == [f"echo: The colour of {thing}?" for _, thing in rows]
        assert manifest["outcomes"]["success"] == manifest["rows_read"] == ROWS
        billed = sum(entry.cost for entry in emulator.bill)
        assert manifest["cost"] == pytest.approx(billed)
        assert sum(row["_segmind_cost"] for row in found) == pytest.approx(billed)


def start(emulator: SegmindEmulator, database: OneDatabase, folder: Path) -> subprocess.Popen[str]:
    connections = {"AIRFLOW_CONN_SEGMIND_DEFAULT": emulator.connection, "AIRFLOW_CONN_SHOP": database.airflow}
    # The next one does not wait longer than this for the rows claimed by a killed one.
    timeout = {"AIRFLOW__SEGMIND__WRITER_TIMEOUT": "5"}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder / "ledger")],
        cwd=ROOT,
        env={**os.environ, **timeout, **{name: json.dumps(value) for name, value in connections.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
