"""
Many tasks under one budget, on a simulated clock, with kills and faults; the simulated Segmind's bill is the witness.

The tasks run the code of real ones (:class:`RequestExecution`, :class:`BudgetGuard`) against a real store. What is
simulated is Segmind, the time, the death of workers and the failures of the store. Each step of a task runs as a whole;
what happens inside of two steps at the same moment is left to the tests of the stores.
"""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, NoReturn

from airflow_provider_segmind.budget.guard import BudgetGuard, BudgetSettings, request_bound
from airflow_provider_segmind.budget.limits import BudgetRule, windows
from airflow_provider_segmind.budget.orphaned_reservations import ORPHANED_AFTER, settle_orphans
from airflow_provider_segmind.budget.store import BudgetStore
from airflow_provider_segmind.chat.cost_estimate import Price
from airflow_provider_segmind.client.config import ClientConfig
from airflow_provider_segmind.client.models import RecordPage, RequestRecord, RequestResult, SubmittedRequest
from airflow_provider_segmind.client.polling import Pause
from airflow_provider_segmind.client.request_history import HISTORY_COMPLETE_AFTER
from airflow_provider_segmind.client.submission import SubmissionRecord
from airflow_provider_segmind.exceptions import (
    SegmindBudgetError,
    SegmindCreditsError,
    SegmindError,
    SegmindInFlightError,
    SegmindModelNotFoundError,
    SegmindRequestFailedError,
    SegmindStateError,
    SegmindSubmissionUnknownError,
)
from airflow_provider_segmind.execution.request import RequestExecution, RequestSettings
from airflow_provider_segmind.task_state import TaskState

MODEL = "a-model"
PRICES = {MODEL: Price(input=0.3, output=1.7, max_output_tokens=4000)}
DAY = 86_400.0
PATIENCE = DAY
"""Seconds for which a task is retried that is refused because of what others have reserved."""
NOON = datetime(2026, 11, 10, 12, 0, tzinfo=UTC).timestamp()
TRIES = 12
"""Tries of a task that is refused, or killed, before its scheduler gives up."""


class Killed(BaseException):
    """The worker died."""


@dataclass
class World:
    """What happens by chance, and the time."""

    chance: random.Random
    now: float
    kills: float
    faults: float
    calm: bool = False

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)

    def may_die(self) -> None:
        if not self.calm and self.chance.random() < self.kills:
            raise Killed

    def fails(self) -> bool:
        return not self.calm and self.chance.random() < self.faults


