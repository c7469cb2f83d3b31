from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_segmind.chat.output_type import ParsedReply
from airflow_provider_segmind.chat.replies import ChatReply, FinishReason
from airflow_provider_segmind.chat.reply_policy import Accept, FollowUp, Refuse, decide_reply
from airflow_provider_segmind.client.models import RequestRecord
from airflow_provider_segmind.defaults import RESULT_LIFETIME
from airflow_provider_segmind.enrichment.engine import Engine, Progress
from airflow_provider_segmind.enrichment.ledger import local_index
from airflow_provider_segmind.enrichment.ledger.events import Claimed, to_line
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.segments import write_segment
from airflow_provider_segmind.enrichment.local_database import LocalDatabase
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.outcomes import Outcome, RowReply, RowVerdict
from airflow_provider_segmind.enrichment.output import write_output
from airflow_provider_segmind.enrichment.question import Question
from airflow_provider_segmind.enrichment.rows import Row
from airflow_provider_segmind.enrichment.run_limits import Limits
from airflow_provider_segmind.enrichment.settings import Shard
from airflow_provider_segmind.exceptions import (
    SegmindAuthenticationError,
    SegmindBadRequestError,
    SegmindConfigError,
    SegmindConnectionError,
    SegmindEnrichmentError,
    SegmindError,
    SegmindPermissionError,
    SegmindReplyError,
    SegmindRequestExpiredError,
    SegmindRequestTimeoutError,
    SegmindRowError,
    SegmindServerError,
)
from tests.support.engine_tuning import tuned
from tests.support.enrichment import PRICE, Clock, FakeSegmind, build, question, table
from tests.support.examples import examples
from tests.support.object_stores import ObjectStore


class World:
    """A store and a service that outlive the engines that use them."""

    def __init__(self, **trouble: Any) -> None:
        self.clock = Clock()
        self.segmind = FakeSegmind(self.clock, **trouble)
        self.store = ObjectStore()

    def engine(self, rows: list[dict[str, Any]], asked: Question | None = None, **options: Any) -> Engine:
        settings = {
            "concurrency": 4,
            "commit_delay": 0.002,
            "block_rows": 8,
            "grace": 0.05,
            **options.pop("settings", {}),
        }
        return Engine(
            question=asked or question(),
            rows=rows,
            ledger_folder=self.store.path("bucket/ledger"),
            client=options.pop("client", self.segmind),
            run_id=options.pop("run_id", "run-1"),
            settings=tuned(**settings),
            clock=self.clock,
            sleep=self.clock.sleep,
            **options,
        )

    async def run(self, rows: list[dict[str, Any]], asked: Question | None = None, **options: Any) -> Stored:
        engine = self.engine(rows, asked, **options)
        try:
            await engine.run()
            return Stored(engine)
        finally:
            engine.close()


class Stored:
    """What an engine left behind."""

    def __init__(self, engine: Engine) -> None:
        self.rows: list[Mapping[str, Any]] = []
        self.manifest: Manifest = write_output(engine, each=self.rows.append)
        self.stopped = engine.stopped

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]

    @property
    def statuses(self) -> list[str]:
        return self.column("_segmind_status")


async def test_every_row_is_answered_in_input_order() -> None:
    world = World()
    stored = await world.run(table("a", "b", "c"))
    assert stored.column("id") == [0, 1, 2]
    assert stored.column("said") == ["SAY A", "SAY B", "SAY C"]
    assert stored.rows[0] == {
        "id": 0,
        "said": "SAY A",
        "_segmind_status": "success",
        "_segmind_error": None,
        "_segmind_request_id": stored.rows[0]["_segmind_request_id"],
        "_segmind_model": "m",
        "_segmind_cost": PRICE,
        "_segmind_tokens": 5,
    }


@pytest.mark.parametrize("batch", [1, 3, 200])
async def test_a_row_that_comes_again_in_later_blocks_is_paid_once(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_index, "INSERT_ROWS", batch)
    world = World()
    rows = table(*(str(number % 20 if number % 3 else number) for number in range(120)))
    stored = await world.run(rows)
    assert world.segmind.posts == stored.manifest.distinct_rows == len({row["text"] for row in rows})


async def test_equal_rows_are_asked_once_and_share_the_answer() -> None:
    world = World()
    stored = await world.run(table("a", "b", "a", "a"))
    assert world.segmind.posts == 2
    assert stored.column("said") == ["SAY A", "SAY B", "SAY A", "SAY A"]
    assert stored.column("_segmind_cost") == [PRICE, PRICE, 0.0, 0.0]
    assert (stored.manifest.duplicates_saved, stored.manifest.distinct_rows) == (2, 2)


async def test_an_unchanged_table_costs_nothing_the_next_night() -> None:
    world = World()
    first = await world.run(table("a", "b"))
    second = await world.run(table("a", "b"), run_id="run-2")
    assert world.segmind.posts == 2
    assert second.rows == first.rows
    assert (second.manifest.cache_hits, second.manifest.cost, second.manifest.posts) == (2, 0.0, 0)


async def test_one_edited_row_and_one_inserted_at_the_front_cost_one_each() -> None:
    world = World()
    await world.run(table("a", "b", "c"))
    await world.run(table("a", "B!", "c"))
    assert world.segmind.posts == 4
    await world.run(table("new", "a", "B!", "c"))
    assert world.segmind.posts == 5


async def test_another_schema_asks_everything_again() -> None:
    world = World()
    await world.run(table("a", "b"))
    await world.run(table("a", "b"), question(schema={"type": "object"}))
    assert world.segmind.posts == 4


