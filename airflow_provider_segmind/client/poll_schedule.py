"""
When to poll a request, learned from how long its model's requests take.

A request is polled at six quantiles of the last 50 latencies of its model, close together where most requests complete;
once it has outlasted those, at steps that grow with its age. Simulated with lognormal latencies (median 4 s, sigma 0.5)
that costs three polls a request and finds a result 0.8 s after it is there. A model with few completions borrows
latencies from what its family usually takes. Where polls count towards the rate limit, the first one waits until nine
requests in ten are done.
"""

from __future__ import annotations

import math
import re
import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import NamedTuple

from airflow_provider_segmind.client.models import RequestState
from airflow_provider_segmind.defaults import RESULT_LIFETIME

QUANTILES = tuple(0.93 * (number / 6) ** 0.5 for number in range(1, 7))
"""Quantiles of a model's latencies at which its requests are polled while polls are free."""
SPARSE_QUANTILES = (0.93,)
"""The same where polls must be few."""
GROWTH = 0.2
"""Fraction of its age after which a request that has outlasted all quantiles is polled again."""
SPARSE_GROWTH = 0.3
REMEMBERED = 50
"""Latencies kept for each model."""
BORROWED = 6
"""Assumed latencies of a model without completions; every two completions replace one."""
BROAD = 1.2
"""Standard deviation of the logarithm of assumed latencies once the model's median is known."""
SCOUTS = 4
"""Requests that find out how long a model takes where polls must be few; the others wait for them."""
REPLAN = 20 * REMEMBERED
"""Completions after which a schedule is recomputed at the latest."""
MODELS = 256
"""Models kept; the least recently seen one is dropped first."""
RECENT = 8
"""Latest latencies that, all beyond nine tenths of the older ones, show that a model has changed."""
SHORTEST_STEP = 0.25
"""Shortest time between polls in seconds, except for a very young request."""
YOUNGEST = 0.01
"""Smallest latency in seconds that is distinguished."""
LONGEST_STEP = 30.0
LARGEST_PART = 0.75
"""Longest step as a fraction of the age, so that completions are still found soon when a model becomes slow."""
SMALLEST_PART = 0.05
"""Shortest step as a fraction of the age, however narrow the history is."""
SUBMIT_LATENCY = 0.25
"""Seconds by which Segmind's measurement may have begun before the response to the submission arrived."""
LAST_CALL = RESULT_LIFETIME - 30.0
"""Age in seconds at which even a request with a long ``poll_interval`` is polled before its result expires."""
URGENT_AGE = 0.8 * RESULT_LIFETIME
"""Age in seconds from which polls are close together, because the result is about to expire."""


@dataclass(frozen=True, slots=True)
class Pending:
    """
    A request to wait for.

    :param submitted_at: epoch seconds; the age of a request, and so its expiry, counts from here.
    :param end_time: epoch seconds at which waiting ends.
    :param poll_interval: seconds between polls as set by the user, None to follow the schedule.
    :param model: the model, for messages.
    :param frugal: whether to make few polls rather than early ones, even where polls are free.
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
        """Return the request as messages name it."""
        return f"request {self.request_id!r}" + (f" (model {self.model!r})" if self.model else "")


class Prior(NamedTuple):
    """
    What to expect of a model before its first completion.

    :param median: seconds.
    :param sigma: standard deviation of the latency's logarithm.
    """

    median: float
    sigma: float


_FAMILIES = (
    (re.compile(r"video|veo|kling|\bwan|hailuo|seedance|sora|runway|ltx|i2v|t2v|pika"), Prior(90.0, 0.9)),
    (re.compile(r"gemini|gpt|claude|llama|deepseek|qwen|mistral|mixtral|grok|kimi|llm|chat"), Prior(4.0, 0.8)),
    (re.compile(r"sd|flux|image|diffusion|ideogram|recraft|imagen|upscale|face|background"), Prior(8.0, 0.9)),
)
UNKNOWN = Prior(6.0, 1.3)


def prior_of(model: str | None) -> Prior:
    """Return the latency to expect of a model: its family's, else a broad default."""
    if model is None:
        return UNKNOWN
    return next((prior for pattern, prior in _FAMILIES if pattern.search(model.lower())), UNKNOWN)


@dataclass(frozen=True, slots=True)
class PollSchedule:
    """
    When the requests of one model are polled.

    :param ages: seconds after submission at which to poll, ascending.
    :param growth: fraction of its age after which an older request is polled again.
    """

    ages: tuple[float, ...]
    growth: float

    def after(self, age: float, jitter: float = 1.0) -> float:
        """Return the age of the next poll after one at ``age``; ``jitter`` near 1 stretches the step."""
        if age <= 0:
            return max(YOUNGEST, self.ages[0]) * jitter
        target = self._next(age)
        shortest = max(min(SHORTEST_STEP, LARGEST_PART * age), min(LONGEST_STEP, SMALLEST_PART * age))
        longest = min(LONGEST_STEP, max(1.0, LARGEST_PART * age))
        return age + max(shortest, min(target - age, longest)) * jitter

    def _next(self, age: float) -> float:
        index = bisect_right(self.ages, age)
        if index == len(self.ages):
            return age * (1 + self.growth)
        # A poll that jitter moved a little before its quantile was the poll of that quantile.
        before = self.ages[index - 1] if index else 0.0
        if self.ages[index] - age < (self.ages[index] - before) / 2:
            index += 1
        return self.ages[index] if index < len(self.ages) else age * (1 + self.growth)


