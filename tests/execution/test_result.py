"""The result of a request that another task submitted."""

from __future__ import annotations

import pytest

from airflow_provider_segmind.client.submission import iso
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.exceptions import SegmindRequestTimeoutError
from airflow_provider_segmind.operators.request import SegmindResultOperator, SegmindSubmitOperator
from tests.support.airflow_fakes import INPUTS, Clock, Run, by_hand
from tests.support.request_tasks import MODEL


def test_submit_returns_what_the_other_tasks_accept(emulator: SegmindEmulator, clock: Clock, run: Run) -> None:
    emulator.settings(latency=30.0)
    handed = by_hand(SegmindSubmitOperator(task_id="s", model=MODEL, inputs=INPUTS), clock).execute(run.context())
    assert handed["model"] == MODEL
    assert handed["submitted_at"] <= iso(clock())
    result = by_hand(SegmindResultOperator(task_id="r", request_id=handed), clock)
    with pytest.raises(SegmindRequestTimeoutError, match="has no result yet"):
        result.execute(run.context())
    clock.ahead += 40
    for form in (handed, str(handed), handed["request_id"]):
        task = by_hand(SegmindResultOperator(task_id="r", request_id=form), clock)
        assert task.execute(run.context())["request_id"] == handed["request_id"]
    assert len(emulator.posts()) == 1