async def test_a_missing_column_in_the_first_row_stops_everything() -> None:
    world = World()
    with pytest.raises(SegmindConfigError, match="'text'"):
        await world.run([{"id": 1}])
    assert world.segmind.posts == 0


async def test_a_missing_column_later_on_skips_that_row() -> None:
    stored = await World().run([*table("a"), {"id": 7}])
    assert stored.statuses == ["success", "skipped"]
    assert "'text'" in stored.rows[1]["_segmind_error"]
    assert stored.rows[1]["id"] == 7


async def test_a_missing_key_column_is_named() -> None:
    with pytest.raises(SegmindConfigError, match="'id', which a key names"):
        await World().run([{"text": "a"}])


async def test_a_request_that_failed_is_not_billed_and_says_why() -> None:
    world = World(failing=lambda body: "bad words" if "b" in body["prompt"] else None)
    stored = await world.run(table("a", "b"))
    assert stored.statuses == ["success", "failed"]
    assert stored.rows[1]["_segmind_error"] == "bad words"
    assert stored.rows[1]["_segmind_cost"] == 0.0
    assert stored.manifest.cost == world.segmind.bill == PRICE


async def test_a_row_that_failed_for_nothing_is_asked_again_by_the_next_try() -> None:
    words: list[str | None] = ["overloaded", None]
    world = World(failing=lambda _: words.pop(0))
    assert (await world.run(table("a"))).statuses == ["failed"]
    assert (await world.run(table("a"))).statuses == ["success"]


def refuse(reply: RowReply) -> RowVerdict:
    blocked = "b" in reply.inputs["prompt"]
    return RowVerdict(Refuse("blocked", "SAFETY") if blocked else Accept({"said": "x"}))


async def test_a_refused_answer_is_paid_for_and_not_asked_again() -> None:
    world = World()
    stored = await world.run(table("a", "b"), question(read=refuse))
    assert stored.statuses == ["success", "blocked"]
    assert stored.rows[1]["_segmind_cost"] == PRICE
    assert stored.rows[1]["said"] is None
    again = await world.run(table("a", "b"), question(read=refuse), run_id="run-2")
    assert world.segmind.posts == 2
    assert again.statuses == stored.statuses


async def test_dead_letters_are_asked_again_when_told_to() -> None:
    world = World()
    await world.run(table("a", "b"), question(read=refuse))
    stored = await world.run(table("a", "b"), settings={"rerun": frozenset({"blocked"})})
    assert stored.statuses == ["success", "success"]
    assert world.segmind.posts == 3
    assert stored.manifest.cost == pytest.approx(world.segmind.bill)


@pytest.mark.parametrize(
    ("rerun", "again"),
    [
        (set(), []),
        ({"unbilled"}, ["b"]),
        ({"failed"}, ["b"]),
        ({"truncated"}, ["c"]),
        ({"truncated", "failed"}, ["b", "c"]),
        ({"blocked"}, ["d"]),
        ({"unknown", "skipped"}, []),
    ],
)
async def test_only_rows_of_the_named_outcomes_are_asked_again(rerun: set[str], again: list[str]) -> None:
    world = World(failing=lambda body: "out of order" if body["prompt"] == "Say b" else None)
    refused = {"SAY C": "truncated", "SAY D": "blocked"}

    def read(reply: RowReply) -> RowVerdict:
        if (reason := refused.get(reply.result.output)) is not None:
            raise SegmindReplyError("no", reason=reason)
        return RowVerdict(Accept({"said": reply.result.output}))

    rows = table("a", "b", "c", "d")
    first = await world.run(rows, question(read=read))
    assert first.statuses == ["success", "failed", "truncated", "blocked"]
    before = set(world.segmind.jobs)
    await world.run(rows, question(read=read), settings={"rerun": frozenset(rerun)})

    asked = [job.body["prompt"] for name, job in world.segmind.jobs.items() if name not in before]
    assert sorted(asked) == [f"Say {text}" for text in again]


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [("truncated", "truncated"), ("blocked", "blocked"), ("empty", "invalid"), ("invalid", "invalid")],
)
async def test_a_reply_error_of_the_reader_becomes_an_outcome(reason: str, outcome: str) -> None:
    def read(reply: RowReply) -> RowVerdict:
        raise SegmindReplyError("no", reason=reason)

    assert (await World().run(table("a"), question(read=read))).statuses == [outcome]


def mend(reply: RowReply) -> RowVerdict:
    if (sent := len(reply.follow_ups)) < 2:
        inputs = {"prompt": f"{reply.inputs['prompt']}, try {sent + 2}"}
        return RowVerdict(FollowUp(inputs, (*reply.follow_ups, 0), "not JSON"), tokens=1)
    return RowVerdict(Accept({"said": reply.result.output}), tokens=1)


async def test_the_cost_of_follow_ups_is_kept_apart() -> None:
    world = World(cost=lambda body: 0.01 if "try" not in body["prompt"] else 0.003)
    stored = await world.run(table("a"), question(read=mend))
    assert (stored.manifest.cost, stored.manifest.follow_up_cost) == (0.016, 0.006)

    stored = await world.run(table("a", "b"), question(read=mend))
    assert (stored.manifest.cost, stored.manifest.follow_up_cost) == (0.032, 0.012)

    plain = await world.run(table("c"))
    assert (plain.manifest.cost, plain.manifest.follow_up_cost) == (0.01, 0.0)


async def test_an_answer_that_can_be_mended_is_asked_again_and_paid_for() -> None:
    world = World()
    stored = await world.run(table("a"), question(read=mend))
    assert stored.column("said") == ["SAY A, TRY 3"]
    assert stored.manifest.cost == pytest.approx(world.segmind.bill) == pytest.approx(3 * PRICE)
    assert (stored.manifest.requests, stored.manifest.tokens) == (3, 3)


