"""What the page shows of the spending: a chart by day, stacked by DAG or model, and sums."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from html import escape
from typing import Literal, Self

from airflow_provider_segmind.enrichment.report.charts import Chart, Plot, round_ticks
from airflow_provider_segmind.money import usd
from airflow_provider_segmind.monitoring.reader import Reader
from airflow_provider_segmind.monitoring.spending import SpendGroup, SpendView
from airflow_provider_segmind.wording import counted

Stack = Literal["dag", "model"]
COLOURS_OF_STACKS = ("#2f6db5", "#e09f3e", "#2a9d6f", "#b565a7", "#d1495b", "#3aa6b7", "#7a5bb5")
NO_DAG = "no DAG"
"""
Stands for calls of the hook, and for requests that are only in Segmind's history. No DAG can have this id, because it
contains a space.
"""
OTHERS, OTHERS_COLOUR = "others", "#8a8f98"
DEFAULT_DAYS, MAX_DAYS = 30, 366
MOST_LABELS = 12
EARLIEST = date(2020, 1, 1)
CACHE_LIFETIME, MOST_CACHED = 60.0, 16


@dataclass(frozen=True, slots=True)
class Period:
    """The days shown, the first and the last included, in UTC."""

    first: date
    last: date

    @classmethod
    def of(cls, first: str, last: str, today: date) -> Self:
        """Read the dates of a form: the last 30 days where one is invalid, and a year at most."""
        end = min(_day(last) or today, today)
        start = min(_day(first) or end - timedelta(days=DEFAULT_DAYS - 1), end)
        return cls(start if (end - start).days < MAX_DAYS else end - timedelta(days=MAX_DAYS - 1), end)

    @property
    def days(self) -> list[date]:
        """Every day of it."""
        return [self.first + timedelta(days=number) for number in range((self.last - self.first).days + 1)]

    @property
    def seconds(self) -> tuple[float, float]:
        """Its beginning and its end, excluded, in epoch seconds."""
        return _seconds(self.first), _seconds(self.last + timedelta(days=1))


def _seconds(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _day(text: str) -> date | None:
    try:
        found = date.fromisoformat(text)
    except ValueError:
        return None
    return found if found >= EARLIEST else None


class SpendCache:
    """What all DAGs spent in a period, added up at most once a minute by this process; a record may be long."""

    def __init__(self) -> None:
        self._known: dict[Period, tuple[float, SpendView]] = {}

    def read(self, reader: Reader, period: Period) -> SpendView:
        """Return the sums by day, DAG and model. Blocks."""
        at, view = self._known.get(period, (0.0, None))
        if view is None or time.monotonic() - at > CACHE_LIFETIME:
            since, until = period.seconds
            view = reader.spend(since, until, by=("day", "dag", "model"))
            self._known = dict(list(self._known.items())[1 - MOST_CACHED :])
            self._known[period] = (time.monotonic(), view)
        return view


def visible(view: SpendView, dag_ids: Collection[str] | None, stack: Stack) -> SpendView:
    """
    Return what some DAGs spent, by day and by DAG or model; the total and the beginning are also limited to them.

    :param dag_ids: None for all, including deleted ones, and what no DAG spent.
    """
    sums: dict[tuple[str, str], SpendGroup] = {}
    total = SpendGroup(key=())
    for group in view.groups:
        day, dag_id, model = group.key
        if dag_ids is not None and dag_id not in dag_ids:
            continue
        key = (day, (dag_id or NO_DAG) if stack == "dag" else model)
        sums[key] = sums.get(key, SpendGroup(key=key)).plus(group)
        total = total.plus(group)
    since = min((_seconds(date.fromisoformat(day)) for day, _ in sums), default=None)
    return replace(view, groups=list(sums.values()), total=total, since=since)


@dataclass(frozen=True, slots=True)
class SpendLine:
    """What was spent on one DAG or model; ``share`` is of all money, 0.0 to 1.0."""

    name: str
    colour: str
    group: SpendGroup
    share: float


def spend_lines(view: SpendView) -> list[SpendLine]:
    """Return sums over all days, the most expensive first. The key of a group is its day and its DAG or model."""
    sums: dict[str, SpendGroup] = {}
    for group in view.groups:
        name = group.key[1]
        sums[name] = sums.get(name, SpendGroup(key=(name,))).plus(group)
    ordered = sorted(sums.items(), key=lambda one: (-one[1].cost_micros, one[0]))
    colours = [*COLOURS_OF_STACKS, *[OTHERS_COLOUR] * len(ordered)]
    whole = view.total.cost_micros or 1
    return [
        SpendLine(name, colour, group, group.cost_micros / whole)
        for (name, group), colour in zip(ordered, colours, strict=False)
    ]


def draw_days(view: SpendView, lines: Sequence[SpendLine], period: Period) -> Chart:
    """Draw a bar for each day."""
    days = period.days
    stacks: dict[str, dict[str, float]] = {day.isoformat(): {} for day in days}
    shown = {line.name: line.colour for line in lines[: len(COLOURS_OF_STACKS)]}
    for group in view.groups:
        day, name = group.key
        name = name if name in shown else OTHERS
        if day in stacks:
            stacks[day][name] = stacks[day].get(name, 0) + group.cost_micros
    high = max((sum(parts.values()) for parts in stacks.values()), default=0) / 1e6
    if not high:
        return Chart("spend", "USD by day", "Nothing was billed on these days.")
    ticks = [(tick, usd(tick * 1e6)) for tick in round_ticks(high * 1.05, 5)]
    left = 20 + 7 * max(len(label) for _, label in ticks)
    plot = Plot(width=1110.0, left=left, x_high=len(days), y_low=0, y_high=high * 1.05)
    for tick, label in ticks:
        plot.line_along(tick, label)
    names = [*shown, OTHERS]
    plot.legend(_legend(shown))
    for number, (day, parts) in enumerate(stacks.items()):
        below = 0.0
        for name in names:
            if amount := parts.get(name, 0) / 1e6:
                _draw_part(plot, number, below, amount, shown.get(name, OTHERS_COLOUR), f"{day}: {name}")
                below += amount
    for number in range(0, len(days), -(-len(days) // MOST_LABELS)):
        plot.mark(number + 0.5, f"{days[number]:%b} {days[number].day}")
    plot.axes(x_label="day, UTC")
    said = f"{usd(view.total.cost_micros)} in {counted(len(days), 'day')}, UTC."
    return plot.chart("spend", "USD by day", said, wide=True)


def _legend(colours: dict[str, str]) -> list[tuple[str, str]]:
    """Return the entries that fit above the chart; the table below has all of them."""
    entries, room = [], 150
    for name, colour in colours.items():
        room -= len(name) + 6
        if room < 0:
            break
        entries.append((name, colour))
    return entries


def _draw_part(plot: Plot, number: int, below: float, amount: float, colour: str, name: str) -> None:
    """Draw a part of a day's bar, with a tooltip that says what it is."""
    top, bottom = plot.y(below + amount), plot.y(below)
    left, right = plot.x(number + 0.12), plot.x(number + 0.88)
    where = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.2f}"'
    title = escape(f"{name}, {usd(amount * 1e6)}")
    plot.parts.append(f'<rect {where} fill="{colour}"><title>{title}</title></rect>')