@dataclass
class Segmind:
    """A Segmind whose requests end at once; it bills what is COMPLETED."""

    world: World
    rows: dict[str, RequestRecord] = field(default_factory=dict)
    posted: dict[str, float] = field(default_factory=dict)

    @property
    def bill(self) -> float:
        """Micro-dollars."""
        return round(sum(row.credits_deduction or 0.0 for row in self.rows.values()) * 1e6, 6)

    def create(self, body: Mapping[str, Any]) -> str:
        request_id = uuid.UUID(int=self.world.chance.getrandbits(128)).hex
        failed = self.world.fails()
        tokens = self.world.chance.randint(1, body["max_tokens"])
        cost = 0.0 if failed else round((len(body["prompt"]) // 4 * 0.3 + tokens * 1.7) / 1e6, 12)
        self.rows[request_id] = RequestRecord.model_validate(
            {
                "request_id": request_id,
                "model_name": MODEL,
                "model_status": "FAILED" if failed else "COMPLETED",
                "credits_deduction": cost,
                "request_body": dict(body),
                "created_at": datetime.fromtimestamp(self.world.now, UTC).isoformat(),
            }
        )
        self.posted[request_id] = self.world.now
        return request_id


class Client:
    """The calls of a client that a task makes."""

    def __init__(self, segmind: Segmind) -> None:
        self._segmind = segmind
        self._world = segmind.world
        self.config = ClientConfig(api_key="SG_simulated")
        self.wire = SimpleNamespace(request_records=lambda **filters: lambda: self.list_request_records(**filters))

    def submit_once(self, model: str, body: Mapping[str, Any], *, on_permit: Callable[[], object]) -> SubmittedRequest:
        world = self._world
        world.may_die()
        if world.fails():
            raise SegmindCreditsError("The account cannot pay.", status_code=402)
        on_permit()
        world.may_die()
        if world.fails():
            raise SegmindCreditsError("The account cannot pay.", status_code=402)
        if world.fails():
            raise SegmindSubmissionUnknownError("lost before it arrived")
        request_id = self._segmind.create(body)
        world.may_die()
        if world.fails():
            raise SegmindSubmissionUnknownError("lost after it arrived")
        return SubmittedRequest.model_validate(
            {"request_id": request_id, "status": "QUEUED", "status_url": "x", "response_url": "x", "poll_url": "x"}
        )

    def wait(self, pending: Any, **_: Any) -> RequestResult:
        self._world.may_die()
        self._world.sleep(self._world.chance.expovariate(1 / 20))
        row = self._segmind.rows[pending.request_id]
        if row.model_status == "FAILED":
            raise SegmindRequestFailedError("FAILED", request_id=row.request_id)
        metrics = {"cost": row.credits_deduction}
        return RequestResult.model_validate(
            {"request_id": row.request_id, "status": "COMPLETED", "output": "x", "metrics": metrics}
        )

    def drive(self, steps: Any, _: Any = None) -> Any:
        value: Any = None
        try:
            while True:
                step = steps.send(value)
                value = self._world.sleep(step.seconds) if isinstance(step, Pause) else step()
        except StopIteration as stop:
            return stop.value

    def may_spend(self) -> None: ...

    def get_request_record(self, request_id: str) -> RequestRecord:
        found = self._visible().get(request_id)
        if found is None:
            raise SegmindModelNotFoundError("The history does not show it yet.", status_code=404)
        return found

    def list_request_records(self, **filters: Any) -> RecordPage:
        return RecordPage(self._visible().values() if filters.get("page", 1) == 1 else ())

    def _visible(self) -> dict[str, RequestRecord]:
        """The history shows a request after some minutes."""
        lag = 0.0 if self._world.calm else 600.0
        posted = self._segmind.posted
        return {one: row for one, row in self._segmind.rows.items() if posted[one] + lag <= self._world.now}


class State(TaskState):
    """A store of submission records."""

    name = "the memory"

    def __init__(self, world: World) -> None:
        self._world = world
        self._record: Any = None

    def read(self) -> SubmissionRecord | None:
        self._world.may_die()
        return None if self._record is None else SubmissionRecord.from_json(self._record)

    def write(self, record: SubmissionRecord) -> None:
        self._world.may_die()
        self._record = record.to_json()
        self._world.may_die()


class Shaken:
    """A store around whose calls workers die, and which does not always answer."""

    def __init__(self, store: BudgetStore, world: World) -> None:
        self._store = store
        self._world = world
        self.name = store.name

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._world.may_die()
            if self._world.fails():
                raise SegmindStateError("The store did not get the call.")
            outcome = method(*args, **kwargs)
            self._world.may_die()
            if self._world.fails():
                raise SegmindStateError("The store's answer was lost.")
            return outcome

        return call


@dataclass
class Task:
    """A task instance: one request, and a follow-up for every third; its scheduler runs it again when it fails."""

    number: int
    states: dict[str, State]
    cap: int
    tries: int = 0
    step: str = "submit"
    parts: tuple[str, ...] = ("",)
    execution: RequestExecution | None = None
    waits_since: float | None = None
    refused: bool = False
    done: bool = False


@dataclass
class Outcome:
    """What a simulation has shown."""

    seed: int
    limit: float
    billed: float
    spent: float
    undecided: float
    left: float
    needed: float
    work_left: bool
    requests: int
    kills: int


class Simulation:
    """One seed."""

    def __init__(self, seed: int, store: BudgetStore) -> None:
        self.chance = chance = random.Random(seed)
        self.seed = seed
        start = NOON + chance.choice((0.0, DAY / 2 - 300))
        self.world = World(
            chance, start, kills=chance.choice((0.0, 0.01, 0.04)), faults=chance.choice((0.0, 0.01, 0.03))
        )
        self.segmind = Segmind(self.world)
        self.client: Any = Client(self.segmind)
        self.store = store
        self.rules = (BudgetRule("team", None, chance.randint(8_000, 40_000), chance.choice(("UTC", "Asia/Tokyo"))),)
        self.in_flight = chance.choice((None, 2, 5))
        self.resubmits = chance.random() < 0.25
        self.kills = 0
        self.needed = 0.0
        self.tasks = [Task(number, {}, chance.choice((200, 500, 2000))) for number in range(chance.randint(5, 25))]
        self.log: Any = SimpleNamespace(**dict.fromkeys(("debug", "info", "warning", "error", "exception"), _silent))

    def run(self) -> Outcome:
        while open_tasks := [task for task in self.tasks if not task.done]:
            self.world.sleep(self.chance.expovariate(1 / 5))
            self._step(self.chance.choice(open_tasks))
        self._settle_what_is_left()
        bounds = [request_bound(MODEL, self._inputs(task), PRICES).micros for task in self.tasks if task.refused]
        self.needed = min(bounds, default=math.inf)
        return self._outcome()

    def _guard(self, task: Task) -> BudgetGuard:
        settings = BudgetSettings(
            store=Shaken(self.store, self.world),  # type: ignore[arg-type]
            rules=self.rules,
            max_in_flight=self.in_flight,
            prices=PRICES,
        )
        return BudgetGuard(
            lambda: settings,
            owner=f"dag/run/{task.number}/-1",
            connection="segmind_default",
            history=lambda: self.client,
            ledgers=_never,
            log=self.log,
            clock=self.world.clock,
        )

    def _execution(self, task: Task) -> RequestExecution:
        part = task.parts[-1]
        state = task.states.setdefault(part, State(self.world))
        inputs = self._inputs(task)
        settings = RequestSettings(
            model=MODEL,
            budget=self._guard(task),
            deadline=self.world.now + 30,
            timeout=1.0,
            on_unknown="resubmit" if self.resubmits else "fail",
        )
        return RequestExecution(
            settings,
            lambda: inputs,
            client=self.client,
            state=state,
            log=self.log,
            defer=_never,
            clock=self.world.clock,
            sleep=self.world.sleep,
        )

    def _step(self, task: Task) -> None:
        try:
            if task.step == "submit" or task.execution is None:
                task.execution = self._execution(task)
                task.execution.submit()
                task.step, task.waits_since = "finish", None
                return
            task.execution.finish()
            task.execution.finished("success", metrics={"cost": self._cost(task.execution)})  # type: ignore[arg-type]
            if len(task.parts) == 1 and task.number % 3 == 0:
                task.parts, task.step = ("", "follow-up"), "submit"
            else:
                task.done = True
        except Killed:
            self.kills += 1
            self._again(task)
        except SegmindBudgetError as error:
            self._refuse(task, error)
        except SegmindInFlightError:
            self.world.sleep(self.chance.expovariate(1 / 60))
            self._again(task)
        except (SegmindError, KeyError):
            self._again(task)

    def _refuse(self, task: Task, error: SegmindBudgetError) -> None:
        """Retry a task that is refused because of what others have reserved; one whose budget is used up is done."""
        task.step, task.execution = "submit", None
        task.waits_since = self.world.now if task.waits_since is None else task.waits_since
        task.refused = task.done = not error.retryable or self.world.now - task.waits_since > PATIENCE
        # Where all that are open wait, only what nobody settles is in the way.
        waiting = all(one.done or one.waits_since is not None for one in self.tasks)
        self.world.sleep(self.chance.expovariate(1 / (1800 if waiting else 60)))

    def _again(self, task: Task) -> None:
        task.tries += 1
        task.step, task.execution = "submit", None
        task.done = task.tries >= TRIES or self.chance.random() < 0.03

    def _cost(self, execution: RequestExecution) -> float | None:
        return self.segmind.rows[str(execution.request_id)].credits_deduction

    def _inputs(self, task: Task) -> dict[str, Any]:
        return {"prompt": f"{task.number} {task.parts[-1]} " + "x" * 40, "max_tokens": task.cap}

    def _settle_what_is_left(self) -> None:
        """Let a task of another day settle what nobody has settled, when the history shows everything."""
        self.world.calm = True
        for _ in range(3):
            self.world.sleep(2 * HISTORY_COMPLETE_AFTER + ORPHANED_AFTER)
            for _ in range(20):
                settle_orphans(
                    self.store, "segmind_default", history=self.client, ledgers=_never, now=self.world.now, log=self.log
                )
                if not self.store.open_reservations(renewed_before=self.world.now - ORPHANED_AFTER):
                    break

    def _outcome(self) -> Outcome:
        (window,) = windows(self.rules, NOON)
        usage = self.store.usage([window.key]).get(window.key)
        spent, undecided = (usage.spent, usage.reserved) if usage else (0.0, 0.0)
        return Outcome(
            seed=self.seed,
            limit=window.limit,
            billed=self.segmind.bill,
            spent=spent,
            undecided=undecided,
            left=window.limit - spent - undecided,
            needed=self.needed,
            work_left=self.needed < math.inf,
            requests=len(self.segmind.rows),
            kills=self.kills,
        )


def _silent(*_: Any, **__: Any) -> None: ...


def _never(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("tasks of a simulation do not defer")


def check(outcome: Outcome, store: BudgetStore) -> None:
    """Assert what a budget promises."""
    assert outcome.billed <= outcome.limit, outcome

    assert abs(outcome.billed - outcome.spent) < 1e-6, outcome
    # While work was left, less than one request's bound was unused.
    assert outcome.left < outcome.needed, outcome
    left_open = store.open_reservations()
    # What stays charged may have been sent, and the history shows nothing of it.
    assert all(one.sending and not one.request_id for one in left_open), outcome
    assert abs(sum(one.left for one in left_open) - outcome.undecided) < 1e-6, outcome
    assert store.in_flight("segmind_default") == 0, outcome