@settings(max_examples=examples(25))
@given(
    max_repairs=st.integers(0, 3),
    finishes=st.lists(st.sampled_from(["stop", "length", "blocked", "unknown"]), min_size=4, max_size=4),
    wrong=st.lists(st.booleans(), min_size=4, max_size=4),
    kill=st.none() | st.integers(1, 4),
)
async def test_a_row_is_never_paid_for_more_often_than_max_repairs_allows(
    max_repairs: int, finishes: list[str], wrong: list[bool], kill: int | None
) -> None:
    calls = 0

    def read(reply: RowReply) -> RowVerdict:
        nonlocal calls
        calls += 1
        if calls == kill:
            engine.stop("the task was killed", hurry=True)
        number = world.segmind.posts - 1
        data = ParsedReply(error="not an int") if wrong[number] else ParsedReply(data={"said": "x"})
        said = ChatReply(text='{"said": 1}', finish_reason=FinishReason(finishes[number]))
        decision = decide_reply(
            said,
            data,
            first=lambda: reply.inputs,
            sent=lambda: reply.sent,
            follow_ups=reply.follow_ups,
            max_repairs=max_repairs,
        )
        return RowVerdict(decision, tokens=1)

    def build(row: Row) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": row.fill("Say {text}")}]}

    world = World(answer=lambda _: "x")
    for _ in range(2):
        engine = world.engine(table("a"), question(build=build, read=read))
        await engine.run()
        stored = Stored(engine)
        engine.close()
    posts = world.segmind.posts
    assert 1 <= posts <= 1 + max_repairs
    assert stored.statuses[0] in ("success", "invalid", "truncated", "blocked")
    assert stored.manifest.cost == pytest.approx(world.segmind.bill) == pytest.approx(posts * PRICE)
    caps = [job.body.get("max_tokens") for job in world.segmind.jobs.values()]
    assert len(set(caps)) <= 2
    assert caps == sorted(caps, key=bool)


async def test_a_row_that_a_kill_left_before_its_follow_up_is_continued_by_the_retry() -> None:
    def read(reply: RowReply) -> RowVerdict:
        engine.stop("the task was killed", hurry=True)
        return mend(reply)

    world = World()
    engine = world.engine(table("a"), question(read=read))
    await engine.run()
    stored = Stored(engine)
    engine.close()
    assert stored.statuses == ["skipped"]
    assert (stored.manifest.cost, stored.manifest.requests) == (PRICE, 1)

    stored = await world.run(table("a"), question(read=mend))

    assert stored.statuses == ["success"]
    assert stored.manifest.cost == pytest.approx(world.segmind.bill) == pytest.approx(3 * PRICE)


async def test_a_row_whose_follow_up_was_lost_is_accounted_for_when_the_budget_is_used_up() -> None:
    script: list[str | None] = [None, None, None, None, "gone"]
    world = World(trouble=lambda _: script.pop(0))
    settings = {"concurrency": 1, "history_complete_after": 60.0}
    await world.run(table("a", "b"), question(read=mend), settings=settings)
    world.clock.now += 60

    stored = await world.run(
        table("x", "y", "z", "a", "b"), question(read=mend), settings=settings, limits=Limits(max_cost=4 * PRICE)
    )

    assert stored.statuses == ["skipped"] * 3 + ["success", "invalid"]
    assert stored.manifest.cost == pytest.approx(world.segmind.bill) == pytest.approx(4 * PRICE)


async def test_a_limit_or_a_refused_connection_is_outlasted() -> None:
    script: list[str | None] = ["limit", "refused", "refused", None]
    world = World(trouble=lambda _: script.pop(0))
    stored = await world.run(table("a"))
    assert stored.statuses == ["success"]
    assert (world.segmind.posts, len(world.segmind.jobs)) == (4, 1)


async def test_an_outage_stops_the_run_and_a_retry_goes_on() -> None:
    world = World(trouble=lambda _: "refused")
    stored = await world.run(table("a", "b"), settings={"outage_patience": 60.0})
    assert stored.statuses == ["skipped", "skipped"]
    assert stored.stopped is not None
    world.segmind.trouble = lambda _: None
    assert (await world.run(table("a", "b"))).statuses == ["success", "success"]


async def test_a_lost_request_is_found_in_the_history_and_paid_once() -> None:
    script: list[str | None] = ["lost", None]
    world = World(trouble=lambda _: script.pop(0) if script else None)
    stored = await world.run(table("a", "b"))
    assert stored.statuses == ["success", "success"]
    assert world.segmind.posts == 2


async def test_a_request_that_never_arrived_is_sent_again_once_the_history_proves_it() -> None:
    script = ["gone"]
    world = World(trouble=lambda _: script.pop(0) if script else None)
    stored = await world.run(table("a", "b", "c", "d", "e", "f"))
    assert set(stored.statuses) == {"success"}
    assert world.segmind.bill == pytest.approx(6 * PRICE)


async def test_a_request_of_unknown_fate_is_left_alone_while_the_history_lags() -> None:
    script = ["lost"]
    world = World(trouble=lambda _: script.pop(0) if script else None, history_delay=1000.0)
    stored = await world.run(table("a", "b", "c", "d", "e", "f"))
    assert sorted(stored.statuses) == ["success"] * 5 + ["unknown"]
    assert (world.segmind.posts, stored.manifest.rows_left) == (6, 1)
    world.clock.now += 1200
    stored = await world.run(table("a", "b", "c", "d", "e", "f"))
    assert set(stored.statuses) == {"success"}
    assert world.segmind.posts == 6


