"""Tables and chats of a budget on Celery workers; tasks and whole workers are killed while Segmind has faults."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from airflow_provider_segmind.budget.limits import BudgetRule, windows
from airflow_provider_segmind.budget.redis_store import RedisBudgetStore
from airflow_provider_segmind.budget.sql_store import SqlBudgetStore
from demo.stack import StackError
from tests.support.budgets import DriverHook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_provider_segmind.budget.store import BudgetStore, Reservation
    from airflow_provider_segmind.emulator.control import EmulatorControl
    from demo.processes import Scope
    from demo.stack import AirflowStack

DAG_ID = "crash_budget"
LIMIT = 1.0
"""USD a day."""
PRICE = {"input": 10.0, "output": 300.0}
"""USD per million tokens: a request of at most 40 tokens of output may cost some 14 thousandths of a dollar."""
WORKERS = ("worker", "worker:2")
TOGETHER = 8
"""Seeds that run at the same time."""
LOSE_AFTER, LOSE_EVERY = 12, 40
"""Requests, for each seed that runs at the same time, after which a worker is lost, and then one after the other."""
OVER = ("success", "failed", "skipped", "upstream_failed")


def timezone_of_a_young_day() -> str:
    """Return a timezone in which it is about one o'clock at night, so that a run does not see two days."""
    hours = (1 - datetime.now(UTC).hour) % 24
    east = hours if hours <= 14 else hours - 24
    # The names have the sign of POSIX: Etc/GMT-3 is three hours ahead of UTC.
    return f"Etc/GMT{-east:+d}"


@dataclass
class BudgetCase:
    """
    One seed: its DAG run, and what became of it.

    :ivar kills: task processes that were killed by themselves.
    :ivar lost: tasks that ran on a worker when it was killed.
    :ivar undecided: rows of tables that have used up their retries, of which the request history does not decide yet
        whether their requests were sent. What they may cost stays reserved, and others wait for it.
    """

    seed: int
    kills: int = 0
    lost: int = 0
    tries: dict[str, int] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    rows_left: int = 0
    undecided: int = 0
    billed: float = 0.0
    spent: float = 0.0
    reserved: float = 0.0
    bound: float = 0.0
    open: list[Reservation] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"budget-{self.seed}"

    @property
    def run_id(self) -> str:
        return f"seed-{self.seed}"

    def figures(self) -> str:
        """Return the figures of the seed in one line."""
        return (
            f"FIGURES seed {self.seed}: billed ${self.billed:.6f}, spent ${self.spent:.6f}, reserved "
            f"${self.reserved:.6f}, {self.kills} kills, {self.lost} tasks on lost workers, "
            f"{sum(self.tries.values())} tries, {self.rows_left} rows left, {self.undecided} undecided, "
            f"bound ${self.bound:.6f}"
        )


