"""
Sliding windows that count calls, in one process and, through Redis, in many.

Any 60 s contain at most as many calls as the limit allows. In one process the window is a log of times that takes
``now`` as an argument. The ``limits`` library's memory storage reads the wall clock, starts a thread for each hit and
takes 70 ms to import, so it is used only where its arithmetic runs inside Redis.
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
LONGEST_ARRIVAL = 10.0
"""Seconds after which a call has arrived or failed, with or without a response (the connect timeout)."""
WINDOW_MARGIN = 0.05
"""Seconds added to a window, so that its two ends cannot fall into the same minute of the server."""
ATTEMPT_SECONDS = 5.0
"""Seconds that one operation in Redis may take, name resolution and connecting included."""
SHARED_MARGIN = 1
"""Seconds added to a window in Redis, for clock skew and for calls that arrive late."""


def _within(seconds: float, work: Callable[[], T]) -> T:
    """
    Return what ``work`` returns, or abandon it after a timeout.

    Sockets have timeouts, but name resolution has none, and the timeout applies to each address of a host separately.

    :raises TimeoutError: it took longer.
    """
    box: queue.SimpleQueue[Future[T]] = queue.SimpleQueue()

    def run() -> None:
        done: Future[T] = Future()
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001
            # Raised again in the waiting thread.
            done.set_exception(error)
        box.put(done)

    # A daemon thread, so that a process does not wait for it when it exits.
    threading.Thread(target=run, name="segmind-redis", daemon=True).start()
    try:
        return box.get(timeout=seconds).result()
    except queue.Empty:
        raise TimeoutError from None


class LocalWindow:
    """
    A log of the calls of this process.

    A call takes a slot from before it is sent until the window's length after its *response*. The server counts it
    at some point between, so its own window cannot contain more than ours, however long calls take.

    :param amount: calls allowed in the window, None for any number.
    :param seconds: length of the window.
    """

    __slots__ = ("_ended", "_in_flight", "_next", "amount", "seconds")

    def __init__(self, amount: int | None, seconds: float) -> None:
        self.amount = amount
        self.seconds = seconds
        self._in_flight: dict[int, float] = {}
        self._ended: deque[float] = deque()
        self._next = 0

    def in_flight(self, now: float) -> int:
        """Return the number of calls in flight."""
        self._drop_expired(now)
        return len(self._in_flight)

    def answered(self, now: float) -> int:
        """Return the number of calls that were answered within the window."""
        self._drop_expired(now)
        return len(self._ended)

    def used(self, now: float) -> int:
        """Return the number of slots taken."""
        self._drop_expired(now)
        return len(self._in_flight) + len(self._ended)

    def seconds_until(self, slots: int, now: float) -> float:
        """Return the seconds until this many slots are free, at the least."""
        if self.amount is None:
            return 0.0
        missing = self.used(now) + slots - self.amount
        if missing <= 0:
            return 0.0
        if missing <= len(self._ended):
            return max(0.0, self._ended[missing - 1] + self.seconds + WINDOW_MARGIN - now)
        return self.seconds

    def take(self, now: float) -> int:
        """Take a slot and return its number."""
        self._next += 1
        self._in_flight[self._next] = now
        return self._next

    def release(self, number: int, now: float) -> None:
        """Mark the call of a slot as answered, or failed."""
        if self._in_flight.pop(number, None) is not None:
            self._end(now)
        # Here as well, because without a limit `used` is never called.
        self._drop_expired(now)

    def cancel(self, number: int) -> None:
        """Free the slot of a call that was never sent, unless it is old enough to count as arrived."""
        self._in_flight.pop(number, None)

    def absorb(self, other: LocalWindow, now: float) -> None:
        """Count the calls of another window as well; calls in flight count as answered now."""
        self._drop_expired(now)
        other._drop_expired(now)
        for moment in (*other._ended, *(now for _ in other._in_flight)):
            self._end(moment)
        other._ended.clear()
        other._in_flight.clear()

    def _end(self, moment: float) -> None:
        if self._ended and self._ended[-1] > moment:
            insort(self._ended, moment)
        else:
            self._ended.append(moment)

    def _drop_expired(self, now: float) -> None:
        while self._in_flight:
            number, sent_at = next(iter(self._in_flight.items()))
            if sent_at + LONGEST_ARRIVAL > now:
                break
            del self._in_flight[number]
            self._end(sent_at + LONGEST_ARRIVAL)
        horizon = now - self.seconds - WINDOW_MARGIN
        while self._ended and self._ended[0] <= horizon:
            self._ended.popleft()


class RedisWindow:
    """
    A window in Redis, shared by processes on many machines through the ``limits`` library.

    Its methods block; an event loop calls them in a thread. The machines' clocks must agree to within a second.

    :param url: ``redis://…`` or ``rediss://…``; may contain a password and is never shown.
    :param name: digest of host and key, the same in all processes.
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
            # Its own retries would add up to more than our timeouts.
            once: Any = Retry(NoBackoff(), 0)
            self._storage: RedisStorage = RedisStorage(
                url, socket_timeout=ATTEMPT_SECONDS, socket_connect_timeout=ATTEMPT_SECONDS, retry=once
            )
        except (ValueError, ConfigurationError) as error:
            # `from None`, because both libraries quote the URL and it may hold a password.
            raise SegmindConfigError(
                f"The Redis URL of the rate limit cannot be used ({type(error).__name__}); it must look like "
                "'redis://host:6379/0' and needs the extra airflow-provider-segmind[redis]. Nothing was sent."
            ) from None
        kinds: Any = self._storage.base_exceptions
        self._errors: tuple[type[Exception], ...] = (*(kinds if isinstance(kinds, tuple) else (kinds,)), OSError)
        self._name = f"segmind-rate/{name}"
        self._amount = amount
        self._seconds = math.ceil(seconds) + SHARED_MARGIN

    def take(self) -> float | None:
        """
        Take a slot and return 0, or the seconds until one may be free; None when Redis is unreachable.

        Returns within :data:`ATTEMPT_SECONDS`. A slot taken after that still counts.
        """
        try:
            return _within(ATTEMPT_SECONDS, self._take)
        except TimeoutError:
            return None

    def _take(self) -> float | None:
        try:
            cooling = int(self._connection.pttl(self._cooldown_key)) / 1000
            if cooling > 0:
                return cooling
            if self._storage.acquire_entry(self._name, self._amount, self._seconds):
                return 0.0
            start, _ = self._storage.get_moving_window(self._name, self._amount, self._seconds)
        except self._errors:
            return None
        return max(0.01, start + self._seconds - time.time())

    def cool(self, seconds: float) -> None:
        """Start a cooldown in every process that shares the window, unless a longer one is running."""
        with contextlib.suppress(TimeoutError):
            _within(ATTEMPT_SECONDS, partial(self._cool, seconds))

    def _cool(self, seconds: float) -> None:
        milliseconds = math.ceil(seconds * 1000)
        # When Redis is unreachable, each process learns of the limit from its own next call.
        with contextlib.suppress(*self._errors):
            if milliseconds > int(self._connection.pttl(self._cooldown_key)):
                self._connection.set(self._cooldown_key, "1", px=milliseconds)

    @property
    def _connection(self) -> Any:
        return self._storage.get_connection()

    @property
    def _cooldown_key(self) -> str:
        return self._storage.prefixed_key(f"{self._name}/cooldown")
