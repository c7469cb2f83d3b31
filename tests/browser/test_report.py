"""The report of a real run, opened in a real browser."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from PIL import Image

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.enrichment.report.page import write_report
from tests.support.manifests import HOSTILE, manifest_of
from tests.support.table_tasks import Table, things

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


class Opened:
    """A page, and what was recorded while it was opened."""

    def __init__(self, browser: Browser, path: Path, scheme: Literal["light", "dark"] = "light") -> None:
        self.page: Page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme=scheme)
        self.requests: list[str] = []
        self.trouble: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("dialog", lambda dialog: self.trouble.append(dialog.message))
        self.page.goto(path.as_uri())

    def picture(self) -> Image.Image:
        return Image.open(io.BytesIO(self.page.screenshot(full_page=True))).convert("RGB")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    with SegmindEmulator(latency={"lognormal": {"median": 0.2, "sigma": 0.5, "seed": 1}}) as emulator:
        emulator.script(match="thing 7", fail=HOSTILE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", emulator.connection_json)
            table = Table(tmp_path_factory.mktemp("report"), emulator)
            rows = things(*(f"thing {number % 40}" for number in range(60)))
            manifest = table.ask(source=rows, max_failed_rows=None)
    return Path(manifest["report"]), manifest


def test_the_report_shows_figures_and_charts_and_loads_nothing(
    browser: Browser, run: tuple[Path, dict[str, Any]]
) -> None:
    path, manifest = run
    opened = Opened(browser, path)

    assert (opened.trouble, opened.requests) == ([], [path.as_uri()])
    charts = opened.page.get_by_role("img").all()
    assert len(charts) == 5
    for chart in charts:
        box = chart.bounding_box()
        assert box is not None
        assert box["width"] > 400
        assert box["height"] > 150
    text = opened.page.inner_text("main")
    for said in (
        "58 of 60 rows answered, 2 without an answer",
        "a_task in DAG a_dag",
        "gemini-3.1-flash-lite, prompt",
        "Every row has its outcome",
        f"{manifest['calls']}",
        "success",
        "7, 47",
    ):
        assert said in text
    assert "<script>alert(document.cookie)</script>" in text
    assert opened.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert opened.page.get_by_role("link").first.get_attribute("href") == "colours.jsonl"


@pytest.mark.parametrize(("scheme", "page", "ink"), [("light", 246, "#1c2430"), ("dark", 20, "#e6eaf0")])
def test_the_report_is_readable_in_light_and_dark_mode(
    browser: Browser, run: tuple[Path, dict[str, Any]], scheme: Literal["light", "dark"], page: int, ink: str
) -> None:
    opened = Opened(browser, run[0], scheme)
    picture = opened.picture()

    assert picture.getpixel((5, 5))[0] == page  # type: ignore[index]
    colours = {colour for _, colour in picture.getcolors(1 << 24) or []}
    assert len(colours) > 100
    assert tuple(bytes.fromhex(ink[1:])) in colours
    label = opened.page.locator("svg text").first
    assert label.evaluate("one => getComputedStyle(one).fill") == f"rgb{tuple(bytes.fromhex(ink[1:]))}"


@pytest.mark.parametrize("width", [420, 1200])
def test_the_report_lists_the_last_runs_and_links_the_task_at_any_width(
    browser: Browser, tmp_path: Path, width: int
) -> None:
    earlier = [
        {"run_id": f"a_dag/scheduled__2026-11-{day:02}T00:00:00+00:00/a_task/-1", "ended": 1.79e9 + 86400 * day}
        | {"rows": 500, "answered": 500 - day, "cost": 0.0267, "model": "m", "prompt_hash": f"{day:064x}"}
        for day in range(9)
    ]
    manifest = manifest_of(500, failed=10, earlier=earlier, ended=1.8e9, source="shop:products")
    write_report(manifest, tmp_path / "r.report.html", task_url="https://airflow.example.com/dags/a_dag")
    opened = Opened(browser, tmp_path / "r.report.html")
    opened.page.set_viewport_size({"width": width, "height": 900})

    assert opened.trouble == []
    assert (
        opened.page.get_by_role("link", name="monday").get_attribute("href") == "https://airflow.example.com/dags/a_dag"
    )
    rows = opened.page.locator("table.runs tbody tr")
    assert rows.count() == 10
    assert "$0.0267" in rows.nth(1).inner_text()
    assert opened.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    for label in opened.page.locator("svg text").all():
        assert label.is_visible()


@pytest.mark.parametrize("rows", [0, 1])
def test_a_run_with_hardly_any_rows_has_a_report_too(browser: Browser, tmp_path: Path, rows: int) -> None:
    write_report(manifest_of(rows), tmp_path / "r.report.html")
    opened = Opened(browser, tmp_path / "r.report.html")

    assert opened.trouble == []
    assert opened.page.get_by_role("img").count() == (5 if rows else 0)
    assert ("There were no rows" if rows == 0 else "The only row answered") in opened.page.inner_text("main")
