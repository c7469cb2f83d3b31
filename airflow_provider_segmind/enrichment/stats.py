"""Statistics of one try: calls, replies, latencies, a timeline, and the progress."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from airflow_provider_segmind.client.responses import OUTCOME_UNKNOWN
from airflow_provider_segmind.enrichment.ledger.events import Claimed, Finished, Submitted
from airflow_provider_segmind.enrichment.ledger.row_state import KNOWN_REQUESTS, KnownRequest
from airflow_provider_segmind.enrichment.outcomes import Outcome, Reasons
from airflow_provider_segmind.exceptions import SegmindResponseError
from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.wording import duration

SERIES = ("posts", "polls", "answered", "unanswered", "cost")
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
        Add to the bucket of a time.

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


MOST_LISTED = 100
"""Requests that the progress of a run lists by id."""
WINDOW = 60
"""Reports over which the rate is computed: how fast a run was an hour ago says little about the next hour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """
    The progress of a run.

    :param rows_read: rows of the source so far, of this shard.
    :param rows_done: those that have an outcome, share one, or are set aside.
    :param rows_total: rows of this shard in all, None while unknown.
    :param share: how much of the source is done, 0.0 to 1.0, None while its size is unknown.
    :param rate: rows done per second lately.
    :param eta: seconds until the end at this rate, None if unknown.
    :param outcomes: distinct rows that got their outcome in this try.
    :param reasons: why rows got no answer in this try, by outcome and reason.
    :param in_flight: requests in flight.
    :param lost: rows of which it is unknown whether they were sent.
    :param cost: USD billed in the run so far, all tries.
    :param seconds: since the try began.
    :param requests: the oldest of the requests that were accepted and have not finished, by id, each with the epoch
        second of its submission; at most :data:`MOST_LISTED`.
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
    requests: Sequence[tuple[str, float]] = ()

    def to_json(self, *, listed: bool = False) -> dict[str, Any]:
        """
        Return it as JSON, with rounded numbers.

        :param listed: with the requests.
        """
        values = asdict(self)
        requests = values.pop("requests")
        if listed:
            values["requests"] = [[request_id, round(at, 1)] for request_id, at in requests]
        for name, digits in (("share", 4), ("rate", 1), ("eta", 0), ("cost", 9), ("seconds", 1)):
            if values[name] is not None:
                values[name] = round(values[name], digits)
        return values

    def __str__(self) -> str:
        parts = [
            f"{self.rows_done} {'' if self.rows_total is None else f'of {self.rows_total} '}rows done"
            + ("" if self.share is None else f" ({100 * self.share:.0f}%)"),
            f"{self.rate:.1f} rows per second",
            format_usd(self.cost),
        ]
        if self.eta is not None:
            parts.append(f"about {duration(round(self.eta))} left")
        parts.append(f"{self.in_flight} in flight")
        if self.lost:
            parts.append(f"{self.lost} with an unknown outcome")
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        parts.append(f"distinct rows in this try: {counts or 'no outcome yet'}")
        return "; ".join([", ".join(parts), *self._worst()])

    def _worst(self) -> list[str]:
        found = [(count, outcome, why) for outcome, some in self.reasons.items() for why, count in some.items()]
        return [f"{count} {outcome}: {why}" for count, outcome, why in sorted(found, reverse=True)[:3]]


class Meter:
    """Computes rates from periodic reports."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque(maxlen=WINDOW)

    def show(self, seconds: float, *, passed: int, done: int) -> None:
        """
        Record the progress.

        :param seconds: since it began.
        :param passed: rows of the whole source that are finished.
        :param done: those that belong to this shard.
        """
        if not self._seen:
            self._seen.append((0.0, 0, 0))
        self._seen.append((seconds, passed, done))

    @property
    def rate(self) -> float:
        """Rows of this shard per second."""
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


_GROWTH = math.log(1.05)


