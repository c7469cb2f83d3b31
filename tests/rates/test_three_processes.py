"""Three real processes that use one account, each with a share of the limit or all with Redis."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.client.rate_limiter import account_name
from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.rate_clocks import FastClock
from tests.support.rate_process import Workload

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 50
REDIS = "redis://127.0.0.1:6379/0"


def service(*, scale: float, latency: float) -> SegmindEmulator:
    # It refuses no call, so that calls over the limit are accepted and visible.
    return SegmindEmulator(scale=scale, latency=latency, api_keys=[f"SG_{uuid.uuid4().hex[:16]}"])


def run_together(parts: list[Workload]) -> list[int]:
    """Run processes at the same time and return how many requests of each completed."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.rate_process", json.dumps(asdict(workload))],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for workload in parts
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [int(process.communicate(timeout=60)[0]) for process in processes]
    finally:
        for process in processes:
            with process:
                process.kill()


def assert_never_above_the_limit(emulator: SegmindEmulator) -> None:
    calls = emulator.calls()
    assert {call.status for call in calls} == {200}
    assert emulator.most_accepted(60.0) <= LIMIT
    # Fewer would prove nothing: one window must be full, and another must follow.
    assert emulator.most_accepted(60.0) > 0.5 * LIMIT
    assert len(calls) > 1.5 * LIMIT
    assert calls[-1].time - calls[0].time > 60


def test_three_processes_with_shares_of_the_limit_never_exceed_it_together() -> None:
    shares = {0.5: 30, 0.3: 18, 0.2: 12}
    with service(scale=20, latency=3.0) as emulator:
        clock = FastClock(time.time(), emulator.now(), 20)
        rate: dict[str, Any] = {"requests_per_minute": LIMIT, "api_key": emulator.api_key}
        done = run_together(
            [
                Workload(emulator.gateway_url, requests, asdict(clock), {**rate, "rate_share": share})
                for share, requests in shares.items()
            ]
        )
        assert done == list(shares.values())
        assert_never_above_the_limit(emulator)


@pytest.fixture
def shared() -> Iterator[SegmindEmulator]:
    """A service whose account is new to Redis; its keys are deleted at the end."""
    import redis

    with service(scale=30, latency=0.1) as emulator:
        yield emulator
        with redis.Redis.from_url(REDIS) as connection:
            traces = list(connection.scan_iter(f"*{account_name(emulator.gateway_url, emulator.api_key)}*"))
            assert traces
            connection.delete(*traces)


@pytest.mark.redis
def test_three_processes_sharing_redis_never_exceed_the_limit_together(shared: SegmindEmulator) -> None:
    # Redis and its clients use the wall clock, so the minute is shortened instead: 2 s, like that of the service.
    rate = {"requests_per_minute": LIMIT, "redis_url": REDIS, "api_key": shared.api_key}
    clock = FastClock(0.0, 0.0, 1.0)
    done = run_together([Workload(shared.gateway_url, 15, asdict(clock), rate, window=2.0)] * 3)
    assert done == [15, 15, 15]
    assert_never_above_the_limit(shared)
