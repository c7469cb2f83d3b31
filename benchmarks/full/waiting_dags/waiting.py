"""The DAG whose task instances are deferred without a worker."""

from __future__ import annotations

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

with DAG("waiting", schedule=None, catchup=False):
    EmptyOperator(task_id="wait")
