from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.client.rate_limiter import Permit, Priority, RateLimiter, RateSettings, rate_limiter_for
from airflow_provider_segmind.client.retry import may_send_again, seconds_before_retry
from airflow_provider_segmind.exceptions import SegmindConnectionError, SegmindRateLimitError, SegmindResponseError
from tests.support.virtual_time import Server, Worker, World, a_call, fleet, seeded, send

REDIS = "redis://127.0.0.1:6379/0"


def limiter_of(*, polls_count: bool = False, **options: Any) -> RateLimiter:
    limiter = RateLimiter(RateSettings(**options), name=uuid.uuid4().hex, rng=seeded())
    limiter.counts_polls = polls_count
    return limiter


def admitted(limiter: RateLimiter, call: Any, now: float) -> Permit:
    with pytest.raises(StopIteration) as stop:
        next(limiter.admission(call, lambda: now, None))
    return stop.value.value


def refused(retry_after: float | None = None) -> SegmindRateLimitError:
    return SegmindRateLimitError("Too many.", status_code=429, retry_after=retry_after)


def test_300_requests_keep_to_50_calls_a_minute_without_a_429_and_use_85_percent_of_it() -> None:
    world, done = World(), Counter[str]()
    server = Server(world)
    limiter = limiter_of(requests_per_minute=50, polls_count=True)
    for worker in fleet(world, server, limiter, 300, done):
        world.start(worker)
    began = world.now
    world.run()
    assert done == {"POST": 300, "GET": 300}
    assert not server.refused
    assert server.most_in_a_minute() <= 50
    assert 600 / ((world.now - began) / 60) >= 0.85 * 50


def test_three_processes_with_shares_never_exceed_the_limit_together() -> None:
    world, done = World(), Counter[str]()
    server = Server(world)
    for share in (0.5, 0.3, 0.2):
        limiter = limiter_of(requests_per_minute=50, rate_share=share, polls_count=True)
        for worker in fleet(world, server, limiter, int(200 * share), done):
            world.start(worker)
    world.run()
    assert done == {"POST": 200, "GET": 200}
    assert server.most_in_a_minute() <= 50
    assert not server.refused


def test_an_undeclared_limit_is_learned_from_429s() -> None:
    world, done = World(), Counter[str]()
    server = Server(world, allowed=120)
    limiter = limiter_of()
    for worker in fleet(world, server, limiter, 1200, done):
        world.start(worker)
    began = world.now
    world.run()
    assert done == {"POST": 1200, "GET": 1200}
    assert len(server.accepted) <= 120
    # All 1,200 are sent at once before the first response, which cannot be known. Afterwards 429s are rare.
    late = [moment for moment in server.refused if moment > began + 120]
    assert len(late) <= 0.05 * 2400
    assert world.now - began <= 2400 / 120 * 60 * 1.6


def test_calls_accepted_before_a_429_that_overtook_them_raise_the_estimate() -> None:
    limiter = limiter_of()
    permits = [admitted(limiter, a_call(), 0.0) for _ in range(60)]
    for permit in permits[:4]:
        limiter.release(permit, 0.1)
    limiter.release(permits[4], 0.2, refused(60.0))
    assert limiter.limit == 5
    for permit in permits[5:51]:
        limiter.release(permit, 0.3)
    for permit in permits[51:]:
        limiter.release(permit, 0.4, refused(60.0))
    assert limiter.limit == pytest.approx(0.8 * 50)


def test_a_declared_limit_is_not_raised_by_late_responses() -> None:
    limiter = limiter_of(requests_per_minute=10)
    permits = [admitted(limiter, a_call(), 0.0) for _ in range(10)]
    limiter.release(permits[0], 0.1, refused(60.0))
    lowered = limiter.limit
    for permit in permits[1:]:
        limiter.release(permit, 0.2)
    assert limiter.limit == lowered


@pytest.mark.parametrize("polls_count", [True, False])
def test_a_429_stops_every_worker_until_the_reset(polls_count: bool) -> None:
    world, done = World(), Counter[str]()
    server = Server(world, allowed=1000)
    limiter = limiter_of(requests_per_minute=1000, polls_count=polls_count)
    permit = admitted(limiter, a_call(), world.now)
    limiter.release(permit, world.now, refused(7.0))
    for worker in fleet(world, server, limiter, 20, done):
        world.start(worker)
    for _ in range(20):
        world.start(send(world, server, limiter, a_call("GET"), done))
    began = world.now
    world.run(began + 7.0)
    assert not server.arrivals
    world.run(began + 60.0)
    assert done == {"POST": 20, "GET": 40}


