"""Windows that count calls, in one process and in Redis."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_segmind.client import rate_window as windows
from airflow_provider_segmind.client.rate_window import LocalWindow, RedisWindow
from airflow_provider_segmind.exceptions import SegmindConfigError
from tests.support.examples import examples


@settings(max_examples=examples(60))
@given(
    amount=st.integers(1, 8),
    calls=st.lists(st.tuples(st.floats(0, 30), st.floats(0, 12), st.floats(0, 1)), min_size=1, max_size=60),
)
def test_no_minute_exceeds_the_limit_wherever_between_request_and_response_a_call_counts(
    amount: int, calls: list[tuple[float, float, float]]
) -> None:
    window, now = LocalWindow(amount, 60.0), 0.0
    counted, open_calls = [], []
    for pause, duration, when in calls:
        now += pause
        while (wait := window.seconds_until(1, now)) > 0:
            for end, number in sorted(open_calls):
                if end <= now + wait:
                    window.release(number, end)
                    open_calls.remove((end, number))
            now += wait
        for end, number in sorted(open_calls):
            if end <= now:
                window.release(number, end)
                open_calls.remove((end, number))
        open_calls.append((now + duration, window.take(now)))
        counted.append(now + min(duration, 10.0) * when)
    counted.sort()
    assert all(counted[i + amount] - counted[i] >= 60.0 for i in range(len(counted) - amount))


def test_a_window_without_a_limit_keeps_one_minute() -> None:
    window = LocalWindow(None, 60.0)
    for second in range(1000):
        window.release(window.take(float(second)), second + 0.5)
    assert len(window._ended) <= 61


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Return a port that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def test_a_redis_that_never_responds_is_unreachable_in_time(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redis")
    monkeypatch.setattr(windows, "ATTEMPT_SECONDS", 0.1)
    window = RedisWindow(f"redis://127.0.0.1:{silent_port}/0", "name", 5, 60.0)
    assert window.take() is None
    window.cool(1.0)


def test_a_hanging_name_resolution_blocks_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_invalid_redis_url_is_not_quoted() -> None:
    pytest.importorskip("redis")
    with pytest.raises(SegmindConfigError) as caught:
        RedisWindow("http://:hunter2@localhost", "name", 5, 60.0)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
