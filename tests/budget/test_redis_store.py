"""Budgets in Redis: what only Redis can do wrong."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
import redis

from airflow_provider_segmind.budget.limits import Window
from airflow_provider_segmind.budget.redis_store import RedisBudgetStore
from airflow_provider_segmind.budget.store import Refused, Usage
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindStateError
from tests.support.budgets import REDIS, Address, a_reservation, budget_places

__all__ = ["budget_places"]

DAY = Window("a/day", "a", 100, 2000.0)


def test_a_redis_that_does_not_answer_is_an_error_that_shows_no_password() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"redis://:hunter2@127.0.0.1:{bound.getsockname()[1]}/3"
        store = RedisBudgetStore(url, sleep=lambda _: None)

        with pytest.raises(SegmindStateError, match=r"Redis at 127.0.0.1:.*, database 3.*cannot be used") as raised:
            store.reserve(a_reservation(), [DAY], max_in_flight=None)

    assert raised.value.retryable
    assert "hunter2" not in str(raised.value)


def test_a_url_that_cannot_be_read_is_not_shown() -> None:
    with pytest.raises(SegmindConfigError, match="must look like") as raised:
        RedisBudgetStore("http://:hunter2@host")

    assert "hunter2" not in str(raised.value)


@pytest.mark.redis
def test_a_redis_that_may_remove_keys_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    store = RedisBudgetStore(REDIS, prefix="{segmind-budget-test}:")
    monkeypatch.setattr(store._client, "info", lambda _: {"maxmemory_policy": "allkeys-lru"})

    with pytest.raises(SegmindConfigError, match="noeviction"):
        store.reserve(a_reservation(), [DAY], max_in_flight=None)


@pytest.mark.redis
@pytest.mark.parametrize(
    ("aof", "save", "warned"), [(0, "", True), (1, "", False), (0, "3600 1", False), (0, None, False)]
)
def test_a_redis_that_keeps_nothing_on_disk_is_warned_of_once(
    aof: int,
    save: str | None,
    warned: bool,
    budget_places: Callable[[str], Address],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store: Any = budget_places("redis").open()

    def config_get(_: str) -> dict[str, str]:
        if save is None:
            raise redis.ResponseError("unknown command 'CONFIG'")
        return {"save": save}

    info = {"memory": {"maxmemory_policy": "noeviction"}, "persistence": {"aof_enabled": aof}}
    monkeypatch.setattr(store._client, "info", info.__getitem__)
    monkeypatch.setattr(store._client, "config_get", config_get)
    for number in range(2):
        store.reserve(a_reservation(number), [DAY], max_in_flight=None)

    assert caplog.text.count("keeps nothing on disk") == int(warned)


@pytest.mark.redis
def test_a_store_that_was_emptied_stops_what_had_reserved_in_it(budget_places: Callable[[str], Address]) -> None:
    address = budget_places("redis")
    store = address.open()
    store.reserve(a_reservation(), [DAY], max_in_flight=None)
    address.empty()

    assert not store.sending("id-1", 1001.0)
    assert not store.settle("id-1", 3)
    assert store.extend("id-1", 1, [DAY], max_in_flight=None) is None
    assert store.usage(["a/day"]) == {}


@pytest.mark.redis
def test_a_script_is_loaded_again_after_redis_forgot_it(budget_places: Callable[[str], Address]) -> None:
    store: Any = budget_places("redis").open()
    store.reserve(a_reservation(), [DAY], max_in_flight=None)
    store._client.script_flush()

    assert store.settle("id-1", 2)


@pytest.mark.redis
def test_large_amounts_stay_exact(budget_places: Callable[[str], Address]) -> None:
    store = budget_places("redis").open()
    million = Window("a/day", "a", 1_000_000_000_000, 2000.0)
    store.reserve(a_reservation(amount=900_000_000_000), [million], max_in_flight=None)
    store.settle("id-1", 900_000_000_000.0)
    store.reserve(a_reservation(2), [million], max_in_flight=None)
    store.settle("id-2", 0.000001)

    outcome = store.reserve(a_reservation(3, amount=100_000_000_001), [million], max_in_flight=None)

    assert isinstance(outcome, Refused)
    assert store.usage(["a/day"]) == {"a/day": Usage(900_000_000_000.000001, 0)}
