"""When a run defers, that it continues where it was, and which row it keeps back."""

from __future__ import annotations

import asyncio
import json
import random
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_segmind.client.poll_schedule import Pending
from airflow_provider_segmind.enrichment.ledger.events import Submitted
from airflow_provider_segmind.enrichment.outcomes import Outcome, RowReply, RowVerdict
from airflow_provider_segmind.enrichment.question import Prepared
from airflow_provider_segmind.enrichment.stats import ResumeState
from airflow_provider_segmind.enrichment.work_queue import LATEST_AGE, Deferral, RowTracker, deferral_of
from airflow_provider_segmind.exceptions import SegmindReplyError
from tests.enrichment.test_engine import Stored, World
from tests.support.enrichment import question, table

NOW = 10_000.0


def under_way(*ages: float) -> list[Submitted]:
    return [
        Submitted(fingerprint=bytes(32), attempt=1, at=NOW - age, request_id=f"r-{number}", claim=f"w.{number}")
        for number, age in enumerate(ages)
    ]


def decided(waiting: list[Submitted], **given: Any) -> Deferral | None:
    usual = {
        "more": True,
        "waiting_for_permit": False,
        "typical": 300.0,
        "until_submit": 0.0,
        "now": NOW,
        "at_least": 60.0,
    }
    return deferral_of(waiting, **{**usual, **given})


def test_a_slow_model_lets_the_run_defer_until_half_of_its_requests_have_ended() -> None:
    deferral = decided(under_way(10, 20, 5))
    assert deferral == Deferral((("r-0", NOW - 10), ("r-1", NOW - 20), ("r-2", NOW - 5)), 2, NOW - 20 + LATEST_AGE)


def test_with_no_row_left_it_rests_until_all_have_ended() -> None:
    deferral = decided(under_way(10, 20, 5), more=False)
    assert deferral is not None
    assert deferral.enough == 3


@pytest.mark.parametrize(
    ("ages", "given"),
    [
        ([1, 2], {"typical": 4.0}),
        ([250, 250], {}),
        ([10, 10], {"waiting_for_permit": True, "until_submit": 20.0}),
        ([10, LATEST_AGE], {"typical": 9000.0}),
        ([], {}),
    ],
    ids=["a fast model", "nearly done", "a place comes free soon", "a result is about to be gone", "nothing"],
)
def test_it_does_not_rest_where_something_can_be_done_soon(ages: list[float], given: dict[str, Any]) -> None:
    assert decided(under_way(*ages), **given) is None


def test_what_is_overdue_is_expected_to_take_longer_yet() -> None:
    assert decided(under_way(400, 400)) is not None
    assert decided(under_way(100, 100), typical=50.0) is None


def test_a_tiny_rate_lets_it_defer_until_the_next_place_is_free() -> None:
    assert decided([], waiting_for_permit=True, until_submit=240.0) == Deferral((), 0, NOW + 240)


async def never(*_: Any, **__: Any) -> None:
    await asyncio.sleep(3600)


async def test_a_run_of_slow_requests_defers_and_resumes_by_fetching_them_by_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.segmind.typical = 300.0
    settings = {"deferrable": True, "progress_interval": 0.01}
    rows = table(*map(str, range(10)))
    done = world.segmind.wait

    async def first_only(pending: Pending, *, fetch: bool = False) -> Any:
        return await (done(pending, fetch=fetch) if len(finished) < 1 and not finished.append(1) else never())

    finished: list[int] = []
    monkeypatch.setattr(world.segmind, "wait", first_only)
    engine = world.engine(rows, settings=settings)
    await asyncio.wait_for(engine.run(), 10)
    deferral = engine.deferral
    engine.close()
    assert deferral is not None
    # Four at once, and the fifth in the place of the one that had ended.
    assert world.segmind.posts == 5
    assert (len(deferral.requests), deferral.enough) == (4, 2)
    assert {request_id for request_id, _ in deferral.requests} < set(world.segmind.jobs)

    monkeypatch.setattr(world.segmind, "wait", done)
    stored: Stored = await world.run(rows, settings=settings)
    assert stored.statuses == ["success"] * 10
    assert world.segmind.posts == 10
    assert stored.manifest.resumed == 4
    assert stored.manifest.outcomes[Outcome.SUCCESS] == 10


async def test_a_try_continues_with_its_counts_from_before_a_deferral(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.segmind.typical = 300.0
    done = world.segmind.wait
    monkeypatch.setattr(world.segmind, "wait", never)
    engine = world.engine(table("a", "b"), settings={"deferrable": True, "progress_interval": 0.01})
    await asyncio.wait_for(engine.run(), 10)
    state = ResumeState.from_json(json.loads(json.dumps(engine.resume_state().to_json())))
    engine.close()
    assert state is not None
    assert state.posts == 2

    monkeypatch.setattr(world.segmind, "wait", done)
    stored = await world.run(table("a", "b", "c"), resume_state=state)
    assert stored.manifest.posts == 3
    assert sum(stored.manifest.timeline["posts"]) == 3


def truncated(reply: RowReply) -> RowVerdict:
    raise SegmindReplyError("no", reason="truncated")


async def test_what_was_asked_again_before_a_deferral_is_not_paid_for_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.segmind.typical = 300.0
    settings = {"rerun": frozenset({"truncated"}), "deferrable": True, "progress_interval": 0.01}
    await world.run(table("a"), question(read=truncated))
    done = world.segmind.wait

    async def first_only(pending: Pending, *, fetch: bool = False) -> Any:
        return await (done(pending, fetch=fetch) if pending.request_id == list(world.segmind.jobs)[1] else never())

    world.clock.now += 60
    monkeypatch.setattr(world.segmind, "wait", first_only)
    engine = world.engine(table("a", "b"), question(read=truncated), settings={**settings, "concurrency": 1})
    await asyncio.wait_for(engine.run(), 10)
    state = engine.resume_state()
    engine.close()
    assert (world.segmind.posts, engine.deferral is not None) == (3, True)

    monkeypatch.setattr(world.segmind, "wait", done)
    stored = await world.run(table("a", "b"), question(read=truncated), settings=settings, resume_state=state)
    assert stored.statuses == ["truncated"] * 2
    assert world.segmind.posts == 3


async def test_a_run_that_must_not_rest_waits_itself() -> None:
    world = World()
    world.segmind.typical = 300.0
    stored = await world.run(table("a", "b"), settings={"progress_interval": 0.001})
    assert stored.statuses == ["success"] * 2


@pytest.mark.parametrize(
    ("attempt", "follow_up", "kept"), [(None, None, True), ("claimed", None, False), (None, "paid before", False)]
)
def test_a_row_is_kept_back_only_if_nothing_was_sent_for_it(attempt: Any, follow_up: Any, kept: bool) -> None:
    state = SimpleNamespace(open=attempt, unsent_follow_up=lambda run: follow_up)
    ledger: Any = SimpleNamespace(run="a run", row_state=lambda mark: state)
    nothing: Any = None
    tracker = RowTracker(
        ledger, nothing, nothing, rerun=frozenset(), began=0.0, started=0.0, pause=1.0, rng=random.Random(1),
        monotonic=lambda: 0.0,
    )  # fmt: skip
    first, second, third = (Prepared(bytes([number]) * 32, {}, b"") for number in range(3))

    assert not tracker.postpone_as_evidence(first)
    tracker.contend(third, collided=False)
    assert tracker.postpone_as_evidence(first) is kept
    assert not (kept and tracker.postpone_as_evidence(second))
    assert [row.fingerprint for row in tracker.take_up_postponed()] == [first.fingerprint] * kept
