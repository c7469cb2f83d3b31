"""A person approves a table on a real Airflow: until then, nothing is sent beyond the sample."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from airflow_provider_segmind.emulator.control import EmulatorControl
    from demo.stack import AirflowStack

DAG_ID, ROWS, SAMPLE = "example_segmind_approval", 40, 10


def test_nothing_beyond_the_sample_is_sent_before_a_person_approves(
    airflow_stack: AirflowStack, emulator: EmulatorControl, tmp_path: Path
) -> None:
    rest = airflow_stack.rest
    emulator.script(match="Which team should read", json={"team": "delivery", "summary": "It is late."})
    rest.wait_for_dag(DAG_ID)
    conf = {"folder": tmp_path.as_uri()}

    def sent() -> int:
        return sum("Which team should read" in json.dumps(post.json) for post in emulator.posts())

    def scheduler_has_seen_the_end(run_id: str) -> bool:
        log = airflow_stack.processes["scheduler"].log_path.read_text(errors="replace")
        return any(
            "Received executor event with state success" in line and run_id in line and "task_id='approve'" in line
            for line in log.splitlines()
        )

    def ask() -> tuple[str, str]:
        """Run the DAG until it waits for a person; return the run and the path of the question."""
        run_id = rest.trigger(DAG_ID, conf=conf)
        rest.wait_for_task(DAG_ID, run_id, "approve", states={"awaiting_input"}, timeout=240)
        # Airflow 3.3 fails the task when it is answered before the scheduler has seen its process end.
        rest.wait_for(
            "the scheduler to see the end of 'approve'", lambda: scheduler_has_seen_the_end(run_id), timeout=60
        )
        return run_id, f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"

    def answer(run_id: str, path: str, option: str) -> dict[str, Any]:
        reply: dict[str, Any] = rest.call("PATCH", path, json={"chosen_options": [option], "params_input": {}})
        assert rest.wait_for_run(DAG_ID, run_id, timeout=180) == "success"
        return reply

    run_id, path = ask()
    waiting = rest.task_instance(DAG_ID, run_id, "approve")
    shown = rest.call("GET", path)["body"]
    assert sent() == SAMPLE
    # No trigger, so no slot of a triggerer.
    assert (waiting["trigger"], waiting["triggerer_job"]) == (None, None)
    assert f"**{ROWS} rows** would cost **$" in shown
    assert shown.count("It is late.") == SAMPLE
    assert "The account has $" in shown

    answer(run_id, path, "Reject")
    assert rest.task_instance(DAG_ID, run_id, "table")["state"] == "skipped"
    assert sent() == SAMPLE

    run_id, path = ask()
    assert sent() == SAMPLE
    reply = answer(run_id, path, "Approve")

    manifest = rest.xcom(DAG_ID, run_id, "table")
    assert manifest["notes"]["approved_by"] == reply["responded_by"]["name"]
    assert manifest["notes"]["approved_at"][:19].replace(" ", "T") == reply["responded_at"][:19]
    assert json.loads((tmp_path / run_id / "triage.manifest.json").read_text())["notes"] == manifest["notes"]
    assert (manifest["outcomes"]["success"], manifest["cache_hits"], manifest["posts"]) == (ROWS, SAMPLE, ROWS - SAMPLE)
    assert sent() == ROWS
