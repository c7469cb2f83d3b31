from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from airflow_provider_segmind.emulator.server import SegmindEmulator

MODEL = "gemini-3.1-flash-lite"


@pytest.fixture
def emulator() -> Iterator[SegmindEmulator]:
    with SegmindEmulator() as running:
        yield running


@pytest.fixture
def http(emulator: SegmindEmulator) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=emulator.url, headers={"x-api-key": emulator.api_key}, trust_env=False) as client:
        yield client
