"""
The rate limit of an account: how many calls a minute it may make, and which call is sent first.

The registry has one limiter for each host and key in the process, named by a digest, so that tasks, triggers and
enrichments share a window and a cooldown. Every call to the gateway passes through a :class:`Throttle`.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

from airflow_provider_segmind.client.endpoints import Call
from airflow_provider_segmind.client.rate_window import LocalWindow, RedisWindow
from airflow_provider_segmind.client.retry import account_pause_after_429
from airflow_provider_segmind.exceptions import (
    SegmindAPIError,
    SegmindConnectionError,
    SegmindError,
    SegmindPausedError,
    SegmindRateLimitError,
)


class Priority(IntEnum):
    """Which call is sent first: seconds added to the time at which a call joined the queue."""

    EXPIRING = -3600
    """A poll of a request whose result is about to expire."""
    SUBMIT = 0
    POLL = 20
    """Submits overtake it for 20 s and no longer, so that it cannot starve."""


@dataclass(frozen=True, slots=True)
class RateSettings:
    """
    The rate limit of an account and how processes share it.

    :param requests_per_minute: the account's limit; None starts without one and learns it from 429 responses.
    :param rate_share: this process's share of the limit, above 0 and at most 1, where several processes use the
        account without Redis.
    :param redis_url: share the window through Redis instead; needs ``requests_per_minute``.
    :param window: length of a "minute" in seconds; tests shorten it.
    """

    requests_per_minute: float | None = None
    rate_share: float = 1.0
    redis_url: str | None = field(default=None, repr=False)
    window: float = 60.0

    @property
    def ceiling(self) -> float | None:
        """Return how many calls per window this process may make at most, None when unknown."""
        rate = self.requests_per_minute
        return rate if rate is None or self.redis_url else rate * self.rate_share


LONGEST_PAUSE = 5.0
"""Seconds after which a waiting call checks again, because slots may have become free early."""
SHORT_PAUSE = 0.05
"""Seconds between checks whose outcome depends on calls in flight."""
RAMP_END = 64
"""Calls in flight at which the slow start after a cooldown ends; each successful call allows one more."""
SMALLEST_PLAN = 5.0
"""Calls a minute of the smallest plan; no estimate of the limit goes below it."""
DECREASE = 0.8
"""Factor by which a 429 lowers the limit."""
INCREASE = 0.1
"""Part of the limit that each minute without a 429 adds."""
FREE_POLLS_FACTOR = 1.2
"""How many times the limit must be exceeded by an accepted poll to show that polls do not count; our minute is longer
than Segmind's."""
GATEWAY_ERRORS_ALLOWED = 3
"""Consecutive responses of a gateway, without one from Segmind between them, after which all calls pause."""
LONGEST_GATEWAY_PAUSE = 5.0
"""Seconds between the calls that probe whether Segmind itself responds again."""
REDIS_TIMEOUT = 30.0
"""Seconds for which Redis may be unreachable before a waiting call fails."""


class Ticket(NamedTuple):
    """A position in the queue."""

    due: float
    number: int


@dataclass(frozen=True, slots=True)
class Permit:
    """
    Permission to send one call.

    :param slot: number in the window, None for a call that does not count.
    :param poll: number among the polls while it is unknown whether they count.
    """

    sent_at: float
    slot: int | None
    paid: bool
    poll: int | None = None


Admission = Generator[float | Callable[[], float | None], Any, Permit]


