"""The page's view of a run, over a metadata database in which only that run is."""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

OWN = {"dag_id": "bench", "run_id": "first", "task_id": "enrich", "map_index": -1}


def view_seconds(manifest: dict[str, Any]) -> float:
    """Return the seconds that a view of the run takes, the second time: templates are loaded, nothing is cached."""
    from airflow_provider_segmind.monitoring.page import app
    from airflow_provider_segmind.monitoring.reader import TaskRef

    _store(manifest)
    request: Any = SimpleNamespace(scope={"root_path": ""}, url=SimpleNamespace(path="/"), headers={})
    viewer: Any = SimpleNamespace(may_read_answers=lambda dag_id: True, dag_ids=lambda: {OWN["dag_id"]})
    asked = app.TableQuery(TaskRef(**OWN), "", "")
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        response = app.table(request, asked, viewer)
        seconds = time.perf_counter() - began
        if b"1," not in response.body and response.status_code != 200:
            raise RuntimeError(f"the view says {response.status_code}")
    return seconds


def _store(manifest: dict[str, Any]) -> None:
    from sqlalchemy import insert

    from airflow_provider_segmind.compat import TaskInstance, XComModel, create_session

    now = datetime.now(UTC)
    values = {"operator": "SegmindEnrichFileOperator", "state": "success", "start_date": now, "end_date": now}
    with create_session() as session:
        session.connection().exec_driver_sql("PRAGMA foreign_keys=OFF")
        session.execute(
            insert(TaskInstance),
            {
                "id": TaskInstance.id.type.python_type(str(uuid.uuid4())),
                "try_number": 1,
                "max_tries": 1,
                "pool": "default_pool",
                "span_status": "ended",
                "executor_config": {},
                **OWN,
                **values,
            },
        )
        session.execute(insert(XComModel), {**OWN, "dag_run_id": 1, "key": "return_value", "value": manifest})
