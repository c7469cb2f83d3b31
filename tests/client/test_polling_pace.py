"""What the rate limiter and the learned schedule make of a client's waiting."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from typing import Any

from airflow_provider_segmind.client.endpoints import Endpoints, Wire
from airflow_provider_segmind.client.poll_schedule import SCOUTS, LatencyHistory, Pending, shared_history
from airflow_provider_segmind.client.polling import Pace, Pause, wait
from airflow_provider_segmind.client.rate_limiter import RateLimiter, RateSettings
from airflow_provider_segmind.client.responses import Response
from tests.support import virtual_time as virtual
from tests.support.clients import START, World, answer

BUSY = {"request_id": "r-1", "status": "PROCESSING"}
DONE = {"request_id": "r-1", "status": "COMPLETED", "output": "x", "metrics": {"total_time": 4.0}}


def pending(**options: Any) -> Pending:
    details = {"request_id": "r-1", "submitted_at": START, "end_time": START + 600, "model": "a-model", **options}
    return Pending(**details)


def learn(seconds: float = 4.0, count: int = 20) -> None:
    for _ in range(count):
        shared_history.observe("a-model", seconds)


def test_a_known_model_is_not_polled_before_it_can_be_done(world: World) -> None:
    learn(10.0)
    world.run([answer(200, DONE)], lambda client: client.wait(pending()))
    assert len(world.seen) == 1
    assert 7 <= world.pauses[0] <= 11


def test_an_old_request_of_a_known_model_is_polled_at_once(world: World) -> None:
    learn(10.0)
    world.run([answer(200, DONE)], lambda client: client.wait(pending(submitted_at=START - 60)))
    assert world.pauses == []


def test_a_first_poll_is_not_delayed_beyond_the_callers_deadline(world: World) -> None:
    learn(10.0)
    state = world.run(answer(200, BUSY), lambda client: client.wait(pending(), until=START + 3))
    assert state is None
    assert world.pauses == [3.0]
    assert len(world.seen) == 1


def test_each_completion_adds_segminds_own_time_to_the_history(world: World) -> None:
    world.run([answer(200, BUSY), answer(200, DONE)], lambda client: client.wait(pending(poll_interval=5.0)))
    assert list(shared_history._models["a-model"].latencies) == [4.0]


def test_a_frugal_poll_waits_until_most_requests_are_done(world: World) -> None:
    for seconds in (2.0, 3.0, 4.0, 5.0, 9.0) * 10:
        shared_history.observe("a-model", seconds)
    world.run([answer(200, DONE)], lambda client: client.wait(pending(frugal=True)))
    assert len(world.seen) == 1
    assert sum(world.pauses) > 6


def test_where_polls_must_be_few_scouts_find_out_how_long_an_unknown_model_takes(world: World) -> None:
    world.run([answer(200, DONE)], lambda client: client.wait(pending(frugal=True)))
    assert world.pauses == []


def test_the_others_wait_for_the_scouts_but_not_endlessly(world: World) -> None:
    for _ in range(SCOUTS):
        shared_history.scout("a-model")
    world.run([answer(200, DONE)], lambda client: client.wait(pending(frugal=True)))
    assert len(world.seen) == 1
    assert 5 < sum(world.pauses) < 60


def test_a_poll_interval_takes_precedence_over_the_history(world: World) -> None:
    learn(10.0)
    replies = [answer(200, BUSY), answer(200, BUSY), answer(200, DONE)]
    world.run(replies, lambda client: client.wait(pending(poll_interval=7.0)))
    assert world.pauses == [7.0, 7.0]


def test_where_polls_count_a_fleet_needs_little_more_than_two_calls_a_request() -> None:
    world, done, rng = virtual.World(), Counter[str](), random.Random(3)
    server = virtual.Server(world)
    limiter, history = RateLimiter(RateSettings(requests_per_minute=50), rng=random.Random(1)), LatencyHistory()
    limiter.counts_polls = True
    pace = Pace(history, limiter.interval, lambda: limiter.cooldown(world.now))
    for _ in range(50):
        history.observe("a-model", rng.lognormvariate(math.log(4), 0.5))

    def journey() -> Any:
        yield from virtual.send(world, server, limiter, virtual.a_call(), done)
        began, latency = world.now, rng.lognormvariate(math.log(4), 0.5)
        what = pending(submitted_at=began, end_time=began + 3000)
        steps = wait(Wire(Endpoints(), "k"), what, fetch=True, clock=world.clock, jitter=rng.random, pace=pace)
        step = next(steps)
        try:
            while True:
                if isinstance(step, Pause):
                    yield step.seconds
                    step = next(steps)
                    continue
                yield from virtual.send(world, server, limiter, step, done)
                body = DONE if world.now - began >= latency else BUSY
                step = steps.send(step.read(Response(200, json.dumps(body).encode())))
        except StopIteration:
            done["finished"] += 1

    for _ in range(300):
        world.start(journey())
    began = world.now
    world.run()
    assert done["finished"] == 300
    assert not server.refused
    assert server.most_in_a_minute() <= 50
    assert len(server.arrivals) / 300 <= 2.25
    assert world.now - began <= 1.25 * (600 / 50 * 60)
