"""
Pure: when to look next, learned from how long the model's requests take.

A look costs a call, a late look costs time. For latencies with hazard rate ``h`` both are spent best when the step
between looks is proportional to ``1/√h``: close together where completion is likely, far apart where it is not. The
hazard is read from a smoothed log of the last completions, mixed with a broad prior, so that a model nobody has seen,
one that became slow, and one with two habits are looked at sensibly too.
"""

from __future__ import annotations

import math
import re
import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from airflow_provider_segmind.api.models import RequestState

DEFAULT_BUDGET = 3.0
"""Looks a request may cost on average while looks are free."""
SCARCE_BUDGET = 1.12
"""Looks a request may cost on average while each takes a submit's place: the first is due when nine in ten are done."""
REMEMBERED = 50
"""Latencies kept of a model."""
SCOUTS = 4
"""Requests that find out how long a model takes where looks are to be few; others wait for what those find."""
REPLAN = 20 * REMEMBERED
"""Completions after which a plan is made anew at the latest."""
MODELS = 256
"""Models kept; the one not seen for longest is forgotten first."""
RECENT = 8
"""Latencies that, all beyond nine tenths of the older ones, tell that a model has changed."""
PRIOR_WEIGHT = 1.5
"""How many completions the prior counts for."""
SHORTEST_STEP = 0.25
"""Seconds between looks at least, except at a request so young that this would be long."""
YOUNGEST = 0.01
"""Seconds below which nothing is told apart."""
LONGEST_STEP = 30.0
GROWTH = 0.75
"""Part of its age by which a step may be long, so that a model that became slow is not missed for long."""
FINENESS = 0.05
"""Part of its age by which a step must be long, however sure the history seems."""
OVERDUE = 0.01
"""Part of requests still unfinished below which the history says nothing about those that are."""
WAY_OF_A_SUBMIT = 0.25
"""Seconds by which Segmind may have begun to count before we knew that the request was accepted."""
GRID = tuple(YOUNGEST * 1.1**index for index in range(137))
"""Ages in seconds at which the hazard is read; they end beyond an hour."""


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


def prior_of(model: str | None, primed: Mapping[str, float] | None = None) -> Prior:
    """
    Return what to expect of a model: its primed latency, else its family's, else something broad.

    :param primed: typical seconds of models, from the connection.
    """
    if model is None:
        return UNKNOWN
    if primed and (typical := primed.get(model)) is not None and typical > 0:
        return Prior(typical, 0.6)
    return next((prior for pattern, prior in _FAMILIES if pattern.search(model.lower())), UNKNOWN)


@dataclass(frozen=True, slots=True)
class Plan:
    """
    Where the looks of one model's requests fall.

    :param marks: the looks due up to each age of :data:`GRID`, growing.
    """

    marks: tuple[float, ...]

    def after(self, age: float, step: float = 1.0) -> float:
        """Return the age of the next look after one at ``age``; ``step`` stretches it."""
        return self._age(self._mark(age) + step)

    def _mark(self, age: float) -> float:
        index = bisect_right(GRID, age)
        if index == 0:
            return self.marks[0] * age / GRID[0]
        if index == len(GRID):
            return self.marks[-1] + (age - GRID[-1]) / LONGEST_STEP
        low, high = GRID[index - 1], GRID[index]
        return self.marks[index - 1] + (self.marks[index] - self.marks[index - 1]) * (age - low) / (high - low)

    def _age(self, mark: float) -> float:
        index = bisect_right(self.marks, mark)
        if index == 0:
            return GRID[0]
        if index == len(self.marks):
            return GRID[-1] + (mark - self.marks[-1]) * LONGEST_STEP
        low, high = self.marks[index - 1], self.marks[index]
        return GRID[index - 1] + (GRID[index] - GRID[index - 1]) * (mark - low) / (high - low)


