"""
Kill the engine at random points, also in the middle of a write, and start another on the same folder.

What is held: every question is paid for once, the output is that of an undisturbed run, the counts add up.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from airflow_provider_segmind.chat.reply_policy import Accept, FollowUp, Refuse
from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.ledger.compaction import compact
from airflow_provider_segmind.enrichment.outcomes import RowReply, RowVerdict
from airflow_provider_segmind.enrichment.output import Output, write_output
from airflow_provider_segmind.enrichment.run_limits import Limits
from tests.support.engine_tuning import tuned
from tests.support.enrichment import PRICE, Clock, FakeSegmind, KillableProcess, question, table
from tests.support.object_stores import ObjectStore

SEEDS = range(50)
CONCURRENCY = 5
SETTLED = 600.0
"""Seconds after which the history is believed; short of the hour for which a result lives."""
TEXTS = [str(number % 45) for number in range(60)]


def failing(body: Mapping[str, Any]) -> str | None:
    return "bad words" if body["prompt"].endswith("7") else None


def read(reply: RowReply) -> RowVerdict:
    text = str(reply.inputs["prompt"])
    if text.endswith("5"):
        return RowVerdict(Refuse("blocked", "SAFETY"))
    if text.endswith("6"):
        return RowVerdict(Refuse("truncated", "MAX_TOKENS"))
    if text.endswith("3") and not reply.follow_ups:
        return RowVerdict(FollowUp({"prompt": f"{text}, as JSON"}, (0,), "not JSON"), tokens=1)
    return RowVerdict(Accept({"said": reply.result.output}), tokens=5)


def kept(output: Output) -> list[dict[str, Any]]:
    rows = [output.values(row) for row in output.rows()]
    return [{name: value for name, value in row.items() if name != "_segmind_request_id"} for row in rows]


class Night:
    """One run of several tries, each of which may die."""

    def __init__(self, seed: int, *, faults: float = 0.1, **limits: Any) -> None:
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.store = ObjectStore()
        self.faults = faults
        self.limits = Limits(**limits)
        self.segmind = FakeSegmind(
            self.clock,
            trouble=self.trouble,
            failing=failing,
            history_delay=(seed % 3) * 0.4,
            steps=4,
            rng=random.Random(seed + 1000),
        )

    def trouble(self, _: Mapping[str, Any]) -> str | None:
        return self.rng.choice(["limit", "refused", "lost", "gone"]) if self.rng.random() < self.faults else None

    def engine(self, store: ObjectStore) -> Engine:
        return Engine(
            question=question(read=read),
            rows=table(*TEXTS),
            ledger_folder=store.path("bucket/ledger"),
            client=self.segmind,
            run_id="night",
            limits=self.limits,
            settings=tuned(
                concurrency=CONCURRENCY, commit_delay=0.001, block_rows=7, fold_at=12, history_complete_after=SETTLED
            ),
            clock=self.clock,
            sleep=self.clock.sleep,
            rng=self.rng,
        )

    async def one_try(self, kill_at: int | None) -> Engine | None:
        """Return the engine if it lived."""
        # A thread of a dead process must not go on writing when the next one lives.
        store = self.store.view()
        engine = self.engine(store)
        process = KillableProcess(store, self.segmind, kill_at)
        if await process.run_until_killed(engine.run()):
            return engine
        self.clock.now += 30
        self.segmind.in_flight = 0
        # Whoever looked long enough at its heartbeat knows by now that it is dead; tests of that are elsewhere.
        self.store.objects[f"bucket/ledger/live/{engine.ledger.writer}.ended"] = b"{}"
        return None

    async def tries(self, deaths: int) -> Engine:
        """Die so many times, then run to the end, and again once the history has settled if rows are left."""
        for _ in range(deaths):
            engine = await self.one_try(self.rng.randint(1, 400))
            if engine is not None:
                engine.close()
        for wait in (60.0, SETTLED, 60.0, SETTLED):
            engine = await self.one_try(None)
            assert engine is not None
            if not write_output(engine).rows_left or engine.stopped:
                return engine
            engine.close()
            self.clock.now += wait
            self.faults = 0.0
        raise AssertionError("rows are left after every outcome must be known")


@pytest.fixture(scope="module")
def undisturbed() -> list[dict[str, Any]]:
    import asyncio

    async def run() -> list[dict[str, Any]]:
        engine = await Night(0, faults=0.0).one_try(None)
        assert engine is not None
        return kept(Output(engine))

    return asyncio.run(run())


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_killed_run_pays_once_and_ends_like_an_undisturbed_one(
    seed: int, undisturbed: list[dict[str, Any]]
) -> None:
    night = Night(seed)
    engine = await night.tries(deaths=1 + seed % 4)
    manifest = write_output(engine)
    twice = [body for body, count in Counter(night.segmind.paid_bodies).items() if count > 1]
    assert twice == []
    assert kept(Output(engine)) == undisturbed
    assert manifest.cost == pytest.approx(night.segmind.bill)
    assert sum(row["_segmind_cost"] for row in kept(Output(engine))) == pytest.approx(night.segmind.bill)
    assert sum(manifest.outcomes.values()) == manifest.rows_read == len(TEXTS)
    engine.close()


@pytest.mark.parametrize("seed", range(20))
async def test_a_killed_run_keeps_its_budget_but_for_what_is_in_flight(seed: int) -> None:
    night = Night(seed, max_cost=20 * PRICE)
    engine = await night.tries(deaths=1 + seed % 4)
    assert night.segmind.bill <= (20 + CONCURRENCY) * PRICE + 1e-9
    assert sum(write_output(engine).outcomes.values()) == len(TEXTS)
    engine.close()


@pytest.mark.parametrize("seed", range(10))
async def test_a_compaction_between_two_tries_changes_nothing(seed: int, undisturbed: list[dict[str, Any]]) -> None:
    night = Night(seed)
    for _ in range(2):
        engine = await night.one_try(night.rng.randint(50, 300))
        if engine is not None:
            engine.close()
        compact(night.store.path("bucket/ledger"), clock=night.clock, segment_bytes=2000)
    engine = await night.tries(deaths=0)
    assert kept(Output(engine)) == undisturbed
    assert set(Counter(night.segmind.paid_bodies).values()) == {1}
    engine.close()
