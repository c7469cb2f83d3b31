"""What a user may see and do, and what another site may not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.support.page_runs import OWN, RUN_PATH, Visit, add_request, add_table, letters

if TYPE_CHECKING:
    from tests.support.metadata import Metadata

__all__ = ["letters"]
pytestmark = pytest.mark.airflow


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


def test_the_balance_needs_the_right_to_read_the_connection(visit: Visit, stored: Metadata) -> None:
    assert "data-fill" not in visit("viewer").get("/").text
    assert visit("viewer").get("/balance/segmind_default").status_code == 403
    assert 'data-fill="/segmind/balance/segmind_default"' in visit("op").get("/").text


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
