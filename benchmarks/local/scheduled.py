"""Two DAGs on a real Airflow: a mapped task for each row, and one task for all."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from demo.databases import PostgresDatabase
from demo.stack import AirflowStack
from local.server import running
from local.table import ANSWER, Table

DAGS = Path(__file__).parent / "dags"


@dataclass(frozen=True)
class Took:
    """
    What a run took.

    :param seconds: from the start of the DAG run to its end.
    """

    rows: int
    seconds: float

    @property
    def each(self) -> float:
        return self.seconds / self.rows


def measure(*, mapped: int, rows: int) -> tuple[Took, Took]:
    """Run both DAGs, one after the other."""
    with tempfile.TemporaryDirectory(prefix="segmind-bench-") as place, running(answer=ANSWER) as server:
        table = Table(Path(place), rows)
        table.write()
        connection = {"conn_type": "segmind", "host": server.url, "password": "SG_bench"}
        stack = AirflowStack(
            home=Path(place) / "airflow",
            dags=[DAGS],
            connections={"segmind_default": json.dumps(connection)},
            environment={
                "SEGMIND_BENCH_FOLDER": place,
                "SEGMIND_BENCH_URL": server.url,
                "SEGMIND_BENCH_MAPPED": str(mapped),
            },
            database=PostgresDatabase(),
        )
        with stack:
            by_row = Took(mapped, _seconds(stack, "a_task_a_row"))
            by_table = Took(rows, _seconds(stack, "a_task_a_table"))
        wrong = table.check()
        if wrong:
            raise RuntimeError(f"the output is not right: {wrong}")
    return by_row, by_table


def _seconds(stack: AirflowStack, dag_id: str) -> float:
    stack.rest.wait_for_dag(dag_id)
    run_id = stack.rest.trigger(dag_id)
    state = stack.rest.wait_for_run(dag_id, run_id, timeout=900)
    if state != "success":
        raise RuntimeError(f"{dag_id} ended as {state}")
    run = stack.rest.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
    return (datetime.fromisoformat(run["end_date"]) - datetime.fromisoformat(run["start_date"])).total_seconds()
