"""The page as a browser gets it from Airflow's API application."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from airflow_provider_segmind.budget.limits import BudgetRule, windows
from airflow_provider_segmind.budget.sql_store import SqlBudgetStore
from tests.support.budgets import DriverHook, a_reservation
from tests.support.manifests import HOSTILE, manifest_of

if TYPE_CHECKING:
    from tests.monitoring.page.conftest import Visitor
    from tests.support.metadata import Metadata

pytestmark = pytest.mark.airflow
RUN = "manual__2026-11-26T12:00:00+00:00"
RUN_PATH = f"/tables/shop/{quote(RUN, safe='')}/describe/-1"
LETTER = {"row": 3, "key": {"sku": "A<b>3"}, "outcome": "failed", "reason": HOSTILE, "attempts": 1, "cost": 0.000267}
LETTER |= {"request_ids": ["r-3"], "fingerprint": "ab" * 16}
Visit = Callable[..., "Visitor"]


def add_request(stored: Metadata, dag_id: str, request_id: str, age: float = 60) -> None:
    waits = {"request_id": request_id, "submitted_at": time.time() - age, "model": "flux", "segmind_conn_id": "other"}
    number = stored.trigger("airflow_provider_segmind.triggers.request.SegmindRequestTrigger", waits)
    stored.task("generate", "SegmindRunOperator", "deferred", dag_id=dag_id, run_id=RUN, trigger_id=number)
    stored.session.commit()


def add_table(
    stored: Metadata, dag_id: str = "shop", operator: str = "SegmindEnrichFileOperator", **fields: Any
) -> None:
    stored.dag(dag_id)
    own = stored.task("describe", operator, dag_id=dag_id, run_id=RUN)
    manifest = manifest_of(500, failed=12, reason=HOSTILE, **fields)
    stored.xcom(own, "return_value", manifest.to_json())
    stored.session.commit()


@pytest.fixture
def letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of dead letters in the folder for results."""
    path = tmp_path / "out" / "described.dead_letters.jsonl"
    path.parent.mkdir()
    others = [{**LETTER, "row": n, "outcome": "truncated", "reason": "too long"} for n in range(4, 200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [LETTER, *others]))
    monkeypatch.setenv("AIRFLOW__SEGMIND__OUTPUT_PATH", str(path.parent))
    return str(path)


def test_every_view_is_there_without_data(visit: Visit, stored: Metadata) -> None:
    for path, said in (("/", "No request is in flight"), ("/tables", "No table has been enriched")):
        answer = visit("viewer").get(path)

        assert answer.status_code == 200
        assert said in answer.text


def test_every_route_refuses_who_is_not_logged_in(visit: Visit, stored: Metadata) -> None:
    from airflow_provider_segmind.monitoring.page.app import build_app

    routes = [route for route in build_app().routes if getattr(route, "methods", None)]
    assert len(routes) >= 6
    for route in routes:
        path = route.path.format(  # type: ignore[attr-defined]
            dag_id="shop", run_id="monday", task_id="a", map_index=-1, connection_id="segmind_default", name="page.css"
        )
        for method in route.methods:  # type: ignore[attr-defined]
            send = visit(None).post if method == "POST" else visit(None).get
            answer = send(path)
            assert answer.status_code == 401, path
            assert "Log in to Airflow first" in answer.text


def test_a_browser_that_is_not_logged_in_is_sent_to_the_login_and_back(visit: Visit) -> None:
    answer = visit(None).get("/tables?a=b", headers={"accept": "text/html,*/*"})

    assert answer.status_code == 303
    assert answer.headers["location"] == "/api/v2/auth/login?next=%2Fsegmind%2Ftables%3Fa%3Db"


def test_the_browser_is_told_to_load_nothing_from_elsewhere_and_to_run_nothing_inline(visit: Visit) -> None:
    for path in ("/", "/nothing-here", "/static/page.js"):
        headers = visit().get(path).headers

        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_a_request_in_flight_names_its_task_its_age_and_when_it_expires(visit: Visit, stored: Metadata) -> None:
    stored.dag("shop")
    add_request(stored, "shop", "r-1", age=3000)

    text = visit("viewer").get("/").text

    assert "1 request submitted" in text
    assert 'href="/dags/shop/runs/manual__2026-11-26T12%3A00%3A00%2B00%3A00/tasks/generate"' in text
    assert re.search(r">50 min \d s<", text)
    assert re.search(r">(9 min 5\d s|10 min 0 s)<", text)
    assert '<code class="once">r-1</code>' in text