async def test_a_request_of_unknown_fate_is_sent_again_when_told_to() -> None:
    script = ["gone"]
    world = World(trouble=lambda _: script.pop(0) if script else None)
    stored = await world.run(table("a"), settings={"on_unknown": "resubmit"})
    assert stored.statuses == ["success"]
    assert world.segmind.posts == 2


@pytest.mark.parametrize(
    "error", [SegmindConnectionError("out of reach"), SegmindServerError("502"), SegmindPermissionError("not allowed")]
)
async def test_a_request_is_not_sent_again_while_the_history_cannot_be_read(error: Exception) -> None:
    script = ["lost"]
    world = World(trouble=lambda _: script.pop() if script else None)
    genuine = world.segmind.list_request_records

    async def unreadable(**_: Any) -> Any:
        raise error

    world.segmind.list_request_records = unreadable  # type: ignore[method-assign]
    resubmit = {"on_unknown": "resubmit"}
    assert (await world.run(table("a"), settings=resubmit)).statuses == ["unknown"]
    assert world.segmind.posts == 1
    world.segmind.list_request_records = genuine  # type: ignore[method-assign]
    assert (await world.run(table("a"), settings=resubmit)).statuses == ["success"]
    assert world.segmind.posts == 1


async def test_a_request_is_not_sent_again_while_the_history_shows_one_that_may_be_it() -> None:
    script = ["lost"]
    world = World(trouble=lambda _: script.pop() if script else None, skew=-1800.0)
    resubmit = {"on_unknown": "resubmit"}
    assert (await world.run(table("a"), settings=resubmit)).statuses == ["unknown"]
    assert world.segmind.posts == 1


@pytest.mark.parametrize("wrapped", [lambda body: None, lambda body: {"inputs": body}], ids=["none", "wrapped"])
async def test_a_request_is_not_sent_again_while_the_history_shows_one_without_its_fields(
    wrapped: Callable[[Any], Any],
) -> None:
    script = ["lost"]
    world = World(trouble=lambda _: script.pop() if script else None)
    genuine = world.segmind._record
    world.segmind._record = lambda job: genuine(job).model_copy(  # type: ignore[method-assign]
        update={"request_body": wrapped(genuine(job).request_body)}
    )
    resubmit = {"on_unknown": "resubmit"}
    assert sorted((await world.run(table("a", "b"), settings=resubmit)).statuses) == ["success", "unknown"]
    assert world.segmind.posts == 2
    world.segmind._record = genuine  # type: ignore[method-assign]
    assert (await world.run(table("a", "b"), settings=resubmit)).statuses == ["success", "success"]
    assert world.segmind.posts == 2


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_no_row_gets_the_answer_of_another_where_two_are_given_one_request(concurrency: int) -> None:
    world = World()
    submit = world.segmind.submit
    given: list[Any] = []

    async def cached(model: str, inputs: Any, **hooks: Any) -> Any:
        given.append(await submit(model, inputs, **hooks))
        return given[0]

    world.segmind.submit = cached  # type: ignore[method-assign]
    stored = await world.run(table("a", "b", "c"), settings={"concurrency": concurrency})
    assert stored.column("said") == ["SAY A", "SAY B", "SAY C"]
    assert world.segmind.posts == 3


async def test_a_lone_request_that_never_arrived_is_sent_again_after_the_history_has_settled() -> None:
    script = ["gone"]
    world = World(trouble=lambda _: script.pop(0) if script else None)
    assert (await world.run(table("a"))).statuses == ["unknown"]
    assert (await world.run(table("a"))).statuses == ["unknown"]
    world.clock.now += 4 * 3600
    assert (await world.run(table("a"))).statuses == ["success"]
    assert world.segmind.posts == 2


async def test_the_requests_of_a_large_ledger_are_not_indexed_in_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[threading.Thread] = []
    write = LocalDatabase.write

    def seen(self: LocalDatabase, *batches: Any) -> None:
        if any("requests" in statement for statement, _ in batches) and len(batches) == 1:
            threads.append(threading.current_thread())
        write(self, *batches)

    monkeypatch.setattr(LocalDatabase, "write", seen)
    script = [None, "gone"]
    world = World(trouble=lambda _: script.pop(0) if script else None)
    await world.run(table("a", "b"), settings={"concurrency": 1})
    threads.clear()
    await world.run(table("a", "b"))
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize("skew", [300.0, -300.0, 1800.0, -1800.0, 90_000.0, -90_000.0])
async def test_clocks_that_differ_do_not_hide_a_lost_request(skew: float) -> None:
    lost = ["lost"]
    world = World(trouble=lambda body: lost.pop() if body["prompt"] == "Say b" and lost else None, skew=skew)
    stored = await world.run(table("a", "b", "c", "d"), settings={"concurrency": 1})
    assert stored.statuses == ["success"] * 4
    assert world.segmind.posts == 4


@pytest.mark.parametrize("skew", [300.0, -300.0, 1800.0, -1800.0])
async def test_a_lone_lost_request_is_never_paid_twice_when_clocks_differ(skew: float) -> None:
    lost = ["lost"]
    world = World(trouble=lambda body: lost.pop() if lost else None, skew=skew, history_delay=100.0)
    for _ in range(4):
        await world.run(table("a"))
        world.clock.now += 4 * 3600
    assert world.segmind.posts == 1


