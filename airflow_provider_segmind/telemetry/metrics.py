"""
Airflow's metrics: cumulative figures are counted elsewhere; this module sends their increase since the last time.

Sending for each call would cost a table more than the call itself. Names, units and tags are in
docs/reference/observability.md.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.compat import stats as airflow_stats

if TYPE_CHECKING:
    from airflow_provider_segmind.client.rate_limiter import CallCounts

PREFIX = "segmind."
INTERVAL = 3.0
"""Seconds between two messages about one figure."""
DECIMALS = 4
"""Decimal places of a metric. A smaller fraction would have an exponent, which StatsD servers do not read."""


def cost_total(cost: float) -> float:
    """Return USD as micro-dollars with their fraction: rounded for each task, the metrics of many would not add up."""
    return round(cost * 1_000_000, DECIMALS) if math.isfinite(cost) else 0.0


def call_totals(calls: CallCounts) -> dict[str, int]:
    """Return the totals of a client's calls under the names of their metrics."""
    return {
        "submits": calls.posts,
        "polls": calls.polls,
        "rate_limited": calls.refused,
        "waited_ms": round(calls.waited * 1000),
    }


class MetricsSender:
    """
    Sends the figures of one task, or of one poller.

    :param tags: of every metric; few values each, and never a key or a prompt.
    :param totals: returns the figures that only grow, by name; called from the thread that calls :meth:`send`.
    :param gauges: returns the figures that go up and down.
    :param since: the totals that another sender has sent before.
    :param stats: Airflow's metrics outside tests.
    :param clock: monotonic seconds.
    """

    def __init__(
        self,
        tags: Mapping[str, str],
        totals: Callable[[], Mapping[str, float]],
        gauges: Callable[[], Mapping[str, float]] = dict,
        *,
        since: Mapping[str, float] | None = None,
        stats: Callable[[], Any] = airflow_stats,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tags = {name: value for name, value in tags.items() if value}
        self._totals = totals
        self._gauges = gauges
        self._open = stats
        self._clock = clock
        self._sent = dict(since or {})
        self._due = clock() + INTERVAL
        self._broken = False
        self._lock = threading.Lock()

    def take_due(self) -> bool:
        """Return whether sending is due; True only for the first caller that asks."""
        now = self._clock()
        if now < self._due:
            return False
        self._due = now + INTERVAL
        return True

    def send_if_due(self) -> None:
        """Send the figures if enough time has passed since the last time."""
        if self.take_due():
            self.send()

    def send(self) -> None:
        """Send the increase since the last time, and the gauges; after an error, send nothing more."""
        with self._lock:
            if not self._broken:
                self._send()

    def _send(self) -> None:
        try:
            stats = self._open()
            for name, total in self._totals().items():
                added = round(total - self._sent.get(name, 0), DECIMALS)
                if added > 0:
                    stats.incr(PREFIX + name, int(added) if added == int(added) else added, tags=self._tags)
                    self._sent[name] = total
            for name, value in self._gauges().items():
                stats.gauge(PREFIX + name, value, tags=self._tags)
        except Exception:  # noqa: BLE001 - a backend of metrics may raise anything, and what is paid for goes on
            self._broken = True
