"""The page in the API server of each Airflow that can show it: the entry in the navigation, the rights, the views."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from airflow_provider_segmind.compat import airflow_version
from airflow_provider_segmind.defaults import PAGE_AIRFLOW
from tests.monitoring.page.conftest import Visitor, api_app, only_dag, stored, visit
from tests.support.manifests import manifest_of

if TYPE_CHECKING:
    from tests.support.metadata import Metadata

Visit = Callable[..., Visitor]
__all__ = ["api_app", "only_dag", "stored", "visit"]
pytestmark = [
    pytest.mark.matrix,
    pytest.mark.airflow,
    pytest.mark.skipif(airflow_version() < PAGE_AIRFLOW, reason="this Airflow has no external views"),
]


PATH = "/tables/{}/monday/describe/-1"


@pytest.fixture
def tables(stored: Metadata) -> None:
    """Two DAGs with a run of a table each, one of which waits for a request as well."""
    for dag_id in ("shop", "secret"):
        stored.dag(dag_id)
        own = stored.task("describe", "SegmindEnrichFileOperator", dag_id=dag_id)
        stored.xcom(own, "return_value", manifest_of(500, failed=12, cost=0.0267).to_json())
    waits = {"request_id": "r-1", "submitted_at": time.time(), "model": "flux", "segmind_conn_id": "segmind_default"}
    number = stored.trigger("airflow_provider_segmind.triggers.request.SegmindRequestTrigger", waits)
    stored.task("generate", "MyRun", "deferred", trigger_id=number, custom_operator_name="MyRun (SegmindRunOperator)")
    stored.session.commit()


def test_the_navigation_has_an_entry_that_leads_to_the_page(visit: Visit, stored: Metadata) -> None:
    plugins = visit().get("/api/v2/plugins", params={"limit": 1000}).json()["plugins"]
    (ours,) = [one for one in plugins if one["name"] == "segmind"]
    (view,) = ours["external_views"]

    assert (view["name"], view["destination"], view["href"]) == ("Segmind", "nav", "segmind/")
    page = visit().get("/")
    assert page.status_code == 200
    assert "No request is in flight" in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]


def test_every_view_shows_what_the_metadata_database_has(visit: Visit, tables: None) -> None:
    flight, lines, one, spent = (visit().get(path).text for path in ("/", "/tables", PATH.format("shop"), "/spend"))

    assert '<code class="once">r-1</code>' in flight
    assert lines.count("$0.0267") == 2
    assert "97.6% of the rows" in one
    assert "Spend" in spent


def test_who_is_not_logged_in_sees_nothing(visit: Visit, tables: None) -> None:
    assert visit(None).get("/").status_code == 401
    assert visit(None).get(PATH.format("shop")).status_code == 401


def test_a_user_sees_the_dags_that_this_user_may_read(
    visit: Visit, tables: None, only_dag: Callable[..., None]
) -> None:
    only_dag("shop")

    assert visit().get("/tables").text.count("$0.0267") == 1
    assert visit().get(PATH.format("shop")).status_code == 200
    assert visit().get(PATH.format("secret")).status_code == 403
