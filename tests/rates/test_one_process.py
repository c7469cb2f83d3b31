"""One process with a limit of 50 calls per minute that counts every call."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from airflow_provider_segmind.client.async_client import AsyncSegmindClient
from airflow_provider_segmind.client.config import ClientConfig
from airflow_provider_segmind.client.endpoints import Endpoints
from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.rate_clocks import DistantTransport, LeapingClock
from tests.support.rate_requests import MODEL, submit_and_wait

LIMIT = 50
LATENCY = {"lognormal": {"median": 4, "sigma": 0.5, "seed": 1}}


@pytest.fixture
def clock() -> LeapingClock:
    return LeapingClock()


@pytest.fixture
def emulator(clock: LeapingClock) -> Iterator[SegmindEmulator]:
    """A service that counts every call and takes some seconds for a request."""
    with SegmindEmulator(clock=clock, rpm=LIMIT, rpm_counts_gets=True, latency=LATENCY) as running:
        yield running


def client_of(emulator: SegmindEmulator, clock: LeapingClock, seed: int = 1, **rate: object) -> AsyncSegmindClient:
    config = ClientConfig(emulator.api_key, Endpoints(gateway=emulator.gateway_url), **rate)  # type: ignore[arg-type]
    rng = random.Random(seed)
    return AsyncSegmindClient(config, transport=DistantTransport(clock, rng), sleep=clock.sleep, clock=clock, rng=rng)


@pytest.mark.parametrize("known", [True, False], ids=["polls_known_to_count", "found_out"])
async def test_300_requests_finish_near_the_theoretical_rate_and_hardly_any_call_is_refused(
    emulator: SegmindEmulator, clock: LeapingClock, known: bool
) -> None:
    async with client_of(emulator, clock, requests_per_minute=LIMIT) as client:
        client.limiter.counts_polls = known
        states = await clock.run(*(submit_and_wait(client, str(number)) for number in range(300)))

    calls = emulator.calls()
    refused = [call for call in calls if call.status == 429]
    accepted = [post for post in emulator.posts() if post.status == 200]
    assert sum(state.completed for state in states) == len(accepted) == len(emulator.bill) == 300
    assert len(refused) <= 0.02 * len(calls)
    # The calls of the first minute can all be sent at once; after that each has to wait until one leaves the window.
    minutes = (calls[-1].time - calls[0].time) / 60
    assert (len(calls) - len(refused) - LIMIT) / minutes >= 0.85 * LIMIT
    assert minutes <= 1.25 * (2 * 300 - LIMIT) / LIMIT


async def test_300_requests_finish_in_time_under_an_undeclared_limit(
    emulator: SegmindEmulator, clock: LeapingClock
) -> None:
    async with client_of(emulator, clock) as client:
        states = await clock.run(*(submit_and_wait(client, str(number)) for number in range(300)))

    calls = emulator.calls()
    assert sum(state.completed for state in states) == len(emulator.bill) == 300
    # All 300 are sent before the first refusal; after that the limit is roughly known, and whether polls count.
    late = [call for call in calls if call.status == 429 and call.time > calls[0].time + 60]
    assert len(late) <= 0.1 * len(calls)
    assert (calls[-1].time - calls[0].time) / 60 <= 1.5 * (2 * 300 - LIMIT) / LIMIT


@pytest.mark.parametrize("route", ["status", "submit"])
async def test_a_429_with_a_reset_in_7_s_pauses_every_worker_of_the_account_for_7_s(
    emulator: SegmindEmulator, clock: LeapingClock, route: str
) -> None:
    emulator.settings(rpm=None)
    emulator.fault(route, status=429, reset_in=7, skip=200)
    end = clock() + 30

    async def worker(client: AsyncSegmindClient) -> None:
        submitted = await client.submit(MODEL, {"prompt": "first"})
        while clock() < end:
            await client.get_status(submitted.request_id)
            await client.submit(MODEL, {"prompt": "next"})

    async with client_of(emulator, clock, seed=1) as one, client_of(emulator, clock, seed=2) as other:
        await clock.run(*(worker(client) for client in (one, other) for _ in range(10)))

    calls = emulator.calls()
    [refused] = [call.time for call in calls if call.status == 429]
    before = [call.time for call in calls if refused - 1 < call.time < refused]
    after = [call.time for call in calls if call.time > refused]
    # Calls that were sent before the response arrived, at most two transits of 0.3 s, still reach the server.
    silent = [moment for moment in after if refused + 0.6 < moment < refused + 7]
    assert len(before) >= 10
    assert silent == []
    assert min(moment for moment in after if moment > refused + 0.6) < refused + 9
