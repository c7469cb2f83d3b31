from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest

from airflow_provider_segmind.client.models import Metrics, RequestState
from airflow_provider_segmind.client.poll_schedule import (
    LAST_CALL,
    MODELS,
    REMEMBERED,
    UNKNOWN,
    URGENT_AGE,
    LatencyHistory,
    Pending,
    latency_of,
    prior_of,
    seconds_to_next_poll,
)
from tests.support.clients import START

Draw = Callable[[random.Random], float]
MODEL = "gemini-3.1-flash-lite"


def lognormal(median: float, sigma: float) -> Draw:
    return lambda rng: rng.lognormvariate(math.log(median), sigma)


@dataclass
class Waited:
    polls: float
    most_polls: int
    delay: float
    p99: float


def simulate(
    history: LatencyHistory, draw: Draw, count: int, *, seed: int = 1, model: str = MODEL, sparse: bool = False
) -> Waited:
    """Wait for requests one after another, telling the history of each."""
    rng, polls, delays = random.Random(seed), [], []
    for _ in range(count):
        latency, age, polled = draw(rng), 0.0, 0
        while age < latency:
            age = history.schedule(model, sparse=sparse).after(age, 0.9 + 0.2 * rng.random())
            polled += 1
        polls.append(polled)
        delays.append(age - latency)
        history.observe(model, latency)
    delays.sort()
    return Waited(statistics.mean(polls), max(polls), statistics.mean(delays), delays[int(0.99 * count)])


@pytest.mark.parametrize("seed", range(2))
def test_after_50_completions_three_polls_find_a_result_within_a_second(seed: int) -> None:
    history, draw = LatencyHistory(), lognormal(4, 0.5)
    simulate(history, draw, 50, seed=seed)
    waited = simulate(history, draw, 600, seed=seed + 100)
    assert waited.polls <= 3.2
    assert waited.delay <= 0.8
    assert waited.p99 <= 3.0


def test_a_cold_start_is_close_to_the_learned_schedule() -> None:
    waited = simulate(LatencyHistory(), lognormal(4, 0.5), 30)
    assert waited.polls <= 4.5
    assert waited.delay <= 1.5


@pytest.mark.parametrize(("median", "polls"), [(2.0, 6), (30.0, 9), (300.0, 20)])
def test_an_unknown_model_of_any_speed_is_polled_sensibly(median: float, polls: int) -> None:
    waited = simulate(LatencyHistory(), lognormal(median, 0.5), 12, model="a-model-nobody-knows")
    assert waited.polls <= polls
    assert waited.delay <= max(1.5, 0.35 * median)


def test_a_model_that_becomes_ten_times_slower_is_learned_anew() -> None:
    history = LatencyHistory()
    simulate(history, lognormal(4, 0.5), 100)
    surprise = simulate(history, lognormal(40, 0.5), 12, seed=2)
    assert surprise.most_polls <= 22
    assert surprise.delay <= 0.3 * 40
    after = simulate(history, lognormal(40, 0.5), 200, seed=3)
    assert after.polls <= 3.3
    assert after.delay <= 8.5


def test_a_model_that_becomes_ten_times_faster_is_learned_anew() -> None:
    history = LatencyHistory()
    simulate(history, lognormal(40, 0.5), 100)
    simulate(history, lognormal(4, 0.5), 12, seed=2)
    after = simulate(history, lognormal(4, 0.5), 200, seed=3)
    assert after.delay <= 0.9


def test_both_peaks_of_a_bimodal_model_are_found() -> None:
    def draw(rng: random.Random) -> float:
        return lognormal(2, 0.2)(rng) if rng.random() < 0.5 else lognormal(60, 0.2)(rng)

    history = LatencyHistory()
    simulate(history, draw, 100)
    waited = simulate(history, draw, 250, seed=2)
    assert waited.polls <= 5
    assert waited.delay <= 10


