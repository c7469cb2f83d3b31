"""
Pure: go on waiting, finish, or give up; and when to look next.

Waiting is written once, as generators that yield what to do next (a :class:`Call` to carry out, a :class:`Pause` to
sleep) and receive what came of it. The sync client, the async client and the triggerer's poller only drive them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from airflow_provider_segmind.client.endpoints import Call, Wire
from airflow_provider_segmind.client.models import RequestState
from airflow_provider_segmind.client.poll_schedule import LatencyHistory, PollSchedule, latency_of
from airflow_provider_segmind.defaults import RESULT_LIFETIME
from airflow_provider_segmind.exceptions import (
    SegmindError,
    SegmindRateLimitError,
    SegmindRequestError,
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindRequestTimeoutError,
    SegmindResponseError,
    SegmindResponseTooLargeError,
    shorten,
)

LAST_CALL = RESULT_LIFETIME - 30.0
"""Age in seconds at which even a request with a long ``poll_interval`` is looked at before its result is gone."""
URGENT_AGE = 0.8 * RESULT_LIFETIME
"""Age in seconds from which looks come close together, because the result is about to be gone."""
WORTH_A_PAUSE = 0.02
"""Seconds below which a first look is not put off."""
SHORT_PAUSE = 0.25
MALFORMED_RESPONSES = 4
"""Responses in a row that are JSON and say nothing about the request, before waiting ends; a retry polls it again."""
REPLICATION_GRACE = 10.0
"""Seconds after submission in which a 404 may mean "not known yet" rather than "gone"."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so many seconds."""

    seconds: float


Step = Call[Any] | Pause


@dataclass(frozen=True, slots=True)
class Pending:
    """
    One request that is waited for.

    :param submitted_at: epoch seconds; the age of a request, and so its expiry, counts from here.
    :param end_time: epoch seconds after which nobody waits any more.
    :param poll_interval: seconds between looks when the user gave them, None to choose.
    :param model: the model, for messages.
    :param frugal: whether to save looks rather than seconds, also where looks are free.
    """

    request_id: str
    submitted_at: float
    end_time: float
    poll_interval: float | None = None
    model: str | None = None
    frugal: bool = False

    def age(self, now: float) -> float:
        """Return the seconds since submission."""
        return max(0.0, now - self.submitted_at)

    @property
    def name(self) -> str:
        """Return how messages speak of the request."""
        return f"request {self.request_id!r}" + (f" (model {self.model!r})" if self.model else "")


def _nothing() -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class Pace:
    """
    What is known of models and of the account, for all that wait.

    :param history: how long models take; it is told of each completion.
    :param spacing: seconds that looks must lie apart where each takes a place under the rate limit; 0 while they are
        free.
    :param silence: seconds for which nobody may send anything.
    :param trust_prior: go by the family's usual latency for a model without completions; without it such a request is
        looked at at once and then by its age.
    """

    history: LatencyHistory | None = None
    spacing: Callable[[], float] = _nothing
    silence: Callable[[], float] = _nothing
    trust_prior: bool = False


def failed_error(state: RequestState, model: str | None = None) -> SegmindRequestFailedError:
    """Return the error of a request that Segmind reports as FAILED."""
    name = f"request {state.request_id!r}" + (f" (model {model!r})" if model else "")
    reason = state.error or "no reason given"
    return SegmindRequestFailedError(
        f"Segmind reports {name} as FAILED: {shorten(reason)!r}. Nothing was billed; waiting again cannot help: change "
        "the inputs and clear the task that submitted it.",
        request_id=state.request_id,
        reason=reason,
    )


def expired_error(pending: Pending, now: float) -> SegmindRequestExpiredError:
    """Return the error of a result that is gone."""
    age = pending.age(now)
    why = (
        "Segmind keeps a result for one hour after submission"
        if age >= RESULT_LIFETIME - 60
        else "the id may be unknown to this account, or its record was dropped early"
    )
    return SegmindRequestExpiredError(
        f"The result of {pending.name} is gone, {age:.0f} s after it was submitted: {why}. If it completed it was "
        "billed; its cost and output URL stand in the request history.",
        request_id=pending.request_id,
        age=age,
    )