@pytest.mark.parametrize("ahead", [0.0, 600.0, -600.0])
async def test_what_a_worker_with_another_clock_has_sent_does_not_prove_that_a_request_never_arrived(
    ahead: float,
) -> None:
    lost = ["lost"]
    world = World(trouble=lambda body: lost.pop() if body["prompt"] == "Say b" and lost else None)
    world.segmind.history_delay = 1e9
    world.clock.now += ahead
    world.segmind.skew = -ahead
    await world.run(table("a", "b"), settings={"concurrency": 1})
    # The retry runs elsewhere; the history shows only what was sent before the lost one.
    world.clock.now += 60 - ahead
    world.segmind.skew = 0.0
    world.segmind.history_delay = 0.0
    hidden = [job for job in world.segmind.jobs.values() if job.body["prompt"] == "Say b"]
    shown = {id: job for id, job in world.segmind.jobs.items() if job not in hidden}
    jobs, world.segmind.jobs = world.segmind.jobs, shown
    await world.run(table("a", "b"), settings={"concurrency": 1})
    assert world.segmind.posts == 2
    assert len(jobs) == 2


@pytest.mark.parametrize("defaults", [{"top_p": 1}, {"safety": {"level": "low"}, "seed": None}])
async def test_defaults_that_the_server_adds_do_not_hide_a_lost_request(defaults: dict[str, Any]) -> None:
    lost = ["lost", "gone"]
    world = World(
        trouble=lambda body: lost.pop() if body["prompt"] in ("Say b", "Say c") and lost else None, defaults=defaults
    )
    for _ in range(2):
        stored = await world.run(table("a", "b", "c", "d"), settings={"concurrency": 1})
    assert stored.statuses == ["success"] * 4
    assert len(world.segmind.paid_bodies) == 4


@pytest.mark.parametrize("defaults", [{}, {"safety": {"level": "low"}, "seed": None}])
async def test_defaults_that_the_server_adds_do_not_hide_a_lost_follow_up(defaults: dict[str, Any]) -> None:
    lost = ["lost"]
    world = World(trouble=lambda body: lost.pop() if "try 2" in body["prompt"] and lost else None, defaults=defaults)

    stored = await world.run(table("a", "b"), question(read=mend), settings={"concurrency": 1})

    assert stored.statuses == ["success", "success"]
    assert world.segmind.posts == len(world.segmind.paid_bodies) == 6
    assert stored.manifest.cost == pytest.approx(world.segmind.bill)


@pytest.mark.parametrize("defaults", [{}, {"safety": {"level": "low"}, "seed": None}])
@pytest.mark.parametrize("which", ["try 2", "try 3"])
async def test_a_lost_follow_up_of_a_killed_try_is_found_by_the_next_one(which: str, defaults: dict[str, Any]) -> None:
    lost = ["lost"]
    world = World(
        trouble=lambda body: lost.pop() if which in body["prompt"] and lost else None,
        defaults=defaults,
        history_delay=60.0,
    )
    asked = question(read=mend, form=lambda first, _: {"prompt": first["prompt"]})
    stored = await world.run(table("a", "b"), asked, settings={"concurrency": 1})
    assert stored.statuses == ["unknown", "success"]
    world.clock.now += 120

    stored = await world.run(table("a", "b"), asked, settings={"concurrency": 1})

    assert stored.statuses == ["success", "success"]
    assert world.segmind.posts == len(world.segmind.paid_bodies) == 6
    assert stored.manifest.cost == pytest.approx(world.segmind.bill)


@pytest.mark.parametrize("age", [120, 40_000])
async def test_a_lost_follow_up_whose_body_cannot_be_recognized_is_never_sent_again(age: int) -> None:
    lost = ["lost"]
    world = World(
        trouble=lambda body: lost.pop() if "try 2" in body["prompt"] and lost else None,
        defaults={"top_p": 1},
        history_delay=60.0,
    )
    await world.run(table("a", "b"), question(read=mend), settings={"concurrency": 1})
    world.clock.now += age
    gone = ["gone"]
    world.segmind.trouble = lambda body: gone.pop() if body["prompt"] == "Say c" and gone else None
    world.segmind.history_delay = 0.0
    for _ in range(3):
        stored = await world.run(table("c", "a", "b"), question(read=mend), settings={"concurrency": 1})
        assert stored.statuses[1:] == ["unknown", "success"]
        world.clock.now += age
    assert len(world.segmind.paid_bodies) == len(set(world.segmind.paid_bodies))


async def test_an_equal_request_of_another_row_is_not_taken_for_a_lost_one() -> None:
    world = World()
    # Many more than are remembered in memory.
    await world.run(table("a", *map(str, range(300))), question(schema={"type": "string"}))
    world.clock.now = min(job.at for job in world.segmind.jobs.values()) + 1
    lost = ["gone"]
    world.segmind.trouble = lambda body: lost.pop() if lost else None
    stored = await world.run(table("a", "b"), settings={"concurrency": 1})
    assert stored.statuses == ["success", "success"]
    assert len(set(stored.column("_segmind_request_id"))) == 2
    assert len(world.segmind.jobs) == 301 + 2


async def test_a_history_out_of_reach_leaves_fates_open() -> None:
    class Mute(FakeSegmind):
        async def list_request_records(self, **_: Any) -> Any:
            raise SegmindBadRequestError("no history for you")

    world = World()
    world.segmind = Mute(world.clock, trouble=lambda body: "lost" if "a" in body["prompt"][4:] else None)
    assert (await world.run(table("a", "b"))).statuses == ["unknown", "success"]


async def test_a_refused_body_fails_its_row_only() -> None:
    world = World(trouble=lambda body: SegmindBadRequestError("400: no") if "b" in body["prompt"] else None)
    stored = await world.run(table("a", "b", "c"))
    assert stored.statuses == ["success", "failed", "success"]
    assert stored.manifest.cost == pytest.approx(2 * PRICE)


