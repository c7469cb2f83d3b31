"""One mapped task a row next to one task for the table, on a real scheduler."""

from __future__ import annotations

import json
import tempfile
from datetime import datetime
from pathlib import Path

from benchmarks.server import running
from benchmarks.table import ANSWER, Table
from demo.databases import PostgresDatabase
from demo.stack import AirflowStack

DAGS = Path(__file__).parent / "dags"
MAPPED, ROWS = 60, 10_000


def seconds_of(stack: AirflowStack, dag_id: str) -> float:
    """Run a DAG and return the time from the start of the run to its end."""
    stack.rest.wait_for_dag(dag_id)
    run_id = stack.rest.trigger(dag_id)
    state = stack.rest.wait_for_run(dag_id, run_id, timeout=900)
    if state != "success":
        raise RuntimeError(f"{dag_id} ended as {state}")
    run = stack.rest.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
    return (datetime.fromisoformat(run["end_date"]) - datetime.fromisoformat(run["start_date"])).total_seconds()


def main() -> None:
    """Print seconds a row."""
    with tempfile.TemporaryDirectory(prefix="segmind-bench-") as folder, running(answer=ANSWER) as server:
        table = Table(Path(folder), ROWS)
        table.write()
        connection = {"conn_type": "segmind", "host": server.url, "password": "SG_bench"}
        stack = AirflowStack(
            home=Path(folder) / "airflow",
            dags=[DAGS],
            connections={"segmind_default": json.dumps(connection)},
            environment={
                "SEGMIND_BENCH_FOLDER": folder,
                "SEGMIND_BENCH_URL": server.url,
                "SEGMIND_BENCH_MAPPED": str(MAPPED),
            },
            database=PostgresDatabase(),
        )
        with stack:
            mapped = seconds_of(stack, "one_task_per_row") / MAPPED
            ours = seconds_of(stack, "one_task_per_table") / ROWS
        if wrong := table.check():
            raise RuntimeError(f"the output is not right: {wrong}")
    print(
        "\nOn LocalExecutor with a parallelism of 4, and PostgreSQL\n\n| seconds a row | | ratio |\n| --- | --- | --- |"
    )
    print(f"| one SegmindEnrichFileOperator, {ROWS:,} rows | {ours:.4f} | |")
    print(f"| one mapped task a row, {MAPPED} rows | {mapped:.3f} | {mapped / ours:,.0f} |", flush=True)
