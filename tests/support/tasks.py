"""Fixtures for running tasks directly against an emulator with the test's clock."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.airflow_fakes import KEY, Clock, Run
from tests.support.chat_tasks import Chat


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock()
    yield made
    for hook in made.hooks:
        hook.close()


@pytest.fixture
def emulator(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[SegmindEmulator]:
    """An offline Segmind with the test's clock, behind the connection ``segmind_default``."""
    with SegmindEmulator(clock=clock, api_keys=[KEY]) as running:
        monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", running.connection_json)
        yield running


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.fixture
def chat(emulator: SegmindEmulator, clock: Clock, run: Run) -> Iterator[Chat]:
    """A chat task that a test can try several times."""
    talking = Chat(emulator, clock, run)
    yield talking
    talking.close()