async def test_a_refused_key_stops_the_run_at_once() -> None:
    world = World(trouble=lambda _: SegmindAuthenticationError("401: no"))
    stored = await world.run(table(*map(str, range(100))))
    assert world.segmind.posts <= 4
    assert set(stored.statuses) == {"skipped"}
    assert stored.stopped is not None
    assert isinstance(stored.stopped.error, SegmindAuthenticationError)


async def test_a_request_that_takes_too_long_is_fetched_by_the_retry() -> None:
    class Slow(FakeSegmind):
        async def wait(self, pending: Any, *, fetch: bool = False) -> Any:
            if self.clock.now < 1_700_000_100:
                raise SegmindRequestTimeoutError("still going", request_id=pending.request_id)
            return await super().wait(pending, fetch=fetch)

    world = World()
    world.segmind = Slow(world.clock)
    stored = await world.run(table("a"))
    assert stored.statuses == ["unknown"]
    assert stored.rows[0]["_segmind_request_id"] in world.segmind.jobs
    world.clock.now += 200
    stored = await world.run(table("a"))
    assert stored.statuses == ["success"]
    assert (world.segmind.posts, stored.manifest.resumed) == (1, 1)


async def test_an_expired_result_is_accounted_for_and_not_paid_again() -> None:
    world = World()

    class Frozen(FakeSegmind):
        async def wait(self, pending: Any, *, fetch: bool = False) -> Any:
            raise SegmindRequestTimeoutError("still going", request_id=pending.request_id)

    world.segmind = Frozen(world.clock)
    await world.run(table("a"))
    world.segmind.__class__ = FakeSegmind
    world.clock.now += 2 * 3600
    stored = await world.run(table("a"))
    assert (stored.statuses, stored.rows[0]["_segmind_cost"]) == (["failed"], PRICE)
    await world.run(table("a"))
    assert world.segmind.posts == 1


@pytest.mark.parametrize(
    ("status", "deduction", "cost"), [("failed", None, 0.0), ("Completed", PRICE, PRICE), ("PENDING", 0.0, None)]
)
async def test_an_expired_result_costs_what_its_entry_of_the_history_says(
    status: str, deduction: float | None, cost: float | None
) -> None:
    class Expired(FakeSegmind):
        async def wait(self, pending: Any, *, fetch: bool = False) -> Any:
            raise SegmindRequestExpiredError("gone", request_id=pending.request_id)

        async def get_request_record(self, request_id: str) -> RequestRecord:
            return RequestRecord(request_id=request_id, model_status=status, credits_deduction=deduction)

    world = World()
    world.segmind = Expired(world.clock)
    stored = await world.run(table("a"))
    [row] = stored.rows
    assert (row["_segmind_status"], row["_segmind_cost"]) == ("failed", cost)
    assert stored.manifest.unpriced == (cost is None)


async def test_max_cost_is_never_passed_by_more_than_one_request_once_the_price_is_known() -> None:
    world = World()
    texts = table(*map(str, range(100)))
    stored = await world.run(texts, limits=Limits(max_cost=20 * PRICE, expected_cost=PRICE))
    assert world.segmind.bill == pytest.approx(20 * PRICE)
    assert stored.manifest.outcomes["skipped"] == 80
    assert "max_cost" in (stored.manifest.stopped or "")


async def test_a_retry_has_no_fresh_budget_and_the_next_run_has() -> None:
    world = World()
    texts = table(*map(str, range(30)))
    limits = Limits(max_cost=10 * PRICE, expected_cost=PRICE)
    for _ in range(3):
        await world.run(texts, limits=limits)
    assert world.segmind.bill == pytest.approx(10 * PRICE)
    stored = await world.run(texts, limits=limits, run_id="run-2")
    assert world.segmind.bill == pytest.approx(20 * PRICE)
    assert stored.manifest.cost == pytest.approx(10 * PRICE)


async def test_max_rows_counts_over_all_tries_of_a_run() -> None:
    world = World()
    texts = table(*map(str, range(30)))
    for _ in range(2):
        await world.run(texts, limits=Limits(max_rows=7))
    assert world.segmind.posts == 7


async def test_too_many_failed_rows_stop_the_run() -> None:
    world = World(failing=lambda _: "no")
    stored = await world.run(table(*map(str, range(100))), limits=Limits(max_failed_rows=5))
    assert 6 <= stored.manifest.outcomes["failed"] <= 6 + 4
    assert "max_failed_rows=5" in (stored.manifest.stopped or "")


async def test_a_share_of_failed_rows_is_judged_on_a_sample() -> None:
    world = World(failing=lambda _: "no")
    stored = await world.run(table(*map(str, range(200))), limits=Limits(max_failed_rows=0.1))
    assert 50 <= stored.manifest.outcomes["failed"] <= 55


async def test_a_graceful_stop_submits_nothing_more_and_finishes_what_is_in_flight() -> None:
    world = World(steps=3)
    engine = world.engine(table(*map(str, range(200))))

    def trouble(_: Mapping[str, Any]) -> None:
        if world.segmind.posts == 10:
            engine.stop("the task was killed", hurry=True)

    world.segmind.trouble = trouble
    await engine.run()
    stored = Stored(engine)
    assert world.segmind.posts <= 14
    assert stored.manifest.outcomes["success"] == len(world.segmind.jobs)
    assert stored.manifest.stopped == "the task was killed"
    engine.close()
    stored = await world.run(table(*map(str, range(200))))
    assert world.segmind.bill == pytest.approx(200 * PRICE)