class RateLimiter:
    """
    Decides when a call may be sent.

    A caller acquires a permit (:meth:`acquire`, :meth:`acquire_async`, or :meth:`admission` with its own loop), sends
    the call, and passes its outcome to :meth:`release`.

    :param name: digest of host and key, the only trace of the key kept here.
    :ivar counts_polls: whether GETs count towards the limit, as found out.
    """

    def __init__(self, settings: RateSettings, *, name: str = "", rng: random.Random | None = None) -> None:
        self.name = name
        self._rng = rng or random.Random()
        self._lock = threading.Lock()
        self._queue: list[Ticket] = []
        self._tickets = 0
        self._cooldown_until = 0.0
        self._shared_full_until = 0.0
        self._refusals = 0
        self._gateway_errors = 0
        self._ramp: int | None = None
        self._unreachable_since: float | None = None
        self._attempt_took = 0.0
        self._window = LocalWindow(None, settings.window)
        self._accepted = LocalWindow(None, settings.window)
        self._polls = LocalWindow(None, settings.window)
        self.counts_polls = False
        self._shared: RedisWindow | None = None
        self.configure(settings)

    def __repr__(self) -> str:
        return f"RateLimiter({self.name[:8]!r}, limit={self.limit!r}, waiting={len(self._queue)})"

    def configure(self, settings: RateSettings) -> None:
        """Replace the settings; calls already sent stay counted, and what was found out about polls stays known."""
        with self._lock:
            self.settings = settings
            # With a declared limit, one poll accepted beyond it shows whether polls count.
            self._polls_in_doubt = not self.counts_polls and settings.ceiling is not None
            self.limit = settings.ceiling
            self._accepted.seconds = self._polls.seconds = settings.window
            self._fit_window()
            rate = settings.requests_per_minute
            if settings.redis_url and rate:
                seconds = settings.window / min(1.0, rate)
                self._shared = RedisWindow(settings.redis_url, self.name, max(1, int(rate)), seconds)
            else:
                self._shared = None

    def counts(self, call: Call[Any]) -> bool:
        """Return whether a call takes a slot in the window."""
        return call.method != "GET" or self.counts_polls

    def cooldown(self, now: float) -> float:
        """Return the seconds for which no call may be sent."""
        return max(0.0, self._cooldown_until - now)

    def interval(self) -> float:
        """Return the seconds between calls at the limit, 0 while polls do not count or the limit is unknown."""
        return self.settings.window / self.limit if self.counts_polls and self.limit else 0.0

    def seconds_until_free(self, now: float) -> float:
        """Return the seconds until a call may be sent at the earliest, if no other call were waiting."""
        with self._lock:
            return max(0.0, self._cooldown_until - now, self._window.seconds_until(1, now))

    def enqueue(self, priority: Priority, now: float) -> Ticket:
        """Join the queue."""
        with self._lock:
            self._tickets += 1
            ticket = Ticket(now + priority * self.settings.window / 60, self._tickets)
            insort(self._queue, ticket)
        return ticket

    def dequeue(self, ticket: Ticket) -> None:
        """Leave the queue, with or without a permit."""
        with self._lock:
            del self._queue[bisect_left(self._queue, ticket)]

    def seconds_to_wait(self, ticket: Ticket, now: float) -> float:
        """Return the seconds after which to check again; 0 means that the call may be sent."""
        with self._lock:
            if now < self._cooldown_until:
                return self._cooldown_until - now
            if now < self._shared_full_until:
                return self._shared_full_until - now
            position = bisect_left(self._queue, ticket)
            if self._ramp is not None and self._window.in_flight(now) + position >= self._ramp:
                return SHORT_PAUSE * (1 + min(position, 20))
            wait = self._window.seconds_until(position + 1, now)
            if wait <= 0 and position > 0 and self._shared is not None:
                return SHORT_PAUSE
            return min(wait, LONGEST_PAUSE)

    def admission(self, call: Call[Any], clock: Callable[[], float], priority: Priority | None) -> Admission:
        """
        Wait for a permit: yield seconds to sleep, or a blocking call to Redis.

        :raises SegmindConnectionError: Redis stays unreachable; nothing was sent.
        """
        paid = call.context.paid
        while not self.counts(call):
            if (pause := self.cooldown(clock())) > 0:
                yield pause + self._rng.random() * min(1.0, pause)
            elif self._polls_in_doubt and self._over_limit(clock()) and self._polls.in_flight(clock()):
                yield SHORT_PAUSE * (1 + self._rng.random())
            else:
                with self._lock:
                    now = clock()
                    return Permit(now, None, paid, self._polls.take(now) if self._polls_in_doubt else None)
        joined = clock()
        ticket = self.enqueue((Priority.SUBMIT if paid else Priority.POLL) if priority is None else priority, joined)
        try:
            while True:
                self._check_shared(joined, clock())
                wait = self.seconds_to_wait(ticket, clock())
                if wait <= 0 and self._shared is not None:
                    wait = yield from self._take_shared_slot(self._shared, joined, clock)
                if wait <= 0:
                    now = clock()
                    with self._lock:
                        return Permit(now, self._window.take(now), paid)
                yield wait
        finally:
            self.dequeue(ticket)

    def _check_shared(self, joined: float, now: float) -> None:
        """
        Fail a call when Redis stays unreachable.

        The timeout counts from when the call began to wait, whichever call noticed first: calls behind it in the queue
        must not wait for the timeout one after another. It ends before another attempt could exceed it.

        :raises SegmindConnectionError: nothing was sent.
        """
        since = self._unreachable_since
        if since is not None and now - max(joined, since) + self._attempt_took >= REDIS_TIMEOUT:
            error = SegmindConnectionError(
                f"The rate limit shared through Redis has been unreachable for {now - since:.0f} s. This call was not "
                "sent and nothing was billed for it; check the Redis URL of the connection."
            )
            error.retries_exhausted = True
            raise error

    def _take_shared_slot(
        self, shared: RedisWindow, joined: float, clock: Callable[[], float]
    ) -> Generator[Any, Any, float]:
        while True:
            began = clock()
            wait: float | None = yield shared.take
            if wait is not None:
                self._unreachable_since = None
                break
            self._unreachable_since = since = began if self._unreachable_since is None else self._unreachable_since
            now = clock()
            self._attempt_took = max(0.0, now - began)
            self._check_shared(joined, now)
            yield min(0.5 + self._rng.random(), REDIS_TIMEOUT - (now - max(joined, since)))
            self._check_shared(joined, clock())
        if wait > 0:
            wait += self._rng.random() * 0.1
            self._shared_full_until = clock() + min(wait, LONGEST_PAUSE)
        return wait

    def cancel(self, permit: Permit) -> None:
        """Return the permit of a call that was not sent; its slot in Redis stays taken for a minute."""
        with self._lock:
            if permit.slot is not None:
                self._window.cancel(permit.slot)
            if permit.poll is not None:
                self._polls.cancel(permit.poll)

    def release(self, permit: Permit, now: float, error: BaseException | None = None) -> Callable[[], None] | None:
        """
        End a call and learn from its outcome.

        :returns: a blocking function that starts the cooldown in Redis, None when there is none to start.
        """
        with self._lock:
            if permit.slot is not None:
                self._window.release(permit.slot, now)
            if permit.poll is not None:
                self._polls.release(permit.poll, now)
            if not isinstance(error, SegmindRateLimitError):
                if permit.slot is not None and error is None:
                    self._accepted.release(self._accepted.take(now), now)
                if error is None and permit.poll is not None and self._over_limit(permit.sent_at, FREE_POLLS_FACTOR):
                    self._polls_in_doubt = False
                if isinstance(error, SegmindAPIError) and error.gateway:
                    self._pause_for_gateway(permit, now)
                elif permit.sent_at >= self._cooldown_until:
                    self._relax(counted=permit.slot is not None)
                else:
                    self._raise_to_accepted(now)
                return None
            if not permit.paid:
                self.counts_polls, self._polls_in_doubt = True, False
                # Polls already accepted took slots that submits must not get now.
                self._window.absorb(self._polls, now)
            seconds = self._cool(permit, now, error)
            return None if self._shared is None else partial(self._shared.cool, seconds)

    def _over_limit(self, now: float, times: float = 1.0) -> bool:
        """Return whether submits and polls together exceed the limit, so that one poll shows whether polls count."""
        limit = self.limit
        return limit is not None and self._window.used(now) + self._polls.used(now) > times * limit

    def _pause_for_gateway(self, permit: Permit, now: float) -> None:
        """Pause all calls when a gateway responds instead of Segmind: the outcome of each POST would be unknown."""
        if permit.sent_at < self._cooldown_until:
            return
        self._gateway_errors += 1
        excess = self._gateway_errors - GATEWAY_ERRORS_ALLOWED
        if excess >= 0:
            seconds = min(LONGEST_GATEWAY_PAUSE, 0.25 * 2.0 ** min(excess, 6)) * (0.75 + self._rng.random() / 4)
            self._cooldown_until = max(self._cooldown_until, now + seconds)
            self._ramp = 1

    def _relax(self, *, counted: bool) -> None:
        self._refusals = self._gateway_errors = 0
        if self._ramp is not None:
            self._ramp = None if self._ramp >= RAMP_END else self._ramp + 1
        ceiling = self.settings.ceiling
        if counted and self.limit is not None and (ceiling is None or self.limit < ceiling):
            # Over a window of `limit` calls this adds up to the increase.
            self.limit += max(1.0, INCREASE * (ceiling or self.limit)) / self.limit
            self.limit = self.limit if ceiling is None else min(self.limit, ceiling)
            self._fit_window()

    def _raise_to_accepted(self, now: float) -> None:
        # In a burst the first 429 overtakes responses to calls that were accepted before it.
        seen = DECREASE * self._accepted.answered(now)
        if self.settings.ceiling is None and self.limit is not None and self.limit < seen:
            self.limit = seen
            self._fit_window()

    def _cool(self, permit: Permit, now: float, error: SegmindRateLimitError) -> float:
        # Calls that were in flight when the cooldown began add no information.
        news = permit.sent_at >= self._cooldown_until
        self._refusals += news
        seconds = account_pause_after_429(error, max(1, self._refusals), self._rng.random())
        self._cooldown_until = max(self._cooldown_until, now + seconds)
        self._ramp = 1
        if news and permit.slot is not None:
            # An unknown limit is near what was accepted before the 429; of a known one, others may be using a part.
            limit = self._window.answered(now) - 1.0 if self.limit is None else self.limit
            self.limit = max(DECREASE * limit, min(SMALLEST_PLAN, self.settings.ceiling or SMALLEST_PLAN))
            self._fit_window()
        return seconds

    def _fit_window(self) -> None:
        limit, window = self.limit, self.settings.window
        self._window.amount = None if limit is None else max(1, int(limit + 1e-9))
        self._window.seconds = window if limit is None or limit >= 1 else window / limit

    def acquire(
        self,
        call: Call[Any],
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], object],
        priority: Priority | None = None,
    ) -> Permit:
        """Wait for a permit to send ``call``, blocking."""
        with closing(self.admission(call, clock, priority)) as steps:
            try:
                step = next(steps)
                while True:
                    step = steps.send(step() if callable(step) else sleep(step))
            except StopIteration as stop:
                permit: Permit = stop.value
                return permit

    async def acquire_async(
        self,
        call: Call[Any],
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        priority: Priority | None = None,
    ) -> Permit:
        """Wait for a permit to send ``call`` without blocking the event loop."""
        with closing(self.admission(call, clock, priority)) as steps:
            try:
                step = next(steps)
                while True:
                    step = steps.send(await (asyncio.to_thread(step) if callable(step) else sleep(step)))
            except StopIteration as stop:
                permit: Permit = stop.value
                return permit


