"""How far a run has come, how fast it is, and how long the rest will take."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from airflow_provider_segmind.bulk.verdicts import Outcome

WINDOW = 60
"""Over how many reports a rate is taken: what an hour ago was fast or slow says little about the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """
    How far a run has come.

    :param rows_read: rows of the source so far, of this shard.
    :param rows_done: those of them that have an outcome, share one, or are set aside.
    :param rows_total: rows of this shard in all, None while nobody knows.
    :param share: how much of the source is done, 0.0 to 1.0, None while its size is unknown.
    :param rate: rows done in a second lately.
    :param eta: seconds until the end if it goes on like that, None when nobody can tell.
    :param outcomes: distinct rows that got their outcome in this try.
    :param reasons: why rows got no answer in this try, by outcome and reason.
    :param in_flight: requests under way.
    :param lost: rows of which nobody knows whether they were asked.
    :param cost: USD billed in the run so far, all tries.
    :param seconds: since the try began.
    """

    rows_read: int = 0
    rows_done: int = 0
    rows_total: int | None = None
    share: float | None = None
    rate: float = 0.0
    eta: float | None = None
    outcomes: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    in_flight: int = 0
    lost: int = 0
    cost: float = 0.0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON, rounded to what people read."""
        told = asdict(self)
        for name, digits in (("share", 4), ("rate", 1), ("eta", 0), ("cost", 9), ("seconds", 1)):
            if told[name] is not None:
                told[name] = round(told[name], digits)
        return told

    def __str__(self) -> str:
        parts = [
            f"{self.rows_done} {'' if self.rows_total is None else f'of {self.rows_total} '}rows done"
            + ("" if self.share is None else f" ({100 * self.share:.0f} %)"),
            f"{self.rate:.1f} rows a second",
            f"{self.cost:.6f} USD",
        ]
        if self.eta is not None:
            parts.append(f"about {_duration(self.eta)} left")
        parts.append(f"{self.in_flight} in flight")
        if self.lost:
            parts.append(f"{self.lost} of unknown fate")
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        parts.append(f"in this try: {counts or 'no outcome yet'}")
        return "; ".join([", ".join(parts), *self._worst()])

    def _worst(self, most: int = 3) -> list[str]:
        found = [(count, outcome, why) for outcome, some in self.reasons.items() for why, count in some.items()]
        return [f"{count} {outcome}: {why}" for count, outcome, why in sorted(found, reverse=True)[:most]]


class Meter:
    """Tells rates from what it is shown from time to time."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque(maxlen=WINDOW)

    def show(self, seconds: float, *, passed: int, done: int) -> None:
        """
        Take note of where a run is.

        :param seconds: since it began.
        :param passed: rows of the whole source that need nothing more.
        :param done: those of them that are of this shard.
        """
        if not self._seen:
            self._seen.append((0.0, 0, 0))
        self._seen.append((seconds, passed, done))

    @property
    def rate(self) -> float:
        """Rows of this shard in a second."""
        return self._slope(2)

    def left(self, total: int | None) -> float | None:
        """Return how many seconds the rest of ``total`` rows of the source takes."""
        speed = self._slope(1)
        return None if total is None or speed <= 0 else max(0, total - self._seen[-1][1]) / speed

    def _slope(self, which: int) -> float:
        if not self._seen or self._seen[-1][0] <= self._seen[0][0]:
            return 0.0
        first, last = self._seen[0], self._seen[-1]
        return (last[which] - first[which]) / (last[0] - first[0])


def outcomes_of(counts: Mapping[Outcome, int]) -> dict[str, int]:
    """Return counts by the name of the outcome, none that is zero."""
    return {str(outcome): count for outcome, count in counts.items() if count}


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