async def test_what_does_not_finish_within_the_grace_period_is_fetched_by_the_retry() -> None:
    class Stuck(FakeSegmind):
        async def wait(self, pending: Any, *, fetch: bool = False) -> Any:
            if len(engine.waiting) == 2:
                engine.stop("killed", hurry=True)
            await asyncio.sleep(3600)

    world = World()
    world.segmind = Stuck(world.clock)
    engine = world.engine(table("a", "b"))
    await engine.run()
    assert Stored(engine).statuses == ["unknown", "unknown"]
    engine.close()
    world.segmind.__class__ = FakeSegmind
    assert (await world.run(table("a", "b"))).statuses == ["success", "success"]
    assert world.segmind.posts == 2


async def test_nothing_is_asked_when_the_ledger_cannot_be_written() -> None:
    world = World()
    world.store.broken = True
    with pytest.raises(SegmindEnrichmentError, match="cannot be written") as caught:
        await world.run(table("a", "b"))
    assert caught.value.retryable
    assert world.segmind.posts == 0


async def test_nothing_is_asked_when_the_ledger_cannot_be_read() -> None:
    world = World()
    world.store.objects["bucket/ledger/1-x-1.jsonl"] = b"torn"
    with pytest.raises(SegmindEnrichmentError, match="cannot be read"):
        await world.run(table("a"))
    assert world.segmind.posts == 0


async def test_shards_share_out_the_rows_and_no_equal_rows_meet_two_of_them() -> None:
    world = World()
    texts = table(*[str(number % 40) for number in range(100)])
    stored = [await world.run(texts, shard=Shard(index=index, count=3)) for index in range(3)]
    assert world.segmind.posts == 40
    assert sum(one.manifest.rows_read for one in stored) == 100
    assert sorted(number for one in stored for number in one.column("_segmind_row")) == list(range(100))


async def test_concurrency_bounds_the_requests_in_flight() -> None:
    world = World(steps=4)
    await world.run(table(*map(str, range(50))), settings={"concurrency": 3})
    assert 1 < world.segmind.most_in_flight <= 3


async def test_rows_on_their_way_are_bounded_by_their_bytes() -> None:
    world = World(steps=3)
    texts = table(*(f"{number}{'x' * 1000}" for number in range(40)))
    stored = await world.run(texts, settings={"concurrency": 16, "bytes_in_flight": 3500, "block_bytes": 2500})
    assert stored.manifest.outcomes["success"] == 40
    assert world.segmind.most_in_flight == 3


async def test_a_row_larger_than_the_room_goes_alone() -> None:
    world = World()
    stored = await world.run(table("x" * 900, "y" * 900), settings={"bytes_in_flight": 100, "block_bytes": 100})
    assert stored.statuses == ["success", "success"]
    assert world.segmind.most_in_flight == 1


async def test_rows_that_wait_for_files_are_built_abreast_and_stay_in_order() -> None:
    together = threading.Barrier(4, timeout=10)

    def slowly(row: Row) -> dict[str, Any]:
        together.wait()
        return build(row)

    stored = await World().run(table(*map(str, range(12))), question(build=slowly, parallel_builds=4))

    assert stored.column("said") == [f"SAY {number}" for number in range(12)]


@pytest.mark.parametrize("bad", [0, 2])
async def test_a_row_that_cannot_be_asked_about_is_skipped_wherever_it_stands(bad: int) -> None:
    def choosy(row: Row) -> dict[str, Any]:
        if row.number == bad:
            raise SegmindRowError("its picture is not there")
        return build(row)

    stored = await World().run(table("a", "b", "c"), question(build=choosy))

    assert [status == "skipped" for status in stored.statuses] == [number == bad for number in range(3)]
    assert "its picture is not there" in stored.column("_segmind_error")


async def test_a_source_that_breaks_off_loses_nothing_that_was_paid_for() -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from table(*map(str, range(20)))
        raise SegmindConfigError("line 21 is no JSON")

    world = World(steps=4)
    with pytest.raises(SegmindEnrichmentError, match=r"after 20 rows\. line 21") as caught:
        await world.run(broken())  # type: ignore[arg-type]
    assert not caught.value.retryable
    stored = await world.run(table(*map(str, range(20))))
    assert (stored.manifest.outcomes["success"], world.segmind.posts) == (20, len(world.segmind.jobs))
    assert world.segmind.bill == pytest.approx(20 * PRICE)
    assert world.segmind.history_calls == 0


async def test_progress_is_told_at_the_end() -> None:
    told: list[Progress] = []
    await World().run(table("a", "b"), progress=told.append)
    assert (told[-1].rows_read, told[-1].outcomes[Outcome.SUCCESS], told[-1].in_flight) == (2, 2, 0)
    assert told[-1].cost == pytest.approx(2 * PRICE)


async def test_a_row_that_queues_for_the_rate_limit_is_not_claimed() -> None:
    world = World()
    inner = world.segmind.submit
    served = 0

    async def limited(model: str, inputs: Any, **checks: Any) -> Any:
        nonlocal served
        served += 1
        if served > 2:
            # The rate limit gives no more leave; then somebody kills the process.
            await asyncio.sleep(3600)
        return await inner(model, inputs, **checks)

    world.segmind.submit = limited  # type: ignore[method-assign]
    running = asyncio.create_task(world.run(table(*map(str, range(9))), settings={"concurrency": 5}))
    while served < 7:
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    ledger = Ledger(world.store.path("bucket/ledger"), run="r", writer="w")
    ledger.replay()
    assert list(ledger.open_rows()) == []
    ledger.close()
    world.segmind.submit = inner  # type: ignore[method-assign]
    stored = await world.run(table(*map(str, range(9))))
    assert set(stored.statuses) == {"success"}
    assert world.segmind.history_calls == 0