class Latencies:
    """Counts of seconds in buckets 5% wide, so that quantiles of several shards can be computed from their sum."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[round(math.log(max(seconds, 1e-3)) / _GROWTH)] += 1

    def quantiles(self, shares: Iterable[float] = (0.5, 0.9, 0.99)) -> dict[str, float]:
        """Return the seconds of each quantile, within 3%; empty when nothing was counted."""
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
        """Return the bounds of a bucket in seconds."""
        return math.exp((bucket - 0.5) * _GROWTH), math.exp((bucket + 0.5) * _GROWTH)

    def _quantile(self, rank: float) -> float:
        passed = 0
        for bucket, count in sorted(self.counts.items()):
            passed += count
            if passed >= rank:
                return round(math.exp(bucket * _GROWTH), 4)
        raise ValueError(f"no such rank: {rank}")


MOST_SAMPLED = 50
"""Rows of a sample; up to twice as many while it is being taken."""


class RowSample:
    """Every n-th row that got its outcome, where n doubles whenever the sample is full."""

    def __init__(self) -> None:
        self.rows: list[Finished] = []
        self._seen = 0
        self._step = 1

    def add(self, event: Finished) -> None:
        """Count a row, and keep it without its answer if it is one of the sample."""
        if self._seen % self._step == 0:
            self.rows.append(replace(event, answer=None))
            if len(self.rows) >= 2 * MOST_SAMPLED:
                del self.rows[1::2]
                self._step *= 2
        self._seen += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeState:
    """
    What a try continues with after a deferral; the trigger keeps it as JSON in the meantime.

    :param began: epoch seconds at which the try began, None if it begins now.
    :param seconds: for which it has run.
    :param timeline: as :meth:`Timeline.to_json` returns it.
    :param spend_recorded: whether the requests that ended are in the spend record.
    """

    began: float | None = None
    seconds: float = 0.0
    posts: int = 0
    polls: int = 0
    resumed: int = 0
    timeline: Mapping[str, Any] = field(default_factory=dict)
    spend_recorded: bool = False

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> Self | None:
        """Read what :meth:`to_json` returned; fields that another version added are ignored, as is None."""
        if values is None:
            return None
        names = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names and value is not None})

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


class LatestIds:
    """
    The ids of the latest requests; Segmind must not return one of them a second time.

    :param most: ids that are remembered.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._ids: dict[str, None] = {}

    def add(self, request_id: str) -> None:
        """
        Remember the id of a request that was accepted.

        :raises SegmindResponseError: it is remembered already, as if a cache in between had answered: the answer to
            that request would become the one of another row.
        """
        if request_id in self._ids:
            raise SegmindResponseError(
                f"Submitting returned request {request_id!r}, which is that of another row. {OUTCOME_UNKNOWN}."
            )
        self._ids[request_id] = None
        if len(self._ids) > self._most:
            del self._ids[next(iter(self._ids))]


@dataclass(slots=True)
class Tally:
    """
    Counts of one try.

    :param clock: epoch seconds.
    :param posts: paid calls sent, retries and refused ones included.
    :param polls: free calls to the gateway sent.
    :param resumed: requests of an earlier try whose answer was fetched.
    :param outcomes: distinct rows that got their outcome.
    :param cost: USD billed for them; unknown bills count nothing.
    :param tokens: tokens they used.
    :param accepted: requests that Segmind accepted.
    :param reused_rows: rows whose answer came from the answer cache; they are in ``outcomes`` too.
    :param sample: some of the rows that got their outcome.
    """

    clock: Callable[[], float]
    posts: int = 0
    polls: int = 0
    resumed: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    cost: float = 0.0
    tokens: int = 0
    accepted: int = 0
    reused_rows: int = 0
    sample: RowSample = field(default_factory=RowSample)
    reasons: Reasons = field(default_factory=Reasons)
    timeline: Timeline = field(default_factory=Timeline)
    known_requests: deque[KnownRequest] = field(default_factory=lambda: deque(maxlen=KNOWN_REQUESTS))

    def take_over(self, earlier: ResumeState) -> None:
        """Begin with what the try had counted before a deferral."""
        self.posts, self.polls, self.resumed = earlier.posts, earlier.polls, earlier.resumed
        self.timeline = Timeline.sum_of([earlier.timeline])

    def called(self, paid: bool) -> None:
        """Record a call that is sent."""
        if paid:
            self.posts += 1
        else:
            self.polls += 1
        self.timeline.add(self.clock(), "posts" if paid else "polls")

    def submitted(self, submitted: Submitted, claim: Claimed) -> None:
        """Record a request that Segmind accepted, and the claim before it."""
        self.accepted += 1
        self.known_requests.append(KnownRequest(submitted.request_id, claim.body, claim.at, submitted.at, claim.writer))

    def reused(self, event: Finished) -> None:
        """Record an answer that was paid for before; no request of this run has it."""
        self.reused_rows += 1
        self.outcomes[event.outcome] += 1
        self.timeline.add(event.at, "answered")

    def finished(self, event: Finished) -> None:
        """Record an outcome."""
        self.sample.add(event)
        self.outcomes[event.outcome] += 1
        self.cost += event.cost or 0.0
        self.tokens += event.tokens or 0
        answered = event.outcome is Outcome.SUCCESS
        if not answered:
            self.reasons.add(event.outcome, event.reason)
        self.timeline.add(event.at, "answered" if answered else "unanswered")
        if event.cost:
            self.timeline.add(event.at, "cost", event.cost)