def test_after_a_cooldown_calls_resume_one_then_two_then_four() -> None:
    world, done = World(), Counter[str]()
    server = Server(world, allowed=1000, latency=lambda: 1.0)
    limiter = limiter_of(requests_per_minute=1000)
    limiter.release(admitted(limiter, a_call(), world.now), world.now, refused(5.0))
    for _ in range(100):
        world.start(send(world, server, limiter, a_call(), done))
    began = world.now
    world.run()
    first = [moment - began for moment in server.arrivals]
    assert sum(moment < 6.5 for moment in first) == 1
    assert sum(moment < 7.5 for moment in first) == 3
    assert done["POST"] == 100


def test_without_a_reset_time_the_cooldown_grows_with_jitter_and_stays_bounded() -> None:
    limiter, now, cooldowns = limiter_of(), 0.0, []
    for _ in range(10):
        permit = admitted(limiter, a_call(), now)
        limiter.release(permit, now, refused())
        cooldowns.append(limiter.cooldown(now))
        now += cooldowns[-1] + 61.0
    assert 0.5 <= cooldowns[0] <= 1.5
    assert cooldowns[4] > cooldowns[0] * 2
    assert max(cooldowns) <= 45
    assert limiter.cooldown(now) == 0


def test_after_three_gateway_errors_one_call_at_a_time_probes_segmind() -> None:
    limiter, page = limiter_of(), SegmindResponseError("A page.")
    page.gateway = True
    permits = [admitted(limiter, a_call(), 0.0) for _ in range(8)]
    for permit in permits[:2]:
        limiter.release(permit, 0.1, page)
    assert limiter.cooldown(0.1) == 0
    for permit in permits[2:]:
        limiter.release(permit, 0.1, page)
    assert 0 < limiter.cooldown(0.1) <= 0.25
    probe = admitted(limiter, a_call(), 0.4)
    assert next(limiter.admission(a_call(), lambda: 0.4, None)) > 0
    limiter.release(probe, 0.5)
    assert limiter.cooldown(0.5) == 0
    assert limiter.limit is None


def test_an_occasional_gateway_error_slows_no_call() -> None:
    limiter, page = limiter_of(), SegmindResponseError("A page.")
    page.gateway = True
    for number in range(20):
        limiter.release(admitted(limiter, a_call(), float(number)), float(number), page if number % 2 else None)
    assert limiter.cooldown(20.0) == 0


@given(errors=st.integers(3, 60))
def test_a_long_outage_of_a_gateway_is_probed_every_few_seconds(errors: int) -> None:
    limiter, page, now = limiter_of(), SegmindResponseError("A page."), 0.0
    page.gateway = True
    for _ in range(errors):
        now += limiter.cooldown(now)
        limiter.release(admitted(limiter, a_call(), now), now, page)
    assert 0 < limiter.cooldown(now) <= 5.0


def test_a_reset_in_the_past_of_a_wrong_clock_does_not_end_the_cooldowns() -> None:
    limiter, now = limiter_of(), 0.0
    for _ in range(5):
        limiter.release(admitted(limiter, a_call(), now), now, refused(0.0))
        now += limiter.cooldown(now)
    assert now > 10


@pytest.mark.parametrize("reset", [None, 0.0, 7.0])
def test_the_cooldown_of_an_account_is_as_long_as_the_wait_of_the_refused_call(reset: float | None) -> None:
    limiter, error = limiter_of(), refused(reset)
    limiter.release(admitted(limiter, a_call(), 0.0), 0.0, error)
    assert limiter.cooldown(0.0) == seconds_before_retry(error, 1, seeded().random())


def test_a_submit_precedes_polls_and_an_expiring_poll_precedes_all() -> None:
    limiter = limiter_of(requests_per_minute=50)
    poll = limiter.enqueue(Priority.POLL, 0.0)
    submit = limiter.enqueue(Priority.SUBMIT, 1.0)
    expiring = limiter.enqueue(Priority.EXPIRING, 2.0)
    assert sorted([poll, submit, expiring]) == [expiring, submit, poll]


def test_a_stream_of_submits_does_not_starve_a_poll() -> None:
    world, done = World(), Counter[str]()
    server = Server(world, allowed=60)
    limiter = limiter_of(requests_per_minute=60, polls_count=True)

    def stream() -> Any:
        while world.now < 1_000_400.0:
            world.start(send(world, server, limiter, a_call(), done))
            yield 0.5

    for _ in range(60):
        world.start(send(world, server, limiter, a_call(), done))
    world.start(stream())
    world.run(1_000_010.0)
    world.start(send(world, server, limiter, a_call("GET"), done))
    world.run(1_000_150.0)
    assert done["GET"] == 1