async def test_a_follow_up_refused_before_its_claim_leaves_the_paid_answer_to_the_retry() -> None:
    def read(reply: RowReply) -> RowVerdict:
        again = FollowUp({"prompt": "again"}, (0,), "no")
        return RowVerdict(Accept({"said": "yes"}) if reply.follow_ups else again)

    world = World()
    inner = world.segmind.submit

    async def out_of_reach(model: str, inputs: Any, **checks: Any) -> Any:
        if inputs["prompt"] == "again":
            raise SegmindConnectionError("The rate limit shared through Redis is out of reach.")
        return await inner(model, inputs, **checks)

    world.segmind.submit = out_of_reach  # type: ignore[method-assign]
    first = await world.run(table("a"), question(read=read), settings={"outage_patience": 0.0})
    assert first.statuses == ["unknown"]
    world.segmind.submit = inner  # type: ignore[method-assign]

    retry = await world.run(table("a"), question(read=read))

    assert retry.statuses == ["success"]
    # The row's own question and the further one, each once.
    assert world.segmind.posts == 2
    assert retry.manifest.cost == pytest.approx(2 * PRICE)


async def test_a_follow_up_that_gets_its_permit_during_a_pause_waits_and_keeps_the_reply_before_it() -> None:
    def read(reply: RowReply) -> RowVerdict:
        again = FollowUp({"prompt": "again"}, (0,), "no")
        return RowVerdict(Accept({"said": "yes"}) if reply.follow_ups else again)

    world, sent_while_paused = World(), list[int]()
    inner, engine = world.segmind.submit, world.engine(table("a"), question(read=read))

    async def resume_later() -> None:
        # Every row has found out about the pause by then: no step of this engine takes time.
        for _ in range(200):
            await asyncio.sleep(0)
        sent_while_paused.append(world.segmind.posts)
        # Segmind does not keep the first reply for so long.
        world.clock.now += RESULT_LIFETIME + 1
        engine.pause(None)

    async def submit(model: str, inputs: Any, **checks: Any) -> Any:
        if inputs["prompt"] == "again" and not resumes:
            # The follow-up waits for the rate limit.
            engine.pause("invoice under review")
            resumes.append(asyncio.ensure_future(resume_later()))
        return await inner(model, inputs, **checks)

    resumes: list[asyncio.Future[None]] = []
    world.segmind.submit = submit  # type: ignore[method-assign]
    await engine.run()
    await resumes[0]
    stored = Stored(engine)
    engine.close()

    assert sent_while_paused == [1]
    assert stored.statuses == ["success"]
    # The row's own question and the further one, each once.
    assert len(world.segmind.paid_bodies) == len(set(world.segmind.paid_bodies)) == 2
    assert stored.manifest.cost == pytest.approx(2 * PRICE)


async def test_a_shared_limit_that_stays_out_of_reach_stops_the_run_at_once() -> None:
    world, calls = World(), 0

    async def out_of_reach(model: str, inputs: Any, **checks: Any) -> Any:
        nonlocal calls
        calls += 1
        error = SegmindConnectionError("The rate limit shared through Redis has been out of reach for 30 s.")
        error.retries_exhausted = True
        raise error

    world.segmind.submit = out_of_reach  # type: ignore[method-assign]

    stored = await world.run(table(*map(str, range(9))), settings={"concurrency": 3})

    assert calls <= 3
    assert set(stored.statuses) == {"skipped"}
    assert "out of reach for 30 s" in str(stored.stopped)


async def test_small_segments_are_folded_while_the_run_goes_on() -> None:
    world = World()
    stored = await world.run(table(*map(str, range(200))), settings={"fold_at": 8, "concurrency": 2})
    assert set(stored.statuses) == {"success"}
    assert len(world.store.objects) < 60
    assert (await world.run(table(*map(str, range(200))))).manifest.posts == 0


@pytest.mark.parametrize("rows_before", [0, 20])
async def test_a_source_that_breaks_after_requests_were_sent_does_not_say_that_nothing_was(rows_before: int) -> None:
    def breaking(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        yield from rows[:rows_before]
        raise SegmindConfigError("Reading the source failed. Nothing was sent.")

    world, rows = World(), table(*map(str, range(30)))
    with pytest.raises(SegmindError, match="Reading the source failed") as caught:
        await world.run(breaking(rows))  # type: ignore[arg-type]
    assert ("Nothing was sent" in str(caught.value)) is (rows_before == 0)
    await world.run(rows)
    with pytest.raises(SegmindError, match=r"this run had sent 30 requests before") as caught:
        await world.run(breaking(rows))  # type: ignore[arg-type]
    assert "Nothing was sent" not in str(caught.value)


@pytest.mark.parametrize("history_answers", [True, False])
@pytest.mark.parametrize(("run_of_the_claim", "most"), [("run-1", 3), ("another", 2)])
async def test_max_rows_counts_a_row_once_whose_lost_request_never_arrived(
    run_of_the_claim: str, most: int, history_answers: bool
) -> None:
    world = World()
    prepared = question().prepare(Row(0, table("a")[0]))
    claim = Claimed(
        fingerprint=prepared.fingerprint, attempt=1, at=world.clock() - 100, run=run_of_the_claim, writer="w",
        model="m", body=prepared.body, id="w.0",
    )  # fmt: skip
    folder: Any = world.store.path("bucket/ledger")
    write_segment(folder, "00000000000001-w-000000.jsonl", [to_line(claim)])
    genuine, calls = world.segmind.list_request_records, 0

    async def records(**filters: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1 and not history_answers:
            raise SegmindConnectionError("out of reach")
        return await genuine(**filters)

    world.segmind.list_request_records = records  # type: ignore[method-assign]
    stored = await world.run(
        table("a", "b", "c"), settings={"history_complete_after": 0.0}, limits=Limits(max_rows=most)
    )
    assert world.segmind.posts == most
    assert stored.statuses.count("success") == most
