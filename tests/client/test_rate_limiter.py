from __future__ import annotations

import asyncio
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_segmind.client import rate_window as windows
from airflow_provider_segmind.client.rate_limiter import (
    LONGEST_SILENCE,
    Governor,
    Permit,
    Priority,
    RateSettings,
    governor_for,
)
from airflow_provider_segmind.client.rate_window import LocalWindow, RedisWindow
from airflow_provider_segmind.client.retry import may_send_again
from airflow_provider_segmind.exceptions import (
    SegmindConfigError,
    SegmindConnectionError,
    SegmindRateLimitError,
    SegmindResponseError,
)
from tests.support.virtual_time import Server, Worker, World, a_call, fleet, seeded, send

REDIS = "redis://127.0.0.1:6379/0"


def governor_of(**options: Any) -> Governor:
    return Governor(RateSettings(**options), name=uuid.uuid4().hex, rng=seeded())


def admitted(governor: Governor, call: Any, now: float) -> Permit:
    with pytest.raises(StopIteration) as stop:
        next(governor.admission(call, lambda: now, None))
    return stop.value.value


def refused(retry_after: float | None = None) -> SegmindRateLimitError:
    return SegmindRateLimitError("Too many.", status_code=429, retry_after=retry_after)


@settings(max_examples=60, deadline=None)
@given(
    amount=st.integers(1, 8),
    calls=st.lists(st.tuples(st.floats(0, 30), st.floats(0, 12), st.floats(0, 1)), min_size=1, max_size=60),
)
def test_no_minute_holds_more_than_the_limit_wherever_between_sending_and_answer_it_counts(
    amount: int, calls: list[tuple[float, float, float]]
) -> None:
    window, now = LocalWindow(amount, 60.0), 0.0
    counted, open_calls = [], []
    for pause, duration, when in calls:
        now += pause
        while (wait := window.seconds_until(1, now)) > 0:
            for end, number in sorted(open_calls):
                if end <= now + wait:
                    window.give(number, end)
                    open_calls.remove((end, number))
            now += wait
        for end, number in sorted(open_calls):
            if end <= now:
                window.give(number, end)
                open_calls.remove((end, number))
        open_calls.append((now + duration, window.take(now)))
        counted.append(now + min(duration, 10.0) * when)
    counted.sort()
    assert all(counted[i + amount] - counted[i] >= 60.0 for i in range(len(counted) - amount))


def test_300_requests_keep_to_50_calls_a_minute_without_a_429_and_use_85_percent_of_it() -> None:
    world, done = World(), Counter[str]()
    server = Server(world)
    governor = governor_of(requests_per_minute=50, count_polls=True)
    for worker in fleet(world, server, governor, 300, done):
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
        governor = governor_of(requests_per_minute=50, rate_share=share, count_polls=True)
        for worker in fleet(world, server, governor, int(200 * share), done):
            world.start(worker)
    world.run()
    assert done == {"POST": 200, "GET": 200}
    assert server.most_in_a_minute() <= 50
    assert not server.refused


def test_a_limit_nobody_declared_is_learned_from_its_429s() -> None:
    world, done = World(), Counter[str]()
    server = Server(world, allowed=120)
    governor = governor_of()
    for worker in fleet(world, server, governor, 1200, done):
        world.start(worker)
    began = world.now
    world.run()
    assert done == {"POST": 1200, "GET": 1200}
    assert len(server.accepted) <= 120
    # All 1,200 leave at once before the first answer: that is what nobody can know. Afterwards 429s are rare.
    late = [moment for moment in server.refused if moment > began + 120]
    assert len(late) <= 0.05 * 2400
    assert world.now - began <= 2400 / 120 * 60 * 1.6


