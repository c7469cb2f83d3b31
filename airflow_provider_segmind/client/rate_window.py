"""
Pure: how many calls fit into a minute, in one process and, through Redis, in many.

The window slides: whatever 60 s are looked at, no more than the limit lie in them. In one process it is a log of
moments that takes ``now`` as an argument; the ``limits`` library's own memory storage reads the wall clock itself,
starts a thread for each hit and costs 70 ms to import, so it serves only where its arithmetic runs inside Redis.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_provider_segmind.exceptions import SegmindConfigError

if TYPE_CHECKING:
    from limits.storage import RedisStorage


T = TypeVar("T")
ARRIVAL = 10.0
"""Seconds after which a call has arrived or failed, whether or not it was answered (the time allowed to connect)."""
EDGE = 0.05
"""Seconds added to a window, so that both ends of a minute do not fall into the server's same minute."""
ATTEMPT_SECONDS = 5.0
"""Seconds that one question to Redis may take, name look-up, connecting and every answer together."""
REMOTE_MARGIN = 1
"""Seconds added to a window kept in Redis, for the skew of clocks and for calls that arrive late."""


def _within(seconds: float, work: Callable[[], T]) -> T:
    """
    Return what ``work`` returns, or leave it to itself.

    Sockets have timeouts of their own, but a name look-up has none, and each address of a host has one of its own.

    :raises TimeoutError: it took longer.
    """
    box: queue.SimpleQueue[Future[T]] = queue.SimpleQueue()

    def run() -> None:
        done: Future[T] = Future()
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001
            # Raised again in the thread that waits.
            done.set_exception(error)
        box.put(done)

    # A daemon, so that no process waits for it at its end.
    threading.Thread(target=run, name="segmind-redis", daemon=True).start()
    try:
        return box.get(timeout=seconds).result()
    except queue.Empty:
        raise TimeoutError from None


class LocalWindow:
    """
    A log of the calls of this process.

    A call takes a place from before it is sent until the window's length after it was *answered*. The server counts
    it somewhere between, so its own window cannot hold more than ours, however long calls are under way.

    :param amount: calls allowed in the window, None for any number.
    :param seconds: length of the window.
    """

    __slots__ = ("_ended", "_next", "_open", "amount", "seconds")

    def __init__(self, amount: int | None, seconds: float) -> None:
        self.amount = amount
        self.seconds = seconds
        self._open: dict[int, float] = {}
        self._ended: deque[float] = deque()
        self._next = 0

    def open(self, now: float) -> int:
        """Count the calls that are under way."""
        self._tidy(now)
        return len(self._open)

    def answered(self, now: float) -> int:
        """Count the calls that were answered within the window."""
        self._tidy(now)
        return len(self._ended)

    def used(self, now: float) -> int:
        """Count the places taken."""
        self._tidy(now)
        return len(self._open) + len(self._ended)

    def seconds_until(self, places: int, now: float) -> float:
        """Say how long it takes at least until so many places are free."""
        if self.amount is None:
            return 0.0
        missing = self.used(now) + places - self.amount
        if missing <= 0:
            return 0.0
        if missing <= len(self._ended):
            return max(0.0, self._ended[missing - 1] + self.seconds + EDGE - now)
        return self.seconds

    def take(self, now: float) -> int:
        """Take a place and return its number."""
        self._next += 1
        self._open[self._next] = now
        return self._next

    def give(self, number: int, now: float) -> None:
        """Note that the call of a place was answered, or failed."""
        if self._open.pop(number, None) is not None:
            self._end(now)
        # Here too, because without a limit nobody asks how many places are taken.
        self._tidy(now)

    def withdraw(self, number: int) -> None:
        """Give back the place of a call that was never sent; one that took longer than to arrive keeps it."""
        self._open.pop(number, None)

    def take_over(self, other: LocalWindow, now: float) -> None:
        """Count the calls of another window as well; those still under way count as answered now."""
        self._tidy(now)
        other._tidy(now)
        for moment in (*other._ended, *(now for _ in other._open)):
            self._end(moment)
        other._ended.clear()
        other._open.clear()

    def _end(self, moment: float) -> None:
        if self._ended and self._ended[-1] > moment:
            insort(self._ended, moment)
        else:
            self._ended.append(moment)

    def _tidy(self, now: float) -> None:
        while self._open:
            number, sent_at = next(iter(self._open.items()))
            if sent_at + ARRIVAL > now:
                break
            del self._open[number]
            self._end(sent_at + ARRIVAL)
        horizon = now - self.seconds - EDGE
        while self._ended and self._ended[0] <= horizon:
            self._ended.popleft()