T = TypeVar("T")
CountCall: TypeAlias = Callable[[bool], None]
"""Called for each call that is sent, with whether it is a paid one."""


class CallWithdrawnError(Exception):
    """Raised when a call is not sent after all; its permit goes to the next call."""


_limiters: dict[str, RateLimiter] = {}
_registry_lock = threading.Lock()


def account_name(gateway: str, api_key: str) -> str:
    """Return a digest of host and key that reveals neither."""
    return hashlib.sha256(f"{gateway}\0{api_key}".encode()).hexdigest()[:32]


def rate_limiter_for(gateway: str, api_key: str, settings: RateSettings) -> RateLimiter:
    """Return the rate limiter of an account in this process; new settings replace old ones."""
    name = account_name(gateway, api_key)
    with _registry_lock:
        limiter = _limiters.get(name)
        if limiter is None:
            limiter = _limiters[name] = RateLimiter(settings, name=name)
        elif limiter.settings != settings:
            limiter.configure(settings)
        return limiter


@dataclass(slots=True)
class CallCounts:
    """
    Calls to the gateway so far, retries included.

    :param posts: paid calls.
    :param polls: free calls.
    :param refused: those of both that were answered 429.
    :param waited: seconds for which calls waited for a permit, added up.
    """

    posts: int = 0
    polls: int = 0
    refused: int = 0
    waited: float = 0.0

    def add(self, permit: Permit, joined: float, failure: SegmindError | None) -> None:
        """Count a call that was sent."""
        if permit.paid:
            self.posts += 1
        else:
            self.polls += 1
        self.refused += isinstance(failure, SegmindRateLimitError)
        self.waited += permit.sent_at - joined


