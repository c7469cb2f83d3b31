"""Rows of the metadata database, as Airflow's processes leave them behind."""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from sqlalchemy import delete, insert

from airflow_provider_segmind.compat import CoreVariable, TaskInstance, Trigger, XComModel, create_session

OF_TASKS: tuple[Any, ...] = (XComModel, TaskInstance)
try:
    from airflow_provider_segmind.compat import TaskStateStoreModel
except ImportError:
    pass  # It is new in Airflow 3.3.
else:
    OF_TASKS = (TaskStateStoreModel, *OF_TASKS)
BUNDLE = "metadata"
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)


def run_number(own: dict[str, Any]) -> int:
    """Return the number of a run, as its row would have it."""
    return zlib.crc32(f"{own['dag_id']} {own['run_id']}".encode()) >> 1


class Metadata:
    """Adds rows to a real metadata database; the DAGs and runs that they belong to are not needed for reading."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.dag_ids: set[str] = set()
        self.triggers: list[int] = []

    def dag(self, dag_id: str) -> None:
        """Add a DAG, which makes it one that users may have the right to read."""
        values = {"max_active_tasks": 16, "max_consecutive_failed_dag_runs": 0, "is_stale": False, "is_paused": False}
        values |= {"has_task_concurrency_limits": False, "bundle_name": BUNDLE, "timetable_type": ""}
        if self.session.get(DagBundleModel, BUNDLE) is None:
            self.session.add(DagBundleModel(name=BUNDLE))
            self.session.flush()
        self.session.execute(insert(DagModel), {"dag_id": dag_id, **values})
        self.dag_ids.add(dag_id)

    def task(self, task_id: str, operator: str, state: str = "success", **values: Any) -> dict[str, Any]:
        """Add a task instance and return what identifies it."""
        own = {"dag_id": "shop", "run_id": "monday", "task_id": task_id, "map_index": -1}
        own |= {name: values.pop(name) for name in own if name in values}
        self.dag_ids.add(own["dag_id"])
        times = {"start_date": NOON, "end_date": None if state in ("running", "deferred") else NOON}
        self.session.execute(
            insert(TaskInstance),
            {
                # A string before Airflow 3.2.
                "id": TaskInstance.id.type.python_type(str(uuid.uuid4())),
                "operator": operator,
                "state": state,
                "try_number": 1,
                "max_tries": 1,
                "pool": "default_pool",
                "span_status": "ended",
                "executor_config": {},
                **own,
                **times,
                **values,
            },
        )
        return own

    def xcom(self, own: dict[str, Any], key: str, value: Any) -> None:
        """Add an XCom as the Execution API stores it."""
        self.session.execute(insert(XComModel), {**own, "dag_run_id": run_number(own), "key": key, "value": value})

    def state(self, own: dict[str, Any], key: str, value: Any) -> None:
        """Add a value of the task state store."""
        values = {**own, "dag_run_id": run_number(own), "key": key, "value": json.dumps(value)}
        self.session.execute(insert(TaskStateStoreModel), values)

    def variable(self, key: str, value: Any, description: str) -> None:
        """Add an encrypted Variable."""
        self.session.add(CoreVariable(key=key, val=json.dumps(value), description=description))
        self.session.flush()

    def trigger(self, classpath: str, kwargs: dict[str, Any]) -> int:
        """Add a trigger and return its id."""
        made = Trigger(classpath=classpath, kwargs=kwargs)
        self.session.add(made)
        self.session.flush()
        self.triggers.append(int(made.id))
        return int(made.id)


@contextmanager
def open_metadata() -> Iterator[Metadata]:
    """Open the metadata database of the tests, without what other tests left; what is changed is rolled back."""
    with create_session() as session:
        session.connection().exec_driver_sql("PRAGMA foreign_keys=OFF")
        for table in (*OF_TASKS, Trigger):
            session.execute(delete(table))
        try:
            yield Metadata(session)
        finally:
            session.rollback()
            session.connection().exec_driver_sql("PRAGMA foreign_keys=ON")
            session.rollback()


@contextmanager
def stored_metadata() -> Iterator[Metadata]:
    """
    Open it for other sessions as well, once ``session`` is committed.

    What other tests left is removed first, and what was added at the end.
    """
    with create_session() as session:
        session.connection().exec_driver_sql("PRAGMA foreign_keys=OFF")
        for table in (*OF_TASKS, Trigger):
            session.execute(delete(table))
        # Another process must be able to write from here on.
        session.commit()
        session.connection().exec_driver_sql("PRAGMA foreign_keys=OFF")
        added = Metadata(session)
        try:
            yield added
        finally:
            session.rollback()
            session.connection().exec_driver_sql("PRAGMA foreign_keys=OFF")
            for table in (*OF_TASKS, DagModel):
                session.execute(delete(table).where(table.dag_id.in_(added.dag_ids)))
            session.execute(delete(Trigger).where(Trigger.id.in_(added.triggers)))
            session.execute(delete(CoreVariable).where(CoreVariable.key.startswith("segmind_")))
            session.commit()
            session.connection().exec_driver_sql("PRAGMA foreign_keys=ON")
            session.rollback()
