"""Two DAGs that need only Airflow: one returns its conf, one waits to be killed."""

from __future__ import annotations

import time
from typing import Any

from airflow.sdk import dag, get_current_context, task


@dag(schedule=None, catchup=False)
def smoke() -> None:
    @task
    def echo() -> dict[str, Any]:
        return dict(get_current_context()["dag_run"].conf or {})

    echo()


@dag(schedule=None, catchup=False)
def smoke_sleep() -> None:
    @task(retries=0)
    def sleep() -> None:
        time.sleep(300)

    sleep()


smoke()
smoke_sleep()