class Throttle:
    """
    Sends calls when the rate limiter permits.

    :param gateway: base URL of the limited calls; others are sent at once.
    :param clock: epoch seconds.
    :ivar count: called for each call that was sent, retries included.
    """

    def __init__(self, limiter: RateLimiter, gateway: str, clock: Callable[[], float]) -> None:
        self.limiter = limiter
        self._prefix = f"{gateway}/"
        self._clock = clock
        self.count: CountCall = lambda _: None
        self.counts = CallCounts()

    def send(
        self,
        call: Call[T],
        exchange: Callable[[Call[T]], T],
        sleep: Callable[[float], None],
        priority: Priority | None = None,
    ) -> T:
        """Send ``call`` with ``exchange`` once it has a permit."""
        if not call.url.startswith(self._prefix):
            return exchange(call)
        joined = self._clock()
        permit = self.limiter.acquire(call, clock=self._clock, sleep=sleep, priority=priority)
        failure: SegmindError | None = None
        sent = True
        try:
            return exchange(call)
        except SegmindPausedError:
            sent = False
            self.limiter.cancel(permit)
            raise
        except SegmindError as error:
            failure = error
            raise
        finally:
            if sent:
                self.count(call.context.paid)
                self.counts.add(permit, joined, failure)
                share_cooldown = self.limiter.release(permit, self._clock(), failure)
                if share_cooldown is not None:
                    share_cooldown()

    async def send_async(
        self,
        call: Call[T],
        exchange: Callable[[Call[T]], Awaitable[T]],
        sleep: Callable[[float], Awaitable[Any]],
        priority: Priority | None = None,
    ) -> T:
        """Send ``call`` with ``exchange`` once it has a permit, without blocking the event loop."""
        if not call.url.startswith(self._prefix):
            return await exchange(call)
        joined = self._clock()
        permit = await self.limiter.acquire_async(call, clock=self._clock, sleep=sleep, priority=priority)
        failure: SegmindError | None = None
        sent = True
        try:
            return await exchange(call)
        except (CallWithdrawnError, SegmindPausedError):
            sent = False
            self.limiter.cancel(permit)
            raise
        except SegmindError as error:
            failure = error
            raise
        finally:
            if sent:
                self.count(call.context.paid)
                self.counts.add(permit, joined, failure)
                share_cooldown = self.limiter.release(permit, self._clock(), failure)
                if share_cooldown is not None:
                    await asyncio.to_thread(share_cooldown)
