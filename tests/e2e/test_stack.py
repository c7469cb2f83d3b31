from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from demo.databases import PostgresDatabase
from demo.rest import AirflowRestError
from demo.stack import AirflowStack, StackError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_run_returns_what_it_was_given(airflow_stack: AirflowStack) -> None:
    rest = airflow_stack.rest
    rest.wait_for_dag("smoke")

    run_id = rest.trigger("smoke", conf={"rows": [1, {"two": 2.5}]})

    assert rest.wait_for_run("smoke", run_id, timeout=90) == "success"
    assert rest.xcom("smoke", run_id, "echo") == {"rows": [1, {"two": 2.5}]}
    assert [each["state"] for each in rest.task_instances("smoke", run_id)] == ["success"]
    assert "echo" in rest.log("smoke", run_id, "echo")
    assert "success" in {each["event"] for each in rest.event_logs(dag_id="smoke", run_id=run_id)}


def test_a_cleared_task_runs_again(airflow_stack: AirflowStack) -> None:
    rest = airflow_stack.rest
    rest.wait_for_dag("smoke")
    run_id = rest.trigger("smoke")
    rest.wait_for_run("smoke", run_id, timeout=90)

    rest.clear("smoke", run_id, ["echo"])

    assert rest.wait_for_run("smoke", run_id, timeout=90) == "success"
    assert rest.task_instance("smoke", run_id, "echo")["try_number"] == 2


def test_the_processes_of_a_running_task_are_found_and_can_be_killed(airflow_stack: AirflowStack) -> None:
    rest = airflow_stack.rest
    rest.wait_for_dag("smoke_sleep")
    run_id = rest.trigger("smoke_sleep")
    instance = rest.wait_for_task("smoke_sleep", run_id, "sleep", states={"running"}, timeout=60)

    task = airflow_stack.running_task(instance["id"])
    os.kill(task.runner, signal.SIGKILL)

    assert task.supervisor != airflow_stack.pid("scheduler")
    assert rest.wait_for_run("smoke_sleep", run_id, timeout=60) == "failed"


def test_a_task_can_be_marked_failed(airflow_stack: AirflowStack) -> None:
    rest = airflow_stack.rest
    rest.wait_for_dag("smoke_sleep")
    run_id = rest.trigger("smoke_sleep")
    rest.wait_for_task("smoke_sleep", run_id, "sleep", states={"running"}, timeout=60)

    rest.mark("smoke_sleep", run_id, "sleep", "failed")

    assert rest.wait_for_run("smoke_sleep", run_id, timeout=60) == "failed"


def test_a_triggerer_can_be_killed_and_started_again(airflow_stack: AirflowStack) -> None:
    before = airflow_stack.pid("triggerer")

    airflow_stack.kill("triggerer", signal.SIGKILL, scope="tree")
    killed_at = time.time()
    with pytest.raises(StackError, match="triggerer ended with code -9"):
        airflow_stack.check_alive()
    airflow_stack.start("triggerer")

    airflow_stack.wait_healthy(timeout=90)
    assert airflow_stack.pid("triggerer") != before
    heartbeat = airflow_stack.rest.health()["triggerer"].heartbeat
    assert heartbeat is not None
    assert heartbeat > killed_at


def test_a_wait_that_times_out_names_what_it_waited_for(airflow_stack: AirflowStack) -> None:
    with pytest.raises(AirflowRestError, match="Timed out after 1 s waiting for DAG 'no_such_dag'"):
        airflow_stack.rest.wait_for_dag("no_such_dag", timeout=1)


def test_every_process_listens_only_on_loopback(airflow_stack: AirflowStack) -> None:
    mine = {pid for process in airflow_stack.processes.values() for pid in [process.pid]}
    mine |= {each.pid for process in airflow_stack.processes.values() for each in process.descendants()}

    listening = [each for each in psutil.net_connections("inet") if each.pid in mine and each.status == "LISTEN"]

    assert {each.laddr.port for each in listening} >= {airflow_stack.port}
    assert {each.laddr.ip for each in listening} == {"127.0.0.1"}


@pytest.mark.postgres
def test_a_second_stack_on_postgresql_cleans_up_after_an_exception(airflow_stack: AirflowStack, tmp_path: Path) -> None:
    other = AirflowStack(home=tmp_path / "home", dags=[airflow_stack.dags[-1]], database=PostgresDatabase())
    everything = set()

    def use_until_interrupted() -> None:
        with other:
            other.rest.wait_for_dag("smoke_sleep")
            run_id = other.rest.trigger("smoke_sleep")
            other.rest.wait_for_task("smoke_sleep", run_id, "sleep", states={"running"}, timeout=60)
            everything.update(each for process in other.processes.values() for each in process.descendants())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use_until_interrupted()

    assert len(everything) >= 3
    assert [process for process in everything if process.is_running()] == []
    assert not any(process.running for process in other.processes.values())
    assert airflow_stack.rest.health()["scheduler"].status == "healthy"


def test_a_process_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    stack = AirflowStack(
        home=tmp_path / "home", dags=[tmp_path], settings={"core.executor": "no.such.Executor"}, start_timeout=60
    )

    with pytest.raises(StackError, match=r"(?s)(scheduler|migrate).* ended with code \d+:.*no\.such"), stack:
        pass

    assert not any(process.running for process in stack.processes.values())


def test_a_crashed_process_is_restarted_and_its_log_reported(airflow_stack: AirflowStack) -> None:
    triggerer = airflow_stack.processes["triggerer"]
    first = triggerer.pid
    assert airflow_stack.restart_crashed() == []

    os.killpg(first, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while not triggerer.crashed:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (report,) = airflow_stack.restart_crashed()
    airflow_stack.wait_healthy(timeout=120)

    assert report.startswith("triggerer ended with code -9 and was restarted:")
    assert triggerer.pid != first
