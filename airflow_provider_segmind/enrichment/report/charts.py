"""
The charts of a report, SVG elements that inherit the text and line colours of the page.

They need only the manifest, so that a report can be written without another package.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.stats import Latencies
from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.wording import counted, moment

COLOURS = {
    Outcome.SUCCESS: "#2a9d6f",
    Outcome.FAILED: "#d1495b",
    Outcome.BLOCKED: "#b565a7",
    Outcome.TRUNCATED: "#e09f3e",
    Outcome.INVALID: "#c8702a",
    Outcome.UNKNOWN: "#8a8f98",
    Outcome.SKIPPED: "#b4bac4",
}
POSTS, POLLS, COST, LATENCY = "#2f6db5", "#8fbfe8", "#7a5bb5", "#3a8fb7"
_HEIGHT, _NARROW, _WIDE = 270.0, 540.0, 1110.0
_TOP, _RIGHT, _BOTTOM = 30.0, 16.0, 48.0
_CHARACTER = 6.4
"""Width of a character of a tick's label; a little more than the average, so that nothing is cut off."""
_MOST_BARS = 40
_DASHES = ("none", "6 4", "2 3")


@dataclass(frozen=True, slots=True)
class Chart:
    """
    One chart.

    :param name: unique on the page.
    :param described: a description of its content.
    :param svg: an ``<svg>`` element with a title and a description; empty if there are no data.
    :param wide: whether it is twice as wide as others.
    """

    name: str
    title: str
    described: str
    svg: str = ""
    wide: bool = False


def draw_all(manifest: Manifest) -> list[Chart]:
    """Draw all charts of a manifest."""
    return [_outcomes(manifest), _latency(manifest), _calls(manifest), _rows(manifest), _cost(manifest)]


def _outcomes(manifest: Manifest) -> Chart:
    name, title = "outcomes", "Rows by outcome"
    seen = {outcome: manifest.outcomes[outcome] for outcome in Outcome if manifest.outcomes[outcome]}
    if not seen:
        return Chart(name, title, "No rows were read.")
    plot = Plot(left=84.0, right=120.0, x_low=0, x_high=max(seen.values()), y_low=0, y_high=max(len(seen), 3))
    for tick in _whole_ticks(plot.x_high):
        plot.line_across(tick, f"{tick:,}")
    for number, (outcome, count) in enumerate(seen.items()):
        top, height = plot.y(plot.y_high - number - 0.19), plot.y(0) - plot.y(0.62)
        plot.box(plot.left, top, plot.x(count) - plot.left, height, COLOURS[outcome])
        middle = top + height / 2 + 4
        plot.text(plot.left - 8, middle, outcome, anchor="end")
        plot.text(plot.x(count) + 6, middle, f"{count:,} ({_share(count, manifest.rows_read)})")
    plot.axes(x_label="rows")
    said = ", ".join(f"{outcome} {count:,}" for outcome, count in seen.items())
    return plot.chart(name, title, f"{counted(manifest.rows_read, 'row')}: {said}.")


def _latency(manifest: Manifest) -> Chart:
    name, title = "latency", "Seconds from submission to answer"
    latencies = Latencies.sum_of([manifest.latency_counts])
    if not latencies.counts:
        return Chart(name, title, "This run did not wait for any answer.")
    first, last = min(latencies.counts), max(latencies.counts)
    together = max(1, math.ceil((last - first + 1) / _MOST_BARS))
    bins = range(first, last + 1, together)
    heights = [sum(latencies.counts[bucket] for bucket in range(low, low + together)) for low in bins]
    edges = [latencies.bounds(low)[0] for low in (*bins, bins[-1] + together)]
    low, high = edges[0] / 1.15, edges[-1] * 1.15
    plot = Plot(x_low=math.log(low), x_high=math.log(high), y_low=0, y_high=max(heights) * 1.1)
    for tick in _whole_ticks(plot.y_high):
        plot.line_along(tick, f"{tick:,}")
    for start, end, height in zip(edges, edges[1:], heights, strict=False):
        left = plot.x(math.log(start))
        plot.box(left, plot.y(height), plot.x(math.log(end)) - left, plot.y(0) - plot.y(height), LATENCY)
    for second in _seconds_ticks(low, high):
        plot.mark(math.log(second), f"{second:g}")
    for dashes, seconds in zip(_DASHES, manifest.latency.values(), strict=False):
        plot.upright(math.log(seconds), dashes)
    plot.axes(x_label="seconds (log scale)", y_label="distinct rows")
    words = [f"{label} {seconds:.3g} s" for label, seconds in manifest.latency.items()]
    plot.legend([(word, f"line:{dashes}") for word, dashes in zip(words, _DASHES, strict=False)])
    return plot.chart(name, title, f"{counted(sum(heights), 'distinct row')}; {', '.join(words)}.")