def test_calls_of_equal_priority_are_sent_in_order() -> None:
    world, order = World(), []
    limiter = limiter_of(requests_per_minute=5)

    def one(number: int) -> Any:
        permit = yield from limiter.admission(a_call(), world.clock, None)
        order.append(number)
        yield 0.1
        limiter.release(permit, world.now)

    for number in range(23):
        world.start(one(number), after=number * 0.01)
    world.run()
    assert order == list(range(23))


def test_a_cancelled_caller_leaves_the_queue() -> None:
    limiter = limiter_of(requests_per_minute=1)
    admitted(limiter, a_call(), 0.0)
    waiting = limiter.admission(a_call(), lambda: 0.0, None)
    assert next(waiting) > 0
    waiting.close()
    assert repr(limiter).endswith("waiting=0)")


def test_polls_are_free_until_one_gets_a_429() -> None:
    limiter = limiter_of(requests_per_minute=50)
    call = a_call("GET")
    assert not limiter.counts(call)
    limiter.release(admitted(limiter, call, 0.0), 0.0, refused(1.0))
    assert limiter.counts(call)


def test_beyond_a_declared_limit_one_poll_at_a_time_finds_out_whether_polls_count() -> None:
    limiter = limiter_of(requests_per_minute=10)
    for _ in range(10):
        limiter.release(admitted(limiter, a_call(), 0.0), 0.1)
    first = admitted(limiter, a_call("GET"), 4.0)
    assert next(limiter.admission(a_call("GET"), lambda: 4.1, None)) > 0

    limiter.release(first, 4.2, refused(20.0))
    # What went through before takes its place in the window from now on.
    assert limiter.counts_polls
    assert limiter.seconds_to_wait(limiter.enqueue(Priority.POLL, 25.0), 25.0) > 0


def test_polls_accepted_far_beyond_a_declared_limit_are_free_from_then_on() -> None:
    limiter = limiter_of(requests_per_minute=10)
    for number in range(13):
        limiter.release(admitted(limiter, a_call("GET"), 1.0 + number / 10), 1.05 + number / 10)
    limiter.release(admitted(limiter, a_call("GET"), 3.0), 3.1)

    assert not limiter.counts_polls
    assert [admitted(limiter, a_call("GET"), 3.2).slot for _ in range(20)] == [None] * 20


def test_accepted_polls_are_counted_once_polls_are_known_to_count() -> None:
    limiter = limiter_of(requests_per_minute=10)
    for number in range(9):
        limiter.release(admitted(limiter, a_call("GET"), number / 10), number / 10 + 0.05)
    limiter.release(admitted(limiter, a_call("GET"), 1.0), 1.1, refused(0.0))

    # Ten calls are in the minute, although all of them were polls.
    ticket = limiter.enqueue(Priority.SUBMIT, 2.0)
    assert limiter.seconds_to_wait(ticket, 2.0) > 1
    assert limiter.seconds_to_wait(ticket, 62.0) == 0


def test_that_polls_count_stays_known_when_the_settings_are_replaced() -> None:
    limiter = limiter_of(requests_per_minute=50)
    call = a_call("GET")
    limiter.release(admitted(limiter, call, 0.0), 0.0, refused(1.0))
    limiter.configure(RateSettings(requests_per_minute=40))
    assert limiter.counts(call)


def test_a_share_below_one_call_a_minute_stretches_the_window() -> None:
    limiter, now = limiter_of(requests_per_minute=5, rate_share=0.1), 0.0
    limiter.release(admitted(limiter, a_call(), now), now)
    ticket = limiter.enqueue(Priority.SUBMIT, 61.0)
    assert limiter.seconds_to_wait(ticket, 61.0) > 0
    assert limiter.seconds_to_wait(ticket, 120.1) == 0


def test_one_limiter_serves_an_account_and_reveals_neither_key_nor_password() -> None:
    key = "SG_0123456789abcdef"
    rate = RateSettings(requests_per_minute=5, redis_url=None)
    limiter = rate_limiter_for("https://one.test", key, rate)
    assert rate_limiter_for("https://one.test", key, RateSettings(requests_per_minute=9)) is limiter
    assert limiter.limit == 9
    assert rate_limiter_for("https://two.test", key, rate) is not limiter
    assert rate_limiter_for("https://one.test", "SG_other", rate) is not limiter
    assert key not in repr(limiter) + repr(vars(limiter))
    assert "secret" not in repr(RateSettings(redis_url="redis://:secret@127.0.0.1"))


