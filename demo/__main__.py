"""``make demo``: one request from DAG to result, on a real Airflow, with the emulator or the real Segmind."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from airflow_provider_segmind.chat.replies import read_reply
from airflow_provider_segmind.money import format_usd
from demo.display import Display
from demo.rest import AirflowRest, Json
from demo.stack import AirflowStack
from demo.stage import ROOT, emulated_segmind, play, show_failure, stay, temporary_home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DAG_ID = "example_segmind_request"
SUBMIT, WAIT, RESULT = "submit", "wait", "result"
RUN_TIMEOUT = 900
# Long enough to be seen, short enough for a demonstration.
EMULATED_SECONDS = "3"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration and return 0 if its DAG run succeeded."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep Airflow's UI running until Ctrl-C")
    parser.add_argument("--live", action="store_true", help="use the real Segmind, with the key in SEGMIND_API_KEY")
    parser.add_argument("--dags", type=Path, default=ROOT / "dags_examples", help="folder with the DAG to run")
    options = parser.parse_args(arguments)
    display = Display(Console())
    if options.live and not os.environ.get("SEGMIND_API_KEY"):
        display.problem("LIVE=1 needs the API key: SEGMIND_API_KEY=… make demo LIVE=1")
        return 2

    def demonstrate() -> int:
        with temporary_home() as home, _segmind(display, home=home, live=options.live) as connection:
            return _demonstrate(display, home=home, dags=options.dags, connection=connection, keep=options.keep)

    return play(display, demonstrate)


def _demonstrate(display: Display, *, home: Path, dags: Path, connection: str, keep: bool) -> int:
    with contextlib.ExitStack() as scope:
        with display.step("Starting Airflow"):
            stack = scope.enter_context(
                AirflowStack(home=home / "airflow", dags=[dags], connections={"segmind_default": connection})
            )
        rest = stack.rest
        with display.step(f"Reading DAG {DAG_ID}"):
            rest.wait_for_dag(DAG_ID)
        with display.step("Running it") as step:
            run_id = rest.trigger(DAG_ID)
            state = rest.wait_for_run(DAG_ID, run_id, timeout=RUN_TIMEOUT, on_poll=_progress(step.show))
        instances = rest.task_instances(DAG_ID, run_id)
        if state == "success":
            _show_reply(display, rest, run_id)
        else:
            show_failure(display, rest, DAG_ID, run_id, instances)
        display.facts(_durations(display, instances))
        if keep:
            stay(display, stack, DAG_ID, run_id)
    return 0 if state == "success" else 1


def _progress(show: Callable[[str], None]) -> Callable[[list[Json]], None]:
    def on_poll(instances: list[Json]) -> None:
        order = {SUBMIT: 0, WAIT: 1, RESULT: 2}
        ordered = sorted(instances, key=lambda each: order.get(each["task_id"], len(order)))
        show(", ".join(f"{each['task_id']} {each['state'] or 'not started'}" for each in ordered))

    return on_poll


def _show_reply(display: Display, rest: AirflowRest, run_id: str) -> None:
    submitted = rest.xcom(DAG_ID, run_id, SUBMIT)
    body = rest.xcom(DAG_ID, run_id, RESULT)
    reply = read_reply(body, model=submitted["model"])
    display.reply(reply.text)
    cost = (body.get("metrics") or {}).get("cost")
    display.facts(
        {
            "request id": str(submitted["request_id"]),
            "model": str(submitted["model"]),
            "tokens": f"{_shown(reply.usage.input_tokens)} in, {_shown(reply.usage.output_tokens)} out",
            "cost": format_usd(cost),
        }
    )


def _shown(count: int | None) -> str:
    return "?" if count is None else str(count)


def _durations(display: Display, instances: list[Json]) -> dict[str, str]:
    rows = {title: f"{seconds:.1f} s" for title, seconds in display.seconds.items()}
    for each in sorted(instances, key=lambda each: str(each["start_date"])):
        if each["start_date"] and each["end_date"]:
            started, ended = (datetime.fromisoformat(each[name]) for name in ("start_date", "end_date"))
            rows[f"  task {each['task_id']}"] = f"{(ended - started).total_seconds():.1f} s"
    return rows


@contextlib.contextmanager
def _segmind(display: Display, *, home: Path, live: bool) -> Iterator[str]:
    if live:
        yield json.dumps({"conn_type": "segmind", "password": os.environ["SEGMIND_API_KEY"]})
        return
    with emulated_segmind(display, home=home, options=["--latency", EMULATED_SECONDS]) as emulator:
        yield emulator.connection_json


if __name__ == "__main__":
    sys.exit(main())