def test_where_polls_count_the_first_waits_until_most_requests_are_done() -> None:
    history, draw = LatencyHistory(), lognormal(4, 0.5)
    simulate(history, draw, 50)
    waited = simulate(history, draw, 400, sparse=True)
    assert waited.polls <= 1.2
    assert history.schedule(MODEL, sparse=True).after(0.0) >= 4 * math.exp(0.5)


def test_polls_continue_at_every_age_and_are_never_too_frequent() -> None:
    history = LatencyHistory()
    simulate(history, lognormal(4, 0.5), 60)
    for sparse in (False, True):
        age, schedule = 0.0, history.schedule(MODEL, sparse=sparse)
        while age < 5000:
            later = schedule.after(age)
            assert 0.2 <= later - age <= 70
            age = later


def test_a_family_and_an_unknown_model_start_from_different_priors() -> None:
    assert prior_of("veo-3.1").median > prior_of("flux-1-schnell").median > prior_of("claude-4.5-sonnet").median
    assert prior_of("a-model-nobody-knows") == prior_of(None) == UNKNOWN


def test_the_history_stays_bounded_and_ignores_impossible_latencies() -> None:
    history = LatencyHistory()
    for number in range(MODELS + 50):
        history.observe(f"model-{number}", 3.0)
    for _ in range(500):
        history.observe(MODEL, 4.0)
    for nonsense in (0.0, -1.0, math.inf, math.nan):
        history.observe(MODEL, nonsense)
    assert len(history._models) == MODELS
    assert list(history._models[MODEL].latencies) == [4.0] * REMEMBERED


@pytest.mark.parametrize(("measured", "expected"), [(3.5, 3.5), (None, 6.0), (0.0, 6.0), (99.0, 6.0)])
def test_a_latency_is_segminds_own_unless_impossible(measured: float | None, expected: float) -> None:
    state = RequestState(request_id="r", status="COMPLETED", metrics=Metrics(total_time=measured))
    assert latency_of(state, last_in_progress=4.0, found_completed=8.0) == expected


def test_an_unobserved_request_adds_no_latency_unless_segmind_measured_it() -> None:
    state = RequestState(request_id="r", status="COMPLETED")
    assert latency_of(state, last_in_progress=0.0, found_completed=900.0) is None
    told = RequestState(request_id="r", status="COMPLETED", metrics=Metrics(total_time=3.0))
    assert latency_of(told, last_in_progress=0.0, found_completed=900.0) == 3.0


def pending(*, timeout: float = 600.0, poll_interval: float | None = None) -> Pending:
    return Pending("r-1", START, START + timeout, poll_interval, MODEL)


def test_polls_become_rarer_and_frequent_again_near_expiry() -> None:
    what = pending(timeout=7200)
    ages = [0.0, 1.0, 4.0, 20.0, 60.0, 600.0, URGENT_AGE - 1]

    steps = [seconds_to_next_poll(what, now=START + age, jitter=0.5) for age in ages]

    assert steps == [0.5, 0.5, 1.0, 5.0, 15.0, 15.0, 15.0]
    assert seconds_to_next_poll(what, now=START + URGENT_AGE, jitter=0.5) == 2.0
    assert seconds_to_next_poll(what, now=START + LAST_CALL, jitter=0.5) == 2.0


def test_polls_of_requests_submitted_together_spread_out() -> None:
    steps = {seconds_to_next_poll(pending(), now=START + 60, jitter=jitter / 10) for jitter in range(11)}

    assert len(steps) == 11
    assert [min(steps), max(steps)] == pytest.approx([13.5, 16.5])


def test_a_negative_interval_or_a_clock_set_back_gives_no_negative_pause() -> None:
    assert seconds_to_next_poll(pending(poll_interval=-5.0), now=START, jitter=0.5) == 0
    assert seconds_to_next_poll(pending(), now=START - 100, jitter=0.5) > 0
    assert [later >= earlier for earlier, later in pairwise([pending().age(START - 1), pending().age(START)])] == [True]