def test_calls_accepted_before_a_refusal_that_overtook_their_answers_raise_the_guess() -> None:
    governor = governor_of()
    permits = [admitted(governor, a_call(), 0.0) for _ in range(60)]
    for permit in permits[:4]:
        governor.answered(permit, 0.1)
    governor.answered(permits[4], 0.2, refused(60.0))
    assert governor.limit == 5
    for permit in permits[5:51]:
        governor.answered(permit, 0.3)
    for permit in permits[51:]:
        governor.answered(permit, 0.4, refused(60.0))
    assert governor.limit == pytest.approx(0.8 * 50)


def test_a_declared_limit_is_not_raised_by_answers_that_come_late() -> None:
    governor = governor_of(requests_per_minute=10)
    permits = [admitted(governor, a_call(), 0.0) for _ in range(10)]
    governor.answered(permits[0], 0.1, refused(60.0))
    lowered = governor.limit
    for permit in permits[1:]:
        governor.answered(permit, 0.2)
    assert governor.limit == lowered


def test_a_window_without_a_limit_remembers_a_minute_and_no_longer() -> None:
    window = LocalWindow(None, 60.0)
    for second in range(1000):
        window.give(window.take(float(second)), second + 0.5)
    assert len(window._ended) <= 61


@pytest.mark.parametrize("polls_count", [True, False])
def test_a_429_silences_every_worker_until_the_reset(polls_count: bool) -> None:
    world, done = World(), Counter[str]()
    server = Server(world, allowed=1000)
    governor = governor_of(requests_per_minute=1000, count_polls=polls_count)
    permit = admitted(governor, a_call(), world.now)
    governor.answered(permit, world.now, refused(7.0))
    for worker in fleet(world, server, governor, 20, done):
        world.start(worker)
    for _ in range(20):
        world.start(send(world, server, governor, a_call("GET"), done))
    began = world.now
    world.run(began + 7.0)
    assert not server.arrivals
    world.run(began + 60.0)
    assert done == {"POST": 20, "GET": 40}


def test_after_a_silence_calls_come_back_one_then_two_then_four() -> None:
    world, done = World(), Counter[str]()
    server = Server(world, allowed=1000, latency=lambda: 1.0)
    governor = governor_of(requests_per_minute=1000)
    governor.answered(admitted(governor, a_call(), world.now), world.now, refused(5.0))
    for _ in range(100):
        world.start(send(world, server, governor, a_call(), done))
    began = world.now
    world.run()
    first = [moment - began for moment in server.arrivals]
    assert sum(moment < 6.5 for moment in first) == 1
    assert sum(moment < 7.5 for moment in first) == 3
    assert done["POST"] == 100


def test_without_a_reset_the_silence_grows_with_jitter_and_stays_bounded() -> None:
    governor, now, silences = governor_of(), 0.0, []
    for _ in range(10):
        permit = admitted(governor, a_call(), now)
        governor.answered(permit, now, refused())
        silences.append(governor.silence(now))
        now += silences[-1] + 61.0
    assert 1.0 <= silences[0] <= 2.0
    assert silences[3] > silences[0] * 2
    assert max(silences) <= LONGEST_SILENCE
    assert governor.silence(now) == 0


def test_after_three_answers_of_a_gateway_one_call_at_a_time_finds_out_whether_segmind_is_back() -> None:
    governor, page = governor_of(), SegmindResponseError("A page.")
    page.gateway = True
    permits = [admitted(governor, a_call(), 0.0) for _ in range(8)]
    for permit in permits[:2]:
        governor.answered(permit, 0.1, page)
    assert governor.silence(0.1) == 0
    for permit in permits[2:]:
        governor.answered(permit, 0.1, page)
    assert 0 < governor.silence(0.1) <= 0.25
    probe = admitted(governor, a_call(), 0.4)
    assert next(governor.admission(a_call(), lambda: 0.4, None)) > 0
    governor.answered(probe, 0.5)
    assert governor.silence(0.5) == 0
    assert governor.limit is None


def test_now_and_then_an_answer_of_a_gateway_slows_nobody_down() -> None:
    governor, page = governor_of(), SegmindResponseError("A page.")
    page.gateway = True
    for number in range(20):
        governor.answered(admitted(governor, a_call(), float(number)), float(number), page if number % 2 else None)
    assert governor.silence(20.0) == 0


