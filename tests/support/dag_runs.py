"""
Run DAGs with ``dag.test()`` in a separate process.

In production a worker process ends with its task; so do open connections and the warnings of Airflow's in-process API
server, which must not appear in the process of the tests.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MARK = "=== ended: "
HOLD = "SEGMIND_TESTS_HOLD"


def run_dags(
    *dags: tuple[str, str], connection: str, hold: float | None = None, **environment: str
) -> dict[str, dict[str, Any]]:
    """
    Run DAGs one after the other.

    :param dags: file (relative to the project) and dag_id of each.
    :param connection: ``segmind_default``, as JSON.
    :param hold: seconds for which a trigger delays its event, where many tasks defer; None for the default.
    :returns: for each dag_id its ``state``, ``log`` and ``values``: the return value by task_id, a list if mapped.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.dag_runs", *(part for dag in dags for part in dag)],
        cwd=ROOT,
        env={**os.environ, "AIRFLOW_CONN_SEGMIND_DEFAULT": connection, HOLD: str(hold or ""), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    ended: dict[str, dict[str, Any]] = {}
    begins = 0
    lines = done.stdout.splitlines()
    for number, line in enumerate(lines):
        if line.startswith(MARK):
            one = json.loads(line.removeprefix(MARK))
            ended[one["dag_id"]] = {**one, "log": "\n".join(lines[begins:number])}
            begins = number + 1
    return ended


def load_dag(path: str, dag_id: str) -> Any:
    """Parse a file as Airflow's DAG processor does; an import error fails the test."""
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:
        # Airflow before 3.2 has it here.
        from airflow.models.dagbag import DagBag  # type: ignore[no-redef]
    bag = DagBag(str(ROOT / path))
    if bag.import_errors:
        raise SystemExit(str(bag.import_errors))
    return bag.dags[dag_id]


def _run(path: str, dag_id: str) -> None:
    run = load_dag(path, dag_id).test()
    values: dict[str, Any] = {}
    for instance in sorted(run.get_task_instances(), key=lambda one: one.map_index):
        value = instance.xcom_pull(task_ids=instance.task_id, map_indexes=instance.map_index)
        if instance.map_index < 0:
            values[instance.task_id] = value
        else:
            values.setdefault(instance.task_id, []).append(value)
    state = getattr(run.state, "value", run.state)
    print(MARK + json.dumps({"dag_id": dag_id, "state": state, "values": values}))


def _shorten_the_hold() -> None:
    """Shorten the delay of events: ``dag.test()`` runs triggers inline and has no scheduler that needs it."""
    if given := os.environ.get(HOLD):
        from airflow_provider_segmind import deferral

        deferral.HOLD_SECONDS = float(given)


def _keep_the_api_server() -> None:
    """Build Airflow's in-process API server once, as 3.3 does; 3.0 to 3.2 build it for each task, in two seconds."""
    try:
        from airflow.sdk.execution_time import supervisor
    except ImportError:
        return
    supervisor.in_process_api_server = functools.cache(supervisor.in_process_api_server)


if __name__ == "__main__":
    _shorten_the_hold()
    _keep_the_api_server()
    for number in range(1, len(sys.argv), 2):
        _run(sys.argv[number], sys.argv[number + 1])
