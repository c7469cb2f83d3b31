"""
Put task instances that wait for a trigger into Airflow's database, as if a worker had deferred them.

``python -m benchmarks.full.deferred`` reads ``{"classpath": …, "kwargs": […]}`` from its input: one mapped task
instance for each entry. It uses Airflow's models, as only a benchmark may.
"""

from __future__ import annotations

import json
import sys
from typing import Any

DAG_ID, TASK_ID, RUN_ID = "waiting", "wait", "bench"


def defer(classpath: str, kwargs: list[dict[str, Any]]) -> None:
    """Replace all task instances and triggers by these."""
    from airflow.models.dagbag import DBDagBag
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session
    from airflow.utils.state import TaskInstanceState
    from sqlalchemy import delete, select

    with create_session() as session:
        run = session.scalar(select(DagRun).where(DagRun.dag_id == DAG_ID)) or _new_run(session)
        dag = DBDagBag().get_latest_version_of_dag(DAG_ID, session=session)
        session.execute(delete(TaskInstance))
        session.execute(delete(Trigger))
        triggers = [Trigger(classpath=classpath, kwargs=one) for one in kwargs]
        session.add_all(triggers)
        session.flush()
        task, version = dag.get_task(TASK_ID), run.created_dag_version_id
        for number, trigger in enumerate(triggers):
            instance = TaskInstance(task, version, run_id=RUN_ID, map_index=number)
            instance.state, instance.try_number = TaskInstanceState.DEFERRED, 1
            instance.trigger_id, instance.next_method, instance.next_kwargs = trigger.id, "execute_complete", {}
            session.add(instance)


def _new_run(session: Any) -> Any:
    from airflow._shared.timezones import timezone
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.models.dagbag import DBDagBag
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(DagBag(), "dags-folder", None)
    dag = DBDagBag().get_latest_version_of_dag(DAG_ID, session=session)
    now = timezone.utcnow()
    run = dag.create_dagrun(
        run_id=RUN_ID,
        run_after=now,
        start_date=now,
        run_type=DagRunType.MANUAL,
        triggered_by=DagRunTriggeredByType.TEST,
        state=DagRunState.RUNNING,
        session=session,
    )
    session.flush()
    return run


if __name__ == "__main__":
    job = json.load(sys.stdin)
    defer(job["classpath"], job["kwargs"])
