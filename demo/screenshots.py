"""``make screenshots``: the pictures of the documentation, taken of a real Airflow with the emulator."""

from __future__ import annotations

import argparse
import contextlib
import math
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright
from rich.console import Console

from airflow_provider_segmind.emulator import EmulatorControl
from airflow_provider_segmind.spend.entries import SpendEntry
from airflow_provider_segmind.spend.files import FileStore
from demo.display import Display
from demo.enrich import emulator_options, script_failures
from demo.stack import AirflowStack
from demo.stage import ROOT, emulated_segmind, play, temporary_home

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from playwright.sync_api import Page

TABLE, TASK, ROWS = "example_segmind_catalogue", "describe", 400
DAY, DAYS = 86_400.0, 30
"""Seconds in a day, and the days of the chart."""
SPENDERS = {
    "example_segmind_image": ("seedream-4.5", 6, 45_000.0, None),
    "example_segmind_triage": ("gemini-3.1-flash-lite", 30, 1_900.0, 550),
    TABLE: ("gemini-3.1-flash-lite", 35, 270.0, 540),
}
"""DAG → model, requests on an average day, micro-dollars and tokens of each."""
RUN_TIMEOUT = 600


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the pictures and return 0 if all were taken."""
    parser = argparse.ArgumentParser(prog="python -m demo.screenshots", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images", help="where the pictures are written")
    options = parser.parse_args(arguments)
    display = Display(Console())
    if shutil.which("chromium") is None:
        display.problem("chromium is missing. Run: sudo apt-get install chromium")
        return 2
    return play(display, lambda: _take(display, options.output))


def _take(display: Display, output: Path) -> int:
    with contextlib.ExitStack() as scope:
        home = scope.enter_context(temporary_home())
        emulator = scope.enter_context(emulated_segmind(display, home=home, options=emulator_options(ROWS)))
        script_failures(EmulatorControl(emulator.url))
        spend = home / "spend"
        FileStore(spend).write(list(_entries(time.time())))
        with display.step("Starting Airflow"):
            stack = scope.enter_context(
                AirflowStack(
                    home=home / "airflow",
                    dags=[ROOT / "dags_examples"],
                    connections={"segmind_default": emulator.connection_json},
                    settings={"segmind.spend_path": spend.as_uri()},
                    environment={
                        "SEGMIND_EXAMPLE_OUTPUT": (home / "out").as_uri(),
                        "SEGMIND_EXAMPLE_DUCKDB": str(home / "catalogue.duckdb"),
                    },
                )
            )
        with display.step(f"Running {TABLE}"):
            for dag_id in SPENDERS:
                stack.rest.wait_for_dag(dag_id)
            run_id = stack.rest.trigger(TABLE, conf={"rows": ROWS})
            stack.rest.wait_for_run(TABLE, run_id, timeout=RUN_TIMEOUT)
            report = Path(stack.rest.xcom(TABLE, run_id, TASK)["report"].removeprefix("file://"))
        page = scope.enter_context(_browser())
        with display.step("Taking pictures"):
            _picture(page, f"{stack.base_url}/plugin/segmind", output / "page.png", path="/spend")
            _picture(page, report.as_uri(), output / "report.png")
            _connection_form(page, stack.base_url, output / "connection.png")
    return 0


def _entries(now: float) -> Iterator[SpendEntry]:
    """Yield the requests of a month: more on some days than on others, the same in every picture."""
    for place, (dag_id, (model, requests, micros, tokens)) in enumerate(SPENDERS.items()):
        for day in range(DAYS):
            count = round(requests * (1 + 0.7 * math.sin(day * (2.1 + place)) + 0.3 * math.sin(day * 5.3)))
            for number in range(count):
                yield SpendEntry(
                    at=now - (day + 0.5) * DAY - number,
                    connection="segmind_default",
                    dag_id=dag_id,
                    task_id="task",
                    run_id=f"scheduled__{day}",
                    map_index=-1,
                    try_number=1,
                    model=model,
                    request_id=f"{dag_id}-{day}-{number}",
                    outcome="success",
                    tokens=tokens,
                    cost_micros=micros,
                    reused=False,
                )


@contextlib.contextmanager
def _browser() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            yield browser.new_page(viewport={"width": 1280, "height": 760}, color_scheme="light")
        finally:
            browser.close()


def _picture(page: Page, address: str, target: Path, *, path: str = "") -> None:
    page.goto(address)
    page.wait_for_load_state("networkidle")
    if path:
        page.frame_locator("iframe").get_by_role("link", name="Spend").click()
        page.wait_for_load_state("networkidle")
    page.wait_for_timeout(2000)
    page.screenshot(path=target)


def _connection_form(page: Page, base_url: str, target: Path) -> None:
    """Fill in the form as a new user would."""
    page.goto(f"{base_url}/connections")
    page.get_by_role("button", name="Add Connection").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Connection ID").fill("segmind_default")
    dialog.get_by_role("combobox").first.click()
    page.keyboard.type("Segmind")
    page.keyboard.press("Enter")
    page.wait_for_timeout(2000)
    dialog.screenshot(path=target)


if __name__ == "__main__":
    sys.exit(main())