def test_the_states_of_the_requests_that_a_user_may_see_are_asked_for_once_a_minute(
    visit: Visit, stored: Metadata, only_dag: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_segmind.monitoring.page import app

    asked: list[str] = []

    def with_states(requests: Any) -> Any:
        asked.extend(one.request_id for one in requests)
        return [replace(one, state="PROCESSING" if one.request_id == "r-1" else "QUEUED") for one in requests]

    monkeypatch.setattr(app, "STATES", app.States())
    monkeypatch.setattr(app, "with_states", with_states)
    for dag_id in ("shop", "secret"):
        stored.dag(dag_id)
    add_request(stored, "shop", "r-1", age=90)
    for number in range(app.MOST_ASKED + 5):
        stored.task(
            f"wait_{number}", "SegmindRunOperator", "deferred", dag_id="shop", run_id=RUN,
            trigger_id=stored.trigger(
                "airflow_provider_segmind.triggers.request.SegmindRequestTrigger",
                {"request_id": f"other-{number:02}", "submitted_at": time.time(), "model": "m", "segmind_conn_id": "c"},
            ),
        )  # fmt: skip
    add_request(stored, "secret", "r-secret")
    only_dag("shop")

    text = visit().get("/").text
    first, second = visit().get("/states").json(), visit().get("/states").json()

    assert 'data-state="r-1"' in text
    assert (first["r-1"], len(first), len(second)) == ("PROCESSING", app.MOST_ASKED, app.MOST_ASKED + 6)
    assert len(asked) == len(set(asked)) == app.MOST_ASKED + 6
    assert "r-secret" not in asked


def test_the_state_of_a_request_whose_connection_is_gone_is_unknown(
    visit: Visit, stored: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_segmind.monitoring.page import app
    from airflow_provider_segmind.monitoring.reader import with_states

    asked: list[str] = []
    monkeypatch.setattr(app, "STATES", app.States())
    monkeypatch.setattr(app, "with_states", lambda some: asked.append(some[0].request_id) or with_states(some))
    for dag_id, request_id in (("shop", "r-1"), ("news", "r-2")):
        stored.dag(dag_id)
        add_request(stored, dag_id, request_id)

    assert visit().get("/states").json() == {"r-1": "", "r-2": ""}
    # Its other requests would not get an answer either.
    assert len(asked) == 1


def test_a_running_table_lists_some_of_its_requests_and_says_how_many_more_there_are(
    visit: Visit, stored: Metadata, letters: str
) -> None:
    from airflow_provider_segmind.enrichment.progress_file import write_progress

    stored.dag("shop")
    folder = Path(letters).parent / "ledger"
    own = stored.task("describe", "SegmindEnrichFileOperator", "running", dag_id="shop", run_id=RUN)
    stored.xcom(own, "segmind_table", {"ledger": str(folder)})
    values = {"requests": [["r-7", time.time() - 60]], "in_flight": 1200, "try_number": 1, "at": time.time()}
    write_progress(folder, f"shop/{RUN}/describe/-1", values, model="flux", connection="segmind_default")
    stored.session.commit()

    text = visit().get("/").text

    assert "1,200 requests submitted" in text
    assert '<code class="once">r-7</code>' in text
    assert "and 1,199 requests more" in text


def test_only_the_dags_that_a_user_may_read_are_shown(
    visit: Visit, stored: Metadata, only_dag: Callable[..., None]
) -> None:
    add_table(stored, "shop")
    add_table(stored, "secret")
    add_request(stored, "shop", "r-shop")
    add_request(stored, "secret", "r-secret")
    everything = visit().get("/").text + visit().get("/tables").text
    assert everything.count("secret") >= 2
    only_dag("shop")

    flight, tables = visit().get("/").text, visit().get("/tables").text

    assert "r-shop" in flight
    assert "1 request submitted" in flight
    assert "shop" in tables
    assert "secret" not in flight + tables
    assert visit().get(RUN_PATH.replace("shop", "secret")).status_code == 403
    assert visit().get(RUN_PATH.replace("shop", "secret") + "/dead-letters.jsonl").status_code == 403


def test_a_run_opens_to_its_figures_charts_reasons_and_dead_letters(
    visit: Visit, stored: Metadata, letters: str
) -> None:
    add_table(stored, dead_letters=[letters])

    text = visit("viewer").get(RUN_PATH).text

    assert "488" in text
    assert text.count("<svg viewBox") >= 5
    assert "sku=A&lt;b&gt;3" in text
    assert "Only the first 25 are shown" in text
    assert '<code class="whole once">{&#34;rerun&#34;: [&#34;failed&#34;]}</code>' in text
    assert letters in text


def test_words_of_a_model_stay_text(visit: Visit, stored: Metadata, letters: str) -> None:
    add_table(stored, dead_letters=[letters])

    text = visit().get(RUN_PATH + f"?reason={quote(HOSTILE)}").text

    assert HOSTILE not in text
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert") >= 3


def test_without_the_right_to_read_xcoms_there_are_figures_but_no_reasons_and_no_rows(
    visit: Visit, stored: Metadata, letters: str, only_dag: Callable[..., None]
) -> None:
    add_table(stored, dead_letters=[letters])
    only_dag("shop", without="XCOM")

    text = visit().get(RUN_PATH).text

    assert "488" in text
    assert "Reasons and rows are shown to users who may read the XComs of this DAG" in text
    for hidden in ("alert(document", "A&lt;b", letters, "described.jsonl"):
        assert hidden not in text
    refused = visit().get(RUN_PATH + "/dead-letters.jsonl")
    assert refused.status_code == 403
    assert "A<b>" not in refused.text


def test_dead_letters_are_filtered_and_downloaded(visit: Visit, stored: Metadata, letters: str) -> None:
    add_table(stored, dead_letters=[letters])

    shown = visit("viewer").get(RUN_PATH + "?outcome=truncated&reason=TOO").text
    answer = visit("viewer").get(RUN_PATH + "/dead-letters.jsonl?outcome=truncated")

    assert "<td>failed</td>" not in shown
    assert "<td>truncated</td>" in shown
    assert answer.headers["content-disposition"] == 'attachment; filename="dead_letters.jsonl"'
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["row"] for row in rows] == list(range(4, 200))
    assert rows[0] == {**LETTER, "row": 4, "outcome": "truncated", "reason": "too long"}


@pytest.mark.parametrize("operator", ["PythonOperator", "SegmindChatOperator", "MySegmindEnrichFileOperator"])
def test_a_manifest_of_another_operator_is_not_read(
    visit: Visit, stored: Metadata, letters: str, operator: str
) -> None:
    add_table(stored, operator=operator, dead_letters=[letters])

    assert visit().get(RUN_PATH).status_code == 404
    assert visit().get(RUN_PATH + "/dead-letters.jsonl").status_code == 404
    assert "describe" not in visit().get("/tables").text


def test_a_run_that_does_not_exist_is_a_page_that_says_so(visit: Visit, stored: Metadata) -> None:
    answer = visit().get("/tables/shop/monday/%3Cb%3E/-1")

    assert answer.status_code == 404
    assert "There is nothing at this address" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "{folder}/../secret.jsonl",
        "{folder}-of-others/x.jsonl",
        "file://{folder}/../secret.jsonl",
        "s3://bucket/x.jsonl",
        "x.jsonl",
    ],
)
def test_dead_letters_outside_the_configured_folders_are_not_read(
    visit: Visit, stored: Metadata, letters: str, path: str
) -> None:
    folder = str(Path(letters).parent)
    Path(folder).with_name("secret.jsonl").write_text(json.dumps({**LETTER, "key": {"sku": "SECRET"}}) + "\n")
    add_table(stored, dead_letters=[path.format(folder=folder)])

    text = visit().get(RUN_PATH).text
    answer = visit().get(RUN_PATH + "/dead-letters.jsonl")

    assert "SECRET" not in text
    assert "root:" not in text
    assert "is in none of the folders that this page may read" in text
    assert answer.status_code == 409
    assert "SECRET" not in answer.text


