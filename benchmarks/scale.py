"""
What happens at scale: a ledger of a million rows, ten thousand pending requests, sixteen shards, a slow object store.

Every part names what it is compared with; see its module. ``make bench-scale`` takes less than 15 minutes on two free
cores, ``make bench-scale FULL=1`` has no limit and adds the peers that take long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from benchmarks import big_ledger, pending, shards, slow_store
from benchmarks.measure import Measure


@dataclass(frozen=True)
class Size:
    """How much is measured of each."""

    ledger: big_ledger.Size = field(default_factory=big_ledger.Size)
    pending: pending.Size = field(default_factory=pending.Size)
    shards: shards.Size = field(default_factory=shards.Size)
    storage: slow_store.Size = field(default_factory=slow_store.Size)


NAME = "scale"
FULL = Size(
    pending=pending.Size(rounds=3, peer=True),
    shards=shards.Size(minutes=5),
    storage=slow_store.Size(rows=5_000, at_once=10_000, turns=3),
)


def parts(*, full: bool, ledger_rows: int | None = None) -> dict[str, Callable[[], list[Measure]]]:
    """Return what is measured, by name."""
    size = FULL if full else Size()
    if ledger_rows is not None:
        size = replace(size, ledger=big_ledger.Size(ledger=ledger_rows, new=ledger_rows // 20))
    return {
        "scale-ledger": lambda: big_ledger.measures(size.ledger),
        "scale-pending": lambda: pending.measures(size.pending),
        "scale-storage": lambda: slow_store.measures(size.storage),
        "scale-shards": lambda: shards.measures(size.shards),
    }
