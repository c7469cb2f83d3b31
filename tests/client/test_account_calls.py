"""All calls of an account share a rate limiter, whichever client sends them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from airflow_provider_segmind.client.client import AsyncSegmindClient, SegmindClient
from airflow_provider_segmind.client.config import ClientConfig
from airflow_provider_segmind.client.http_library import httpx
from airflow_provider_segmind.client.poll_schedule import Pending
from airflow_provider_segmind.client.rate_limiter import Priority
from airflow_provider_segmind.exceptions import SegmindRequestFailedError, SegmindRequestTimeoutError
from tests.support.clients import KEY, PLAIN_KEY, START, World, accepted, answer, result, status, submit

BUSY = {"request_id": "r-1", "status": "PROCESSING"}
DONE = {"request_id": "r-1", "status": "COMPLETED", "output": "x", "metrics": {"total_time": 4.0}}


def submit_and_poll(world: World, client: Any) -> Any:
    if world.kind == "sync":
        submit(client)
        return status(client)

    async def both() -> Any:
        await submit(client)
        return await status(client)

    return both()


def test_the_cooldown_after_a_429_also_applies_to_the_other_kind_of_call(world: World) -> None:
    limited = answer(429, {"error": "slow down"}, headers={"retry-after": "7"})

    world.run([limited, accepted(), answer(200, BUSY)], partial(submit_and_poll, world))
    assert world.pauses[0] >= 7.0
    assert len(world.seen) == 3


def test_calls_beyond_the_declared_limit_wait_for_their_minute(world: World) -> None:
    def act(client: Any) -> Any:
        if world.kind == "sync":
            return [submit(client) for _ in range(3)]

        async def three() -> None:
            for _ in range(3):
                await submit(client)

        return three()

    world.run(answer(200, {"request_id": "r-1"}), act, requests_per_minute=2)
    assert 60 <= world.now - START <= 66


def test_waiting_for_a_permit_in_a_cooldown_ends_with_the_deadline(world: World) -> None:
    limited = answer(429, {"error": "slow down"}, headers={"retry-after": "60"})
    with pytest.raises(SegmindRequestTimeoutError):
        world.run(limited, lambda client: client.wait(Pending("r-1", START, START + 20)))
    assert world.now - START == 20


def test_calls_to_other_hosts_take_no_slot(world: World) -> None:
    def act(client: Any) -> Any:
        client.limiter.counts_polls = True
        if world.kind == "sync":
            return [client.list_models() for _ in range(5)]

        async def five() -> None:
            for _ in range(5):
                await client.list_models()

        return five()

    world.run(answer(200, {"models": []}), act, requests_per_minute=1)
    assert world.pauses == []


def test_polls_take_slots_where_they_count(world: World) -> None:
    def act(client: Any) -> Any:
        client.limiter.counts_polls = True
        if world.kind == "sync":
            return [result(client), status(client)]

        async def both() -> None:
            await result(client)
            await status(client)

        return both()

    world.run(answer(200, DONE), act, requests_per_minute=1)
    assert world.now - START >= 60


def test_failed_is_a_state_to_get_status_and_an_error_to_get_result(world: World) -> None:
    failed = answer(422, {"status": "FAILED", "error": "Prompt is Mandatory", "metrics": {}})

    assert world.run(failed, status).failed
    with pytest.raises(SegmindRequestFailedError, match="Prompt is Mandatory"):
        world.run(failed, result)


def test_a_poll_of_a_result_about_to_expire_goes_first(world: World) -> None:
    def act(client: Any) -> Any:
        young, old = Pending("r-1", START - 10, START + 9000), Pending("r-2", START - 3590, START + 9000)
        return [client.priority(one) for one in (young, old, None)]

    assert world.run(answer(200, DONE), act) == [None, Priority.EXPIRING, None]
    assert world.seen == []


def test_calls_are_counted_with_their_repetitions_and_whether_they_are_paid(world: World) -> None:
    counted: list[bool] = []

    def act(client: Any) -> Any:
        client.count_calls(counted.append)
        return submit_and_poll(world, client)

    world.run([answer(429, {"error": "slow down"}), accepted(), answer(200, BUSY)], act)

    assert counted == [True, True, False]


def test_both_clients_of_an_account_share_its_limiter_and_other_accounts_have_their_own() -> None:
    one, other = ClientConfig(api_key=KEY), ClientConfig(api_key=PLAIN_KEY)
    with SegmindClient(one) as first, SegmindClient(one) as second, SegmindClient(other) as third:
        assert first.limiter is second.limiter
        assert first.limiter is not third.limiter
        assert AsyncSegmindClient(one, transport=httpx.MockTransport(lambda _: answer())).limiter is first.limiter
