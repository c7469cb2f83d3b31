"""Tables that share a budget, in memory and on a simulated clock: killed at random steps while Segmind has faults."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_segmind.budget.limits import BudgetRule
from airflow_provider_segmind.budget.slices import TableSlice
from airflow_provider_segmind.chat.cost_estimate import CostBound
from airflow_provider_segmind.chat.reply_policy import Accept, FollowUp
from airflow_provider_segmind.client.models import Metrics, RequestRecord, RequestResult
from airflow_provider_segmind.defaults import OnUnknown
from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.outcomes import RowReply, RowVerdict
from airflow_provider_segmind.enrichment.output import write_output
from airflow_provider_segmind.enrichment.question import Question
from airflow_provider_segmind.exceptions import SegmindBudgetError, SegmindError
from tests.support.budget_memory import MemoryStore
from tests.support.engine_tuning import tuned
from tests.support.enrichment import Clock, FakeSegmind, KillableProcess, question, table
from tests.support.object_stores import ObjectStore

MIDNIGHT = 1_700_006_400.0
"""The beginning of a day, UTC."""
BOUND = 0.01
"""USD that a request may cost at most."""
SETTLED = 600.0
"""Seconds after which the history is believed."""


def cost_of(body: Mapping[str, Any]) -> float:
    """Return what a request costs: from a tenth of the bound up to all of it, with fractions of a micro-dollar."""
    number = int.from_bytes(hashlib.md5(str(body["prompt"]).encode()).digest()[:4], "big") / 2**32
    return round(BOUND * (0.1 + 0.9 * number), 9)


def read(reply: RowReply) -> RowVerdict:
    text = str(reply.inputs["prompt"])
    if text.endswith("3") and not reply.follow_ups:
        return RowVerdict(FollowUp({"prompt": f"{text}, as JSON"}, (0,), "not JSON"), tokens=1)
    return RowVerdict(Accept({"said": reply.result.output}), tokens=5)


def priced(bound: float = BOUND) -> Question:
    """Return a question of which each request costs at most ``bound`` USD."""
    return question(read=read, most=lambda _: CostBound(usd=bound, certain=True))


@dataclass
class SharedBudget:
    """One budget of one day, and everything that is billed to it."""

    limit: float
    clock: Clock = field(default_factory=lambda: Clock(MIDNIGHT + 3600.0))
    store: MemoryStore = field(default_factory=MemoryStore)
    max_in_flight: int | None = None
    services: list[FakeSegmind] = field(default_factory=list)

    @property
    def rules(self) -> list[BudgetRule]:
        return [BudgetRule("team", round(self.limit * 1e6), None)]

    @property
    def billed(self) -> float:
        """USD that were billed."""
        return sum(one.bill for one in self.services)

    @property
    def spent(self) -> float:
        """USD that the store says were billed."""
        return sum(self.usage(key).spent for key in self.store.spent if key.startswith("team/")) / 1e6

    def usage(self, key: str) -> Any:
        return self.store.usage([key])[key]

    @contextlib.asynccontextmanager
    async def passing_time(self) -> AsyncIterator[None]:
        """Let time pass also while every table waits for its part of the budget."""

        async def pass_time() -> None:
            while True:
                await asyncio.sleep(0.001)
                self.clock.now += 0.2

        passing = asyncio.create_task(pass_time())
        try:
            yield
        finally:
            passing.cancel()
            await asyncio.wait([passing])

    def slice(self, owner: str, store: Any = None, *, defers: bool = False) -> TableSlice:
        return TableSlice(
            store or self.store, self.rules, owner=owner, connection="c", model="m", ledger="bucket/ledger",
            max_in_flight=self.max_in_flight, defers=defers, log=logging.getLogger("tables"),
            clock=self.clock, monotonic=self.clock,
        )  # fmt: skip


class SilentSegmind(FakeSegmind):
    """A service that never says what some of its requests cost."""

    unreported = 0.0
    """The part of them."""

    def reports(self, request_id: str) -> bool:
        return int(request_id[:6], 16) / 16**6 >= self.unreported

    async def wait(self, pending: Any, *, fetch: bool = False) -> RequestResult:
        result = await super().wait(pending, fetch=fetch)
        return result if self.reports(result.request_id) else result.model_copy(update={"metrics": Metrics()})

    def _record(self, job: Any) -> RequestRecord:
        record = super()._record(job)
        return record if self.reports(job.id) else record.model_copy(update={"credits_deduction": None})


class KillableStore:
    """The store as one process sees it; before and after each step the process may be killed."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.process: KillableProcess | None = None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        def step(*args: Any, **options: Any) -> Any:
            if self.process is not None:
                self.process.step()
            result = method(*args, **options)
            if self.process is not None:
                self.process.step()
            return result

        return step


