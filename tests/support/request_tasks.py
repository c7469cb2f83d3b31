"""Tasks of one request, without Airflow's runner."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_segmind.compat import TaskDeferred
from airflow_provider_segmind.operators.request import SegmindRunOperator
from tests.support.airflow_fakes import INPUTS, Clock, Run, by_hand

MODEL = "gemini-3.1-flash-lite"


def make(clock: Clock, **fields: Any) -> Any:
    given = {"task_id": "a_task", "model": MODEL, "inputs": INPUTS, "deferrable": False, **fields}
    return by_hand(SegmindRunOperator(**given), clock)


def deferred(task: Any, run: Run) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        task.execute(run.context())
    return caught.value
