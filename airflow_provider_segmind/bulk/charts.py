"""
The charts of a report: matplotlib draws them, and they become SVG that stands in a page by itself.

Their text and lines take the colours of the page, so that they can be read on a light and on a dark one.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from importlib import import_module
from typing import Any, TypeAlias

from airflow_provider_segmind.bulk.manifest import Manifest
from airflow_provider_segmind.bulk.tally import Latencies
from airflow_provider_segmind.bulk.verdicts import Outcome

Axes: TypeAlias = Any
"""Of matplotlib, which may be missing where this is imported."""

COLOURS = {
    Outcome.SUCCESS: "#2a9d6f",
    Outcome.FAILED: "#d1495b",
    Outcome.BLOCKED: "#b565a7",
    Outcome.TRUNCATED: "#e09f3e",
    Outcome.INVALID: "#c8702a",
    Outcome.UNKNOWN: "#8a8f98",
    Outcome.SKIPPED: "#b4bac4",
}
POSTS, LOOKS, COST, LATENCY = "#2f6db5", "#8fbfe8", "#7a5bb5", "#3a8fb7"
# Stand-ins for what the page decides; no other part of a chart has these colours.
_TEXT, _LINE = "#010203", "#040506"
_SIZE, _WIDE = (5.4, 2.7), (11.1, 2.7)
_MOST_BARS = 40
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _TEXT,
    "axes.labelsize": 9,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": _TEXT,
    "svg.fonttype": "none",
    "text.color": _TEXT,
    "xtick.color": _LINE,
    "xtick.labelcolor": _TEXT,
    "ytick.color": _LINE,
    "ytick.labelcolor": _TEXT,
}


@dataclass(frozen=True, slots=True)
class Chart:
    """
    One chart.

    :param name: unique on the page.
    :param described: what can be seen on it, in words.
    :param svg: an ``<svg>`` element with a title and a description; empty when there is nothing to draw.
    :param wide: whether it is twice as wide as others.
    """

    name: str
    title: str
    described: str
    svg: str = ""
    wide: bool = False


def draw_all(manifest: Manifest) -> list[Chart]:
    """
    Draw all charts of a manifest.

    :raises ImportError: matplotlib is not installed.
    """
    with import_module("matplotlib").rc_context(_STYLE):
        return [_outcomes(manifest), _latency(manifest), _calls(manifest), _rows(manifest), _cost(manifest)]


def _outcomes(manifest: Manifest) -> Chart:
    name, title = "outcomes", "Rows by outcome"
    seen = {outcome: manifest.outcomes[outcome] for outcome in Outcome if manifest.outcomes[outcome]}
    if not seen:
        return Chart(name, title, "No rows were read.")

    def plot(axes: Axes) -> None:
        labels, counts = list(seen), list(seen.values())
        bars = axes.barh(labels, counts, color=[COLOURS[outcome] for outcome in labels], height=0.62)
        texts = [f"{count:,} ({_share(count, manifest.rows_read)})" for count in counts]
        axes.bar_label(bars, labels=texts, color=_TEXT, padding=4)
        axes.set_xlim(0, max(counts) * 1.32)
        axes.set_ylim(max(len(labels), 3) - 0.5, -0.5)
        axes.set_xlabel("rows")
        axes.grid(visible=False, axis="y")
        _whole_numbers(axes.xaxis)

    said = ", ".join(f"{outcome} {count:,}" for outcome, count in seen.items())
    return _drawn(name, title, f"{counted(manifest.rows_read, 'row')}: {said}.", plot)


def _latency(manifest: Manifest) -> Chart:
    name, title = "latency", "Seconds from submission to answer"
    latencies = Latencies.sum_of([manifest.latency_counts])
    if not latencies.counts:
        return Chart(name, title, "No answer of this run was waited for.")
    first, last = min(latencies.counts), max(latencies.counts)
    together = max(1, math.ceil((last - first + 1) / _MOST_BARS))
    bins = range(first, last + 1, together)
    heights = [sum(latencies.counts[bucket] for bucket in range(low, low + together)) for low in bins]
    edges = [latencies.bounds(low)[0] for low in (*bins, bins[-1] + together)]

    def plot(axes: Axes) -> None:
        axes.stairs(heights, edges, fill=True, color=LATENCY)
        axes.set_xscale("log")
        axes.set_xlim(edges[0] / 1.15, edges[-1] * 1.15)
        axes.set_ylim(0, max(heights) * 1.22)
        ticks = _seconds_ticks(edges[0] / 1.15, edges[-1] * 1.15)
        axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("seconds (log scale)")
        axes.set_ylabel("distinct rows")
        axes.grid(visible=False, axis="x")
        _whole_numbers(axes.yaxis)
        for style, (label, seconds) in zip(("-", "--", ":"), manifest.latency.items(), strict=False):
            axes.axvline(seconds, color=_TEXT, linewidth=1, linestyle=style, label=f"{label} {seconds:.3g} s")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3, handlelength=1.6)

    said = ", ".join(f"{label} {seconds:.3g} s" for label, seconds in manifest.latency.items())
    return _drawn(name, title, f"{counted(sum(heights), 'distinct row')}; {said}.", plot)


def _calls(manifest: Manifest) -> Chart:
    name, title = "calls", "Calls to Segmind a second, this try"
    if not manifest.calls or not manifest.timeline:
        return Chart(name, title, "No call was made in this try.")
    parts = (("paid submits", "posts", POSTS), ("looks and fetches, free", "looks", LOOKS))
    said = f"{counted(manifest.posts, 'paid submit')} and {counted(manifest.calls - manifest.posts, 'free call')}."
    return _drawn(name, title, said, _stacked(manifest, parts, "calls a second"))


def _rows(manifest: Manifest) -> Chart:
    name, title = "rows", "Distinct rows finished a second, this try"
    timeline = manifest.timeline
    answered, unanswered = (sum(timeline.get(series, ())) for series in ("answered", "unanswered"))
    if not answered + unanswered:
        return Chart(name, title, "No row was finished in this try.")
    parts = (
        ("answered", "answered", COLOURS[Outcome.SUCCESS]),
        ("without an answer", "unanswered", COLOURS[Outcome.FAILED]),
    )
    said = f"{counted(answered, 'distinct row')} answered, {unanswered:,} ended without an answer."
    return _drawn(name, title, said, _stacked(manifest, parts, "rows a second"))


def _cost(manifest: Manifest) -> Chart:
    name, title = "cost", "USD billed, this try"
    spent = manifest.timeline.get("cost", ())
    if not sum(spent):
        return Chart(name, title, "Nothing was billed in this try.")
    sums = [0.0]
    for amount in spent:
        sums.append(sums[-1] + amount)

    def plot(axes: Axes) -> None:
        moments = _moments(axes, manifest)
        axes.fill_between(moments, sums, color=COST, alpha=0.18, linewidth=0)
        axes.plot(moments, sums, color=COST, linewidth=1.8)
        axes.set_ylim(0, sums[-1] * 1.12)
        axes.set_ylabel("USD, added up")
        axes.annotate(
            f"{money(sums[-1])} USD", (moments[-1], sums[-1]), (-4, 5), textcoords="offset points", ha="right"
        )

    return _drawn(name, title, f"{money(sums[-1])} USD billed.", plot, wide=True)


def _stacked(manifest: Manifest, parts: Sequence[tuple[str, str, str]], unit: str) -> Callable[[Axes], None]:
    """Draw series of the timeline on top of each other, as rates."""

    def plot(axes: Axes) -> None:
        edges = _moments(axes, manifest)
        base = [0.0] * (len(edges) - 1)
        for label, series, colour in parts:
            rates = [amount / manifest.timeline["width"] for amount in manifest.timeline[series]]
            top = [below + rate for below, rate in zip(base, rates, strict=True)]
            if any(rates):
                axes.stairs(top, edges, baseline=base, fill=True, color=colour, label=label)
            base = top
        axes.set_ylim(0, max(base) * 1.12)
        axes.set_ylabel(unit)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 0.99), ncols=2, handlelength=1, borderaxespad=0.2)

    return plot


def _moments(axes: Axes, manifest: Manifest) -> list[float]:
    """Label the axis of time, and return the edges of the buckets in its unit."""
    timeline = manifest.timeline
    count, width = len(timeline["posts"]), timeline["width"]
    unit, seconds = next((one for one in (("hours", 3600), ("minutes", 60)) if count * width > 2 * one[1]), ("s", 1))
    edges = [number * width / seconds for number in range(count + 1)]
    ticker = import_module("matplotlib.ticker")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(nbins=9))
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.set_xlim(0, edges[-1])
    axes.set_xlabel(f"{'seconds' if unit == 's' else unit} since {moment(timeline['began'])}")
    return edges


def _drawn(name: str, title: str, described: str, plot: Callable[[Axes], None], *, wide: bool = False) -> Chart:
    figure = import_module("matplotlib.figure").Figure(figsize=_WIDE if wide else _SIZE, layout="constrained")
    import_module("matplotlib").rcParams["svg.hashsalt"] = name
    plot(figure.add_subplot())
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return Chart(name, title, described, _element(file.getvalue(), name, title, described), wide)


def _element(svg: str, name: str, title: str, described: str) -> str:
    """Make matplotlib's file an element that may stand beside others of its kind."""
    box = re.search(r'viewBox="[^"]*"', svg)
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(
        r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", "", body, flags=re.DOTALL
    )
    referred = set(re.findall(r"#([\w-]+)[\")]", body))
    body = re.sub(r'\s+id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in referred else "", body)
    body = re.sub(r'(url\(|href=")#', rf"\1#{name}-", body).replace("xlink:href", "href")
    body = re.sub(r"\n\s*", "\n", body.replace(_TEXT, "currentColor").replace(_LINE, "var(--line)"))
    words = f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(described)}</desc>'
    head = f'<svg {box[0] if box else ""} role="img" aria-labelledby="{name}-title {name}-desc">'
    return f"{head}{words}{body.strip()}"


def _seconds_ticks(low: float, high: float) -> list[float]:
    steps = (1, 2, 5) if high / low < 300 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return [tick for tick in ticks if low <= tick <= high] or [round((low * high) ** 0.5, 4)]


def _whole_numbers(axis: Any) -> None:
    ticker = import_module("matplotlib.ticker")
    axis.set_major_locator(ticker.MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))


def _share(part: int, whole: int) -> str:
    share = 100 * part / whole
    if share in (0, 100) or share == round(share):
        return f"{share:.0f} %"
    return f"{min(max(share, 0.1), 99.9):.1f} %"


def money(amount: float) -> str:
    """Write USD with as many digits as matter."""
    return f"{amount:,.2f}" if amount >= 10 else f"{amount:.4f}" if amount >= 0.1 else f"{amount:.6f}"


def counted(number: int, noun: str) -> str:
    """Write how many of something there are."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def moment(seconds: float) -> str:
    """Write epoch seconds for people."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
