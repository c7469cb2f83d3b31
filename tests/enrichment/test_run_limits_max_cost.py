"""The money a table may cost, whatever its rows are like."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_segmind.chat.cost_estimate import CostBound, Price, cost_bound
from airflow_provider_segmind.chat.reply_policy import Accept, FollowUp
from airflow_provider_segmind.client.models import RequestResult
from airflow_provider_segmind.client.poll_schedule import Pending
from airflow_provider_segmind.enrichment.ledger.compaction import compact
from airflow_provider_segmind.enrichment.outcomes import RowReply, RowVerdict
from airflow_provider_segmind.enrichment.question import Question
from airflow_provider_segmind.enrichment.run_limits import Limits, RunUsage
from airflow_provider_segmind.exceptions import SegmindCreditsError, SegmindRequestTimeoutError
from tests.enrichment.test_engine import World
from tests.support.enrichment import question, table
from tests.support.examples import examples

MODEL = "gemini-3.1-flash-lite"


def cost(body: Mapping[str, Any]) -> float:
    """USD as a provider bills: a token for each four bytes, and half of the output cap written."""
    return len(str(body["prompt"]).encode()) / 4 * 0.25e-6 + 50 * 1.5e-6


def most(body: Mapping[str, Any]) -> CostBound:
    return cost_bound(MODEL, {**body, "max_tokens": 100})


def asked(**changes: Any) -> Question:
    return question(most=most, **changes)


def rows(lengths: list[int]) -> list[dict[str, Any]]:
    return table(*(f"{number} " + "x" * length for number, length in enumerate(lengths)))


def bound_of(length: int) -> float:
    return most({"prompt": "Say 1000 " + "x" * length, "temperature": 0}).usd


async def test_long_rows_at_the_end_do_not_pass_max_cost() -> None:
    world = World(cost=cost, steps=4, rng=random.Random(1))
    lengths = [10] * 200 + [400_000] * 40
    limit = 0.2
    stored = await world.run(rows(lengths), asked(), limits=Limits(max_cost=limit, expected_cost=1e-4),
                             settings={"concurrency": 16})  # fmt: skip
    assert world.segmind.bill <= limit
    assert limit - world.segmind.bill <= bound_of(400_000)
    assert stored.manifest.outcomes["success"] > 200


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("limit", [0.005, 0.05])
async def test_max_cost_holds_where_the_price_is_several_times_the_known_one_or_unknown(
    limit: float, known: bool
) -> None:
    price = 0.00105
    world = World(cost=lambda body: price, steps=4, rng=random.Random(1))
    stored = await world.run(rows([10] * 200), asked() if known else question(), limits=Limits(max_cost=limit),
                             settings={"concurrency": 64})  # fmt: skip
    assert limit - price <= world.segmind.bill <= limit
    assert stored.manifest.outcomes["skipped"] > 0


def cost_without_cap(body: Mapping[str, Any]) -> float:
    """USD of a request whose answer is as long as its prompt, up to the limit of the model."""
    tokens = len(str(body["prompt"]).encode())
    return tokens / 4 * 0.25e-6 + min(tokens / 4, 65_536) * 1.5e-6


@settings(max_examples=examples(30))
@given(
    lengths=st.lists(st.sampled_from([10, 10, 10, 100_000, 400_000]), min_size=1, max_size=80),
    limit=st.sampled_from([0.01, 0.05, 0.3, 1.0, 5.0]),
    concurrency=st.sampled_from([1, 16, 64]),
    seed=st.integers(0, 9),
    model=st.sampled_from([MODEL, "of unknown output limit"]),
)
@example(lengths=[10] * 200 + [100_000] * 100, limit=1.0, concurrency=64, seed=0, model=MODEL)
@example(lengths=[10] * 200 + [100_000] * 100, limit=1.0, concurrency=64, seed=0, model="of unknown output limit")
async def test_max_cost_holds_also_without_an_output_cap_where_the_price_is_known(
    lengths: list[int], limit: float, concurrency: int, seed: int, model: str
) -> None:
    def most(body: Mapping[str, Any]) -> CostBound:
        return cost_bound(model, body, prices={"of unknown output limit": Price(input=0.25, output=1.5)})

    world = World(cost=cost_without_cap, steps=4, rng=random.Random(seed))
    source, limits = rows(lengths), Limits(max_cost=limit)
    stored = await world.run(source, question(most=most), limits=limits, settings={"concurrency": concurrency})
    assert world.segmind.bill <= limit
    if stored.manifest.outcomes["skipped"]:
        assert limit - world.segmind.bill <= most({"prompt": "Say 1000 " + "x" * max(lengths), "temperature": 0}).usd
        assert "'max_tokens'" in str(stored.manifest.stopped)


@settings(max_examples=examples(30))
@given(
    lengths=st.lists(st.sampled_from([10, 1_000, 20_000]), min_size=1, max_size=80),
    limit=st.sampled_from([0.0005, 0.01, 0.05]),
    seed=st.integers(0, 9),
)
@example(lengths=[10] * 200 + [20_000] * 20, limit=0.05, seed=0)
async def test_an_estimated_max_cost_sends_rows_and_is_exceeded_at_most_by_the_first_requests(
    lengths: list[int], limit: float, seed: int
) -> None:
    def estimated(body: Mapping[str, Any]) -> CostBound:
        return cost_bound(MODEL, body).without_output()

    world = World(cost=cost_without_cap, steps=4, rng=random.Random(seed))
    limits = Limits(max_cost=limit, expected_cost=0.0001)
    stored = await world.run(rows(lengths), question(most=estimated), limits=limits, settings={"concurrency": 8})
    largest = cost_without_cap({"prompt": "Say 1000 " + "x" * max(lengths)})
    assert world.segmind.bill <= limit + 8 * largest
    assert world.segmind.bill or limit < 0.01
    if stored.manifest.outcomes["skipped"]:
        assert (
            limit - world.segmind.bill
            <= estimated({"prompt": "Say 1000 " + "x" * max(lengths), "temperature": 0}).usd * 8
        )


async def test_an_estimate_follows_the_highest_bill_so_far() -> None:
    usage = RunUsage(Limits(max_cost=0.01))
    short, long = (CostBound(usd=usd, certain=False, ceiling=0.1) for usd in (0.0001, 0.002))
    usage.started(b"a", short, new_row=True)
    usage.billed(b"a", 0.0004)
    assert usage.expected(short) == pytest.approx(0.0004)
    assert usage.expected(long) == pytest.approx(0.008)
    usage.started(b"b", long, new_row=True)
    assert usage.reserved == pytest.approx(0.008)
    usage.billed(b"b", 0.0021)
    assert usage.reserved == 0
    assert usage.expected(CostBound(usd=0.09, certain=False, ceiling=0.1)) == pytest.approx(0.1)


@settings(max_examples=examples(60))
@given(
    lengths=st.lists(st.sampled_from([0, 10, 1_000, 50_000, 400_000]), min_size=1, max_size=60),
    share=st.floats(0.05, 1.2),
    seed=st.integers(0, 9),
    retries=st.integers(1, 3),
)
async def test_the_bill_keeps_max_cost_and_leaves_no_more_than_a_row_unused(
    lengths: list[int], share: float, seed: int, retries: int
) -> None:
    world = World(cost=cost, steps=5, rng=random.Random(seed))
    limit = share * sum(bound_of(length) for length in lengths)
    for _ in range(retries):
        stored = await world.run(rows(lengths), asked(), limits=Limits(max_cost=limit))
    assert world.segmind.bill <= limit * (1 + 1e-9)
    if stored.manifest.outcomes["skipped"]:
        assert limit - world.segmind.bill <= max(map(bound_of, lengths))


@settings(max_examples=examples(30))
@given(lengths=st.lists(st.sampled_from([10, 50_000]), min_size=4, max_size=30), share=st.floats(0.1, 1.0),
       seed=st.integers(0, 9))  # fmt: skip
async def test_follow_ups_of_a_row_are_reserved_too(lengths: list[int], share: float, seed: int) -> None:
    def read(reply: RowReply) -> RowVerdict:
        if not reply.follow_ups:
            return RowVerdict(FollowUp({"prompt": str(reply.inputs["prompt"]) * 3}, (0,), "no data"))
        return RowVerdict(Accept({"said": "x"}))

    world = World(cost=cost, steps=5, rng=random.Random(seed))
    limit = share * 4 * sum(map(bound_of, lengths))
    await world.run(rows(lengths), asked(read=read), limits=Limits(max_cost=limit))
    assert world.segmind.bill <= limit * (1 + 1e-9)


@settings(max_examples=examples(30))
@given(seed=st.integers(0, 99), policy=st.sampled_from([("fail", 3), ("resubmit", 3)]))
async def test_what_was_lost_stays_reserved_also_in_the_next_try(seed: int, policy: tuple[str, int]) -> None:
    rng = random.Random(seed)
    world = World(
        cost=cost,
        trouble=lambda _: rng.choice(["lost", "gone", None, None, None]),
        history_delay=1e9,
        steps=4,
        rng=random.Random(seed),
    )
    lengths = [rng.choice([10, 50_000, 400_000]) for _ in range(40)]
    limit = 0.5 * sum(map(bound_of, lengths))
    on_unknown, tries = policy
    for _ in range(tries):
        rng.shuffle(lengths)
        await world.run(rows(lengths), asked(), limits=Limits(max_cost=limit), settings={"on_unknown": on_unknown})
    assert world.segmind.bill <= limit * (1 + 1e-9)


GIVEN_UP = {"on_unknown": "resubmit", "concurrency": 1}
ONE = Limits(max_cost=2.5)
"""A limit for two requests of a dollar each."""


def dollar() -> Question:
    return question(most=lambda _: CostBound(usd=1.0, certain=True))


def losing(*troubles: Any) -> World:
    """Return a service that bills a dollar for each request, has trouble with the first ones, and shows no history."""
    left = list(troubles)
    return World(cost=lambda _: 1.0, trouble=lambda _: left.pop(0) if left else None, history_delay=1e9)


async def test_a_request_that_was_given_up_counts_in_the_next_try_as_well() -> None:
    world = losing("lost")
    stored = await world.run(table("a"), dollar(), limits=ONE, settings=GIVEN_UP)
    assert stored.statuses == ["success"]
    assert world.segmind.bill == 2.0

    stored = await world.run(table("a", "b"), dollar(), limits=ONE, settings=GIVEN_UP)

    assert stored.statuses == ["success", "skipped"]
    assert "$1.00 billed, $1.00 for requests without a reported bill" in str(stored.stopped)
    assert world.segmind.bill == 2.0
    # Another run has a limit of its own.
    assert (await world.run(table("a", "b"), dollar(), limits=ONE, run_id="other")).statuses == ["success"] * 2


async def test_a_request_that_was_given_up_counts_although_its_row_was_not_sent_again() -> None:
    world = losing("lost", SegmindCreditsError("no credits", status_code=402))
    assert (await world.run(table("a"), dollar(), limits=ONE, settings=GIVEN_UP)).statuses == ["skipped"]
    assert (world.segmind.posts, world.segmind.bill) == (2, 1.0)

    stored = await world.run(table("a", "b", "c"), dollar(), limits=ONE, settings=GIVEN_UP)

    assert stored.statuses == ["success", "skipped", "skipped"]
    assert world.segmind.bill == 2.0


async def test_every_request_of_a_row_that_was_given_up_counts() -> None:
    world = losing("lost", "lost", "lost")
    limits = Limits(max_cost=4.5)
    await world.run(table("a"), dollar(), limits=limits, settings=GIVEN_UP)
    await world.run(table("a"), dollar(), limits=limits, settings=GIVEN_UP)
    assert world.segmind.bill == 4.0

    stored = await world.run(table("a", "b"), dollar(), limits=limits, settings=GIVEN_UP)

    assert stored.statuses == ["success", "skipped"]
    assert world.segmind.bill == 4.0


async def test_a_follow_up_that_was_given_up_counts_in_the_next_try_as_well() -> None:
    def read(reply: RowReply) -> RowVerdict:
        if not reply.follow_ups:
            return RowVerdict(FollowUp({"prompt": "again"}, (0,), "no data"))
        return RowVerdict(Accept({"said": "x"}))

    asked = question(most=lambda _: CostBound(usd=1.0, certain=True), read=read)
    world = losing(None, "lost")
    limits = Limits(max_cost=3.5)
    assert (await world.run(table("a"), asked, limits=limits, settings=GIVEN_UP)).statuses == ["success"]
    assert world.segmind.bill == 3.0

    stored = await world.run(table("a", "b"), asked, limits=limits, settings=GIVEN_UP)

    assert stored.statuses == ["success", "skipped"]
    assert world.segmind.bill == 3.0


async def test_a_request_that_was_given_up_counts_after_the_ledger_was_compacted() -> None:
    world = losing("lost", SegmindCreditsError("no credits", status_code=402))
    await world.run(table("a"), dollar(), limits=ONE, settings=GIVEN_UP)
    compact(world.store.path("bucket/ledger"), clock=world.clock)

    await world.run(table("a", "b", "c"), dollar(), limits=ONE, settings=GIVEN_UP)

    assert world.segmind.bill == 2.0


async def test_open_requests_that_come_late_in_the_table_do_not_keep_others_from_being_asked() -> None:
    world = World(cost=cost)
    late = rows([400_000] * 4)

    async def too_late(pending: Pending, **_: Any) -> RequestResult:
        raise SegmindRequestTimeoutError("late", request_id=pending.request_id)

    fetch, world.segmind.wait = world.segmind.wait, too_late  # type: ignore[method-assign]
    await world.run(late, asked(), limits=Limits(max_cost=1.0))
    world.segmind.wait = fetch  # type: ignore[method-assign]
    assert world.segmind.posts == 4
    early = [{"id": 100 + number, "text": f"early {number}"} for number in range(12)]
    limit = 4 * bound_of(400_000) + bound_of(0) / 2
    stored = await world.run([*early, *late], asked(), limits=Limits(max_cost=limit))
    assert stored.manifest.outcomes["success"] == 16
    assert world.segmind.bill <= limit


@pytest.mark.parametrize("limit_known", [True, False])
async def test_what_a_killed_try_has_open_without_an_output_cap_stays_reserved(limit_known: bool) -> None:
    def most(body: Mapping[str, Any]) -> CostBound:
        price = Price(input=0.25, output=1.5, max_output_tokens=65_536 if limit_known else None)
        return cost_bound("m", body, prices={"m": price})

    world = World(cost=lambda body: 0.098)
    limit, waited = 0.25, world.segmind.wait

    async def too_late(pending: Pending, *, fetch: bool = False) -> RequestResult:
        raise SegmindRequestTimeoutError("still working", request_id=pending.request_id)

    world.segmind.wait = too_late  # type: ignore[method-assign]
    await world.run(rows([10] * 9), question(most=most), limits=Limits(max_cost=limit))
    world.segmind.wait = waited  # type: ignore[method-assign]
    await world.run(table("x", "y", *[str(row["text"]) for row in rows([10] * 9)]), question(most=most),
                    limits=Limits(max_cost=limit))  # fmt: skip
    assert 0 < world.segmind.bill <= limit


async def test_a_price_that_is_higher_than_told_is_learned_from_the_first_bill() -> None:
    world = World(cost=lambda body: 10 * most(body).usd)
    limit = 100 * bound_of(10)
    await world.run(rows([10] * 200), asked(), limits=Limits(max_cost=limit), settings={"concurrency": 1})
    assert world.segmind.bill <= limit


async def test_without_a_price_the_mean_decides_as_before() -> None:
    world = World()
    await world.run(rows([1] * 50), limits=Limits(max_cost=0.1, expected_cost=0.01))
    assert world.segmind.bill == pytest.approx(0.1)


@pytest.mark.parametrize("retries", [1, 3])
async def test_bills_that_are_not_reported_count_at_the_most_they_may_be(retries: int) -> None:
    def unreported(_: Mapping[str, Any]) -> float:
        return None  # type: ignore[return-value]

    world = World(cost=unreported)
    for _ in range(retries):
        stored = await world.run(rows([10] * 30), asked(), limits=Limits(max_cost=5.5 * bound_of(10)))
    assert world.segmind.posts == 5
    assert stored.manifest.unpriced == 5
