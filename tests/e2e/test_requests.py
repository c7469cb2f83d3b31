"""
Many requests at once: slow ones that wait without a worker slot, and fast ones that end around their deferral.

The slow ones wait until the test advances the emulator's clock, so that nothing depends on the machine's speed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from airflow_provider_segmind.emulator.control import EmulatorControl
    from demo.rest import Json
    from demo.stack import AirflowStack

SLOW = 20
FAST = 100
BRISK = 12
AWAY = 10.0


@dataclass
class RequestRuns:
    """The runs, and what was seen of them."""

    slow: list[str]
    pool: Json
    waiting: list[str]
    fast: str = ""
    brisk: str = ""
    states: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def runs(airflow_stack: AirflowStack, emulator: EmulatorControl) -> RequestRuns:
    """Let 20 slow runs wait, stop the triggerer for a while, and send 112 fast requests meanwhile."""
    rest = airflow_stack.rest
    models = dict.fromkeys(("warm", "slow", "fast", "brisk"), "gemini")
    emulator.settings(models={**emulator.settings()["models"], **models})
    emulator.script(model="slow", latency=1200)
    emulator.script(model="fast", latency=[0.3, 1.0, 2.5])
    emulator.script(model="brisk", latency=[2.0, 3.0, 4.0])
    for dag_id in ("e2e_sync", "e2e_steps", "e2e_fast", "e2e_brisk"):
        rest.wait_for_dag(dag_id)
    # At the first call the API server imports its modules; of twenty calls at that time, some would fail.
    warm = rest.trigger("e2e_sync", conf={"model": "warm", "prompt": "warm"})
    assert rest.wait_for_run("e2e_sync", warm, timeout=90) == "success"
    slow = [rest.trigger("e2e_steps", conf={"model": "slow", "prompt": f"slow {number}"}) for number in range(SLOW)]
    for run_id in slow:
        rest.wait_for_task("e2e_steps", run_id, "wait", states={"deferred"}, timeout=300)
    found = RequestRuns(
        slow, rest.wait_for("free slots", lambda: _quiet_pool(airflow_stack), timeout=60), _waiting(rest, slow)
    )
    airflow_stack.stop("triggerer")
    try:
        stopped = time.monotonic()
        found.fast = rest.trigger("e2e_fast", conf={"model": "fast"})
        time.sleep(max(0.0, AWAY + stopped - time.monotonic()))
    finally:
        airflow_stack.start("triggerer")
    airflow_stack.wait_healthy(timeout=60)
    found.brisk = rest.trigger("e2e_brisk", conf={"model": "brisk"})
    emulator.advance(1200)
    for run_id in slow:
        found.states[run_id] = rest.wait_for_run("e2e_steps", run_id, timeout=400)
    found.states["fast"] = rest.wait_for_run("e2e_fast", found.fast, timeout=400)
    found.states["brisk"] = rest.wait_for_run("e2e_brisk", found.brisk, timeout=400)
    return found


def _quiet_pool(stack: AirflowStack) -> Json | None:
    pool: Json = stack.rest.call("GET", "/pools/default_pool")
    return pool if pool["running_slots"] == pool["queued_slots"] == 0 else None


def _waiting(rest: Any, runs: list[str]) -> list[str]:
    return [rest.task_instance("e2e_steps", run_id, "wait")["state"] for run_id in runs]


def _mismatches(rest: Any, dag_id: str) -> list[Json]:
    # The same event also reports a task whose process did not start, which has nothing to do with deferral.
    words = ("mismatch", "finished with state success")
    logs = rest.event_logs(dag_id=dag_id)
    return [each for each in logs if all(word in f"{each['event']} {each['extra']}" for word in words)]


def test_twenty_waiting_requests_occupy_no_worker_slot(runs: RequestRuns, airflow_stack: AirflowStack) -> None:
    assert runs.waiting == ["deferred"] * SLOW
    assert (runs.pool["running_slots"], runs.pool["queued_slots"], runs.pool["deferred_slots"]) == (0, 0, SLOW)
    assert runs.pool["open_slots"] == runs.pool["slots"]


def test_all_of_them_succeed_with_one_post_each_after_a_triggerer_outage(
    runs: RequestRuns, airflow_stack: AirflowStack, emulator: EmulatorControl
) -> None:
    rest = airflow_stack.rest
    instances = [each for run_id in runs.slow for each in rest.task_instances("e2e_steps", run_id)]
    answers = [rest.xcom("e2e_steps", run_id, "result") for run_id in runs.slow]

    assert {runs.states[run_id] for run_id in runs.slow} == {"success"}
    assert {each["try_number"] for each in instances} == {1}
    assert len(emulator.posts("slow")) == SLOW
    assert sum(entry.model == "slow" for entry in emulator.bill) == SLOW
    assert [f"echo: slow {number}" in answer["output"] for number, answer in enumerate(answers)] == [True] * SLOW


@pytest.mark.parametrize(("name", "count"), [("fast", FAST), ("brisk", BRISK)])
def test_fast_requests_use_one_try_each(
    runs: RequestRuns, airflow_stack: AirflowStack, emulator: EmulatorControl, name: str, count: int
) -> None:
    rest = airflow_stack.rest
    instances = rest.task_instances(f"e2e_{name}", getattr(runs, name))

    assert runs.states[name] == "success"
    assert [each["state"] for each in instances] == ["success"] * count
    assert {each["try_number"] for each in instances} == {1}
    assert len(emulator.posts(name)) == count
    assert sum(entry.model == name for entry in emulator.bill) == count
    assert _mismatches(rest, f"e2e_{name}") == []


def test_slow_requests_cause_no_state_mismatch(runs: RequestRuns, airflow_stack: AirflowStack) -> None:
    assert _mismatches(airflow_stack.rest, "e2e_steps") == []