def test_a_link_out_of_the_configured_folder_is_not_followed(visit: Visit, stored: Metadata, letters: str) -> None:
    secret = Path(letters).parent.with_name("secret.jsonl")
    secret.write_text(json.dumps({**LETTER, "key": {"sku": "SECRET"}}) + "\n")
    link = Path(letters).with_name("link.jsonl")
    link.symlink_to(secret)
    add_table(stored, dead_letters=[str(link)])

    text = visit().get(RUN_PATH).text

    assert "SECRET" not in text
    assert "is in none of the folders that this page may read" in text


def test_a_file_that_cannot_be_read_or_is_too_large_is_a_sentence(
    visit: Visit, stored: Metadata, letters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_table(stored, dead_letters=[letters])
    monkeypatch.setattr("airflow_provider_segmind.monitoring.page.dead_letters.MAX_FILE_BYTES", 1000)
    large = visit().get(RUN_PATH)
    Path(letters).unlink()
    missing = visit().get(RUN_PATH)

    assert (large.status_code, missing.status_code) == (200, 200)
    assert "but this page reads at most 0 MB" in large.text
    assert "cannot be read from the API server (FileNotFoundError)" in missing.text
    assert "488" in missing.text


def test_a_store_that_the_api_server_does_not_know_is_a_sentence(
    visit: Visit, stored: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__SEGMIND__PAGE_PATHS", "nowhere://bucket/a, nowhere://bucket/results")
    add_table(stored, dead_letters=["nowhere://bucket/results/x.jsonl"])

    answer = visit().get(RUN_PATH)

    assert answer.status_code == 200
    assert "cannot be read from the API server" in answer.text


def test_a_running_table_shows_its_progress(visit: Visit, stored: Metadata) -> None:
    stored.dag("shop")
    own = stored.task("describe", "SegmindEnrichSqlOperator", "running", dag_id="shop", run_id=RUN)
    progress = {"rows_read": 900, "rows_done": 420, "rows_total": 1000, "outcomes": {"success": 400, "failed": 20}}
    stored.state(
        own, "segmind_progress", {**progress, "cost": 0.0267, "in_flight": 8, "try_number": 1, "at": time.time()}
    )
    stored.session.commit()

    lines, one = visit().get("/tables").text, visit().get(RUN_PATH).text

    for text in (lines, one):
        assert "42 % · 400 success, 20 failed" in text
        assert "$0.0267" in text
        assert 'data-refresh="10"' in text
    assert "8 requests in flight" in one


def test_progress_in_a_ledger_is_read_from_the_configured_folders_only(
    visit: Visit, stored: Metadata, letters: str
) -> None:
    from airflow_provider_segmind.enrichment.progress_file import write_progress

    stored.dag("shop")
    folders = {"inside": Path(letters).parent / "ledger", "outside": Path(letters).parent.with_name("ledger")}
    for task_id, folder in folders.items():
        own = stored.task(task_id, "SegmindEnrichFileOperator", "running", dag_id="shop", run_id=RUN)
        stored.xcom(own, "segmind_table", {"ledger": str(folder)})
        values = {"rows_read": 777, "rows_done": 5, "rows_total": 10, "try_number": 1, "at": time.time()}
        write_progress(folder, f"shop/{RUN}/{task_id}/-1", values)
    stored.session.commit()

    seen = {task_id: visit().get(RUN_PATH.replace("describe", task_id)).text for task_id in folders}

    assert "777 rows read" in seen["inside"]
    assert "has no progress of this run" in seen["outside"]
    assert visit().get("/tables").text.count(">777<") == 1


def test_the_balance_needs_the_right_to_read_the_connection(visit: Visit, stored: Metadata) -> None:
    assert "data-fill" not in visit("viewer").get("/").text
    assert visit("viewer").get("/balance/segmind_default").status_code == 403
    assert 'data-fill="/segmind/balance/segmind_default"' in visit("op").get("/").text


@pytest.fixture
def budgeted(stored: Metadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqlBudgetStore:
    """Two budgets and a limit in flight, kept in SQLite."""
    from airflow_provider_segmind.monitoring.page import app

    monkeypatch.setattr(app, "BUDGETS", app.BudgetCache())
    database = str(tmp_path / "budgets.sqlite")
    extra = {"monthly_budget": 10, "max_paid_in_flight": 3}
    segmind = {"conn_type": "segmind", "password": "SG_key", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", json.dumps(segmind))
    monkeypatch.setenv("AIRFLOW_CONN_A_DATABASE", json.dumps({"conn_type": "sqlite", "host": database}))
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_CONN_ID", "a_database")
    monkeypatch.setenv("AIRFLOW__SEGMIND__BUDGETS", json.dumps({"team-a": {"daily": 5}}))
    return SqlBudgetStore(DriverHook("sqlite", "?", {"database": database}), "a_database")


def spend_of(store: SqlBudgetStore, rule: BudgetRule, dollars: float, *, reserved: float = 0, slots: int = 0) -> None:
    open_now = windows([rule], time.time())
    for name, amount in (("spent", dollars), ("reserved", reserved)):
        one = a_reservation(f"{rule.name} {name}", amount=round(amount * 1e6), windows=tuple(w.key for w in open_now))
        one = replace(one, slots=slots if name == "reserved" else 0)
        store.reserve(one, open_now, max_in_flight=None)
    store.settle(f"id-{rule.name} spent", dollars * 1e6)


def test_each_window_of_a_budget_is_a_line_with_what_is_left(visit: Visit, budgeted: SqlBudgetStore) -> None:
    spend_of(budgeted, BudgetRule("team-a", 5_000_000, None), 4.0, reserved=0.25)
    spend_of(budgeted, BudgetRule("connection:segmind_default", None, 10_000_000), 1.5, slots=2)

    shown = visit("op").get("/budgets").text

    for said in (
        "team-a",
        "$4.00",
        "$0.25",
        "$0.75",
        "$5.00",
        "80% spent",
        "connection segmind_default",
        "$8.50",
        "$10.00",
    ):
        assert said in shown
    assert shown.count("<tr><td") == 2
    assert shown.count("badge") == 1
    assert "segmind_default: 2 of 3 paid requests in flight." in shown
    budgeted.close()


@pytest.mark.parametrize(
    ("spent", "warn_at", "badge", "colour"),
    [(4.9, 0.8, "80% spent", "#e09f3e"), (2.5, 0.5, "50% spent", "#e09f3e"), (5.0, 0.8, "used up", "#d1495b")],
)
def test_a_budget_has_the_warning_and_the_colour_of_its_level(
    visit: Visit, budgeted: SqlBudgetStore, monkeypatch: pytest.MonkeyPatch,
    spent: float, warn_at: float, badge: str, colour: str,
) -> None:  # fmt: skip
    monkeypatch.setattr("airflow_provider_segmind.monitoring.budgets.WARN_AT", warn_at)
    spend_of(budgeted, BudgetRule("team-a", 5_000_000, None), spent)

    shown = visit("op").get("/budgets").text

    assert f">{badge}</span>" in shown
    assert f'fill="{colour}"' in shown
    budgeted.close()


def test_budgets_need_the_right_to_read_their_connections(
    visit: Visit, budgeted: SqlBudgetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    assert "No budget that you may read is set" in visit("viewer").get("/budgets").text

    def only(conn_id: str) -> str:
        allowed = lambda _, *, details=None, **__: details.conn_id == conn_id  # noqa: E731
        monkeypatch.setattr(SimpleAuthManager, "is_authorized_connection", allowed)
        return visit("op").get("/budgets").text

    assert "team-a" not in only("segmind_default")
    assert "segmind_default" in only("segmind_default")
    assert "team-a" in only("a_database")
    assert "segmind_default" not in only("a_database")


def test_a_budget_that_cannot_be_read_is_a_sentence_and_the_others_are_shown(
    visit: Visit, budgeted: SqlBudgetStore, stored: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = {"conn_type": "segmind", "password": "SG_key", "extra": {"daily_budget": "<b>"}}
    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", json.dumps(broken))

    shown = visit("op").get("/budgets").text

    assert "segmind_default&#39; cannot be read.</b> Extra of connection &#39;segmind_default&#39;: the daily" in shown
    assert "<b>'" not in shown
    assert "$5.00" in shown


def test_a_budget_is_read_once_in_some_seconds_however_many_look(
    visit: Visit, budgeted: SqlBudgetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_segmind.monitoring.page import budgets

    reads: list[float] = []
    read = budgets.budgets_of_configuration
    monkeypatch.setattr(budgets, "budgets_of_configuration", lambda now: (reads.append(now), read(now))[1])
    monkeypatch.setattr(budgets, "BUDGETS_LIFETIME", 3600.0)

    assert visit("op").get("/budgets").text == visit("op").get("/budgets").text
    assert len(reads) == 1


def test_the_balance_is_asked_once_a_minute_and_an_account_that_cannot_be_asked_is_a_sentence(
    visit: Visit, stored: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_segmind.emulator import SegmindEmulator
    from airflow_provider_segmind.monitoring.page import app

    monkeypatch.setattr(app, "BALANCES", app.Balances())
    with SegmindEmulator() as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", emulator.connection_json)
        first = visit("op").get("/balance/segmind_default").text
        second = visit("op").get("/balance/segmind_default").text
        calls = len([one for one in emulator.requests if one.route == "credits"])

    assert first == second
    assert first.startswith("$")
    assert calls == 1
    assert visit("op").get("/balance/no_such_connection").text == "cannot be read (AirflowNotFoundException)"


def test_files_of_the_page_are_its_own_and_no_others(visit: Visit) -> None:
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
        assert visit("viewer").get(f"/static/{name}").headers["content-type"].startswith(kind)
    for name in ("..%2fapp.py", "app.py", "%2e%2e%2fapp.py"):
        assert visit("viewer").get(f"/static/{name}").status_code == 404


OWN = {"origin": "http://airflow.test"}


def test_spending_is_paused_and_resumed_from_the_page(visit: Visit, stored: Metadata) -> None:
    paused = visit("op").post("/pause", data={"reason": "a budget <b>alarm</b>"}, headers=OWN)
    shown = visit("op").get("/").text
    for_a_viewer = visit("viewer").get("/").text
    resumed = visit("op").post("/resume", headers={"sec-fetch-site": "same-origin"})

    assert (paused.status_code, paused.headers["location"]) == (303, "/segmind/")
    assert "<b>Spending is paused.</b> a budget &lt;b&gt;alarm&lt;/b&gt;" in shown
    assert 'action="/segmind/resume"' in shown
    assert "Spending is paused." in for_a_viewer
    assert "<form" not in for_a_viewer
    assert resumed.status_code == 303
    assert "Spending is paused" not in visit("op").get("/").text


def test_pausing_needs_the_right_to_change_the_variable(visit: Visit, stored: Metadata) -> None:
    for role in ("viewer", "user"):
        assert visit(role).post("/pause", headers=OWN).status_code == 403
        assert visit(role).post("/resume", headers=OWN).status_code == 403
    assert "<form" not in visit("user").get("/").text
    assert "Spending is paused" not in visit("op").get("/").text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://elsewhere.test"},
        {"origin": "null"},
        {"origin": "http://airflow.test", "sec-fetch-site": "cross-site"},
        {"origin": "http://airflow.test", "sec-fetch-site": "same-site"},
        {"referer": "http://airflow.test/segmind/"},
    ],
)
def test_another_site_cannot_pause_with_the_users_cookie(
    visit: Visit, stored: Metadata, headers: dict[str, str]
) -> None:
    assert visit().post("/pause", headers=headers).status_code == 403
    assert visit().post("/resume", headers=headers).status_code == 403
    assert "Spending is paused" not in visit().get("/").text


def test_a_proxy_may_change_the_host_if_the_base_url_is_what_the_browser_sees(
    visit: Visit, stored: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://flows.example.com/prefix")

    assert visit().post("/resume", headers={"origin": "https://flows.example.com"}).status_code == 303
    assert visit().post("/resume", headers={"origin": "https://flows.example.com.evil.test"}).status_code == 403


def test_a_reason_is_bounded(visit: Visit, stored: Metadata) -> None:
    assert visit().post("/pause", data={"reason": "x" * 5000}, headers=OWN).status_code == 413
    assert visit().get("/pause").status_code == 405
