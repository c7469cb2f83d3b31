"""Many DAG runs at once on one stack, each killed at its own point, and the result of each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from demo.rest import AirflowRestError
from demo.stack import StackError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from airflow_provider_segmind.emulator.control import EmulatorControl
    from demo.stack import AirflowStack

Point = Literal["start", "intent", "accepted", "polling", "downloading", "end"]

# Airflow notices a killed worker by its missing heartbeat.
SETTINGS = {
    "core.parallelism": "8",
    "core.max_active_runs_per_dag": "64",
    "core.max_active_tasks_per_dag": "64",
    "scheduler.task_instance_heartbeat_timeout": "20",
    "scheduler.task_instance_heartbeat_timeout_detection_interval": "3",
    "triggerer.job_heartbeat_sec": "2",
    "triggerer.triggerer_health_check_threshold": "10",
    "workers.execution_api_timeout": "20",
    "workers.min_heartbeat_interval": "2",
}
HELD = 90.0
"""Seconds for which the emulator delays a response; the kill comes long before."""
VOLATILE = frozenset({"remaining_credits", "inference_time", "queue_time", "total_time", "submitted_at"})


@dataclass(frozen=True, slots=True)
class CrashCase:
    """
    One DAG run.

    :param name: also the name of its own model, by which its requests and charges are identified.
    :param stop: where its worker is killed, None for nowhere: at the ``start`` of the task, after the ``intent`` was
        recorded and before the POST is handled, after the POST was ``accepted`` and before its response, while
        ``polling``, while ``downloading`` files of a COMPLETED request, at the ``end`` before the result is returned.
    :param task_id: the task whose worker is killed.
    :param kind: the kind of the model, ``gemini`` or ``image``.
    :param latency: emulated seconds the request takes; while polling, it takes five polls instead.
    """

    name: str
    dag_id: str
    stop: Point | None = None
    task_id: str = "ask"
    kind: str = "gemini"
    latency: float = 4.0
    connection: str = "segmind_default"


@dataclass(slots=True)
class CaseResult:
    """The result of a case; logs and XComs are read when the run has ended."""

    case: CrashCase
    run_id: str
    killed: bool = False
    state: str = ""
    problem: str = ""
    tries: dict[str, int] = field(default_factory=dict)
    xcom: dict[str, Any] = field(default_factory=dict)
    log: str = ""
    posts: int = 0
    accepted: list[str] = field(default_factory=list)
    billed: int = 0

    def plain(self) -> dict[str, Any]:
        """Return the XComs without what differs from run to run: ids, names, times."""
        text = json.dumps(self.xcom)
        for number, request_id in enumerate(self.accepted):
            text = text.replace(request_id, f"<request {number}>")
        return dict(_without_volatile(json.loads(text.replace(self.case.name, "<model>"))))


class CrashRunner:
    """
    Run cases against emulators and kill their workers.

    :param emulators: connection id → the emulator behind it.
    :param folder: for marker files and outputs.
    """

    def __init__(self, stack: AirflowStack, emulators: dict[str, EmulatorControl], folder: Path) -> None:
        self.stack = stack
        self.emulators = emulators
        self.folder = folder
        self._faults: dict[str, str] = {}

    def start(self, case: CrashCase) -> CaseResult:
        """Prepare the emulator and trigger the run."""
        emulator = self.emulators[case.connection]
        emulator.settings(models={**emulator.settings()["models"], case.name: case.kind})
        # A worker that is to be killed while polling must find the request in progress, however late it polls.
        plan = {"polls": [0, 4]} if case.stop == "polling" else {"latency": case.latency}
        emulator.script(model=case.name, **plan)
        if case.stop == "intent":
            # The service never sees the call; its response would come after the kill.
            emulator.fault("submit", model=case.name, status=503, delay=HELD)
        elif case.stop == "accepted":
            emulator.fault("submit", model=case.name, when="after", delay=HELD)
        elif case.stop in ("polling", "downloading"):
            # Set before the run starts: a busy machine might see the request only when it has ended.
            route, skip = ("files", 0) if case.stop == "downloading" else ("result|status", 1)
            self._faults[case.name] = emulator.fault(route, model=case.name, when="after", delay=HELD, skip=skip)
        conf = {
            "model": case.name,
            "prompt": f"What is {case.kind}?",
            "connection": case.connection,
            "output": f"file://{self.folder}/{case.name}" if case.kind == "image" else "",
            "stop": f"{case.task_id}:{case.stop}",
            "marker": str(self._marker(case)),
        }
        self.stack.rest.wait_for_dag(case.dag_id)
        return CaseResult(case, self.stack.rest.trigger(case.dag_id, conf=conf))

    def run_all(self, cases: Iterable[CrashCase], *, timeout: float) -> dict[str, CaseResult]:
        """
        Start all cases, kill each at its point, wait until all have ended, and read their results.

        A case that never reaches its point does not block the others; its ``problem`` says so.
        """
        outcomes = [self.start(case) for case in cases]
        self.kill_workers(outcomes, timeout=timeout)
        self.finish(outcomes, timeout=timeout)
        return {outcome.case.name: outcome for outcome in outcomes}

    def kill_workers(self, outcomes: Sequence[CaseResult], *, timeout: float) -> None:
        """Kill the worker of each case as soon as it reaches its point."""
        deadline = time.monotonic() + timeout
        waiting = [outcome for outcome in outcomes if outcome.case.stop is not None]
        while waiting and time.monotonic() < deadline:
            for outcome in waiting:
                if self._arrived(outcome.case):
                    self._kill_worker(outcome)
            waiting = [outcome for outcome in waiting if not outcome.killed and not outcome.problem]
            self._restart_crashed()
            time.sleep(0.1)
        for outcome in waiting:
            outcome.problem = f"never reached {outcome.case.stop!r}"

    def finish(self, outcomes: Iterable[CaseResult], *, timeout: float) -> None:
        """Wait until the runs have ended and read their results."""
        deadline = time.monotonic() + timeout
        for outcome in outcomes:
            left = max(1.0, deadline - time.monotonic())
            try:
                outcome.state = self.stack.rest.wait_for_run(
                    outcome.case.dag_id, outcome.run_id, timeout=left, on_poll=lambda _: self._restart_crashed()
                )
            except AirflowRestError as error:
                instances = self.stack.rest.task_instances(outcome.case.dag_id, outcome.run_id)
                states = {each["task_id"]: each["state"] for each in instances}
                outcome.problem = outcome.problem or f"{error} Task states: {states}"
            self.read(outcome)

    def _restart_crashed(self) -> None:
        """Keep Airflow running; the reports are printed with the failure of a test."""
        for report in self.stack.restart_crashed():
            print(report)

    def read(self, outcome: CaseResult) -> None:
        """Read tries, XComs, logs, requests and charges."""
        rest, case = self.stack.rest, outcome.case
        outcome.log = ""
        for instance in rest.task_instances(case.dag_id, outcome.run_id):
            task_id = instance["task_id"]
            outcome.tries[task_id] = instance["try_number"]
            with contextlib.suppress(AirflowRestError):
                outcome.xcom[task_id] = rest.xcom(case.dag_id, outcome.run_id, task_id)
            for number in range(1, instance["try_number"] + 1):
                with contextlib.suppress(AirflowRestError):
                    outcome.log += rest.log(case.dag_id, outcome.run_id, task_id, try_number=number) + "\n"
        emulator = self.emulators[case.connection]
        outcome.posts = len(emulator.posts(case.name))
        outcome.accepted = [job.request_id for job in emulator.jobs if job.model == case.name]
        outcome.billed = sum(entry.model == case.name for entry in emulator.bill)

    def deferred(self, outcomes: Iterable[CaseResult], *, timeout: float) -> None:
        """Wait until the task of every case is deferred."""
        for outcome in outcomes:
            self.stack.rest.wait_for_task(
                outcome.case.dag_id, outcome.run_id, outcome.case.task_id, states={"deferred"}, timeout=timeout
            )

    def _arrived(self, case: CrashCase) -> bool:
        emulator = self.emulators[case.connection]
        if case.stop in ("start", "end"):
            return self._marker(case).exists()
        if case.stop == "intent":
            return bool(emulator.posts(case.name))
        if case.stop == "accepted":
            return any(job.model == case.name for job in emulator.jobs)
        used = {fault["id"]: fault.get("used", 0) for fault in emulator.faults}
        return used[self._faults[case.name]] > 0

    def _kill_worker(self, outcome: CaseResult) -> None:
        case = outcome.case
        instance = self.stack.rest.task_instance(case.dag_id, outcome.run_id, case.task_id)
        if instance["state"] != "running":
            outcome.problem = f"its task is {instance['state']!r} instead of running"
            return
        try:
            task = self.stack.running_task(instance["id"], timeout=5)
        except StackError as error:
            outcome.problem = str(error)
            return
        # The supervisor first: otherwise it would report the end of the runner, as for a task that crashes.
        for pid in (task.supervisor, task.runner):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        outcome.killed = True

    def _marker(self, case: CrashCase) -> Path:
        return self.folder / f"{case.name}.marker"


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_volatile(each) for name, each in value.items() if name not in VOLATILE}
    return [_without_volatile(each) for each in value] if isinstance(value, list) else value
