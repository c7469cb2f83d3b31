"""The page as a browser gets it from Airflow's API application."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.support.manifests import HOSTILE
from tests.support.page_runs import OWN, RUN, RUN_PATH, Visit, add_request, add_table, letters

if TYPE_CHECKING:
    from tests.support.metadata import Metadata

__all__ = ["letters"]
pytestmark = pytest.mark.airflow


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


def test_words_of_a_model_stay_text(visit: Visit, stored: Metadata, letters: str) -> None:
    add_table(stored, dead_letters=[letters])

    text = visit().get(RUN_PATH + f"?reason={quote(HOSTILE)}").text

    assert HOSTILE not in text
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert") >= 3


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


def test_a_reason_is_bounded(visit: Visit, stored: Metadata) -> None:
    assert visit().post("/pause", data={"reason": "x" * 5000}, headers=OWN).status_code == 413
    assert visit().get("/pause").status_code == 405
