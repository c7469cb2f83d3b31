"""A limit of paid requests in flight over the tasks of a real Airflow: those without a slot wait in the triggerer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import BUDGETS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_segmind.emulator.control import EmulatorControl
    from demo.stack import AirflowStack

pytestmark = pytest.mark.redis
MODEL, LIMIT, TASKS = "few", 2, 6


@pytest.fixture
def no_places_taken() -> Iterator[None]:
    """Begin and end with an empty store of budgets."""
    import redis

    with redis.Redis.from_url(BUDGETS) as connection:
        connection.flushdb()
        yield
        connection.flushdb()


def test_deferrable_tasks_never_have_more_in_flight_than_the_limit_and_all_end(
    airflow_stack: AirflowStack, emulator: EmulatorControl, no_places_taken: None
) -> None:
    rest = airflow_stack.rest
    emulator.settings(models={**emulator.settings()["models"], MODEL: "gemini"})
    emulator.script(model=MODEL, latency=6)
    rest.wait_for_dag("e2e_deferrable")
    conf = {"model": MODEL, "connection": "segmind_few"}
    runs = [rest.trigger("e2e_deferrable", conf={**conf, "prompt": f"few {number}"}) for number in range(TASKS)]
    for run_id in runs:
        assert rest.wait_for_run("e2e_deferrable", run_id, timeout=240) == "success"
        assert rest.task_instance("e2e_deferrable", run_id, "ask")["try_number"] == 1

    jobs = [job for job in emulator.jobs if job.model == MODEL]
    assert len(jobs) == len([bill for bill in emulator.bill if bill.model == MODEL]) == TASKS
    for job in jobs:
        others = [one for one in jobs if one.submitted <= job.submitted < (one.ended or float("inf"))]
        assert len(others) <= LIMIT
    logs = [rest.log("e2e_deferrable", run_id, "ask") for run_id in runs]
    assert any("Deferring until a slot is free" in log for log in logs)