class RedisWindow:
    """
    A window that processes on many machines share, kept by the ``limits`` library in Redis.

    Its calls block; an event loop makes them in a thread. Clocks of the machines must agree to within a second.

    :param url: ``redis://…`` or ``rediss://…``; may hold a password and is never shown.
    :param name: what the processes share, the digest of host and key.
    :param amount: calls allowed in the window; the same in every process, because the log is cut to it.
    :raises SegmindConfigError: the extra is not installed, or the URL cannot be read.
    """

    def __init__(self, url: str, name: str, amount: int, seconds: float) -> None:
        try:
            from limits.errors import ConfigurationError
            from limits.storage import RedisStorage
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise SegmindConfigError(
                "A rate limit shared through Redis needs the extra: pip install 'airflow-provider-segmind[redis]'. "
                "Nothing was sent."
            ) from error
        try:
            # Its own repetitions would add up to more than anybody here says to wait.
            once: Any = Retry(NoBackoff(), 0)
            self._storage: RedisStorage = RedisStorage(
                url, socket_timeout=ATTEMPT_SECONDS, socket_connect_timeout=ATTEMPT_SECONDS, retry=once
            )
        except (ValueError, ConfigurationError) as error:
            # `from None`, because both libraries quote the URL and it may hold a password.
            raise SegmindConfigError(
                f"The Redis URL of the rate limit cannot be used ({type(error).__name__}); it looks like "
                "'redis://host:6379/0' and needs the extra airflow-provider-segmind[redis]. Nothing was sent."
            ) from None
        kinds: Any = self._storage.base_exceptions
        self._errors: tuple[type[Exception], ...] = (*(kinds if isinstance(kinds, tuple) else (kinds,)), OSError)
        self._name = f"segmind-rate/{name}"
        self._amount = amount
        self._seconds = math.ceil(seconds) + REMOTE_MARGIN

    def take(self) -> float | None:
        """
        Take a place and return 0, or the seconds until one may be free; None when Redis is out of reach.

        It answers within :data:`ATTEMPT_SECONDS`. A place that is taken after that counts all the same.
        """
        try:
            return _within(ATTEMPT_SECONDS, self._take)
        except TimeoutError:
            return None

    def _take(self) -> float | None:
        try:
            cooling = int(self._connection.pttl(self._silence_key)) / 1000
            if cooling > 0:
                return cooling
            if self._storage.acquire_entry(self._name, self._amount, self._seconds):
                return 0.0
            start, _ = self._storage.get_moving_window(self._name, self._amount, self._seconds)
        except self._errors:
            return None
        return max(0.01, start + self._seconds - time.time())

    def cool(self, seconds: float) -> None:
        """Tell the other processes to send nothing for a while; a longer silence asked for earlier stands."""
        with contextlib.suppress(TimeoutError):
            _within(ATTEMPT_SECONDS, partial(self._cool, seconds))

    def _cool(self, seconds: float) -> None:
        milliseconds = math.ceil(seconds * 1000)
        # Out of reach, each process still hears of the limit from its own next call.
        with contextlib.suppress(*self._errors):
            if milliseconds > int(self._connection.pttl(self._silence_key)):
                self._connection.set(self._silence_key, "1", px=milliseconds)

    @property
    def _connection(self) -> Any:
        return self._storage.get_connection()

    @property
    def _silence_key(self) -> str:
        return self._storage.prefixed_key(f"{self._name}/silence")
