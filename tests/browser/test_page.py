"""The page in a real browser, served by a real API server inside Airflow's UI."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import httpx
import pytest
from PIL import Image

from airflow_provider_segmind.budget.limits import BudgetRule, windows
from airflow_provider_segmind.budget.sql_store import SqlBudgetStore
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.spend.sql_table import SqlStore
from demo.processes import ManagedProcess, free_port
from tests.support.budgets import DriverHook, a_reservation
from tests.support.manifests import HOSTILE, manifest_of
from tests.support.spend import DAY, an_entry

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.airflow
RUN = "manual__2026-11-26T12:00:00+00:00"
LARGE, SMALL, RUNNING = (f"/segmind/tables/shop/{quote(RUN, safe='')}/{task}/-1" for task in ("large", "small", "busy"))
INK = {"light": (22, 29, 45), "dark": (248, 250, 253)}
PAPER = {"light": (255, 255, 255), "dark": (22, 29, 45)}


@pytest.fixture(scope="module")
def account() -> Iterator[SegmindEmulator]:
    """The account whose balance the page shows; without one it would be looked for on the internet."""
    with SegmindEmulator() as emulator:
        yield emulator


@pytest.fixture(scope="module")
def server(airflow_database: Path, account: SegmindEmulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An API server whose only user is an administrator."""
    import sys

    port, folder = free_port(), tmp_path_factory.mktemp("api-server")
    settings = {"API__HOST": "127.0.0.1", "API__PORT": str(port), "API__WORKERS": "1"}
    settings |= {"CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True", "API__BASE_URL": f"http://127.0.0.1:{port}"}
    settings |= {"SEGMIND__OUTPUT_PATH": str(folder), "SEGMIND__SPEND_CONN_ID": "a_database"}
    settings |= {"SEGMIND__BUDGETS": json.dumps({"team-a": {"daily": 5, "monthly": 60}, "team-b": {"daily": 1}})}
    environment = {**os.environ, **{f"AIRFLOW__{name}": value for name, value in settings.items()}}
    environment["AIRFLOW_CONN_A_DATABASE"] = json.dumps({"conn_type": "sqlite", "host": str(folder / "budgets.sqlite")})
    segmind = json.loads(account.connection_json)
    segmind["extra"] |= {"monthly_budget": 100, "max_paid_in_flight": 8}
    environment["AIRFLOW_CONN_SEGMIND_DEFAULT"] = json.dumps(segmind)
    _spend_some(folder / "budgets.sqlite")
    process = ManagedProcess(
        name="api-server",
        command=[sys.executable, "-m", "airflow", "api-server"],
        environment=environment,
        log_path=folder / "api-server.log",
    )
    process.start()
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 180
        while not _is_up(address):
            assert time.monotonic() < deadline, process.log_tail()
            time.sleep(0.5)
        (folder / "small.dead_letters.jsonl").write_text(
            "".join(json.dumps({**_LETTER, "row": number}) + "\n" for number in range(40))
        )
        yield address
    finally:
        process.stop()


def _spend_some(database: Path) -> None:
    """Use up one budget, four fifths of another, and reserve a part of the rest."""
    store = SqlBudgetStore(DriverHook("sqlite", "?", {"database": str(database)}), "a_database")
    for name, spent, reserved in (
        ("team-a", 4.1267, 0.35),
        ("team-b", 1.0, 0.0),
        ("connection:segmind_default", 22.5, 1.2),
    ):
        rules = [BudgetRule(name, 100_000_000, 100_000_000)]
        open_now = windows(rules, time.time())
        for number, amount in enumerate((spent, reserved)):
            one = a_reservation(f"{name}{number}", amount=round(amount * 1e6), windows=tuple(w.key for w in open_now))
            slots = 3 if number and name == "connection:segmind_default" else 0
            store.reserve(replace(one, slots=slots), open_now, max_in_flight=None)
        store.settle(f"id-{name}0", spent * 1e6)
    store.close()
    # The same database keeps the spend record, from which the view Spend is drawn.
    hook = DriverHook("sqlite", "?", {"database": str(database)})
    days = (an_entry(f"r{day}", at=time.time() - day * DAY, dag_id="shop", cost_micros=5e5) for day in range(5))
    SqlStore(hook, "a_database").write(list(days))