def survival(latencies: tuple[float, ...], prior: Prior) -> list[float]:
    """
    Estimate the part of requests that is unfinished at each age of :data:`GRID`.

    Each latency is smoothed to a lognormal; the prior's weight goes to a broad one around the median of all.
    """
    count = len(latencies)
    logs = sorted(math.log(latency) for latency in latencies)
    middle = logs[count // 2] if logs else math.log(prior.median)
    broad = (middle, prior.sigma if not logs else 1.2)
    weight = PRIOR_WEIGHT / (PRIOR_WEIGHT + count)
    width = _bandwidth(logs)
    result = []
    for age in GRID:
        log_age = math.log(age)
        value = weight * 0.5 * math.erfc((log_age - broad[0]) / (broad[1] * math.sqrt(2)))
        if logs:
            scale = width * math.sqrt(2)
            value += (1 - weight) / count * sum(0.5 * math.erfc((log_age - log) / scale) for log in logs)
        result.append(max(value, 1e-12))
    return result


def _bandwidth(logs: list[float]) -> float:
    count = len(logs)
    if count < 2:
        return 0.5
    mean = sum(logs) / count
    deviation = math.sqrt(sum((log - mean) ** 2 for log in logs) / (count - 1))
    quarters = (logs[(3 * count) // 4] - logs[count // 4]) / 1.34
    spread = min(deviation, quarters) if quarters > 0 else deviation
    return float(max(0.08, 0.9 * spread * count**-0.2))


def plan_for(latencies: tuple[float, ...], prior: Prior, budget: float) -> Plan:
    """
    Place the looks so that a request costs ``budget`` of them on average.

    :param latencies: seconds from submission to completion of past requests.
    """
    alive = survival(latencies, prior)
    low, high = 1e-2, 1e2
    plan = _plan(alive, 1.0, budget)
    for _ in range(14):
        middle = math.sqrt(low * high)
        plan = _plan(alive, middle, budget)
        if _expected_looks(plan, alive) > budget:
            low = middle
        else:
            high = middle
    return plan


def _plan(alive: list[float], scale: float, budget: float) -> Plan:
    marks, total, previous_age, previous_alive = [], 0.0, 0.0, 1.0
    for age, left in zip(GRID, alive, strict=True):
        width = age - previous_age
        hazard = max(0.0, math.log(previous_alive / left)) / width
        step = scale / math.sqrt(hazard) if hazard > 0 else math.inf
        fineness = FINENESS if left > OVERDUE else 0.2
        shortest = max(min(SHORTEST_STEP, GROWTH * age), min(LONGEST_STEP, fineness * age))
        # A first look waits for as long as next to nothing can be done; where looks are scarce, until most is.
        bounded = left < (0.97 if budget >= 2 else 0.1)
        longest = min(LONGEST_STEP, max(1.0, GROWTH * age)) if bounded else math.inf
        total += width / max(shortest, min(step, longest)) + 1e-9
        marks.append(total)
        previous_age, previous_alive = age, left
    return Plan(tuple(marks))


def _expected_looks(plan: Plan, alive: list[float]) -> float:
    looks, age = 1.0, 0.0
    for _ in range(200):
        age = plan.after(age)
        left = alive[min(bisect_right(GRID, age), len(GRID) - 1)]
        looks += left
        if left < 1e-3:
            break
    return looks


@dataclass(slots=True)
class _Model:
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    plans: dict[float, Plan] = field(default_factory=dict)
    completions: int = 0
    scouts: int = 0
    unplanned: int = 0


class LatencyHistory:
    """
    How long the requests of each model took lately; shared by every task of a process and bounded in memory.

    :param primed: typical seconds of models, from the connection.
    """

    def __init__(self, primed: Mapping[str, float] | None = None) -> None:
        self._primed = dict(primed or {})
        self._models: OrderedDict[str | None, _Model] = OrderedDict()
        self._lock = threading.Lock()

    def prime(self, typical: Mapping[str, float]) -> None:
        """Take over what models usually take, for those without completions of their own."""
        with self._lock:
            for model, seconds in typical.items():
                if self._primed.get(model) != seconds:
                    self._primed[model] = seconds
                    self._seen(model).plans.clear()

    def knows(self, model: str | None) -> bool:
        """Tell whether anything is known of a model but its name."""
        seen = self._models.get(model)
        return model in self._primed or (seen is not None and len(seen.latencies) > 0)

    def scout(self, model: str | None) -> bool:
        """Tell whether a request of a model without completions is one of the few that are looked at often."""
        with self._lock:
            seen = self._seen(model)
            seen.scouts += 1
            return seen.scouts <= SCOUTS

    def typical(self, model: str | None) -> float:
        """Return the median of a model's latencies, or what its family usually takes."""
        with self._lock:
            seen = self._models.get(model)
            latencies = sorted(seen.latencies) if seen is not None else []
        return latencies[len(latencies) // 2] if latencies else prior_of(model, self._primed).median

    def forget(self) -> None:
        """Forget everything."""
        with self._lock:
            self._models.clear()
            self._primed.clear()

    def observe(self, model: str | None, seconds: float) -> None:
        """Note that a request of ``model`` completed so long after its submission."""
        if not 0 < seconds < 86_400:
            return
        with self._lock:
            seen = self._seen(model)
            seen.latencies.append(max(YOUNGEST / 2, seconds))
            seen.completions += 1
            seen.unplanned += 1
            if _changed(seen.latencies):
                recent = list(seen.latencies)[-RECENT:]
                seen.latencies.clear()
                seen.latencies.extend(recent)
                seen.completions = seen.unplanned = RECENT
            # A plan takes milliseconds, so it is not made anew for every completion.
            if seen.unplanned >= min(REPLAN, max(1, seen.completions // 8)):
                seen.plans.clear()
                seen.unplanned = 0

    def plan(self, model: str | None, budget: float = DEFAULT_BUDGET) -> Plan:
        """Return where to look at requests of ``model``."""
        with self._lock:
            seen = self._seen(model)
            plan = seen.plans.get(budget)
            if plan is None:
                prior = prior_of(model, self._primed)
                plan = seen.plans[budget] = plan_for(tuple(seen.latencies), prior, budget)
            return plan

    def _seen(self, model: str | None) -> _Model:
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


def latency_of(state: RequestState, *, seen_going: float, seen_done: float) -> float | None:
    """
    Return how long a request took: as Segmind measured it where that can be true, else the middle of when it can have
    completed.

    :param seen_going: age in seconds at the last look that found it in progress.
    :param seen_done: age at the look that found it completed.
    :returns: None when nobody was watching, so that it may have been done for long.
    """
    measured = state.metrics.total_time
    if measured is not None and 0 < measured <= seen_done + WAY_OF_A_SUBMIT:
        return min(measured, seen_done)
    if seen_done - seen_going > max(5.0, 0.5 * seen_done):
        return None
    return (seen_going + seen_done) / 2


shared_history = LatencyHistory()
"""What this process has learned; models behave alike whoever asks."""
