from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from airflow_provider_segmind.emulator.server import SegmindEmulator
from tests.support.emulator_calls import MODEL, json_output


class FixedClock:
    """A wall clock that advances only when a test sets it."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self.time = start

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def wall() -> FixedClock:
    return FixedClock()


@pytest.fixture
def emulator(wall: FixedClock) -> Iterator[SegmindEmulator]:
    with SegmindEmulator(clock=wall) as running:
        yield running


@pytest.fixture
def http(emulator: SegmindEmulator) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=emulator.url, headers={"x-api-key": emulator.api_key}, trust_env=False) as client:
        yield client


@pytest.fixture
def submit(http: httpx.Client) -> Callable[..., str]:
    def send(model: str = MODEL, **inputs: Any) -> str:
        answer = http.post(f"/v2/{model}", json=inputs or {"prompt": "hello"})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["request_id"])

    return send


@pytest.fixture
def native(http: httpx.Client, submit: Callable[..., str]) -> Callable[..., Any]:
    """Submit a request and return the body of its language model."""

    def read(model: str = MODEL, **inputs: Any) -> Any:
        return json_output(http, submit(model, **inputs))

    return read
