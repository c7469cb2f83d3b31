"""Our trigger next to those of three providers, in one event loop each."""

from __future__ import annotations

from functools import partial

from benchmarks.processes import of_peer
from benchmarks.waiting import OURS, TRIGGERS, Size, measured


def main() -> None:
    """Print each trigger's cost in multiples of ours."""
    base = measured(OURS, Size())
    peers = {name: of_peer(partial(measured, name, Size())) for name in TRIGGERS if name != OURS}
    print("\n| trigger | memory | CPU to start one | CPU per 1,000 polls | connections |")
    print("| --- | --- | --- | --- | --- |")
    for name, figures in ({OURS: base} | peers).items():
        if figures is None:
            print(f"| {name} | failed | | | |")
            continue
        memory, start, polls = (f"{figures[key] / base[key]:,.1f}" for key in ("memory", "start", "polls"))
        print(
            f"| {name} | {memory} ({figures['memory']:,.1f} KB) | {start} ({figures['start']:,.2f} ms) "
            f"| {polls} ({figures['polls']:,.2f} s) | {figures['connections']:,.0f} |"
        )
