"""Our trigger beside those of three providers, in one event loop each."""

from __future__ import annotations

from benchmarks.waiting import OURS, TRIGGERS, Size, measured


def main() -> None:
    """Print each trigger's cost in multiples of ours."""
    found = {name: measured(name, Size()) for name in TRIGGERS}
    base = found[OURS]
    print("\n| trigger | memory | CPU to start one | CPU per 1,000 polls | connections |")
    print("| --- | --- | --- | --- | --- |")
    for name, figures in found.items():
        memory, start, polls = (f"{figures[key] / base[key]:,.1f}" for key in ("memory", "start", "polls"))
        print(
            f"| {name} | {memory} ({figures['memory']:,.1f} KB) | {start} ({figures['start']:,.2f} ms) "
            f"| {polls} ({figures['polls']:,.2f} s) | {figures['connections']:,.0f} |"
        )