_LETTER = {"key": {"sku": HOSTILE}, "outcome": "failed", "reason": HOSTILE, "attempts": 1, "cost": 0.0267}
_LETTER |= {"request_ids": ["5f0c1d7e-0f3b-4a52-9d0e-2f6f3c1a9b77"], "fingerprint": None}


def record(request_id: str) -> dict[str, Any]:
    from airflow_provider_segmind.client.submission import Fingerprint, SubmissionRecord

    fingerprint = Fingerprint.of(model="flux", inputs={}, connection="segmind_default at https://api.segmind.com")
    at = time.time() - 60
    return SubmissionRecord(fingerprint, intent_at=at, submitted_at=at, request_id=request_id).to_json()


def _is_up(address: str) -> bool:
    try:
        return httpx.get(f"{address}/segmind/", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def empty(server: str) -> Iterator[Any]:
    from tests.support.metadata import stored_metadata

    with stored_metadata() as stored:
        yield stored


@pytest.fixture
def filled(empty: Any, server: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three runs of a table, one of them of 1,000,000 rows and one still running, and two requests in flight."""
    empty.dag("shop")
    letters = next(tmp_path_factory.getbasetemp().glob("api-server*/small.dead_letters.jsonl"))
    small = manifest_of(500, failed=40, reason=HOSTILE, dead_letters=[str(letters)])
    for task, manifest in (("large", manifest_of(1_000_000)), ("small", small)):
        own = empty.task(task, "SegmindEnrichFileOperator", run_id=RUN)
        empty.xcom(own, "return_value", manifest.to_json())
    own = empty.task("busy", "SegmindEnrichSqlOperator", "running", run_id=RUN)
    progress = {"rows_read": 900, "rows_done": 420, "rows_total": 1000, "outcomes": {"success": 400, "failed": 20}}
    empty.state(
        own, "segmind_progress", {**progress, "cost": 0.0267, "in_flight": 8, "try_number": 1, "at": time.time()}
    )
    for number in range(2):
        own = empty.task("generate", "SegmindRunOperator", "running", run_id=RUN, map_index=number)
        # Not a trigger: its arguments are encrypted with a key that this process and the server do not share.
        empty.state(own, "segmind_request_1", record(f"r-{number}"))
    empty.session.commit()
    return empty


class Opened:
    """A page, and what went wrong while it was open."""

    def __init__(
        self, browser: Browser, address: str, *, scheme: Literal["light", "dark"] = "light", width: int = 1280
    ) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.trouble: list[str] = []
        self.requests: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("dialog", lambda dialog: self.trouble.append(dialog.message))
        self.page.goto(address)
        self.page.wait_for_load_state("networkidle")

    def colours(self) -> set[tuple[int, int, int]]:
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        return {colour for _, colour in picture.getcolors(1 << 24) or []}  # type: ignore[misc]

    def fits(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


@pytest.mark.parametrize("width", [420, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/segmind/", "/segmind/spend", "/segmind/budgets", "/segmind/tables", SMALL, RUNNING])
def test_each_view_is_readable_in_light_and_dark_narrow_and_wide(
    browser: Browser, server: str, filled: Any, path: str, scheme: Literal["light", "dark"], width: int
) -> None:
    opened = Opened(browser, server + path, scheme=scheme, width=width)

    assert opened.trouble == []
    assert all(url.startswith(f"{server}/segmind/") for url in opened.requests)
    assert opened.fits()
    assert {INK[scheme], PAPER[scheme]} <= opened.colours()
    opened.page.close()


@pytest.mark.parametrize(
    # Of these days the spend record has nothing; it has of later ones, also without the DAG.
    "path",
    ["/segmind/", "/segmind/spend?since=2024-01-01&until=2024-01-07", "/segmind/tables"],
)
def test_a_view_without_data_says_what_will_be_there(browser: Browser, server: str, empty: Any, path: str) -> None:
    opened = Opened(browser, server + path)

    assert opened.trouble == []
    assert opened.page.locator(".nothing").is_visible()
    opened.page.close()


def test_a_table_of_a_million_rows_opens_to_its_charts(browser: Browser, server: str, filled: Any) -> None:
    opened = Opened(browser, server + LARGE)

    assert opened.trouble == []
    assert "1,000,000" in opened.page.inner_text(".cards")
    assert opened.page.locator("figure svg[role=img]").count() == 5
    for chart in opened.page.locator("figure svg[role=img]").all():
        box = chart.bounding_box()
        assert box is not None
        assert box["width"] > 400
    opened.page.close()


def test_words_of_rows_and_models_stay_text(browser: Browser, server: str, filled: Any) -> None:
    opened = Opened(browser, server + SMALL)

    assert opened.trouble == []
    assert opened.page.inner_text("main").count(HOSTILE) > 20
    assert opened.page.locator("main script, main img").count() == 0
    opened.page.close()


def test_the_ui_shows_the_page_in_its_theme_and_a_link_leaves_the_frame(
    browser: Browser, server: str, filled: Any
) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
    page.add_init_script("localStorage.setItem('theme', 'dark')")
    page.goto(f"{server}/plugin/segmind")
    frame = page.frame_locator("iframe[title=Segmind]")
    frame.get_by_text("2 requests submitted").wait_for(timeout=60_000)

    assert frame.locator("html").get_attribute("data-theme") == "dark"
    assert page.get_by_role("link", name="Segmind").is_visible()
    frame.get_by_role("link", name="Tables").first.click()
    frame.get_by_role("link", name="small").click()
    frame.get_by_role("link", name="Task instance in Airflow").click()
    page.wait_for_url(f"**/dags/shop/runs/{quote(RUN, safe='')}/tasks/small", timeout=60_000)
    page.close()


def test_dead_letters_are_downloaded_from_inside_the_ui(browser: Browser, server: str, filled: Any) -> None:
    page = browser.new_page(accept_downloads=True)
    page.goto(f"{server}/plugin/segmind")
    frame = page.frame_locator("iframe[title=Segmind]")
    frame.get_by_role("link", name="Tables").first.click(timeout=60_000)
    frame.get_by_role("link", name="small").click()
    frame.locator("select[name=outcome]").select_option("failed")
    frame.get_by_role("button", name="Filter").click()
    with page.expect_download() as started:
        frame.get_by_role("link", name="Download as JSONL").click()

    lines = Path(started.value.path()).read_text().splitlines()
    assert len(lines) == 40
    assert json.loads(lines[0])["key"] == {"sku": HOSTILE}
    page.close()


def test_spending_is_paused_and_resumed_by_a_click(browser: Browser, server: str, empty: Any) -> None:
    opened = Opened(browser, server + "/segmind/")
    opened.page.get_by_label("Reason").fill("a budget alarm")
    opened.page.get_by_role("button", name="Pause spending").click()
    opened.page.get_by_text("Spending is paused").wait_for()

    assert "a budget alarm" in opened.page.inner_text(".banner")
    opened.page.get_by_role("button", name="Resume").click()
    opened.page.get_by_role("button", name="Pause spending").wait_for()
    assert opened.page.locator(".banner").count() == 0
    opened.page.close()


def test_what_changes_is_read_again(browser: Browser, server: str, filled: Any) -> None:
    from sqlalchemy import delete

    from airflow_provider_segmind.compat import TaskInstance

    opened = Opened(browser, server + "/segmind/")
    opened.page.get_by_text("2 requests submitted").wait_for()
    filled.session.execute(delete(TaskInstance).where(TaskInstance.map_index == 1))
    filled.session.commit()

    opened.page.get_by_text("1 request submitted").wait_for(timeout=60_000)
    opened.page.close()


def test_budgets_show_what_is_left_and_which_are_used_up(browser: Browser, server: str, filled: Any) -> None:
    opened = Opened(browser, f"{server}/segmind/budgets")
    rows = opened.page.locator("tbody tr")

    assert rows.count() == 4
    assert opened.page.locator(".badge").all_inner_texts() == ["80% spent", "used up"]
    assert opened.page.get_by_text("segmind_default: 3 of 8 paid requests in flight.").count() == 1
    opened.page.close()


def test_the_spend_is_drawn_from_the_record(browser: Browser, server: str, filled: Any) -> None:
    opened = Opened(browser, f"{server}/segmind/spend")

    assert opened.page.locator("figure svg[role=img]").count() == 1
    assert "$2.50" in opened.page.inner_text("tfoot")
    opened.page.close()