class BudgetRunner:
    """
    Runs seeds on one Airflow.

    :param address: of the PostgreSQL database of the budgets, for its driver.
    :param timezone: of the budgets.
    """

    def __init__(
        self,
        stack: AirflowStack,
        emulator: EmulatorControl,
        folder: Path,
        *,
        address: dict[str, Any],
        redis_url: str,
        timezone: str,
    ) -> None:
        self.stack = stack
        self.emulator = emulator
        self.folder = folder
        self.timezone = timezone
        self._stores: tuple[BudgetStore, BudgetStore] = (
            SqlBudgetStore(DriverHook("postgres", "%s", address), "budgets"),
            RedisBudgetStore(redis_url),
        )

    def run(self, seeds: range, *, timeout: float) -> list[BudgetCase]:
        """
        Run the seeds, some at the same time, kill their tasks and both workers, and read what became of them.

        :param timeout: seconds for each seed.
        """
        cases = [BudgetCase(seed) for seed in seeds]
        pending = list(cases)
        running: list[tuple[BudgetCase, float]] = []
        rng = random.Random(seeds.start)
        together = min(TOGETHER, len(cases))
        losses = self._losses(rng)
        lose_at = self._sent() + LOSE_AFTER * together
        while pending or running:
            while pending and len(running) < together:
                case = pending.pop(0)
                self._start(case)
                running.append((case, time.monotonic() + timeout))
            time.sleep(rng.uniform(0.5, 1.5))
            self.stack.restart_crashed()
            if self._sent() >= lose_at:
                lose_at += LOSE_EVERY * together
                name, scope = next(losses)
                self._lose_worker([case for case, _ in running], name, scope, down=rng.uniform(0.0, 5.0))
            for case, deadline in list(running):
                instances = self.stack.rest.task_instances(DAG_ID, case.run_id)
                if time.monotonic() > deadline or (instances and all(each["state"] in OVER for each in instances)):
                    running.remove((case, deadline))
                    self._read(case)
                    print(case.figures(), flush=True)
                elif case.kills < 3 + case.seed % 4:
                    self._kill_one(case, instances, random.Random(f"{case.seed} {case.kills}"))
        return cases

    @staticmethod
    def _losses(rng: random.Random) -> Iterator[tuple[str, Scope]]:
        """Yield which worker to lose next, and how much of it; both workers and both scopes take turns."""
        scopes: tuple[Scope, Scope] = ("group", "tree")
        while True:
            yield from zip(rng.sample(WORKERS, 2), rng.sample(scopes, 2), strict=True)

    def _start(self, case: BudgetCase) -> None:
        emulator = self.emulator
        emulator.settings(models={**emulator.settings()["models"], case.name: "openai"})
        emulator.script(model=case.name, latency={"lognormal": {"median": 0.8, "sigma": 0.6, "seed": case.seed}})
        polls = "result|status"
        for fault in (
            {"route": "submit", "reset": True, "when": "after", "probability": 0.02},
            {"route": "submit", "status": 502, "when": "after", "probability": 0.01},
            {"route": polls, "status": 500, "probability": 0.03},
            {"route": polls, "reset": True, "probability": 0.02},
        ):
            emulator.fault(**{"times": None, "seed": case.seed, "model": case.name, **fault})
        self.stack.rest.wait_for_dag(DAG_ID)
        self.stack.rest.trigger(DAG_ID, conf={"seed": case.seed}, run_id=case.run_id)

    def _kill_one(self, case: BudgetCase, instances: list[dict[str, Any]], rng: random.Random) -> None:
        running = [each for each in instances if each["state"] == "running"]
        # Only what has sent something is worth killing.
        if not running or len(self.emulator.posts(case.name)) < 8 * (case.kills + 1):
            return
        with contextlib.suppress(StackError, ProcessLookupError):
            os.kill(self.stack.running_task(rng.choice(running)["id"], timeout=1).runner, signal.SIGKILL)
            case.kills += 1

    def _sent(self) -> int:
        """Return how many requests were sent, over all seeds."""
        return sum(self.emulator.counts().get("submit", {}).values())

    def _lose_worker(self, cases: list[BudgetCase], name: str, scope: Scope, *, down: float) -> None:
        """
        Kill a worker and start it again.

        :param scope: ``tree`` as when a machine is lost; after ``group``, the process group of the worker, processes of
            its tasks go on without a supervisor while Airflow runs the tasks again.
        :param down: seconds for which there is one worker less.
        """
        commands = []
        for process in self.stack.processes[name].descendants():
            with contextlib.suppress(psutil.NoSuchProcess):
                commands.append(" ".join(process.cmdline()))
        self.stack.kill(name, signal.SIGKILL, scope=scope)
        for case in cases:
            for each in self.stack.rest.task_instances(DAG_ID, case.run_id):
                case.lost += any(f"airflow worker -- {each['id']}" in command for command in commands)
        time.sleep(down)
        self.stack.start(name)

    def _read(self, case: BudgetCase) -> None:
        instances = self.stack.rest.task_instances(DAG_ID, case.run_id)
        case.states = {each["task_id"]: each["state"] for each in instances}
        case.tries = {each["task_id"]: each["try_number"] for each in instances}
        case.billed = sum(entry.cost for entry in self.emulator.bill if entry.model == case.name)
        for path in sorted((self.folder / case.name).glob("*/out.manifest.json")):
            manifest = json.loads(path.read_text())
            case.rows_left += manifest["outcomes"]["skipped"] + manifest["outcomes"]["unknown"]
            if case.states[f"table_{path.parent.name}"] == "failed":
                case.undecided += manifest["outcomes"]["unknown"]
        store = self._stores[case.seed % 2]
        (window,) = windows([BudgetRule(case.name, 1, None, self.timezone)], time.time())
        used = store.usage([window.key])[window.key]
        case.spent, case.reserved = used.spent / 1e6, used.reserved / 1e6
        case.open = [one for one in store.open_reservations() if one.owner.startswith(f"{DAG_ID}/{case.run_id}/")]
        prices = PRICE["input"] / 1e6, PRICE["output"] / 1e6
        case.bound = 40 * prices[1] + 250 * prices[0]
