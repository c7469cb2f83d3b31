"""
How many calls a minute one account may make, who goes first, and the one way out that every call takes.

The registry keeps one limiter for each host and key in the process, named by a digest, so that tasks, triggers and
enrichment share a window and a cooldown.
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
from airflow_provider_segmind.exceptions import (
    SegmindAPIError,
    SegmindConfigError,
    SegmindConnectionError,
    SegmindError,
    SegmindRateLimitError,
)


class Priority(IntEnum):
    """Who goes first. The value is how many seconds later than it came a call takes its place in the queue."""

    EXPIRING = -3600
    """A look at a result that is about to be gone."""
    SUBMIT = 0
    LOOK = 20
    """Submits pass it for so long and no longer, so that it cannot starve."""


@dataclass(frozen=True, slots=True)
class RateSettings:
    """
    What an account may do.

    :param requests_per_minute: the account's limit; None starts without one and learns it from 429s.
    :param rate_share: this process's part of the limit, above 0 up to 1, where several share it without Redis.
    :param count_polls: whether GETs count; None until a GET is answered 429.
    :param redis_url: share the window through Redis instead; the limit must be given then.
    :param window: seconds a minute has.
    """

    requests_per_minute: float | None = None
    rate_share: float = 1.0
    count_polls: bool | None = None
    redis_url: str | None = field(default=None, repr=False)
    window: float = 60.0

    def __post_init__(self) -> None:
        rate = self.requests_per_minute
        if rate is not None and not 0 < rate < float("inf"):
            raise SegmindConfigError(f"'requests_per_minute' is {rate!r}; it must be above 0. Nothing was sent.")
        if not 0 < self.rate_share <= 1:
            raise SegmindConfigError(f"'rate_share' is {self.rate_share!r}; it must be in (0, 1]. Nothing was sent.")

    @property
    def ceiling(self) -> float | None:
        """Return the calls per window that this process may make at most, None for "unknown"."""
        rate = self.requests_per_minute
        return rate if rate is None or self.redis_url else rate * self.rate_share


LONGEST_SILENCE = 65.0
"""Seconds a reset header is believed for; Segmind's windows are a minute long."""
LONGEST_NAP = 5.0
"""Seconds after which a waiting call asks again, because places may have come free early."""
SHORT_NAP = 0.05
"""Seconds between questions whose answer depends on calls that are under way."""
EDGE_OF_RESET = 0.05
"""Seconds added to a reset, so that nobody comes back just before it."""
FULL_RAMP = 64
"""Calls under way at once at which the slow start is over; each good answer lets one more go."""
SMALLEST_PLAN = 5.0
"""Calls a minute of the smallest plan; no guess goes below it."""
DECREASE = 0.8
"""What a 429 leaves of the limit."""
INCREASE = 0.1
"""Part of the limit that each minute without a 429 gives back."""
PROOF = 1.2
"""How far past the limit a look must go through to show that looks do not count; our minute is longer than theirs."""
GATEWAY_ERRORS = 3
"""Answers of a gateway in a row, without one of Segmind's between them, after which everybody waits a moment."""
LONGEST_GATEWAY_PAUSE = 5.0
"""Seconds between calls that find out whether Segmind itself answers again."""
REDIS_PATIENCE = 30.0
"""Seconds a shared window may be out of reach before the caller hears of it."""


class Ticket(NamedTuple):
    """A place in the queue."""

    due: float
    number: int


@dataclass(frozen=True, slots=True)
class Permit:
    """
    Leave to send one call.

    :param place: number in the window, None for a call that does not count.
    :param look: number among the calls of which nobody knows yet whether they count.
    """

    sent_at: float
    place: int | None
    paid: bool
    look: int | None = None


Admission = Generator[float | Callable[[], float | None], Any, Permit]


