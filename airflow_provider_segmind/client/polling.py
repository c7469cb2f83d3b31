"""
Waiting for a request: when to poll next, and when to finish or give up.

The loop is written once, as generators that yield the next step (a :class:`Call` to send, a :class:`Pause` to sleep)
and receive its outcome. The sync client, the async client and the triggerer's poller only drive them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from airflow_provider_segmind.client.endpoints import Call, Wire
from airflow_provider_segmind.client.models import RequestState
from airflow_provider_segmind.client.poll_schedule import (
    LAST_CALL,
    LatencyHistory,
    Pending,
    PollSchedule,
    latency_of,
    seconds_to_next_poll,
)
from airflow_provider_segmind.client.request_errors import expired_error, failed_error, timeout_error
from airflow_provider_segmind.exceptions import (
    SegmindBadRequestError,
    SegmindError,
    SegmindRateLimitError,
    SegmindRequestError,
    SegmindRequestExpiredError,
    SegmindResponseError,
    SegmindResponseTooLargeError,
)

SHORTEST_DELAY = 0.02
"""Seconds below which a first poll is not delayed."""
SCOUT_PAUSE = 0.25
MALFORMED_RESPONSES = 4
"""Consecutive JSON responses without the request's state after which waiting ends; a retry polls the request again."""
REFUSED_PAUSES = (1.0, 3.0, 6.0)
"""Seconds before a refused poll is repeated while Segmind should still have the request: its servers need not agree at
once about one that was just submitted or has just completed."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Sleep for this many seconds."""

    seconds: float


Step = Call[Any] | Pause


def _nothing() -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class Pace:
    """
    What is known of the models and the account, shared by everything that waits.

    :param history: how long models take; learns from each completion.
    :param spacing: seconds between polls where polls count towards the rate limit; 0 while they do not.
    :param cooldown: seconds for which no call may be sent.
    :param trust_prior: schedule polls by the family's usual latency for a model without completions; otherwise such a
        request is polled at once and then by its age.
    """

    history: LatencyHistory | None = None
    spacing: Callable[[], float] = _nothing
    cooldown: Callable[[], float] = _nothing
    trust_prior: bool = False


def poll(wire: Wire, request_id: str, *, fetch: bool) -> Generator[Call[Any], Any, RequestState]:
    """
    Poll once.

    With ``fetch`` the result is fetched directly, which saves a call when it is ready. What Segmind returns there
    before completion is undocumented, so anything but a plain state is confirmed through ``/status``. Where that says
    COMPLETED, the result is fetched again: the request may have completed between the calls.

    :returns: a :class:`RequestResult` when ``fetch`` and completed, else a :class:`RequestState`.
    """
    state: RequestState
    if not fetch:
        state = yield wire.status(request_id)
        return state
    try:
        state = yield wire.result(request_id)
    except SegmindError as error:
        if error.retryable:
            raise
    else:
        if not state.failed:
            return state
    state = yield wire.status(request_id)
    if state.completed:
        state = yield wire.result(request_id, completed=True)
    return state


def wait(
    wire: Wire,
    pending: Pending,
    *,
    fetch: bool,
    clock: Callable[[], float],
    jitter: Callable[[], float],
    until: float | None = None,
    report: Callable[[str], None] = lambda _: None,
    pace: Pace | None = None,
) -> Generator[Step, Any, RequestState | None]:
    """
    Wait until a request has finished.

    Transient errors (5xx, 429, resets, an outage of Segmind or of DNS) are waited out until the deadline, and so are
    a few responses without the request's state. A refused poll, 404 included, is repeated for ten seconds.

    :param fetch: whether to fetch the result, not only the state.
    :param until: epoch seconds at which to return None while the request is in progress; None waits to the deadline.
    :param report: called with one line when errors begin and one when they end.
    :param pace: what is known of the model and the account; None polls by the request's age alone.
    :raises SegmindRequestFailedError: Segmind reports FAILED; nothing was billed.
    :raises SegmindRequestExpiredError: the result has expired; it may have been billed.
    :raises SegmindRequestTimeoutError: the deadline passed; the request continues.
    :raises SegmindError: an error that waiting cannot resolve, such as a refused key.
    """
    malformed = 0
    last = "still in progress"
    interrupted = False
    waiting = _Waiting(pending, pace or Pace(), clock, until)
    yield from waiting.before_first_poll()
    while True:
        at_least = 0.0
        try:
            state = yield from poll(wire, pending.request_id, fetch=fetch)
        except SegmindError as error:
            malformed = malformed + 1 if _is_malformed(error) else 0
            if not _is_transient(error, malformed):
                pause = waiting.pause_after_refusal(error)
                if pause is not None:
                    yield Pause(pause)
                    continue
                if isinstance(error, SegmindRequestExpiredError):
                    raise expired_error(pending, clock()) from error
                # Not "from error": structlog, with which Airflow logs it, never ends with an error that causes itself.
                raise
            if not interrupted:
                report(f"{error} Still waiting for {pending.name}.")
            last, interrupted = f"unreachable ({type(error).__name__})", True
            at_least = _seconds_to_reset(error)
        else:
            if interrupted:
                report(f"Segmind is reachable again; {pending.name} is {state.status}.")
            if state.failed:
                raise failed_error(state, pending.model)
            if state.completed:
                waiting.completed(state)
                return state
            waiting.in_progress()
            last, interrupted, malformed = state.status, False, 0
            # A thousand generators wait in a triggerer, each for a long time.
            del state
        if not (yield from waiting.until_next_poll(last, at_least, jitter())):
            return None