def schedule_for(latencies: tuple[float, ...], prior: Prior, *, sparse: bool = False) -> PollSchedule:
    """
    Compute the poll schedule of a model.

    :param latencies: seconds from submission to completion of past requests.
    :param sparse: whether polls must be few.
    """
    sample = sorted((*latencies, *_borrowed(latencies, prior)))
    quantiles = SPARSE_QUANTILES if sparse else QUANTILES
    return PollSchedule(tuple(_quantile(sample, part) for part in quantiles), SPARSE_GROWTH if sparse else GROWTH)


def _borrowed(latencies: tuple[float, ...], prior: Prior) -> list[float]:
    count = BORROWED - len(latencies) // 2
    if count <= 0:
        return []
    median, sigma = (sorted(latencies)[len(latencies) // 2], BROAD) if latencies else prior
    spread = NormalDist(math.log(median), sigma)
    return [math.exp(spread.inv_cdf((number + 0.5) / count)) for number in range(count)]


def _quantile(ordered: list[float], part: float) -> float:
    position = part * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


@dataclass(slots=True)
class _Model:
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    schedules: dict[bool, PollSchedule] = field(default_factory=dict)
    completions: int = 0
    scouts: int = 0
    unscheduled: int = 0


class LatencyHistory:
    """Recent latencies of each model; shared by all tasks of a process and bounded in memory."""

    def __init__(self) -> None:
        self._models: OrderedDict[str | None, _Model] = OrderedDict()
        self._lock = threading.Lock()

    def knows(self, model: str | None) -> bool:
        """Return whether a model has completions."""
        seen = self._models.get(model)
        return seen is not None and len(seen.latencies) > 0

    def scout(self, model: str | None) -> bool:
        """Return whether a request of a model without completions is one of the few that are polled often."""
        with self._lock:
            seen = self._model(model)
            seen.scouts += 1
            return seen.scouts <= SCOUTS

    def typical(self, model: str | None) -> float:
        """Return the median of a model's latencies, or what its family usually takes."""
        with self._lock:
            seen = self._models.get(model)
            latencies = sorted(seen.latencies) if seen is not None else []
        return latencies[len(latencies) // 2] if latencies else prior_of(model).median

    def observe(self, model: str | None, seconds: float) -> None:
        """Record that a request of ``model`` completed this many seconds after submission."""
        if not 0 < seconds < 86_400:
            return
        with self._lock:
            seen = self._model(model)
            seen.latencies.append(max(YOUNGEST / 2, seconds))
            seen.completions += 1
            seen.unscheduled += 1
            if _changed(seen.latencies):
                recent = list(seen.latencies)[-RECENT:]
                seen.latencies.clear()
                seen.latencies.extend(recent)
                seen.completions = seen.unscheduled = RECENT
            # A schedule is not recomputed for every completion.
            if seen.unscheduled >= min(REPLAN, max(1, seen.completions // 8)):
                seen.schedules.clear()
                seen.unscheduled = 0

    def schedule(self, model: str | None, *, sparse: bool = False) -> PollSchedule:
        """Return when to poll requests of ``model``; with ``sparse`` as rarely as possible."""
        with self._lock:
            seen = self._model(model)
            schedule = seen.schedules.get(sparse)
            if schedule is None:
                prior = prior_of(model)
                schedule = seen.schedules[sparse] = schedule_for(tuple(seen.latencies), prior, sparse=sparse)
            return schedule

    def _model(self, model: str | None) -> _Model:
        seen = self._models.get(model)
        if seen is None:
            seen = self._models[model] = _Model()
            if len(self._models) > MODELS:
                self._models.popitem(last=False)
        else:
            self._models.move_to_end(model)
        return seen


def _changed(latencies: deque[float]) -> bool:
    if len(latencies) < 2 * RECENT:
        return False
    values = list(latencies)
    recent, older = values[-RECENT:], sorted(values[:-RECENT])
    return min(recent) > older[(9 * len(older)) // 10] or max(recent) < older[len(older) // 10]


def latency_of(state: RequestState, *, last_in_progress: float, found_completed: float) -> float | None:
    """
    Return how long a request took: as Segmind measured it where that is plausible, else the midpoint between two polls.

    :param last_in_progress: age in seconds at the last poll that found it in progress.
    :param found_completed: age at the poll that found it completed.
    :returns: None when the polls were too far apart to tell.
    """
    measured = state.metrics.total_time
    if measured is not None and 0 < measured <= found_completed + SUBMIT_LATENCY:
        return min(measured, found_completed)
    if found_completed - last_in_progress > max(5.0, 0.5 * found_completed):
        return None
    return (last_in_progress + found_completed) / 2


def urgent(pending: Pending, now: float) -> bool:
    """Return whether the result may expire before many more polls."""
    return pending.age(now) >= URGENT_AGE


def seconds_to_next_poll(pending: Pending, *, now: float, jitter: float, schedule: PollSchedule | None = None) -> float:
    """
    Return the seconds until the next poll.

    A user's ``poll_interval`` is followed, but a poll is always made shortly before the result expires. Otherwise polls
    become rarer as the request ages, because what has taken long will take longer, and frequent again when the result
    is about to expire.

    :param schedule: polls according to the model's latencies; None polls by age.
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


shared_history = LatencyHistory()
"""The latencies observed by this process; they do not depend on the account."""