class Governor:
    """
    Decide which call may be sent when.

    A caller drives :meth:`admission` (:meth:`acquire` and :meth:`acquire_async` do), sends, and tells :meth:`answered`
    what came of it.

    :param name: digest of host and key, the only trace of the key kept here.
    """

    def __init__(self, settings: RateSettings, *, name: str = "", rng: random.Random | None = None) -> None:
        self.name = name
        self._rng = rng or random.Random()
        self._lock = threading.Lock()
        self._queue: list[Ticket] = []
        self._tickets = 0
        self._silent_until = 0.0
        self._elsewhere_full_until = 0.0
        self._refusals = 0
        self._gateway_errors = 0
        self._ramp: int | None = None
        self._unreachable_since: float | None = None
        self._attempt_took = 0.0
        self._window = LocalWindow(None, settings.window)
        self._accepted = LocalWindow(None, settings.window)
        self._looks = LocalWindow(None, settings.window)
        self._shared: RedisWindow | None = None
        self.configure(settings)

    def __repr__(self) -> str:
        return f"Governor({self.name[:8]!r}, limit={self.limit!r}, waiting={len(self._queue)})"

    def configure(self, settings: RateSettings) -> None:
        """Take over settings; what was sent before stays counted."""
        with self._lock:
            self.settings = settings
            self.counts_polls = bool(settings.count_polls)
            # A declared limit tells whether polls count as soon as one goes through beyond it.
            self._polls_in_doubt = settings.count_polls is None and settings.ceiling is not None
            self.limit = settings.ceiling
            self._accepted.seconds = self._looks.seconds = settings.window
            self._fit_window()
            rate = settings.requests_per_minute
            if settings.redis_url and rate:
                seconds = settings.window / min(1.0, rate)
                self._shared = RedisWindow(settings.redis_url, self.name, max(1, int(rate)), seconds)
            else:
                self._shared = None

    def counts(self, call: Call[Any]) -> bool:
        """Tell whether a call takes a place in the window."""
        return call.method != "GET" or self.counts_polls

    def silence(self, now: float) -> float:
        """Return the seconds for which nobody may send anything."""
        return max(0.0, self._silent_until - now)

    def interval(self) -> float:
        """Return the seconds per call that the limit allows, 0 while polls are free or the limit is unknown."""
        return self.settings.window / self.limit if self.counts_polls and self.limit else 0.0

    def seconds_until_room(self, now: float) -> float:
        """Return in how many seconds a call may be sent at the earliest, were nobody else waiting."""
        with self._lock:
            return max(0.0, self._silent_until - now, self._window.seconds_until(1, now))

    def join(self, priority: Priority, now: float) -> Ticket:
        """Queue up."""
        with self._lock:
            self._tickets += 1
            ticket = Ticket(now + priority * self.settings.window / 60, self._tickets)
            insort(self._queue, ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Leave the queue, admitted or not."""
        with self._lock:
            del self._queue[bisect_left(self._queue, ticket)]

    def seconds_to_wait(self, ticket: Ticket, now: float) -> float:
        """Say in how many seconds to ask again; 0 is leave to go."""
        with self._lock:
            if now < self._silent_until:
                return self._silent_until - now
            if now < self._elsewhere_full_until:
                return self._elsewhere_full_until - now
            position = bisect_left(self._queue, ticket)
            if self._ramp is not None and self._window.open(now) + position >= self._ramp:
                return SHORT_NAP * (1 + min(position, 20))
            wait = self._window.seconds_until(position + 1, now)
            if wait <= 0 and position > 0 and self._shared is not None:
                return SHORT_NAP
            return min(wait, LONGEST_NAP)

    def admission(self, call: Call[Any], clock: Callable[[], float], priority: Priority | None) -> Admission:
        """
        Wait for leave to send a call: yield seconds to sleep, or a blocking question to put to Redis.

        :raises SegmindConnectionError: the shared window stays out of reach; nothing was sent.
        """
        paid = call.asked.paid
        while not self.counts(call):
            if (left := self.silence(clock())) > 0:
                yield left + self._rng.random() * min(1.0, left)
            elif self._polls_in_doubt and self._overdrawn(clock()) and self._looks.open(clock()):
                yield SHORT_NAP * (1 + self._rng.random())
            else:
                with self._lock:
                    now = clock()
                    return Permit(now, None, paid, self._looks.take(now) if self._polls_in_doubt else None)
        joined = clock()
        ticket = self.join((Priority.SUBMIT if paid else Priority.LOOK) if priority is None else priority, joined)
        try:
            while True:
                self._check_shared(joined, clock())
                wait = self.seconds_to_wait(ticket, clock())
                if wait <= 0 and self._shared is not None:
                    wait = yield from self._ask_redis(self._shared, joined, clock)
                if wait <= 0:
                    now = clock()
                    with self._lock:
                        return Permit(now, self._window.take(now), paid)
                yield wait
        finally:
            self.leave(ticket)

    def _check_shared(self, joined: float, now: float) -> None:
        """
        Give up on a shared window that stays out of reach.

        The patience of a call counts from when it began to wait, whoever found out: those behind it in the queue must
        not be patient one after the other. It ends before another attempt could take it too far.

        :raises SegmindConnectionError: nothing was sent.
        """
        since = self._unreachable_since
        if since is not None and now - max(joined, since) + self._attempt_took >= REDIS_PATIENCE:
            error = SegmindConnectionError(
                f"The rate limit shared through Redis has been out of reach for {now - since:.0f} s. This call was not "
                "sent and nothing was billed for it; check the Redis URL of the connection."
            )
            error.patience_spent = True
            raise error

    def _ask_redis(self, shared: RedisWindow, joined: float, clock: Callable[[], float]) -> Generator[Any, Any, float]:
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
            yield min(0.5 + self._rng.random(), REDIS_PATIENCE - (now - max(joined, since)))
            self._check_shared(joined, clock())
        if wait > 0:
            wait += self._rng.random() * 0.1
            self._elsewhere_full_until = clock() + min(wait, LONGEST_NAP)
        return wait

    def withdrawn(self, permit: Permit) -> None:
        """Take back leave for a call that was not sent after all; a place in Redis stays taken for its minute."""
        with self._lock:
            if permit.place is not None:
                self._window.withdraw(permit.place)
            if permit.look is not None:
                self._looks.withdraw(permit.look)

    def answered(self, permit: Permit, now: float, error: BaseException | None = None) -> Callable[[], None] | None:
        """
        Learn from what came of a call.

        :returns: what to tell Redis, if there is something to tell; it blocks.
        """
        with self._lock:
            if permit.place is not None:
                self._window.give(permit.place, now)
            if permit.look is not None:
                self._looks.give(permit.look, now)
            if not isinstance(error, SegmindRateLimitError):
                if permit.place is not None and error is None:
                    self._accepted.give(self._accepted.take(now), now)
                if error is None and permit.look is not None and self._overdrawn(permit.sent_at, PROOF):
                    self._polls_in_doubt = False
                if isinstance(error, SegmindAPIError) and error.gateway:
                    self._pause_for_gateway(permit, now)
                elif permit.sent_at >= self._silent_until:
                    self._relax(counted=permit.place is not None)
                else:
                    self._raise_to_accepted(now)
                return None
            if not permit.paid and self.settings.count_polls is None:
                self.counts_polls, self._polls_in_doubt = True, False
                # Those that went through took places that submits must not be given now.
                self._window.take_over(self._looks, now)
            seconds = self._cool(permit, now, error)
            return None if self._shared is None else partial(self._shared.cool, seconds)

    def _overdrawn(self, now: float, times: float = 1.0) -> bool:
        """Tell whether submits and looks are past the limit together, so that one look shows whether looks count."""
        limit = self.limit
        return limit is not None and self._window.used(now) + self._looks.used(now) > times * limit

    def _pause_for_gateway(self, permit: Permit, now: float) -> None:
        """Let nobody send for a moment when a gateway answers instead of Segmind: each POST would be one in doubt."""
        if permit.sent_at < self._silent_until:
            return
        self._gateway_errors += 1
        excess = self._gateway_errors - GATEWAY_ERRORS
        if excess >= 0:
            seconds = min(LONGEST_GATEWAY_PAUSE, 0.25 * 2.0 ** min(excess, 6)) * (0.75 + self._rng.random() / 4)
            self._silent_until = max(self._silent_until, now + seconds)
            self._ramp = 1

    def _relax(self, *, counted: bool) -> None:
        self._refusals = self._gateway_errors = 0
        if self._ramp is not None:
            self._ramp = None if self._ramp >= FULL_RAMP else self._ramp + 1
        ceiling = self.settings.ceiling
        if counted and self.limit is not None and (ceiling is None or self.limit < ceiling):
            # Over a window of `limit` calls this adds up to the increase.
            self.limit += max(1.0, INCREASE * (ceiling or self.limit)) / self.limit
            self.limit = self.limit if ceiling is None else min(self.limit, ceiling)
            self._fit_window()

    def _raise_to_accepted(self, now: float) -> None:
        # In a burst the first refusal overtakes answers to calls that were accepted before it.
        seen = DECREASE * self._accepted.answered(now)
        if self.settings.ceiling is None and self.limit is not None and self.limit < seen:
            self.limit = seen
            self._fit_window()

    def _cool(self, permit: Permit, now: float, error: SegmindRateLimitError) -> float:
        # Calls that were under way when the silence began say nothing new.
        news = permit.sent_at >= self._silent_until
        self._refusals += news
        if error.retry_after is not None:
            seconds = min(error.retry_after, LONGEST_SILENCE) + EDGE_OF_RESET
        else:
            seconds = min(LONGEST_SILENCE, 2.0 ** min(self._refusals, 6)) * (0.5 + self._rng.random() / 2)
        self._silent_until = max(self._silent_until, now + seconds)
        self._ramp = 1
        if news and permit.place is not None:
            # Unknown, the limit is near what was answered before the refusal; known, others may be using it up.
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
        """Wait for leave to send ``call``, blocking."""
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
        """Wait for leave to send ``call``, without blocking the loop."""
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
"""Is told of each call that is sent, and whether it is a paid one."""


class CallWithdrawnError(Exception):
    """Raised by whoever was to send a call and did not: nothing left, and its turn goes to the next."""


_governors: dict[str, Governor] = {}
_registry_lock = threading.Lock()


def account_name(gateway: str, api_key: str) -> str:
    """Return a name for host and key that tells neither."""
    return hashlib.sha256(f"{gateway}\0{api_key}".encode()).hexdigest()[:32]


def governor_for(gateway: str, api_key: str, settings: RateSettings) -> Governor:
    """Return the governor of an account in this process; newer settings replace older ones."""
    name = account_name(gateway, api_key)
    with _registry_lock:
        governor = _governors.get(name)
        if governor is None:
            governor = _governors[name] = Governor(settings, name=name)
        elif governor.settings != settings:
            governor.configure(settings)
        return governor


def forget_accounts() -> None:
    """Forget every governor; clients that exist keep theirs."""
    with _registry_lock:
        _governors.clear()


def _ignore(_: bool) -> None:
    """Stand in for somebody who counts."""


class Gate:
    """
    Sends what the governor lets through.

    :param gateway: base URL of the calls that count; others pass unasked.
    :param clock: epoch seconds.
    :ivar count: is told of each call that was sent, each repetition included.
    """

    def __init__(self, governor: Governor, gateway: str, clock: Callable[[], float]) -> None:
        self.governor = governor
        self._prefix = f"{gateway}/"
        self._clock = clock
        self.count: CountCall = _ignore

    def send(
        self,
        call: Call[T],
        exchange: Callable[[Call[T]], T],
        sleep: Callable[[float], None],
        priority: Priority | None = None,
    ) -> T:
        """Carry out ``call`` with ``exchange`` when its turn comes."""
        if not call.url.startswith(self._prefix):
            return exchange(call)
        permit = self.governor.acquire(call, clock=self._clock, sleep=sleep, priority=priority)
        self.count(call.asked.paid)
        trouble: SegmindError | None = None
        try:
            return exchange(call)
        except SegmindError as error:
            trouble = error
            raise
        finally:
            tell = self.governor.answered(permit, self._clock(), trouble)
            if tell is not None:
                tell()

    async def send_async(
        self,
        call: Call[T],
        exchange: Callable[[Call[T]], Awaitable[T]],
        sleep: Callable[[float], Awaitable[Any]],
        priority: Priority | None = None,
    ) -> T:
        """Carry out ``call`` with ``exchange`` when its turn comes, without blocking the loop."""
        if not call.url.startswith(self._prefix):
            return await exchange(call)
        permit = await self.governor.acquire_async(call, clock=self._clock, sleep=sleep, priority=priority)
        trouble: SegmindError | None = None
        sent = True
        try:
            return await exchange(call)
        except SegmindError as error:
            trouble = error
            raise
        except CallWithdrawnError:
            sent = False
            self.governor.withdrawn(permit)
            raise
        finally:
            if sent:
                self.count(call.asked.paid)
                tell = self.governor.answered(permit, self._clock(), trouble)
                if tell is not None:
                    await asyncio.to_thread(tell)
