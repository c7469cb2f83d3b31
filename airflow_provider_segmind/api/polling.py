"""
Pure: go on waiting, finish, or give up; and when to look next.

Waiting is written once, as generators that yield what to do next (a :class:`Call` to carry out, a :class:`Pause` to
sleep) and receive what came of it. The sync client, the async client and the triggerer's poller only drive them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from airflow_provider_segmind.api.models import RequestState
from airflow_provider_segmind.api.policies import RESULT_LIFETIME
from airflow_provider_segmind.api.protocol import Call, Wire
from airflow_provider_segmind.exceptions import (
    SegmindError,
    SegmindRateLimitError,
    SegmindRequestError,
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindRequestTimeoutError,
    shorten,
)

LAST_CALL = RESULT_LIFETIME - 30.0
"""Age in seconds at which even a request with a long ``poll_interval`` is looked at before its result is gone."""
URGENT_AGE = 0.8 * RESULT_LIFETIME
"""Age in seconds from which looks come close together, because the result is about to be gone."""
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
    """

    request_id: str
    submitted_at: float
    end_time: float
    poll_interval: float | None = None
    model: str | None = None

    def age(self, now: float) -> float:
        """Return the seconds since submission."""
        return max(0.0, now - self.submitted_at)

    @property
    def name(self) -> str:
        """Return how messages speak of the request."""
        return f"request {self.request_id!r}" + (f" (model {self.model!r})" if self.model else "")


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


def look(wire: Wire, request_id: str, *, fetch: bool) -> Generator[Call[Any], Any, RequestState]:
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
) -> Generator[Step, Any, RequestState | None]:
    """
    Wait for a request to end.

    Blips (5xx, 429, resets, an outage of Segmind or of DNS) cost nothing but time until the deadline.

    :param fetch: whether the result itself is wanted, not only the state.
    :param until: epoch seconds at which to return None when the request is still going on; None waits to the deadline.
    :param report: is told, in one line each, when trouble starts and when it is over.
    :raises SegmindRequestFailedError: Segmind reports FAILED; nothing was billed.
    :raises SegmindRequestExpiredError: the result is gone; it may have been billed.
    :raises SegmindRequestTimeoutError: the deadline passed; the request goes on.
    :raises SegmindError: what no waiting can mend, such as a refused key.
    """
    looks = 0
    last = "still in progress"
    troubled = False
    while True:
        at_least = 0.0
        try:
            state = yield from look(wire, pending.request_id, fetch=fetch)
        except SegmindError as error:
            if not _may_pass(error, pending, clock()):
                raise _final(error, pending, clock()) from error
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
                return state
            last, troubled = state.status, False
        looks += 1
        now = clock()
        if now >= pending.end_time:
            raise timeout_error(pending, now, last)
        if until is not None and now >= until:
            return None
        end = pending.end_time if until is None else min(until, pending.end_time)
        pause = max(at_least, next_look(pending, now=now, looks=looks, jitter=jitter()))
        yield Pause(min(pause, max(0.0, end - now)))


def next_look(pending: Pending, *, now: float, looks: int, jitter: float) -> float:
    """
    Say in how many seconds to look again.

    A user's ``poll_interval`` is obeyed, but never steps over the last moment before the result expires. Otherwise
    looks thin out as the request ages, because what has taken long will take longer, and come closer together again
    when the result is about to expire.

    :param looks: how often this request was looked at.
    :param jitter: a random number from 0 to 1, so that requests submitted together are not polled together.
    """
    age = pending.age(now)
    if pending.poll_interval is not None:
        step = max(0.0, pending.poll_interval)
        return LAST_CALL - age if age < LAST_CALL < age + step else step
    step = 2.0 if age >= URGENT_AGE else min(15.0, max(0.5, 0.25 * age))
    return step * (0.9 + 0.2 * jitter)


def _may_pass(error: SegmindError, pending: Pending, now: float) -> bool:
    if isinstance(error, SegmindRequestExpiredError):
        return pending.age(now) < REPLICATION_GRACE
    return error.retryable and not isinstance(error, SegmindRequestError)


def _final(error: SegmindError, pending: Pending, now: float) -> SegmindError:
    if isinstance(error, SegmindRequestExpiredError):
        return expired_error(pending, now)
    return error
