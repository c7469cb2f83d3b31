"""One line of the table: a measure, the peer's, their ratio, and the goal."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

HEAD = "| measure | install | ours | peer | ratio | goal | held |\n| --- | --- | --- | --- | --- | --- | --- |"


@dataclass(frozen=True)
class Measure:
    """
    What was measured.

    :param install: of our package: the default one, or with an extra.
    :param peer: what the peer measured in the same run, None where the goal is an absolute number.
    :param ratio: the median of the ratios of the runs, which is not the ratio of the medians.
    :param unit: of ``ours`` and ``peer``.
    :param at_least: whether the goal is a lower bound.
    :param absolute: whether the goal is for ``ours``; it always is for a measure without a peer.
    :param peer_failed: whether there is no ratio because the peer failed in every run.
    """

    name: str
    install: str
    ours: float
    unit: str
    goal: float
    peer: float | None = None
    ratio: float | None = None
    at_least: bool = False
    absolute: bool = False
    peer_failed: bool = False

    @property
    def held(self) -> bool | None:
        """Return whether the goal is held, None where only the peer could tell."""
        if self.peer_failed and not self.absolute:
            return None
        value = self.ours if self.absolute or self.ratio is None else self.ratio
        return value >= self.goal if self.at_least else value <= self.goal

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        unit = f" {self.unit}" if self.absolute or (self.ratio is None and not self.peer_failed) else ""
        goal = f"{'≥' if self.at_least else '≤'} {self.goal:g}{unit}"
        peer = "failed" if self.peer_failed else "" if self.peer is None else f"{number(self.peer)} {self.unit}"
        held = {True: "yes", False: "NO", None: "unknown"}[self.held]
        return (
            f"| {self.name} | {self.install} | {number(self.ours)} {self.unit} | {peer} | {ratio} | {goal} | {held} |"
        )


def number(value: float) -> str:
    """Return a number with three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def versus(
    name: str,
    install: str,
    pairs: Iterable[tuple[float, float | None]],
    *,
    unit: str,
    goal: float,
    at_least: bool = False,
) -> Measure:
    """Compare runs of ours with the peer's runs next to them, None where the peer failed."""
    pairs = list(pairs)
    both = [(mine, theirs) for mine, theirs in pairs if theirs is not None]
    if not both:
        ours = statistics.median(mine for mine, _ in pairs)
        return Measure(name, install, ours, unit, goal, at_least=at_least, peer_failed=True)
    ours, peer = (statistics.median(values) for values in zip(*both, strict=True))
    ratio = statistics.median(mine / theirs for mine, theirs in both)
    return Measure(name, install, ours, unit, goal, peer, ratio, at_least)