def _calls(manifest: Manifest) -> Chart:
    name, title = "calls", "Calls to Segmind per second, this try"
    if not manifest.calls or not manifest.timeline:
        return Chart(name, title, "No call was made in this try.")
    series = (("paid submissions", "posts", POSTS), ("polls and fetches, free", "polls", POLLS))
    said = f"{counted(manifest.posts, 'paid submission')} and {counted(manifest.calls - manifest.posts, 'free call')}."
    return _stacked(manifest, series, "calls per second").chart(name, title, said)


def _rows(manifest: Manifest) -> Chart:
    name, title = "rows", "Distinct rows finished per second, this try"
    timeline = manifest.timeline
    answered, unanswered = (sum(timeline.get(series, ())) for series in ("answered", "unanswered"))
    if not answered + unanswered:
        return Chart(name, title, "No row was finished in this try.")
    series = (
        ("answered", "answered", COLOURS[Outcome.SUCCESS]),
        ("without an answer", "unanswered", COLOURS[Outcome.FAILED]),
    )
    said = f"{counted(answered, 'distinct row')} answered, {unanswered:,} ended without an answer."
    return _stacked(manifest, series, "rows per second").chart(name, title, said)


def _cost(manifest: Manifest) -> Chart:
    name, title = "cost", "Billed in this try, added up"
    spent = manifest.timeline.get("cost", ())
    if not sum(spent):
        return Chart(name, title, "Nothing was billed in this try.")
    sums = [0.0]
    for amount in spent:
        sums.append(sums[-1] + amount)
    time = _TimeAxis.of(manifest)
    plot = Plot(width=_WIDE, left=76.0, x_high=time.edges[-1], y_low=0, y_high=sums[-1] * 1.16)
    for tick in round_ticks(plot.y_high, 5):
        plot.line_along(tick, format_usd(tick))
    points = [(plot.x(edge), plot.y(value)) for edge, value in zip(time.edges, sums, strict=True)]
    line = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
    base = _n(plot.y(0))
    area = f"{_n(plot.left)},{base} {line} {_n(points[-1][0])},{base}"
    plot.parts.append(f'<polygon points="{area}" fill="{COST}" fill-opacity="0.18"/>')
    plot.parts.append(f'<polyline points="{line}" fill="none" stroke="{COST}" stroke-width="2"/>')
    plot.text(points[-1][0] - 4, points[-1][1] - 7, format_usd(sums[-1]), anchor="end")
    time.draw(plot, "")
    return plot.chart(name, title, f"{format_usd(sums[-1])} billed.", wide=True)


@dataclass(frozen=True, slots=True)
class _TimeAxis:
    """The axis of a timeline: the edges of its buckets in a suitable unit."""

    edges: list[float]
    label: str

    @classmethod
    def of(cls, manifest: Manifest) -> _TimeAxis:
        timeline = manifest.timeline
        count, width = len(timeline["posts"]), timeline["width"]
        units = (("hours", 3600.0), ("minutes", 60.0))
        unit, seconds = next((one for one in units if count * width > 2 * one[1]), ("seconds", 1.0))
        edges = [number * width / seconds for number in range(count + 1)]
        return cls(edges, f"{unit} since {moment(timeline['began'])}")

    def draw(self, plot: Plot, y_label: str) -> None:
        for tick in round_ticks(self.edges[-1], 9):
            plot.mark(tick, f"{tick:g}")
        plot.axes(x_label=self.label, y_label=y_label)


def _stacked(manifest: Manifest, series: Sequence[tuple[str, str, str]], unit: str) -> Plot:
    """Draw series of the timeline on top of each other, as rates."""
    time = _TimeAxis.of(manifest)
    width = manifest.timeline["width"]
    rates = [[amount / width for amount in manifest.timeline[name]] for _, name, _ in series]
    plot = Plot(x_high=time.edges[-1], y_low=0, y_high=max(map(sum, zip(*rates, strict=True))) * 1.1)
    for tick in round_ticks(plot.y_high, 5):
        plot.line_along(tick, f"{tick:,g}")
    base = [0.0] * len(rates[0])
    for one, (_, _, colour) in zip(rates, series, strict=True):
        top = [below + rate for below, rate in zip(base, one, strict=True)]
        if any(one):
            outline = [*_steps(plot, time.edges, top), *reversed(list(_steps(plot, time.edges, base)))]
            plot.parts.append(f'<polygon points="{" ".join(outline)}" fill="{colour}"/>')
        base = top
    plot.legend([(label, colour) for (label, _, colour), one in zip(series, rates, strict=True) if any(one)])
    time.draw(plot, unit)
    return plot


def _steps(plot: Plot, edges: Sequence[float], values: Sequence[float]) -> Iterator[str]:
    for start, end, value in zip(edges, edges[1:], values, strict=False):
        yield f"{_n(plot.x(start))},{_n(plot.y(value))}"
        yield f"{_n(plot.x(end))},{_n(plot.y(value))}"


