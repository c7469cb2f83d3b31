"""Runs that overlap on one ledger: each distinct row is paid for once, and every run ends with every answer."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import threading
import time
from collections import Counter
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.ledger import run_liveness
from airflow_provider_segmind.enrichment.ledger.events import Claimed, Submitted, to_line
from airflow_provider_segmind.enrichment.ledger.group_commit import GroupCommit
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.run_liveness import Heartbeat, Membership
from airflow_provider_segmind.enrichment.ledger.segments import read_segment, segment_names, write_segment
from airflow_provider_segmind.enrichment.settings import Shard
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from tests.enrichment.test_engine import Stored, World
from tests.support.enrichment import PRICE, FakeSegmind, question, table

ROWS = [str(number) for number in range(40)]
QUICK = {"contest_pause": 0.02, "commit_delay": 0.001, "fold_at": 6}
DEATH_AFTER = 1.0


def twice(segmind: FakeSegmind) -> list[str]:
    return [body for body, count in Counter(segmind.paid_bodies).items() if count > 1]


async def both(world: World, *runs: dict[str, Any]) -> list[Stored]:
    return await asyncio.wait_for(
        asyncio.gather(*(world.run(table(*ROWS), settings=QUICK, **run) for run in runs)), timeout=30
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("runs", [2, 3])
async def test_runs_that_overlap_pay_each_row_once_and_all_end_with_every_answer(seed: int, runs: int) -> None:
    world = World(steps=4, rng=random.Random(seed))
    stored = await both(world, *({"run_id": f"run-{n}", "rng": random.Random(seed + n)} for n in range(runs)))
    assert twice(world.segmind) == []
    assert len(world.segmind.jobs) == len(ROWS)
    assert all(set(one.statuses) == {"success"} for one in stored)
    assert sum(one.manifest.cost for one in stored) == pytest.approx(world.segmind.bill)
    assert sum(one.manifest.posts for one in stored) == world.segmind.posts


async def test_two_tries_of_one_run_pay_each_row_once_as_well() -> None:
    world = World(steps=4)
    await both(world, {"run_id": "run"}, {"run_id": "run"})
    assert len(world.segmind.jobs) == len(ROWS)


async def test_a_run_that_was_read_before_another_began_and_ended_sees_what_that_one_did() -> None:
    world = World()
    late = world.engine(table(*ROWS), run_id="late", settings=QUICK)
    begun, go_on = asyncio.Event(), asyncio.Event()
    read = late._enqueue_rows

    async def held() -> None:
        begun.set()
        await go_on.wait()
        await read()

    late._enqueue_rows = held  # type: ignore[method-assign]
    running = asyncio.create_task(late.run())
    await begun.wait()
    first = await world.run(table(*ROWS), run_id="first", settings=QUICK)
    assert set(first.statuses) == {"success"}
    go_on.set()
    await running
    assert set(Stored(late).statuses) == {"success"}
    assert world.segmind.posts == len(ROWS)
    late.close()


async def test_a_run_registers_before_it_reads_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    genuine, there = Ledger.replay, []

    def replay(self: Ledger, *args: Any, **options: Any) -> None:
        there.append(f"bucket/ledger/live/{self.writer}.writer" in world.store.objects)
        genuine(self, *args, **options)

    monkeypatch.setattr(Ledger, "replay", replay)
    await world.run(table("a"))
    # What comes later is compaction, which reads with a ledger of its own.
    assert there[0]


async def test_the_last_to_end_leaves_a_folder_of_the_living_that_is_empty() -> None:
    world = World(steps=4)
    await both(world, {"run_id": "a"}, {"run_id": "b"})
    # Two that end at the same moment leave it to the next run.
    await world.run(table(*ROWS), run_id="c")
    assert [key for key in world.store.objects if "/live/" in key] == []
    assert world.segmind.posts >= len(ROWS)
    assert len(world.segmind.jobs) == len(ROWS)


async def test_a_lone_run_makes_no_more_calls_and_leaves_nothing_among_the_living() -> None:
    world = World()
    stored = await world.run(table(*ROWS), settings=QUICK)
    assert (stored.manifest.posts, stored.manifest.calls) == (len(ROWS), 2 * len(ROWS))
    assert [key for key in world.store.objects if "/live/" in key] == []


class Elsewhere:
    """Another writer, moved by hand: it claims a row and shows a heartbeat, or does not."""

    def __init__(self, world: World, text: str = "a", *, shard: Shard | None = None) -> None:
        self.world, self.folder = world, world.store.path("bucket/ledger")
        self.member = Membership(
            self.folder,  # type: ignore[arg-type]
            writer="elsewhere",
            shard=shard or Shard(),
            writer_timeout=DEATH_AFTER,
            clock=world.clock,
        )
        self.member.register()
        self.heart = Heartbeat(self.member)
        prepared = question().prepare(_row(text))
        self.claim = Claimed(
            fingerprint=prepared.fingerprint, attempt=1, at=world.clock(), run="other", writer="elsewhere", model="m",
            body=prepared.body, id="elsewhere.0",
        )  # fmt: skip
        self.number = 0

    def note(self, *events: Any) -> None:
        name = f"{self.number:014d}-elsewhere-{self.number:06d}.jsonl"
        claims = tuple((each.fingerprint, each.id) for each in events if isinstance(each, Claimed))
        self.member.write(name, self.number, [to_line(each) for each in events], claims)
        self.number += 1


def _row(text: str) -> Any:
    from airflow_provider_segmind.enrichment.rows import Row

    return Row(0, table(text)[0])


def dying(**more: Any) -> dict[str, Any]:
    return {**QUICK, "writer_timeout": DEATH_AFTER, "history_complete_after": 0.0, **more}


async def test_a_row_that_a_silent_writer_claimed_waits_until_that_one_is_dead_and_others_do_not() -> None:
    world = World()
    other = Elsewhere(world)
    other.note(other.claim)
    began = time.monotonic()
    running = asyncio.create_task(world.run(table("a", "b", "c", "d"), settings=dying()))
    while world.segmind.posts < 2:
        await asyncio.sleep(0.01)
    assert time.monotonic() - began < DEATH_AFTER
    stored = await asyncio.wait_for(running, 20)
    assert time.monotonic() - began > DEATH_AFTER
    assert stored.statuses == ["success"] * 4
    assert world.segmind.posts == 4
    # The history was asked before the row was sent again.
    assert world.segmind.history_calls > 0


async def test_rows_that_a_dead_writer_claimed_are_asked_although_the_history_may_be_late() -> None:
    world = World()
    other = Elsewhere(world)
    other.note(other.claim)
    settings = {**QUICK, "writer_timeout": DEATH_AFTER}

    stored = await asyncio.wait_for(world.run(table("a", "b", "c"), settings=settings), 20)

    assert stored.statuses == ["success"] * 3
    assert world.segmind.posts == 3
    assert twice(world.segmind) == []


async def test_a_request_that_a_dead_writer_did_send_is_found_and_not_sent_again() -> None:
    world = World()
    other = Elsewhere(world)
    other.note(other.claim)
    await world.segmind.submit("m", {"prompt": "Say a", "temperature": 0}, on_permit=nothing, before_send=nothing)
    settings = {**QUICK, "writer_timeout": DEATH_AFTER}

    stored = await asyncio.wait_for(world.run(table("a", "b", "c"), settings=settings), 20)

    assert stored.statuses == ["success"] * 3
    assert world.segmind.posts == 3
    assert twice(world.segmind) == []


async def test_a_row_of_a_writer_that_is_at_work_is_waited_for_and_its_answer_taken() -> None:
    world = World()
    other = Elsewhere(world)
    other.note(other.claim)
    other.heart.start()
    running = asyncio.create_task(world.run(table("a", "b", "c"), run_id="mine", settings=dying()))
    await asyncio.sleep(2 * DEATH_AFTER)
    assert not running.done()
    # One row waits for the end of the other writer, in case that one dies.
    assert world.segmind.posts == 1
    await world.segmind.submit("m", {"prompt": "Say a", "temperature": 0}, on_permit=nothing, before_send=nothing)
    (request_id,) = [job.id for job in world.segmind.jobs.values() if job.body["prompt"] == "Say a"]
    mark = other.claim.fingerprint
    other.note(Submitted(fingerprint=mark, attempt=1, at=world.clock(), request_id=request_id, claim="elsewhere.0"))
    stored = await asyncio.wait_for(running, 20)
    other.heart.stop()
    assert stored.statuses == ["success"] * 3
    assert world.segmind.posts == 3
    # It was sent, and is paid for, by the other run.
    assert (stored.manifest.cost, stored.manifest.cache_hits) == (2 * PRICE, 1)


async def nothing() -> None:
    pass


async def test_a_writer_declared_dead_finds_out_before_it_sends() -> None:
    world = World()
    engine = world.engine(table("a", "b", "c"), settings=dying(concurrency=1))
    submit = world.segmind.submit

    async def frozen(model: str, inputs: Any, *, on_permit: Any, before_send: Any) -> Any:
        async def woken() -> None:
            # Between its claim and its bytes the process stands still, and somebody else declares it dead.
            live = f"bucket/ledger/live/{engine.ledger.writer}"
            world.store.objects[f"{live}.dead"] = json.dumps({"at": time.time()}).encode()
            engine.member._listing = None
            await before_send()

        return await submit(model, inputs, on_permit=on_permit, before_send=woken)

    world.segmind.submit = frozen  # type: ignore[method-assign]
    with pytest.raises(SegmindEnrichmentError, match="considered this run dead") as caught:
        await engine.run()
    engine.close()
    assert caught.value.retryable
    assert world.segmind.posts == 0


async def test_a_heartbeat_that_cannot_be_written_stops_the_run_before_others_may_take_it_for_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    monkeypatch.setattr(Heartbeat, "start", lambda self: None)
    submit = world.segmind.submit

    async def slow(*args: Any, **checks: Any) -> Any:
        await asyncio.sleep(0.1)
        return await submit(*args, **checks)

    world.segmind.submit = slow  # type: ignore[method-assign]
    began = time.monotonic()
    with pytest.raises(SegmindEnrichmentError, match="heartbeat"):
        await world.run(table(*ROWS), settings=dying(concurrency=1))
    assert time.monotonic() - began < DEATH_AFTER
    assert 0 < world.segmind.posts < len(ROWS)


async def test_a_store_that_cannot_be_listed_stops_the_run_and_what_was_paid_is_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(steps=4)
    genuine, looks = Membership._read_new_segments, 0

    def failing(self: Membership, listing: Any) -> bool:
        nonlocal looks
        looks += 1
        if looks > 3:
            raise OSError("no listing")
        return genuine(self, listing)

    monkeypatch.setattr(Membership, "_read_new_segments", failing)
    with pytest.raises(SegmindEnrichmentError, match="out of reach") as caught:
        await world.run(table(*ROWS), settings=QUICK)
    assert caught.value.retryable
    sent = world.segmind.posts
    assert 0 < sent < len(ROWS)
    monkeypatch.setattr(Membership, "_read_new_segments", genuine)
    monkeypatch.setattr(Membership, "is_active", lambda *_: False)
    again = await world.run(table(*ROWS), settings=QUICK)
    assert set(again.statuses) == {"success"}
    assert (world.segmind.posts, again.manifest.resumed, world.segmind.history_calls) == (len(ROWS), 0, 0)


async def test_shards_never_read_each_others_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(steps=4)
    read: list[str] = []
    genuine = Membership._read_new_segments

    def listening(self: Membership, listing: Any) -> bool:
        found = genuine(self, listing)
        read.extend(name for name, _ in self.inbox)
        return found

    monkeypatch.setattr(Membership, "_read_new_segments", listening)
    runs = [world.run(table(*ROWS), shard=Shard(index=n, count=3), settings=QUICK) for n in range(3)]
    stored = await asyncio.wait_for(asyncio.gather(*runs), 20)
    assert world.segmind.posts == len(ROWS)
    assert read == []
    assert sum(one.manifest.rows_read for one in stored) == len(ROWS)


async def test_a_release_ends_only_the_claim_it_names() -> None:
    world = World()
    other = Elsewhere(world)
    mine = Claimed(
        fingerprint=other.claim.fingerprint, attempt=1, at=1.0, run="r", writer="w", model="m", body="b", id="w.0"
    )
    engine = world.engine(table("a"))
    ledger = engine.ledger
    for event in (other.claim, mine):
        ledger.append(event)
    assert ledger.blocks(mine)
    from airflow_provider_segmind.enrichment.ledger.events import Freed

    ledger.append(Freed(fingerprint=mine.fingerprint, attempt=1, at=2.0, claim="w.0"))
    again = Claimed(fingerprint=mine.fingerprint, attempt=2, at=3.0, run="r", writer="w", model="m", body="b", id="w.1")
    ledger.append(again)
    # A claim of an earlier attempt counts like any other.
    assert ledger.blocks(again)
    ledger.append(Freed(fingerprint=mine.fingerprint, attempt=1, at=2.0, claim="elsewhere.0"))
    assert not ledger.blocks(again)
    engine.close()


async def test_a_conflict_gives_the_permit_back_and_counts_no_call() -> None:
    from airflow_provider_segmind.client.async_client import AsyncSegmindClient
    from airflow_provider_segmind.client.config import ClientConfig
    from airflow_provider_segmind.client.endpoints import Endpoints
    from airflow_provider_segmind.client.rate_limiter import CallWithdrawnError

    host = "http://127.0.0.1:9"
    async with AsyncSegmindClient(ClientConfig("SG_" + "0" * 16, Endpoints(host, host, host, host))) as client:
        counted: list[bool] = []
        client.count_calls(counted.append)

        async def conflict() -> None:
            raise CallWithdrawnError

        with pytest.raises(CallWithdrawnError):
            await client.submit("m", {}, on_permit=conflict)
        assert counted == []
        assert client.limiter._window.used(time.time()) == 0


def test_a_segment_with_a_live_claim_or_one_that_somebody_has_not_read_is_not_moved() -> None:
    world = World()
    folder: Any = world.store.path("bucket/ledger")
    mine = Elsewhere(world)
    mine.note(mine.claim)
    assert mine.member.movable(lambda *_: True) == []
    assert mine.member.movable(lambda *_: False) == [0]
    reader = Membership(folder, writer="reader", shard=Shard(), writer_timeout=60.0, clock=world.clock)
    reader.register()
    mine.note(mine.claim)
    mine.member.fold([0, 1])
    assert len(segment_names(folder / "live")) == 2
    for _ in range(2):
        reader.refresh()
    reader.beat()
    mine.member.fold([0, 1])
    assert segment_names(folder / "live") == []
    assert len(segment_names(folder)) == 1


def test_an_nfs_mount_that_keeps_listings_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(f"{run_liveness.__name__}.caching_mount", lambda _: "rw,vers=4.1")
    with caplog.at_level(logging.WARNING):
        Elsewhere(World())
    assert "lookupcache=none,actimeo=0" in caplog.text


async def test_a_run_that_rests_ends_its_heartbeat_and_others_fetch_what_it_had_asked() -> None:
    world = World()
    world.segmind.typical = 300.0
    wait = world.segmind.wait

    async def never(*_: Any, **__: Any) -> None:
        await asyncio.sleep(3600)

    world.segmind.wait = never  # type: ignore[assignment]
    engine = world.engine(table("a", "b"), settings={"deferrable": True, "progress_interval": 0.01})
    await asyncio.wait_for(engine.run(), 10)
    assert engine.deferral is not None
    assert engine.heartbeat._thread is not None
    assert not engine.heartbeat._thread.is_alive()
    engine.close()
    world.segmind.wait = wait  # type: ignore[method-assign]
    stored = await asyncio.wait_for(world.run(table("a", "b"), run_id="another"), 10)
    assert stored.statuses == ["success"] * 2
    assert world.segmind.posts == 2


@pytest.mark.parametrize("error", [OSError("connection reset"), RuntimeError("503 Service Unavailable")])
async def test_a_heartbeat_that_could_not_be_read_once_does_not_end_the_watch_over_it(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    other = Elsewhere(world)
    other.note(other.claim)
    genuine, reads = Membership._is_silent, 0

    def failing_once(self: Membership, writer: str) -> bool:
        nonlocal reads
        reads += 1
        if reads == 2:
            raise error
        return genuine(self, writer)

    monkeypatch.setattr(Membership, "_is_silent", failing_once)
    stored = await asyncio.wait_for(world.run(table("a", "b"), settings=dying()), 20)
    assert reads > 2
    assert stored.statuses == ["success"] * 2


async def test_a_run_that_begins_while_another_moves_its_segments_away_reads_them_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    await world.run(table(*ROWS), settings=QUICK)
    folder: Any = world.store.path("bucket/ledger")
    names = segment_names(folder)
    for number, line in enumerate(line for name in names for line in read_segment(folder, name) or []):
        write_segment(folder / "live", f"{number:014d}-elsewhere-{number:06d}.jsonl", [line])
    for name in names:
        (folder / name).unlink()
    assert len(segment_names(folder / "live")) > run_liveness.LISTINGS

    def always_moved_before(live_folder: Any, name: str) -> list[bytes] | None:
        if name in segment_names(live_folder):
            write_segment(folder, name, read_segment(live_folder, name) or [])
            (live_folder / name).unlink()
        return read_segment(live_folder, name)

    monkeypatch.setattr(run_liveness, "read_segment", always_moved_before)
    again = await world.run(table(*ROWS), settings=QUICK)
    assert set(again.statuses) == {"success"}
    assert world.segmind.posts == len(ROWS)


def test_claims_are_listed_while_segments_are_being_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Elsewhere(World())
    for _ in range(4):
        mine.note(mine.claim)
    genuine, listed = run_liveness.compact, []

    def slow(*args: Any, **options: Any) -> Any:
        looking = threading.Thread(target=mine.member.refresh, daemon=True)
        looking.start()
        looking.join(5)
        listed.append(not looking.is_alive())
        return genuine(*args, **options)

    monkeypatch.setattr(run_liveness, "compact", slow)
    mine.member.fold(range(4))
    assert listed == [True]
    assert segment_names(mine.member.folder) == []
    assert mine.member.own_segments == 0


class StoreError(Exception):
    """What the library of a store raises that is not an OSError, as gcsfs and adlfs do."""


async def test_an_error_of_a_stores_own_library_stops_the_run_instead_of_leaving_its_rows_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()

    def unavailable(*_: Any) -> None:
        raise StoreError("503 Service Unavailable")

    monkeypatch.setattr(Membership, "write", unavailable)
    with pytest.raises(SegmindEnrichmentError, match="cannot be written: 503") as caught:
        await asyncio.wait_for(world.run(table("a", "b"), settings=QUICK), 10)
    assert caught.value.retryable
    assert isinstance(caught.value.__cause__, StoreError)
    assert world.segmind.posts == 0


async def test_a_heartbeat_goes_on_after_an_error_of_a_stores_own_library(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Elsewhere(World())
    genuine, beats = Membership.beat, 0

    def failing_once(self: Membership) -> None:
        nonlocal beats
        beats += 1
        if beats == 1:
            raise StoreError("503 Service Unavailable")
        genuine(self)

    monkeypatch.setattr(Membership, "beat", failing_once)
    other.heart.start()
    await asyncio.sleep(DEATH_AFTER / 2)
    other.heart.stop()
    assert beats > 1
    assert other.member.trouble() is None


async def test_nothing_is_read_from_the_store_to_tell_whether_others_are_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    other = Elsewhere(world)
    reader = Membership(other.folder, writer="reader", shard=Shard(), writer_timeout=60.0, clock=world.clock)  # type: ignore[arg-type]
    reader.register()

    def unreadable(*_: Any) -> None:
        raise OSError("out of reach")

    # The event loop asks this for each block of rows.
    monkeypatch.setattr(Membership, "_content", unreadable)
    assert reader.has_others()


async def test_a_run_shows_its_heartbeat_while_it_reads_what_others_have_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    engine = world.engine(table("a"), settings=dying())
    genuine, beats = Membership._read_new_segments, []

    def slow(self: Membership, listing: Any) -> bool:
        if not beats:
            time.sleep(DEATH_AFTER / 2)
            beats.append(self._beats)
        return genuine(self, listing)

    monkeypatch.setattr(Membership, "_read_new_segments", slow)
    await engine.run()
    engine.close()
    # One is written with the registration.
    assert beats[0] > 1


async def test_no_segment_is_being_folded_any_more_when_a_run_unregisters(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    fold, unregister = Membership.fold, Membership.unregister
    running: list[int] = []
    met: list[bool] = []

    def slow(self: Membership, numbers: Any) -> None:
        running.append(1)
        time.sleep(0.05)
        fold(self, numbers)
        running.pop()

    def watched(self: Membership) -> None:
        met.append(bool(running))
        unregister(self)

    async def folding_at_last(self: GroupCommit) -> None:
        self._fold_at = self._next_fold = 1
        await close(self)

    close = GroupCommit.close
    monkeypatch.setattr(GroupCommit, "close", folding_at_last)
    monkeypatch.setattr(Membership, "fold", slow)
    monkeypatch.setattr(Membership, "unregister", watched)
    await world.run(table(*ROWS), settings={**QUICK, "fold_at": 1000})
    assert met == [False]


async def test_a_foreign_file_among_the_live_segments_stops_the_run_with_its_name() -> None:
    world = World()
    engine = world.engine(table(*ROWS), settings=QUICK)
    genuine = engine.reader.next_block

    def intruded() -> Any:
        with world.store.path("bucket/ledger/live/notes.jsonl").open("wb") as file:
            file.write(b"{}\n")
        return genuine()

    engine.reader.next_block = intruded  # type: ignore[method-assign]
    with pytest.raises(
        SegmindEnrichmentError, match=r"'notes\.jsonl' cannot be read: its name is not that of a segment"
    ):
        await engine.run()
    engine.close()
    assert world.segmind.posts == 0


async def test_an_error_of_a_store_s_library_while_listing_is_not_taken_for_a_failed_write(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class LibraryError(Exception):
        pass

    def failing(self: Membership) -> None:
        raise LibraryError("throttled")

    world = World()
    engine = world.engine(table(*ROWS), settings=QUICK)
    monkeypatch.setattr(Membership, "refresh", failing)
    with pytest.raises(SegmindEnrichmentError, match=r"is out of reach: throttled.*a retry tries again") as caught:
        await engine.run()
    engine.close()
    assert isinstance(caught.value.__cause__, LibraryError)
    assert engine.commits.error is None
    assert world.segmind.posts == 0
