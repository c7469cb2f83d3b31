"""
A real Airflow on PostgreSQL that clears its task state store on success.

PostgreSQL refuses what SQLite accepts (U+0000 in JSON), so the stack of the other tests cannot show this.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from demo.databases import PostgresDatabase
from demo.stack import AirflowStack
from tests.support.crash_runs import SETTINGS

if TYPE_CHECKING:
    from airflow_provider_segmind.emulator.control import EmulatorControl

pytestmark = pytest.mark.postgres

DAGS = Path(__file__).parent / "dags"
DEEP = json.loads("[" * 400 + "]" * 400)
ODD: dict[str, Any] = {
    "nul": {"odd": "a\x00b", "odd\x00": 1},
    "digits": {"odd": 10**400},
    "deep": {"odd": DEEP, "metrics": {"cost": 1, "odd": DEEP, "text": "\x00"}},
    "large": {"odd": "x" * 200_000},
}
KEPT = {"nul": "a\ufffdb", "digits": "1" + "0" * 400, "deep": "[" * 400, "large": "x" * 200_000}


@dataclass
class Ended:
    """How each run ended, before and after it was cleared."""

    first: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    emptied: dict[str, bool] = field(default_factory=dict)
    again: dict[str, str] = field(default_factory=dict)
    values_again: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, steady: EmulatorControl) -> Ended:
    """Receive every odd result inline and deferred, then clear two runs whose state Airflow has deleted."""
    home = tmp_path_factory.mktemp("postgres")
    plan = {f"e2e_{mode}:{name}": odd for mode in ("sync", "deferrable") for name, odd in ODD.items()}
    plan |= {f"e2e_{mode}:kept": {} for mode in ("sync", "deferrable")}
    models = {name.replace(":", "-"): "gemini" for name in plan}
    steady.settings(models={**steady.settings()["models"], **models})
    for name, odd in plan.items():
        steady.script(model=name.replace(":", "-"), result=odd, latency=4.0 if "deferrable" in name else 0.0)
    with AirflowStack(
        home=home / "airflow",
        dags=[DAGS],
        connections={"segmind_default": steady.connection_json},
        settings={**SETTINGS, "state_store.clear_on_success": "True"},
        database=PostgresDatabase(),
    ) as stack:
        return _played(stack, plan, home)


def _played(stack: AirflowStack, plan: dict[str, Any], home: Path) -> Ended:
    rest, found, runs = stack.rest, Ended(), {}
    for dag_id in ("e2e_sync", "e2e_deferrable"):
        rest.wait_for_dag(dag_id)
    for name in plan:
        output = (home / "out").as_uri() if name.endswith("kept") else ""
        conf = {"model": name.replace(":", "-"), "prompt": name, "output": output}
        runs[name] = rest.trigger(name.partition(":")[0], conf=conf)
    for name, run_id in runs.items():
        dag_id = name.partition(":")[0]
        found.first[name] = rest.wait_for_run(dag_id, run_id, timeout=240)
        found.values[name] = rest.xcom(dag_id, run_id, "ask")
        found.logs[name] = rest.log(dag_id, run_id, "ask")
        found.emptied[name] = rest.task_state(dag_id, run_id, "ask", "segmind_request") is None
    kept = {name: run_id for name, run_id in runs.items() if name.endswith("kept")}
    for name, run_id in kept.items():
        rest.clear(name.partition(":")[0], run_id, ["ask"])
    for name, run_id in kept.items():
        dag_id = name.partition(":")[0]
        found.again[name] = rest.wait_for_run(dag_id, run_id, timeout=240)
        found.values_again[name] = rest.xcom(dag_id, run_id, "ask")
    return found


@pytest.mark.parametrize("mode", ["sync", "deferrable"])
@pytest.mark.parametrize("name", ODD)
def test_a_result_that_postgresql_refuses_or_is_too_large_is_delivered(
    ended: Ended, steady: EmulatorControl, mode: str, name: str
) -> None:
    run = f"e2e_{mode}:{name}"
    assert ended.first[run] == "success"
    value = ended.values[run]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    assert KEPT[name] in text.replace(" ", "")
    assert len(steady.posts(run.replace(":", "-"))) == 1
    assert ("submits and pays again" in ended.logs[run]) is True


@pytest.mark.parametrize("mode", ["sync", "deferrable"])
def test_clearing_a_task_whose_state_airflow_has_emptied_costs_nothing(
    ended: Ended, steady: EmulatorControl, mode: str
) -> None:
    run = f"e2e_{mode}:kept"
    assert (ended.first[run], ended.again[run]) == ("success", "success")
    assert ended.emptied[run]
    assert ended.values_again[run]["request_id"] == ended.values[run]["request_id"]
    assert len(steady.posts(run.replace(":", "-"))) == 1
    assert "pays again" not in ended.logs[run].replace("nothing is submitted or paid for again", "")