@dataclass(slots=True, kw_only=True)
class Plot:
    """A plot: its frame in pixels, the values at its edges, and its elements so far."""

    width: float = _NARROW
    left: float = 64.0
    right: float = _RIGHT
    x_low: float = 0.0
    x_high: float
    y_low: float
    y_high: float
    parts: list[str] = field(default_factory=list)

    def x(self, value: float) -> float:
        """Return the place of a value from left to right, in pixels."""
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return self.left + share * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Return the place of a value from the top down, in pixels."""
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)

    def text(self, x: float, y: float, words: str, *, anchor: str = "start", turned: bool = False) -> None:
        """Write words at a place in pixels."""
        turn = f' transform="rotate(-90 {_n(x)} {_n(y)})"' if turned else ""
        where = f'x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"'
        self.parts.append(f'<text {where}{turn} fill="currentColor" font-size="12">{escape(words)}</text>')

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Draw a filled box at a place in pixels."""
        where = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
        # Otherwise a hairline of the background is visible between adjacent bars.
        self.parts.append(f'<rect {where} fill="{colour}" shape-rendering="crispEdges"/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, colour: str = "var(--line)", dashes: str = "") -> None:
        """Draw a line between two places in pixels."""
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        ends = f'x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"'
        self.parts.append(f'<line {ends} stroke="{colour}"{dashed}/>')

    def line_along(self, value: float, label: str) -> None:
        """Draw a grid line from left to right."""
        self.line(self.left, self.y(value), self.width - self.right, self.y(value))
        self.text(self.left - 7, self.y(value) + 4, label, anchor="end")

    def line_across(self, value: float, label: str) -> None:
        """Draw a grid line from bottom to top."""
        self.line(self.x(value), self.y(self.y_low), self.x(value), _TOP)
        self.text(self.x(value), self.y(self.y_low) + 18, label, anchor="middle")

    def mark(self, value: float, label: str) -> None:
        """Draw a tick of the horizontal axis."""
        self.line(self.x(value), self.y(self.y_low), self.x(value), self.y(self.y_low) + 4)
        self.text(self.x(value), self.y(self.y_low) + 18, label, anchor="middle")

    def upright(self, value: float, dashes: str) -> None:
        """Draw a line from bottom to top at a value."""
        self.line(self.x(value), self.y(self.y_low), self.x(value), _TOP, "currentColor", dashes)

    def axes(self, *, x_label: str, y_label: str = "") -> None:
        """Draw both axes with their labels."""
        bottom = self.y(self.y_low)
        self.line(self.left, bottom, self.width - self.right, bottom)
        self.line(self.left, bottom, self.left, _TOP)
        self.text((self.left + self.width - self.right) / 2, _HEIGHT - 8, x_label, anchor="middle")
        if y_label:
            self.text(13, (bottom + _TOP) / 2, y_label, anchor="middle", turned=True)

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        """
        Draw the legend above the plot.

        :param entries: labels, each with a colour, or with ``line:`` and its dashes.
        """
        x = self.left
        for words, mark in entries:
            if mark.startswith("line:"):
                self.line(x, 15, x + 18, 15, "currentColor", mark.removeprefix("line:"))
            else:
                self.box(x + 4, 9, 12, 12, mark)
            self.text(x + 24, 19, words)
            x += 24 + _CHARACTER * len(words) + 18

    def chart(self, name: str, title: str, described: str, *, wide: bool = False) -> Chart:
        """Return the finished chart."""
        words = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(described)}</desc>'
        head = f'<svg viewBox="0 0 {_n(self.width)} {_n(_HEIGHT)}" role="img"'
        head += f' aria-labelledby="{name}-title {name}-desc">'
        return Chart(name, title, described, head + words + "".join(self.parts) + "</svg>", wide)


def _n(number: float) -> str:
    """Return a coordinate, rounded to visible digits."""
    return f"{number:.1f}".removesuffix(".0")


def round_ticks(high: float, most: int) -> list[float]:
    """Return round numbers from 0 up to ``high``, limited to about the given count."""
    raw = high / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw * (1 - 1e-9))
    return [round(number * step, 10) for number in range(math.floor(high / step + 1e-9) + 1)]


def _whole_ticks(high: float) -> list[int]:
    return sorted({int(tick) for tick in round_ticks(max(high, 1), 5) if tick == int(tick)})


def _seconds_ticks(low: float, high: float) -> list[float]:
    steps = (1, 2, 5) if high / low < 300 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return [tick for tick in ticks if low <= tick <= high] or [round((low * high) ** 0.5, 4)]


def _share(part: int, whole: int) -> str:
    share = 100 * part / whole
    if share in (0, 100) or share == round(share):
        return f"{share:.0f}%"
    return f"{min(max(share, 0.1), 99.9):.1f}%"