def timeout_error(pending: Pending, now: float, last: str) -> SegmindRequestTimeoutError:
    """Return the error of a deadline that passed."""
    return SegmindRequestTimeoutError(
        f"Waiting for {pending.name} ended with its timeout: it was {last}, {pending.age(now):.0f} s after it "
        "was submitted. Segmind has no cancel call, so it goes on and may be billed; a retry of the task looks at the "
        "same request again.",
        request_id=pending.request_id,
    )


def poll(wire: Wire, request_id: str, *, fetch: bool) -> Generator[Call[Any], Any, RequestState]:
    """
    Look once.

    With ``fetch`` the result is asked for directly, which saves a call when it is ready. What a server answers there
    before completion is undocumented, so anything but a plain state is checked against ``/status`` before it is
    believed. Where that says COMPLETED the result is asked for again: the request may have ended between the calls.

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
        state = yield wire.result(request_id)
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
    Wait for a request to end.

    Blips (5xx, 429, resets, an outage of Segmind or of DNS) cost nothing but time until the deadline, and so do a few
    responses that say nothing about the request.

    :param fetch: whether the result itself is wanted, not only the state.
    :param until: epoch seconds at which to return None when the request is still going on; None waits to the deadline.
    :param report: is told, in one line each, when trouble starts and when it is over.
    :param pace: what is known of the model and the account; None looks by the request's age alone.
    :raises SegmindRequestFailedError: Segmind reports FAILED; nothing was billed.
    :raises SegmindRequestExpiredError: the result is gone; it may have been billed.
    :raises SegmindRequestTimeoutError: the deadline passed; the request goes on.
    :raises SegmindError: what no waiting can mend, such as a refused key.
    """
    looks = malformed = 0
    last = "still in progress"
    troubled = False
    waiting = _Waiting(pending, pace or Pace(), clock, until)
    yield from waiting.before_first_look()
    while True:
        at_least = 0.0
        try:
            state = yield from poll(wire, pending.request_id, fetch=fetch)
        except SegmindError as error:
            malformed = malformed + 1 if _is_malformed(error) else 0
            if not _may_pass(error, pending, clock(), malformed):
                if isinstance(error, SegmindRequestExpiredError):
                    raise expired_error(pending, clock()) from error
                # Not "from error": structlog, with which Airflow logs it, never ends with an error that causes itself.
                raise
            if not troubled:
                report(f"{error} Waiting for {pending.name} goes on.")
            last, troubled = f"out of reach ({type(error).__name__})", True
            if isinstance(error, SegmindRateLimitError):
                at_least = error.retry_after or 0.0
        else:
            if troubled:
                report(f"Segmind answers again; {pending.name} is {state.status}.")
            if state.failed:
                raise failed_error(state, pending.model)
            if state.completed:
                waiting.completed(state)
                return state
            waiting.going()
            last, troubled, malformed = state.status, False, 0
        looks += 1
        if not (yield from waiting.until_next_look(last, looks, at_least, jitter())):
            return None


