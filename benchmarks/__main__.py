"""
Measure, and print one table: measure, ours, the peer's, their ratio, the goal, held or not.

``make bench`` takes less than five minutes, ``make bench FULL=1`` some forty: larger tables, more turns, and then HTTP
clients, the peers' triggers, a real triggerer and a real scheduler. ``--only WORD`` takes the parts with that name.

``make bench-scale`` is ``--only scale``, and takes less than 15 minutes; ``--ledger-rows 100000`` makes its table
smaller.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable

from benchmarks import imports, observed, rows, scale, waiting
from benchmarks.measure import HEAD, Measure

Part = Callable[[], list[Measure]]
FULL_WAITING = waiting.Size(rounds=3, turns=3)
FULL_ROWS = rows.Size(rows=10_000, peer_rows=2_000, memory=(100_000, 200_000), resume=50_000)


def parts(*, full: bool) -> dict[str, Part]:
    """Return what is measured, by name."""
    pending, table = (FULL_WAITING, FULL_ROWS) if full else (waiting.Size(), rows.Size())
    return {
        "imports": lambda: imports.measures(turns=5),
        "waiting": lambda: waiting.measures(pending),
        "speed": lambda: rows.speed(table),
        "memory": lambda: rows.memory(table),
        "resume": lambda: rows.resume(table),
        "observed": lambda: observed.measures(table),
    }


def further() -> dict[str, Callable[[], None]]:
    """Return what only the full form shows: tables of their own, without goals."""
    from benchmarks.full import http_clients, scheduler, triggerer, triggers

    return {
        "clients": http_clients.main,
        "triggers": triggers.main,
        "triggerer": triggerer.main,
        "scheduler": scheduler.main,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", default="", help="parts whose name contains this")
    parser.add_argument("--ledger-rows", type=int, help="rows of the ledger at scale, a twentieth of them new")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="segmind-bench-") as home:
        os.environ |= {
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__UNIT_TEST_MODE": "True",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            # A retry of a killed process waits no longer for the few rows that it had claimed.
            "AIRFLOW__SEGMIND__WRITER_TIMEOUT": "5",
        }
        print(HEAD, flush=True)
        missed = unknown = 0
        chosen = parts(full=options.full)
        if options.only.startswith(scale.NAME):
            chosen = scale.parts(full=options.full, ledger_rows=options.ledger_rows)
        for name, part in chosen.items():
            if options.only in name:
                for measure in part():
                    missed += measure.held is False
                    unknown += measure.held is None
                    print(measure, flush=True)
        failed = f"{unknown} unknown because a peer failed; " if unknown else ""
        print(f"\n{missed} goals not held; {failed}{time.monotonic() - started:.0f} s", flush=True)
        if options.full:
            for name, show in further().items():
                if options.only in name:
                    show()


if __name__ == "__main__":
    main()
