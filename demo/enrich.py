"""``make demo-enrich``: a table of products described row by row, on a real Airflow, with the emulator."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from airflow_provider_segmind.emulator.control import EmulatorControl
from airflow_provider_segmind.execution.enrichment import PROGRESS_KEY
from airflow_provider_segmind.money import format_usd
from demo.display import Bar, Display
from demo.rest import AirflowRest, Json
from demo.stack import AirflowStack
from demo.stage import ROOT, emulated_segmind, play, show_failure, stay, temporary_home

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DAG_ID = "example_segmind_catalogue"
TASK_ID = "describe"
DATABASE = "catalogue.duckdb"
ROWS = 2000
RUN_TIMEOUT = 3 * 3600
AT_ONCE = 64
SHORTEST, LONGEST, WANTED = 0.05, 0.6, 20.0
"""Seconds: the shortest and longest emulated latency, and the duration of a run that these aim at."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration and return 0 if its DAG run succeeded."""
    parser = argparse.ArgumentParser(prog="python -m demo.enrich", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of the table (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep Airflow's UI running until Ctrl-C")
    parser.add_argument("--dags", type=Path, default=ROOT / "dags_examples", help="folder with the DAG to run")
    parser.add_argument("--output", type=Path, default=ROOT / ".demo" / "enrich", help="where the files are written")
    options = parser.parse_args(arguments)
    if options.rows < 1:
        parser.error("--rows must be at least 1")
    display = Display(Console())
    return play(display, lambda: _demonstrate(display, options))


def _demonstrate(display: Display, options: argparse.Namespace) -> int:
    output: Path = options.output.resolve()
    # Rows in the ledger of an earlier run would cost nothing now.
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    with contextlib.ExitStack() as scope:
        home = scope.enter_context(temporary_home())
        emulator = scope.enter_context(emulated_segmind(display, home=home, options=emulator_options(options.rows)))
        script_failures(EmulatorControl(emulator.url))
        with display.step("Starting Airflow"):
            stack = scope.enter_context(
                AirflowStack(
                    home=home / "airflow",
                    dags=[options.dags],
                    connections={"segmind_default": emulator.connection_json},
                    environment={
                        "SEGMIND_EXAMPLE_OUTPUT": output.as_uri(),
                        "SEGMIND_EXAMPLE_DUCKDB": str(output / DATABASE),
                    },
                )
            )
        with display.step(f"Reading DAG {DAG_ID}"):
            stack.rest.wait_for_dag(DAG_ID)
        run_id = stack.rest.trigger(DAG_ID, conf={"rows": options.rows})
        with display.bar("Enriching rows", options.rows) as bar:
            state = stack.rest.wait_for_run(
                DAG_ID, run_id, timeout=RUN_TIMEOUT, on_poll=_watch(stack.rest, run_id, bar)
            )
        instances = stack.rest.task_instances(DAG_ID, run_id)
        if state == "success":
            _show_result(display, stack.rest.xcom(DAG_ID, run_id, TASK_ID), output / DATABASE)
        else:
            show_failure(display, stack.rest, DAG_ID, run_id, instances)
        if options.keep:
            stay(display, stack, DAG_ID, run_id)
    return 0 if state == "success" else 1


def emulator_options(rows: int) -> list[str]:
    """
    Return the options of the emulator: slow enough to watch, fast enough to wait for.

    It records no requests, which are not needed, so that its memory is enough for many rows.
    """
    median = min(LONGEST, max(SHORTEST, WANTED * AT_ONCE / rows))
    latency = f'{{"lognormal": {{"median": {median:.3f}, "sigma": 0.5, "seed": 1}}}}'
    return ["--no-record", "--balance", "10000", "--set", f"latency={latency}"]


def script_failures(emulator: EmulatorControl) -> None:
    """Make a few products fail, so that there are rows without a result."""
    emulator.script(regex=r"no\. \d*77,", fail="the model is overloaded")
    emulator.script(regex=r"no\. \d*33,", block="SAFETY")


def _watch(rest: AirflowRest, run_id: str, bar: Bar) -> Callable[[list[Json]], None]:
    """Return a callback that updates the bar from the progress in the task's state."""

    def on_poll(instances: list[Json]) -> None:
        states = {each["task_id"]: each["state"] or "not started" for each in instances}
        progress = rest.task_state(DAG_ID, run_id, TASK_ID, PROGRESS_KEY)
        if progress is None:
            bar.show(0, ", ".join(f"{task} {state}" for task, state in sorted(states.items())))
            return
        failed = sum(sum(counts.values()) for counts in progress["reasons"].values())
        failures = f", {failed} failed" if failed else ""
        rate, done = progress["rate"], progress["rows_done"]
        left = f", {max(0, bar.total - done) / rate:.0f} s left" if rate else ""
        bar.show(done, f"{rate:.0f} rows/s, {format_usd(progress['cost'])}{failures}{left}")

    return on_poll


def _show_result(display: Display, manifest: Json, database: Path) -> None:
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in manifest["outcomes"].items() if count)
    rows, calls, seconds = manifest["rows_read"], manifest["calls"], manifest["seconds"]
    distinct = max(1, manifest["distinct_rows"])
    display.facts(
        {
            "rows": f"{rows:,}: {outcomes}",
            "distinct": f"{manifest['distinct_rows']:,}; {manifest['duplicates_saved']:,} duplicate rows cost nothing",
            "paid submissions": f"{manifest['posts']:,}",
            "calls": f"{calls:,}, {calls / distinct:.2f} per distinct row",
            "cost": f"{format_usd(manifest['cost'])}, {manifest['tokens']:,} tokens",
            "latency": ", ".join(f"{name} {value:.2f} s" for name, value in manifest["latency"].items()),
            "speed": f"{seconds:.1f} s, {rows / seconds:.0f} rows per second",
            **{outcome: _reasons(counts) for outcome, counts in manifest["reasons"].items()},
        }
    )
    table = manifest["outputs"][0].rpartition(":")[2]
    display.table(f"The first rows of table {table}", sample(database, table))
    display.locations(
        {
            "table": f"{table} in {database}",
            "dead letters": manifest["dead_letters"][0],
            "report": str(manifest["report"]),
        }
    )


def sample(database: Path, table: str, *, rows: int = 3) -> list[dict[str, Any]]:
    """Return the first rows of the table, without the columns ``_segmind_…``."""
    import duckdb

    with duckdb.connect(str(database), read_only=True) as connection:
        found = connection.execute(f'SELECT * FROM "{table}" ORDER BY 1 LIMIT {rows}')
        names = [column[0] for column in found.description or ()]
        return [
            {name: value for name, value in zip(names, row, strict=True) if not name.startswith("_segmind_")}
            for row in found.fetchall()
        ]


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())


if __name__ == "__main__":
    sys.exit(main())