class _Waiting:
    """When to look at one request, and what it teaches about its model."""

    __slots__ = ("_clock", "_end", "_pace", "_pending", "_seen_going")

    def __init__(self, pending: Pending, pace: Pace, clock: Callable[[], float], until: float | None) -> None:
        self._pending = pending
        self._pace = pace
        self._clock = clock
        self._end = pending.end_time if until is None else min(until, pending.end_time)
        self._seen_going = 0.0

    def before_first_look(self) -> Generator[Pause, Any, None]:
        """Wait while a first look can find nothing; an old request is looked at at once."""
        yield from self._let_others_find_out()
        schedule = self._schedule(self._pace.spacing())
        if schedule is not None:
            now = self._clock()
            early = min(schedule.after(0.0) - self._pending.age(now), self._end - now)
            if early > WORTH_A_PAUSE:
                yield Pause(early)

    def _let_others_find_out(self) -> Generator[Pause, Any, None]:
        """Where looks are to be few, leave it to a few requests to find out how long an unknown model takes."""
        history, pending = self._pace.history, self._pending
        if history is None or not pending.frugal or pending.poll_interval is not None:
            return
        if history.knows(pending.model) or history.scout(pending.model):
            return
        latest = min(history.schedule(pending.model, sparse=True).after(0.0) + pending.submitted_at, self._end)
        while not history.knows(pending.model) and self._clock() < latest:
            yield Pause(SHORT_PAUSE)

    def until_next_look(self, last: str, looks: int, at_least: float, jitter: float) -> Generator[Pause, Any, bool]:
        """
        Wait until the next look is due.

        :returns: False when the moment came until which the caller wanted to wait.
        :raises SegmindRequestTimeoutError: the deadline passed.
        """
        now, pace = self._clock(), self._pace
        if now < self._end:
            gap = pace.spacing()
            step = next_look(self._pending, now=now, looks=looks, jitter=jitter, schedule=self._schedule(gap))
            yield Pause(min(max(at_least, gap, pace.silence(), step), self._end - now))
            # A last look at the end itself, unless it would have to wait far beyond it.
            now = self._clock()
            if now < self._end or pace.silence() <= 0:
                return True
        if now >= self._pending.end_time:
            raise timeout_error(self._pending, now, last)
        return False

    def going(self) -> None:
        """Note that a look found the request in progress."""
        self._seen_going = self._pending.age(self._clock())

    def completed(self, state: RequestState) -> None:
        """Teach the history how long it took."""
        if self._pace.history is not None:
            age = self._pending.age(self._clock())
            latency = latency_of(state, seen_going=self._seen_going, seen_done=age)
            if latency is not None:
                self._pace.history.observe(self._pending.model, latency)

    def _schedule(self, gap: float) -> PollSchedule | None:
        history, pending = self._pace.history, self._pending
        if history is None or pending.poll_interval is not None:
            return None
        if not self._pace.trust_prior and not history.knows(pending.model):
            return None
        return history.schedule(pending.model, sparse=gap > 0 or pending.frugal)


def urgent(pending: Pending, now: float) -> bool:
    """Tell whether the result may be gone before many more looks."""
    return pending.age(now) >= URGENT_AGE


def next_look(
    pending: Pending, *, now: float, looks: int, jitter: float, schedule: PollSchedule | None = None
) -> float:
    """
    Say in how many seconds to look again.

    A user's ``poll_interval`` is obeyed, but never steps over the last moment before the result expires. Otherwise
    looks thin out as the request ages, because what has taken long will take longer, and come closer together again
    when the result is about to expire.

    :param looks: how often this request was looked at.
    :param schedule: when the model's latencies say to poll; None goes by age.
    :param jitter: a random number from 0 to 1, so that requests submitted together are not polled together.
    """
    age = pending.age(now)
    if pending.poll_interval is not None:
        step = max(0.0, pending.poll_interval)
        return LAST_CALL - age if age < LAST_CALL < age + step else step
    if schedule is not None and age < URGENT_AGE:
        return schedule.after(age, 0.9 + 0.2 * jitter) - age
    step = 2.0 if age >= URGENT_AGE else min(15.0, max(0.5, 0.25 * age))
    return step * (0.9 + 0.2 * jitter)


def _is_malformed(error: SegmindError) -> bool:
    """Tell whether a response is JSON and says nothing about the request, which is not the fault of the request."""
    return isinstance(error, SegmindResponseError) and not (
        error.retryable or isinstance(error, SegmindResponseTooLargeError)
    )


def _may_pass(error: SegmindError, pending: Pending, now: float, malformed: int) -> bool:
    if isinstance(error, SegmindRequestExpiredError):
        return pending.age(now) < REPLICATION_GRACE
    if malformed > MALFORMED_RESPONSES:
        # The id is known and polling is free: another try may read what this one could not.
        error.retryable = True
        return False
    return malformed > 0 or (error.retryable and not isinstance(error, SegmindRequestError))
