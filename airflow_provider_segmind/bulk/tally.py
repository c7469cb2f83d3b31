"""What happened in one try: calls, answers, how long they took; small whatever the number of rows."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from airflow_provider_segmind.bulk.events import Finished
from airflow_provider_segmind.bulk.standing import WITNESSES, Witness
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

    :param posts: paid calls sent, those included that were refused.
    :param resumed: requests of an earlier try whose answer was fetched.
    :param outcomes: distinct rows that got their outcome.
    :param cost: USD billed for them as far as known.
    """

    posts: int = 0
    resumed: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    cost: float = 0.0
    witnesses: deque[Witness] = field(default_factory=lambda: deque(maxlen=WITNESSES))

    def submitted(self, request_id: str, body: str, at: float) -> None:
        """Note a request that Segmind accepted, no earlier than ``at`` in epoch seconds."""
        self.witnesses.append(Witness(request_id, body, at))

    def settled(self, event: Finished) -> None:
        """Note an outcome."""
        self.outcomes[event.outcome] += 1
        self.cost += event.cost or 0.0
