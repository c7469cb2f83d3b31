"""Spending is paused and allowed again on a real Airflow: a deferrable task gives its worker back, others wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_segmind.emulator.control import EmulatorControl
    from demo.stack import AirflowStack

MODEL = "paused"


def test_a_pause_holds_every_submit_and_its_end_releases_each_once(
    airflow_stack: AirflowStack, emulator: EmulatorControl
) -> None:
    rest = airflow_stack.rest
    emulator.settings(models={**emulator.settings()["models"], MODEL: "gemini"})
    dags = ("e2e_sync", "e2e_deferrable")
    for dag_id in dags:
        rest.wait_for_dag(dag_id)
    rest.call("POST", "/variables", json={"key": "segmind_paused", "value": "invoice under review"})
    try:
        runs = {dag_id: rest.trigger(dag_id, conf={"model": MODEL, "prompt": "a lighthouse"}) for dag_id in dags}
        rest.wait_for_task("e2e_deferrable", runs["e2e_deferrable"], "ask", states={"deferred"}, timeout=90)
        rest.wait_for(
            "the log of the task that waits",
            lambda: "Spending is paused: invoice under review" in rest.log("e2e_sync", runs["e2e_sync"], "ask"),
            timeout=90,
        )
        assert [job for job in emulator.jobs if job.model == MODEL] == []
    finally:
        rest.call("DELETE", "/variables/segmind_paused")
    for dag_id, run_id in runs.items():
        assert rest.wait_for_run(dag_id, run_id, timeout=120) == "success"
        assert rest.task_instance(dag_id, run_id, "ask")["try_number"] == 1
    assert len([bill for bill in emulator.bill if bill.model == MODEL]) == len(dags)