@given(errors=st.integers(3, 60))
def test_a_long_outage_of_a_gateway_is_probed_every_few_seconds(errors: int) -> None:
    governor, page, now = governor_of(), SegmindResponseError("A page."), 0.0
    page.gateway = True
    for _ in range(errors):
        now += governor.silence(now)
        governor.answered(admitted(governor, a_call(), now), now, page)
    assert 0 < governor.silence(now) <= 5.0


def test_a_reset_far_away_is_believed_for_little_more_than_a_minute() -> None:
    governor = governor_of()
    governor.answered(admitted(governor, a_call(), 0.0), 0.0, refused(86_400.0))
    assert 60 <= governor.silence(0.0) <= 66


def test_a_submit_goes_ahead_of_looks_and_a_look_before_expiry_ahead_of_all() -> None:
    governor = governor_of(requests_per_minute=50)
    look = governor.join(Priority.LOOK, 0.0)
    submit = governor.join(Priority.SUBMIT, 1.0)
    expiring = governor.join(Priority.EXPIRING, 2.0)
    assert sorted([look, submit, expiring]) == [expiring, submit, look]


def test_a_look_is_not_passed_for_ever_by_a_stream_of_submits() -> None:
    world, done = World(), Counter[str]()
    server = Server(world, allowed=60)
    governor = governor_of(requests_per_minute=60, count_polls=True)

    def stream() -> Any:
        while world.now < 1_000_400.0:
            world.start(send(world, server, governor, a_call(), done))
            yield 0.5

    for _ in range(60):
        world.start(send(world, server, governor, a_call(), done))
    world.start(stream())
    world.run(1_000_010.0)
    world.start(send(world, server, governor, a_call("GET"), done))
    world.run(1_000_150.0)
    assert done["GET"] == 1


def test_equals_are_served_in_the_order_they_came() -> None:
    world, order = World(), []
    governor = governor_of(requests_per_minute=5)

    def one(number: int) -> Any:
        permit = yield from governor.admission(a_call(), world.clock, None)
        order.append(number)
        yield 0.1
        governor.answered(permit, world.now)

    for number in range(23):
        world.start(one(number), after=number * 0.01)
    world.run()
    assert order == list(range(23))


def test_a_caller_that_is_cancelled_gives_its_place_in_the_queue_back() -> None:
    governor = governor_of(requests_per_minute=1)
    admitted(governor, a_call(), 0.0)
    waiting = governor.admission(a_call(), lambda: 0.0, None)
    assert next(waiting) > 0
    waiting.close()
    assert repr(governor).endswith("waiting=0)")


def test_polls_are_free_until_one_is_answered_429() -> None:
    governor = governor_of(requests_per_minute=50)
    call = a_call("GET")
    assert not governor.counts(call)
    governor.answered(admitted(governor, call, 0.0), 0.0, refused(1.0))
    assert governor.counts(call)


def test_beyond_a_declared_limit_one_look_at_a_time_finds_out_whether_looks_count() -> None:
    governor = governor_of(requests_per_minute=10)
    for _ in range(10):
        governor.answered(admitted(governor, a_call(), 0.0), 0.1)
    first = admitted(governor, a_call("GET"), 4.0)
    assert next(governor.admission(a_call("GET"), lambda: 4.1, None)) > 0

    governor.answered(first, 4.2, refused(20.0))
    # What went through before takes its place in the window from now on.
    assert governor.counts_polls
    assert governor.seconds_to_wait(governor.join(Priority.LOOK, 25.0), 25.0) > 0


def test_looks_that_go_through_far_beyond_a_declared_limit_are_free_from_then_on() -> None:
    governor = governor_of(requests_per_minute=10)
    for number in range(13):
        governor.answered(admitted(governor, a_call("GET"), 1.0 + number / 10), 1.05 + number / 10)
    governor.answered(admitted(governor, a_call("GET"), 3.0), 3.1)

    assert not governor.counts_polls
    assert [admitted(governor, a_call("GET"), 3.2).place for _ in range(20)] == [None] * 20


