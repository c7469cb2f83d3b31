"""What was spent, grouped: from the spend record, else from what XComs and manifests still show."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.money import exact_micros
from airflow_provider_segmind.spend.entries import SpendEntry

Dimension: TypeAlias = Literal["dag", "task", "model", "day", "run"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
_VALUES: Mapping[Dimension, Callable[[SpendEntry], str]] = {
    "dag": lambda entry: entry.dag_id,
    "task": lambda entry: entry.task_id,
    "model": lambda entry: entry.model,
    "day": lambda entry: entry.day,
    "run": lambda entry: entry.run_id,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendGroup:
    """
    What was spent under one key.

    :param key: one value for each dimension asked for.
    :param requests: finished requests, without those whose answer had been paid for before.
    :param cost_micros: micro-dollars as billed, with their fraction, where Segmind has reported them. Round what is
        shown, not what is added up: the figures by day and by DAG then have the same total.
    :param unpriced: requests whose cost Segmind has not reported.
    """

    key: tuple[str, ...]
    requests: int = 0
    cost_micros: float = 0.0
    unpriced: int = 0
    tokens: int = 0

    def plus(self, other: SpendGroup) -> SpendGroup:
        """Add what was spent under another key."""
        return SpendGroup(
            key=self.key,
            requests=self.requests + other.requests,
            # Rounded to the digits of an entry, so that the order of addition makes no difference.
            cost_micros=round(self.cost_micros + other.cost_micros, 6),
            unpriced=self.unpriced + other.unpriced,
            tokens=self.tokens + other.tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendView:
    """
    What was spent.

    :param groups: by time if the first dimension is the day, else the most expensive first.
    :param since: epoch seconds of the oldest figure, None without any.
    :param note: a sentence for users on what the source does not contain.
    """

    groups: Sequence[SpendGroup]
    total: SpendGroup
    source: Literal["spend record", "XComs and manifests"]
    since: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Spending:
    """An entry, and how many requests it stands for: the manifest of a table has sums only."""

    entry: SpendEntry
    requests: int = 1
    unpriced: int = 0

    @classmethod
    def of(cls, entry: SpendEntry) -> Spending:
        """Return the one request of an entry."""
        return cls(entry, int(not entry.reused), int(entry.cost_micros is None and not entry.reused))

    def under(self, key: tuple[str, ...]) -> SpendGroup:
        """Return the figures under a key."""
        cost, tokens = self.entry.cost_micros or 0.0, self.entry.tokens or 0
        return SpendGroup(key=key, requests=self.requests, cost_micros=cost, unpriced=self.unpriced, tokens=tokens)


def grouped(
    spent: Iterable[Spending],
    by: Sequence[Dimension],
    *,
    source: Literal["spend record", "XComs and manifests"],
    note: str,
    dag_ids: Collection[str] | None = None,
) -> SpendView:
    """Add up what was spent."""
    sums: dict[tuple[str, ...], SpendGroup] = {}
    total = SpendGroup(key=())
    since: float | None = None
    for one in spent:
        entry = one.entry
        if dag_ids is not None and entry.dag_id not in dag_ids:
            continue
        figures = one.under(tuple(_VALUES[name](entry) for name in by))
        known = sums.get(figures.key)
        sums[figures.key] = figures if known is None else known.plus(figures)
        total = total.plus(figures)
        since = entry.at if since is None else min(since, entry.at)
    groups = list(sums.values()) if by else []
    if by and by[0] == "day":
        groups.sort(key=lambda group: group.key)
    else:
        groups.sort(key=lambda group: (-group.cost_micros, group.key))
    return SpendView(groups=groups, total=total, source=source, since=since, note=note)


def spent_by_task(about: Mapping[str, Any], xcoms: Mapping[str, Any], model: str | None) -> Iterator[Spending]:
    """
    Yield what the XComs of one task that is not a table show; a request whose cost is not reported counts as unpriced.

    :param about: the fields of an entry that identify the task, and when it ended.
    :param model: of its submission record, None without one.
    """
    value = xcoms.get("return_value")
    body = value if isinstance(value, Mapping) else {}
    request_id = xcoms.get("request_id") or body.get("request_id")
    metrics = body.get("metrics")
    # Of a request that has only been submitted there is neither.
    if not isinstance(request_id, str) or not ("cost" in xcoms or isinstance(metrics, Mapping)):
        return
    cost = xcoms.get("cost", metrics.get("cost") if isinstance(metrics, Mapping) else None)
    usage = xcoms.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, Mapping) else None
    entry = SpendEntry(
        **about,
        model=str(body.get("model") or model or ""),
        request_id=request_id,
        outcome="success",
        tokens=tokens if isinstance(tokens, int) else None,
        cost_micros=exact_micros(cost) if isinstance(cost, (int, float)) else None,
        reused=xcoms.get("reused") is True,
    )
    yield Spending.of(entry)


def spent_by_table(about: Mapping[str, Any], manifest: Manifest) -> Spending:
    """Return what the manifest of a table shows."""
    entry = SpendEntry(
        **about,
        model=manifest.model,
        request_id=f"{manifest.run_id}/{manifest.shard_index}",
        outcome="success",
        tokens=manifest.tokens,
        cost_micros=exact_micros(manifest.cost),
    )
    return Spending(entry, manifest.requests, manifest.unpriced)
