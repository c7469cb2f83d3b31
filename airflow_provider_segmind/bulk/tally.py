"""What happened in one try: calls, answers, how long they took; small whatever the number of rows."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_segmind.bulk.events import Claimed, Finished, Submitted
from airflow_provider_segmind.bulk.reasons import Reasons
from airflow_provider_segmind.bulk.standing import WITNESSES, Witness
from airflow_provider_segmind.bulk.timeline import Timeline
from airflow_provider_segmind.bulk.verdicts import Outcome

_GROWTH = math.log(1.05)


class Latencies:
    """
    Counts of seconds in buckets 5 % wide, so that quantiles of several shards can be told from their sum.

    :param counts: how many in each bucket, as :attr:`counts` of another one holds them.
    """

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: Counter[int] = Counter(counts)

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[round(math.log(max(seconds, 1e-3)) / _GROWTH)] += 1

    def quantiles(self, shares: Iterable[float] = (0.5, 0.9, 0.99)) -> dict[str, float]:
        """Return the seconds below which each share lies, within 3 %; empty when nothing was counted."""
        total = self.counts.total()
        return {f"p{100 * share:g}": self._quantile(share * total) for share in shares} if total else {}

    @classmethod
    def sum_of(cls, several: Iterable[Mapping[str, int]]) -> Latencies:
        """Add up counts, such as those of shards, whose buckets are named in JSON."""
        total = cls()
        for counts in several:
            total.counts.update({int(bucket): count for bucket, count in counts.items()})
        return total

    def bounds(self, bucket: int) -> tuple[float, float]:
        """Return between which seconds a bucket lies."""
        return math.exp((bucket - 0.5) * _GROWTH), math.exp((bucket + 0.5) * _GROWTH)

    def _quantile(self, rank: float) -> float:
        passed = 0
        for bucket, count in sorted(self.counts.items()):
            passed += count
            if passed >= rank:
                return round(math.exp(bucket * _GROWTH), 4)
        raise ValueError(f"no such rank: {rank}")


@dataclass(slots=True)
class Tally:
    """
    Counts of one try.

    :param clock: epoch seconds.
    :param posts: paid calls sent, each repetition and those included that were refused.
    :param looks: free calls to the gateway sent.
    :param resumed: requests of an earlier try whose answer was fetched.
    :param outcomes: distinct rows that got their outcome.
    :param cost: USD billed for them as far as known.
    """

    clock: Callable[[], float]
    posts: int = 0
    looks: int = 0
    resumed: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    cost: float = 0.0
    reasons: Reasons = field(default_factory=Reasons)
    timeline: Timeline = field(default_factory=Timeline)
    witnesses: deque[Witness] = field(default_factory=lambda: deque(maxlen=WITNESSES))

    def to_json(self) -> dict[str, Any]:
        """Return what the next leg of the try takes over with :meth:`take_over`."""
        return {
            "posts": self.posts,
            "looks": self.looks,
            "resumed": self.resumed,
            "timeline": self.timeline.to_json(),
        }

    def take_over(self, earlier: Mapping[str, Any]) -> None:
        """Begin with what an earlier leg of the try had counted."""
        self.posts, self.looks, self.resumed = (int(earlier.get(name, 0)) for name in ("posts", "looks", "resumed"))
        self.timeline = Timeline.sum_of([earlier.get("timeline") or {}])

    def called(self, paid: bool) -> None:
        """Note a call that is sent."""
        if paid:
            self.posts += 1
        else:
            self.looks += 1
        self.timeline.add(self.clock(), "posts" if paid else "looks")

    def submitted(self, submitted: Submitted, claim: Claimed) -> None:
        """Note a request that Segmind accepted, and the claim before it."""
        self.witnesses.append(Witness(submitted.request_id, claim.body, claim.at, submitted.at, claim.writer))

    def settled(self, event: Finished) -> None:
        """Note an outcome."""
        self.outcomes[event.outcome] += 1
        self.cost += event.cost or 0.0
        answered = event.outcome is Outcome.SUCCESS
        if not answered:
            self.reasons.add(event.outcome, event.reason)
        self.timeline.add(event.at, "answered" if answered else "unanswered")
        if event.cost:
            self.timeline.add(event.at, "cost", event.cost)
