"""A task that writes into a table is killed between and inside its transactions; each row is paid for once."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.storage import store_path
from tests.support.databases import OneDatabase, opened

ROOT = Path(__file__).resolve().parents[2]
ROWS, DISTINCT, BATCH = 300, 270, 7
CHILD = """
import json, os, sys, time
from pathlib import Path
from airflow_provider_segmind.enrichment.sql.answer_table import TableWriter
from airflow_provider_segmind.execution import enrichment
from airflow_provider_segmind.operators.enrich import SegmindEnrichSqlOperator
from tests.support.airflow_fakes import Run

enrichment.REFRESH_INTERVAL = 0.1
end, inside = TableWriter._end, os.environ.get("WAIT_INSIDE")

def waits(self, cursor, how):
    if inside and how == "COMMIT":
        Path(inside).touch()
        time.sleep(600)
    end(self, cursor, how)

TableWriter._end = waits
task = SegmindEnrichSqlOperator(
    task_id="a_task", sql_conn_id="shop", sql="things", key="id", target_table=sys.argv[2],
    model="gemini-3.1-flash-lite", prompt="The colour of {thing}?", ledger_path=sys.argv[1], concurrency=8,
    batch_rows=int(sys.argv[3]),
)
print(json.dumps(task.execute(Run().context())))
"""


class Table:
    """A task that can be killed, its table and its ledger."""

    def __init__(self, name: str, database: OneDatabase, folder: Path) -> None:
        self.name, self.database, self.folder = name, database, folder
        self.ledger = folder / f"{name} ledger"

    def start(self, emulator: SegmindEmulator, **environment: str) -> subprocess.Popen[str]:
        connections = {"AIRFLOW_CONN_SEGMIND_DEFAULT": emulator.connection, "AIRFLOW_CONN_SHOP": self.database.airflow}
        # The next one does not wait longer than this for the rows claimed by a killed one.
        environment["AIRFLOW__SEGMIND__WRITER_TIMEOUT"] = "5"
        return subprocess.Popen(
            [sys.executable, "-c", CHILD, str(self.ledger), self.name, str(BATCH)],
            cwd=ROOT,
            env={**os.environ, **environment, **{name: json.dumps(value) for name, value in connections.items()}},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def finish(self, emulator: SegmindEmulator) -> dict[str, Any]:
        """Run the task to its end and return its manifest."""
        out, _ = self.start(emulator).communicate(timeout=300)
        manifest: dict[str, Any] = json.loads(out.splitlines()[-1])
        return manifest

    @property
    def rows(self) -> list[dict[str, Any]]:
        # The table may not be there yet, or be locked.
        with contextlib.suppress(Exception):
            return self.database.dicts(self.name, "id")
        return []

    @property
    def content(self) -> list[dict[str, Any]]:
        """What the table has in every run."""
        return [{name: value for name, value in row.items() if name != "_segmind_request_id"} for row in self.rows]

    def check_against_ledger(self) -> None:
        """Check that each row of the table has the answer that the ledger has for it."""
        with contextlib.closing(Ledger(store_path(str(self.ledger)), run="a reader", writer="reader")) as ledger:
            ledger.replay()
            for row in self.rows:
                event = ledger.finished(bytes.fromhex(row["_segmind_fingerprint"]))
                assert event is not None
                assert event.outcome == row["_segmind_status"] == "success"
                assert event.answer == {"answer": row["answer"]}
                assert event.request_ids[-1] == row["_segmind_request_id"]
                assert row["_segmind_cost"] in (pytest.approx(event.cost), 0)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_a_killed_sql_task_pays_once_and_leaves_a_table_that_is_right_as_far_as_it_goes(
    kind: str, tmp_path: Path
) -> None:
    with opened(kind, tmp_path) as database, SegmindEmulator(latency=0.15) as emulator:
        rows = [(number, f"thing {number % DISTINCT}") for number in range(ROWS)]
        database.fill("things", "id INTEGER, thing VARCHAR(20)", rows)
        table, inside = Table("answers", database, tmp_path), tmp_path / "inside"

        def kill(moment: Callable[[], bool], **environment: str) -> int:
            """Kill the task at some moment before it has asked about all rows; return the rows in its table."""
            child = table.start(emulator, **environment)
            deadline = time.monotonic() + 300
            while not moment():
                assert child.poll() is None, "it ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.02)
            child.kill()
            child.communicate()
            assert len(emulator.jobs) < DISTINCT
            table.check_against_ledger()
            return len(table.rows)

        between = kill(lambda: len(table.rows) >= 2 * BATCH)
        in_one = kill(inside.exists, WAIT_INSIDE=str(inside))
        later = kill(lambda: len(table.rows) >= in_one + 3 * BATCH)
        manifest = table.finish(emulator)

        assert 2 * BATCH <= between == in_one < later < ROWS
        assert len(emulator.posts()) == len(emulator.jobs) == len(emulator.bill) == DISTINCT
        assert [row["answer"] for row in table.rows] == [f"echo: The colour of {thing}?" for _, thing in rows]
        assert manifest["outcomes"]["success"] == manifest["rows_read"] == ROWS
        billed = sum(entry.cost for entry in emulator.bill)
        assert manifest["cost"] == pytest.approx(billed)
        assert sum(row["_segmind_cost"] for row in table.rows) == pytest.approx(billed)
        undisturbed = Table("undisturbed", database, tmp_path)
        undisturbed.finish(emulator)
        assert table.content == undisturbed.content