def test_both_clients_sleep_as_the_limiter_decides() -> None:
    now, naps = [0.0], []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        now[0] += seconds

    async def async_sleep(seconds: float) -> None:
        sleep(seconds)

    for use_async in (False, True):
        limiter = limiter_of(requests_per_minute=1)
        began = now[0]
        for _ in range(2):
            if use_async:
                coroutine = limiter.acquire_async(a_call(), clock=lambda: now[0], sleep=async_sleep)
                permit = asyncio.run(coroutine)
            else:
                permit = limiter.acquire(a_call(), clock=lambda: now[0], sleep=sleep)
            limiter.release(permit, now[0])
        assert 60 <= now[0] - began <= 66
    assert len(naps) > 10


@pytest.mark.redis
def test_three_limiters_share_one_window_through_redis() -> None:
    name, moments, lock = uuid.uuid4().hex, [], threading.Lock()

    def process(limiter: RateLimiter) -> None:
        while len(moments) < 15:
            permit = limiter.acquire(a_call(), clock=time.time, sleep=lambda s: time.sleep(min(s, 0.3)))
            with lock:
                moments.append(time.time())
            limiter.release(permit, time.time())

    rate = RateSettings(requests_per_minute=10, redis_url=REDIS, window=2.0)
    threads = [threading.Thread(target=process, args=[RateLimiter(rate, name=name)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    moments.sort()
    assert len(moments) >= 15
    assert all(moments[i + 10] - moments[i] > 2.0 for i in range(len(moments) - 10))


@pytest.mark.redis
async def test_a_429_in_one_process_starts_a_cooldown_in_the_others_through_redis() -> None:
    name = uuid.uuid4().hex
    rate = RateSettings(requests_per_minute=50, redis_url=REDIS)
    first, second = (RateLimiter(rate, name=name) for _ in range(2))
    tell = first.release(admitted_blocking(first), time.time(), refused(7.0))
    assert tell is not None
    await asyncio.to_thread(tell)
    naps: list[float] = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await second.acquire_async(a_call(), clock=time.time, sleep=sleep)
    assert 6.0 < naps[0] < 8.2


def admitted_blocking(limiter: RateLimiter) -> Permit:
    return limiter.acquire(a_call(), clock=time.time, sleep=time.sleep)


def test_unreachable_redis_fails_the_call_after_half_a_minute() -> None:
    pytest.importorskip("redis")
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    limiter = limiter_of(requests_per_minute=5, redis_url="redis://127.0.0.1:1/0")
    with pytest.raises(SegmindConnectionError, match="This call was not sent"):
        limiter.acquire(a_call(), clock=lambda: now[0], sleep=sleep)
    assert now[0] == pytest.approx(30)


@pytest.mark.parametrize("takes", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("callers", [1, 64])
def test_every_waiting_call_fails_within_the_same_half_minute(takes: float, callers: int) -> None:
    pytest.importorskip("redis")
    limiter, world, heard = limiter_of(requests_per_minute=5, redis_url=REDIS), World(), list[float]()
    repeated: list[bool] = []

    class Unreachable:
        def take(self) -> None:
            world.now += takes

    def caller() -> Worker:
        steps = limiter.admission(a_call(), world.clock, None)
        step: Any = next(steps)
        try:
            while True:
                yield 0.0 if callable(step) else step
                step = steps.send(step() if callable(step) else None)
        except SegmindConnectionError as error:
            heard.append(world.now)
            repeated.append(may_send_again(error))

    limiter._shared = Unreachable()  # type: ignore[assignment]
    started = world.now
    for _ in range(callers):
        world.start(caller())
    world.run()
    assert len(heard) == callers
    assert not any(repeated)
    assert max(heard) - started <= 30 + takes + 1e-3
    assert min(heard) - started >= 20


def test_redis_that_becomes_reachable_again_is_used() -> None:
    pytest.importorskip("redis")
    limiter, now = limiter_of(requests_per_minute=5, redis_url=REDIS), [0.0]

    class Back:
        def take(self) -> float | None:
            return None if now[0] < 20 else 0.0

    limiter._shared = Back()  # type: ignore[assignment]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    for _ in range(3):
        limiter.acquire(a_call(), clock=lambda: now[0], sleep=sleep)
        now[0] += 100
    assert 320 <= now[0] <= 323
