"""What happened when, in a handful of buckets that grow wider as a run grows longer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

SERIES = ("posts", "looks", "answered", "unanswered", "cost")
"""Paid calls, free calls, distinct rows that got an answer, those that got none, and USD billed for them."""
FINEST = 0.125
MOST_BUCKETS = 64


class Timeline:
    """
    Sums of each of :data:`SERIES` by time.

    Every width is a power of two of seconds and every bucket begins at a multiple of it, so that the timelines of
    several shards can be added without loss.
    """

    def __init__(self) -> None:
        self.width = FINEST
        self._sums: dict[int, dict[str, float]] = {}
        self._first = self._last = 0

    def add(self, at: float, series: str, amount: float = 1) -> None:
        """
        Add to the bucket of a moment.

        :param at: epoch seconds.
        """
        self._add(math.floor(at / self.width), series, amount)
        while self._last - self._first >= MOST_BUCKETS:
            self._widen()

    def to_json(self) -> dict[str, Any]:
        """
        Return the buckets from the first to the last.

        :returns: ``began`` (epoch seconds), ``width`` (seconds) and a list for each series; empty when nothing was
            added.
        """
        if not self._sums:
            return {}
        places = range(self._first, self._last + 1)
        rows = {name: [_plain(self._sums.get(place, {}).get(name, 0)) for place in places] for name in SERIES}
        return {"began": self._first * self.width, "width": self.width, **rows}

    @classmethod
    def sum_of(cls, several: Iterable[Mapping[str, Any]]) -> Timeline:
        """
        Add up timelines, such as those of shards.

        :param several: each as :meth:`to_json` returns it.
        """
        total = cls()
        given = [one for one in several if one]
        total.width = max((one["width"] for one in given), default=FINEST)
        for one in given:
            for name in SERIES:
                for number, amount in enumerate(one.get(name, ())):
                    if amount:
                        total.add(one["began"] + number * one["width"], name, amount)
        return total

    def _add(self, place: int, series: str, amount: float) -> None:
        if not self._sums:
            self._first = self._last = place
        elif place < self._first:
            self._first = place
        elif place > self._last:
            self._last = place
        sums = self._sums.setdefault(place, {})
        sums[series] = sums.get(series, 0) + amount

    def _widen(self) -> None:
        finer, self._sums = self._sums, {}
        self.width *= 2
        for place, sums in finer.items():
            for series, amount in sums.items():
                self._add(place // 2, series, amount)


def _plain(amount: float) -> float:
    return round(amount, 9) if isinstance(amount, float) else amount