class Table:
    """One table, whose tries may be killed."""

    def __init__(
        self, name: str, budget: SharedBudget, rng: random.Random, *, rows: int, faults: float = 0.1,
        concurrency: int = 5, unreported: float = 0.0, on_unknown: OnUnknown = "fail",
    ) -> None:  # fmt: skip
        self.name, self.budget, self.rng, self.faults = name, budget, rng, faults
        self.rows = table(*(f"{name} {number}" for number in range(rows)))
        self.store = ObjectStore()
        self.concurrency, self.on_unknown = concurrency, on_unknown
        self.segmind = SilentSegmind(
            budget.clock,
            trouble=self.trouble,
            failing=lambda body: "bad words" if body["prompt"].endswith("7") else None,
            cost=cost_of,
            history_delay=rng.choice([0.0, 0.4, 0.8]),
            steps=4,
            rng=random.Random(rng.random()),
        )
        self.segmind.unreported = unreported
        budget.services.append(self.segmind)
        self.kills = 0

    def trouble(self, _: Mapping[str, Any]) -> str | None:
        return self.rng.choice(["limit", "refused", "lost", "gone"]) if self.rng.random() < self.faults else None

    def engine(self, store: ObjectStore, budgets: KillableStore) -> Engine:
        return Engine(
            question=priced(),
            rows=self.rows,
            ledger_folder=store.path("bucket/ledger"),
            client=self.segmind,
            run_id=self.name,
            settings=tuned(
                concurrency=self.concurrency, commit_delay=0.001, budget_interval=0.002, block_rows=7, fold_at=12,
                history_complete_after=SETTLED, budget=self.budget.slice(self.name, budgets),
                on_unknown=self.on_unknown,
            ),
            clock=self.budget.clock,
            sleep=self.budget.clock.sleep,
            rng=self.rng,
        )  # fmt: skip

    async def one_try(self, kill_at: int | None = None) -> Engine | None:
        """Return the engine if it was not killed."""
        store, budgets = self.store.view(), KillableStore(self.budget.store)
        engine = self.engine(store, budgets)
        budgets.process = process = KillableProcess(store, self.segmind, kill_at)
        try:
            if await process.run_until_killed(engine.run()):
                return engine
        except SegmindError as error:
            engine.close()
            if not error.retryable:
                raise
            return None
        self.kills += 1
        self.segmind.in_flight = 0
        # Whoever looked long enough at its heartbeat knows by now that it is dead; tests of that are elsewhere.
        self.store.objects[f"bucket/ledger/live/{engine.ledger.writer}.ended"] = b"{}"
        return None

    async def run(self, kills: int) -> Engine:
        """Be killed up to that many times, then run until every outcome is known; return the last try."""
        for _ in range(kills):
            engine = await self.one_try(self.rng.randint(1, 400))
            if engine is not None:
                engine.close()
            await asyncio.sleep(0)
        for _ in range(12):
            engine = await self.one_try()
            if engine is not None:
                budget = engine.settings.budget
                retried = budget is not None and budget.error is not None and budget.error.retryable
                if not retried and not engine._rows.lost and not any(True for _ in engine.ledger.open_rows()):
                    return engine
                engine.close()
            self.budget.clock.now += SETTLED
            self.faults = 0.0
        raise AssertionError(f"{self.name}: rows are left after every outcome must be known")


def is_used_up(engine: Engine) -> bool:
    """Return whether the budget ended the try of a table."""
    budget = engine.settings.budget
    return budget is not None and isinstance(budget.error, SegmindBudgetError)


def rows_left(engine: Engine) -> int:
    return write_output(engine).rows_left