def test_looks_that_went_through_are_counted_once_looks_are_known_to_count() -> None:
    governor = governor_of(requests_per_minute=10)
    for number in range(9):
        governor.answered(admitted(governor, a_call("GET"), number / 10), number / 10 + 0.05)
    governor.answered(admitted(governor, a_call("GET"), 1.0), 1.1, refused(0.0))

    # Ten calls are in the minute, although all of them were looks.
    ticket = governor.join(Priority.SUBMIT, 2.0)
    assert governor.seconds_to_wait(ticket, 2.0) > 1
    assert governor.seconds_to_wait(ticket, 62.0) == 0


def test_polls_declared_free_stay_free() -> None:
    governor = governor_of(requests_per_minute=50, count_polls=False)
    call = a_call("GET")
    governor.answered(admitted(governor, call, 0.0), 0.0, refused(1.0))
    assert not governor.counts(call)


def test_a_share_below_one_call_a_minute_stretches_the_window() -> None:
    governor, now = governor_of(requests_per_minute=5, rate_share=0.1), 0.0
    governor.answered(admitted(governor, a_call(), now), now)
    ticket = governor.join(Priority.SUBMIT, 61.0)
    assert governor.seconds_to_wait(ticket, 61.0) > 0
    assert governor.seconds_to_wait(ticket, 120.1) == 0


@pytest.mark.parametrize(
    "options", [{"requests_per_minute": 0}, {"requests_per_minute": -1}, {"rate_share": 0}, {"rate_share": 1.1}]
)
def test_a_rate_that_cannot_work_is_refused_before_anything_is_sent(options: dict[str, float]) -> None:
    with pytest.raises(SegmindConfigError, match="Nothing was sent"):
        RateSettings(**options)


def test_one_governor_serves_an_account_and_shows_neither_key_nor_password() -> None:
    key = "SG_0123456789abcdef"
    rate = RateSettings(requests_per_minute=5, redis_url=None)
    governor = governor_for("https://one.test", key, rate)
    assert governor_for("https://one.test", key, RateSettings(requests_per_minute=9)) is governor
    assert governor.limit == 9
    assert governor_for("https://two.test", key, rate) is not governor
    assert governor_for("https://one.test", "SG_other", rate) is not governor
    assert key not in repr(governor) + repr(vars(governor))
    assert "secret" not in repr(RateSettings(redis_url="redis://:secret@127.0.0.1"))


def test_both_drives_sleep_what_the_decision_says() -> None:
    now, naps = [0.0], []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        now[0] += seconds

    async def async_sleep(seconds: float) -> None:
        sleep(seconds)

    for use_async in (False, True):
        governor = governor_of(requests_per_minute=1)
        began = now[0]
        for _ in range(2):
            if use_async:
                coroutine = governor.acquire_async(a_call(), clock=lambda: now[0], sleep=async_sleep)
                permit = asyncio.run(coroutine)
            else:
                permit = governor.acquire(a_call(), clock=lambda: now[0], sleep=sleep)
            governor.answered(permit, now[0])
        assert 60 <= now[0] - began <= 66
    assert len(naps) > 10


