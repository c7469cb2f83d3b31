"""
Many requests at once: slow ones that wait without a worker slot, and fast ones that end while nobody expects it.

The slow ones wait until the test moves the emulator's clock, so that nothing here depends on the machine's speed.
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
class Day:
    """What happened."""

    slow: list[str]
    pool: Json
    waiting: list[str]
    fast: str = ""
    brisk: str = ""
    states: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def day(airflow_stack: AirflowStack, emulator: EmulatorControl) -> Day:
    """Let 20 slow runs wait, take the triggerer away for a while, and send 112 quick requests meanwhile."""
    rest = airflow_stack.rest
    models = dict.fromkeys(("warm", "slow", "fast", "brisk"), "gemini")
    emulator.settings(models={**emulator.settings()["models"], **models})
    emulator.script(model="slow", latency=1200)
    emulator.script(model="fast", latency=[0.3, 1.0, 2.5])
    emulator.script(model="brisk", latency=[2.0, 3.0, 4.0])
    for dag_id in ("e2e_sync", "e2e_steps", "e2e_fast", "e2e_brisk"):
        rest.wait_for_dag(dag_id)
    # The first call of all finds an API server that has yet to import what it answers with; twenty at once lose some.
    warm = rest.trigger("e2e_sync", conf={"model": "warm", "prompt": "warm"})
    assert rest.wait_for_run("e2e_sync", warm, timeout=90) == "success"
    slow = [rest.trigger("e2e_steps", conf={"model": "slow", "prompt": f"slow {number}"}) for number in range(SLOW)]
    for run_id in slow:
        rest.wait_for_task("e2e_steps", run_id, "wait", states={"deferred"}, timeout=120)
    found = Day(slow, rest.wait_for("free slots", lambda: _quiet_pool(airflow_stack), timeout=15), _waiting(rest, slow))
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
        found.states[run_id] = rest.wait_for_run("e2e_steps", run_id, timeout=240)
    found.states["fast"] = rest.wait_for_run("e2e_fast", found.fast, timeout=240)
    found.states["brisk"] = rest.wait_for_run("e2e_brisk", found.brisk, timeout=120)
    return found


def _quiet_pool(stack: AirflowStack) -> Json | None:
    pool: Json = stack.rest.call("GET", "/pools/default_pool")
    return pool if pool["running_slots"] == pool["queued_slots"] == 0 else None


def _waiting(rest: Any, runs: list[str]) -> list[str]:
    return [rest.task_instance("e2e_steps", run_id, "wait")["state"] for run_id in runs]


def _mismatches(rest: Any, dag_id: str) -> list[Json]:
    # A task whose process never came up is told by the same event, but has nothing to do with deferral.
    words = ("mismatch", "finished with state success")
    logs = rest.event_logs(dag_id=dag_id)
    return [each for each in logs if all(word in f"{each['event']} {each['extra']}" for word in words)]


def test_while_twenty_requests_wait_no_task_holds_a_slot(day: Day, airflow_stack: AirflowStack) -> None:
    assert day.waiting == ["deferred"] * SLOW
    assert (day.pool["running_slots"], day.pool["queued_slots"], day.pool["deferred_slots"]) == (0, 0, SLOW)
    assert day.pool["open_slots"] == day.pool["slots"]


def test_all_of_them_end_well_with_one_post_each_though_the_triggerer_was_away(
    day: Day, airflow_stack: AirflowStack, emulator: EmulatorControl
) -> None:
    rest = airflow_stack.rest
    instances = [each for run_id in day.slow for each in rest.task_instances("e2e_steps", run_id)]
    answers = [rest.xcom("e2e_steps", run_id, "result") for run_id in day.slow]

    assert {day.states[run_id] for run_id in day.slow} == {"success"}
    assert {each["try_number"] for each in instances} == {1}
    assert len(emulator.posts("slow")) == SLOW
    assert sum(entry.model == "slow" for entry in emulator.bill) == SLOW
    assert [f"echo: slow {number}" in answer["output"] for number, answer in enumerate(answers)] == [True] * SLOW


@pytest.mark.parametrize(("name", "count"), [("fast", FAST), ("brisk", BRISK)])
def test_quick_requests_throw_no_try_away(
    day: Day, airflow_stack: AirflowStack, emulator: EmulatorControl, name: str, count: int
) -> None:
    rest = airflow_stack.rest
    instances = rest.task_instances(f"e2e_{name}", getattr(day, name))

    assert day.states[name] == "success"
    assert [each["state"] for each in instances] == ["success"] * count
    assert {each["try_number"] for each in instances} == {1}
    assert len(emulator.posts(name)) == count
    assert sum(entry.model == name for entry in emulator.bill) == count
    assert _mismatches(rest, f"e2e_{name}") == []


def test_slow_requests_throw_no_try_away_either(day: Day, airflow_stack: AirflowStack) -> None:
    assert _mismatches(airflow_stack.rest, "e2e_steps") == []