class _Waiting:
    """When to poll one request, and what its polls reveal about its model."""

    __slots__ = ("_clock", "_end", "_last_in_progress", "_pace", "_pending", "_refusals")

    def __init__(self, pending: Pending, pace: Pace, clock: Callable[[], float], until: float | None) -> None:
        self._pending = pending
        self._pace = pace
        self._clock = clock
        self._end = pending.end_time if until is None else min(until, pending.end_time)
        self._last_in_progress = 0.0
        self._refusals = 0

    def before_first_poll(self) -> Generator[Pause, Any, None]:
        """Wait until a first poll can find a result; an old request is polled at once."""
        yield from self._wait_for_scouts()
        schedule = self._schedule(self._pace.spacing())
        if schedule is not None:
            now = self._clock()
            early = min(schedule.after(0.0) - self._pending.age(now), self._end - now)
            if early > SHORTEST_DELAY:
                yield Pause(early)

    def _wait_for_scouts(self) -> Generator[Pause, Any, None]:
        """Where polls should be few, let a few requests find out how long an unknown model takes."""
        history, pending = self._pace.history, self._pending
        if history is None or not pending.frugal or pending.poll_interval is not None:
            return
        if history.knows(pending.model) or history.scout(pending.model):
            return
        latest = min(history.schedule(pending.model, sparse=True).after(0.0) + pending.submitted_at, self._end)
        while not history.knows(pending.model) and self._clock() < latest:
            yield Pause(SCOUT_PAUSE)

    def until_next_poll(self, last: str, at_least: float, jitter: float) -> Generator[Pause, Any, bool]:
        """
        Wait until the next poll is due.

        :returns: False at the time until which the caller wanted to wait.
        :raises SegmindRequestTimeoutError: the deadline passed.
        """
        now, pace = self._clock(), self._pace
        if now < self._end:
            gap = pace.spacing()
            step = seconds_to_next_poll(self._pending, now=now, jitter=jitter, schedule=self._schedule(gap))
            yield Pause(min(max(at_least, gap, pace.cooldown(), step), self._end - now))
            # A last poll at the end itself, unless a cooldown would delay it far beyond.
            now = self._clock()
            if now < self._end or pace.cooldown() <= 0:
                return True
        if now >= self._pending.end_time:
            raise timeout_error(self._pending, now, last)
        return False

    def pause_after_refusal(self, error: SegmindError) -> float | None:
        """Return the seconds after which a refused poll is repeated, None if the refusal is final."""
        refused, now = isinstance(error, (SegmindRequestExpiredError, SegmindBadRequestError)), self._clock()
        if not refused or self._refusals == len(REFUSED_PAUSES) or self._pending.age(now) >= LAST_CALL:
            return None
        pause = REFUSED_PAUSES[self._refusals]
        self._refusals += 1
        return pause if now + pause <= self._pending.end_time else None

    def in_progress(self) -> None:
        """Record that a poll found the request in progress."""
        self._refusals = 0
        self._last_in_progress = self._pending.age(self._clock())

    def completed(self, state: RequestState) -> None:
        """Record in the history how long the request took."""
        if self._pace.history is not None:
            age = self._pending.age(self._clock())
            latency = latency_of(state, last_in_progress=self._last_in_progress, found_completed=age)
            if latency is not None:
                self._pace.history.observe(self._pending.model, latency)

    def _schedule(self, gap: float) -> PollSchedule | None:
        history, pending = self._pace.history, self._pending
        if history is None or pending.poll_interval is not None:
            return None
        if not self._pace.trust_prior and not history.knows(pending.model):
            return None
        return history.schedule(pending.model, sparse=gap > 0 or pending.frugal)


def _seconds_to_reset(error: SegmindError) -> float:
    return (error.retry_after or 0.0) if isinstance(error, SegmindRateLimitError) else 0.0


def _is_malformed(error: SegmindError) -> bool:
    """Return whether a response is JSON without the request's state, which is not the fault of the request."""
    return isinstance(error, SegmindResponseError) and not (
        error.retryable or isinstance(error, SegmindResponseTooLargeError)
    )


def _is_transient(error: SegmindError, malformed: int) -> bool:
    if malformed > MALFORMED_RESPONSES:
        # The id is known and polling is free: another try may get a readable response.
        error.retryable = True
        return False
    return malformed > 0 or (error.retryable and not isinstance(error, SegmindRequestError))