@pytest.mark.redis
def test_three_governors_share_one_window_through_redis() -> None:
    name, moments, lock = uuid.uuid4().hex, [], threading.Lock()
    stop = time.time() + 3.5

    def process(governor: Governor) -> None:
        while time.time() < stop:
            permit = governor.acquire(a_call(), clock=time.time, sleep=lambda s: time.sleep(min(s, 0.3)))
            with lock:
                moments.append(time.time())
            governor.answered(permit, time.time())

    rate = RateSettings(requests_per_minute=10, redis_url=REDIS, window=2.0)
    threads = [threading.Thread(target=process, args=[Governor(rate, name=name)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    moments.sort()
    assert len(moments) > 10
    assert all(moments[i + 10] - moments[i] > 2.0 for i in range(len(moments) - 10))


@pytest.mark.redis
async def test_a_429_seen_by_one_process_silences_the_others_through_redis() -> None:
    name = uuid.uuid4().hex
    rate = RateSettings(requests_per_minute=50, redis_url=REDIS)
    first, second = (Governor(rate, name=name) for _ in range(2))
    tell = first.answered(admitted_blocking(first), time.time(), refused(7.0))
    assert tell is not None
    await asyncio.to_thread(tell)
    naps: list[float] = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await second.acquire_async(a_call(), clock=time.time, sleep=sleep)
    assert 6.0 < naps[0] < 7.5


def admitted_blocking(governor: Governor) -> Permit:
    return governor.acquire(a_call(), clock=time.time, sleep=time.sleep)


def test_redis_out_of_reach_stops_the_call_after_half_a_minute() -> None:
    pytest.importorskip("redis")
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    governor = governor_of(requests_per_minute=5, redis_url="redis://127.0.0.1:1/0")
    with pytest.raises(SegmindConnectionError, match="This call was not sent"):
        governor.acquire(a_call(), clock=lambda: now[0], sleep=sleep)
    assert now[0] == pytest.approx(30)


@pytest.mark.parametrize("takes", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("callers", [1, 64])
def test_every_call_hears_of_redis_within_the_same_half_minute(takes: float, callers: int) -> None:
    pytest.importorskip("redis")
    governor, world, heard = governor_of(requests_per_minute=5, redis_url=REDIS), World(), list[float]()
    repeated: list[bool] = []

    class Unreachable:
        def take(self) -> None:
            world.now += takes

    def caller() -> Worker:
        steps = governor.admission(a_call(), world.clock, None)
        step: Any = next(steps)
        try:
            while True:
                yield 0.0 if callable(step) else step
                step = steps.send(step() if callable(step) else None)
        except SegmindConnectionError as error:
            heard.append(world.now)
            repeated.append(may_send_again(error))

    governor._shared = Unreachable()  # type: ignore[assignment]
    started = world.now
    for _ in range(callers):
        world.start(caller())
    world.run()
    assert len(heard) == callers
    assert not any(repeated)
    assert max(heard) - started <= 30 + takes + 1e-3
    assert min(heard) - started >= 20


def test_redis_that_answers_again_is_waited_for() -> None:
    pytest.importorskip("redis")
    governor, now = governor_of(requests_per_minute=5, redis_url=REDIS), [0.0]

    class Back:
        def take(self) -> float | None:
            return None if now[0] < 20 else 0.0

    governor._shared = Back()  # type: ignore[assignment]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    for _ in range(3):
        governor.acquire(a_call(), clock=lambda: now[0], sleep=sleep)
        now[0] += 100
    assert 320 <= now[0] <= 323


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Return a port that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def test_a_redis_that_never_answers_is_out_of_reach_in_time(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redis")
    monkeypatch.setattr(windows, "ATTEMPT_SECONDS", 0.1)
    window = RedisWindow(f"redis://127.0.0.1:{silent_port}/0", "name", 5, 60.0)
    assert window.take() is None
    window.cool(1.0)


def test_a_name_look_up_that_hangs_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redis")
    released = threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        released.wait()
        raise socket.gaierror

    monkeypatch.setattr(windows, "ATTEMPT_SECONDS", 0.1)
    window = RedisWindow("redis://redis.example:6379/0", "name", 5, 60.0)
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        assert window.take() is None
        window.cool(1.0)
    finally:
        released.set()


def test_a_redis_url_that_cannot_be_read_is_not_quoted() -> None:
    pytest.importorskip("redis")
    with pytest.raises(SegmindConfigError) as caught:
        RedisWindow("http://:hunter2@localhost", "name", 5, 60.0)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
