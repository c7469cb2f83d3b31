"""What the page says about money, from the spend record and without one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_segmind.monitoring.page.spend import Period, draw_days, spend_lines, visible
from airflow_provider_segmind.monitoring.spending import Dimension, SpendGroup, Spending, SpendView, grouped
from airflow_provider_segmind.spend.entries import SpendEntry
from tests.support.manifests import HOSTILE, manifest_of

if TYPE_CHECKING:
    from tests.monitoring.page.conftest import Visitor
    from tests.support.metadata import Metadata

pytestmark = pytest.mark.airflow
Visit = Callable[..., "Visitor"]
TODAY = date(2026, 11, 26)
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()
DAYS = "since=2026-11-25&until=2026-11-26"


def entry(number: int, dag_id: str, micros: float | None, *, model: str = "flux", days_ago: int = 0) -> SpendEntry:
    return SpendEntry(
        at=NOON - 86400 * days_ago,
        connection="segmind_default",
        dag_id=dag_id,
        task_id="t",
        run_id="r",
        model=model,
        request_id=f"r-{number}",
        outcome="success",
        tokens=100,
        cost_micros=micros,
        reused=False,
    )


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Write entries to a spend record, which the page then reads."""
    from airflow_provider_segmind.monitoring.page import app
    from airflow_provider_segmind.spend.store import configured_store

    monkeypatch.setattr(app, "SPENT", app.SpendCache())
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_PATH", str(tmp_path / "spend"))

    def write(*entries: SpendEntry) -> None:
        store = configured_store()
        assert store is not None
        store.write(entries)

    return write


def view_of(*groups: SpendGroup) -> SpendView:
    return SpendView(groups=groups, total=SpendGroup(key=()), source="spend record", since=None, note="")


def test_the_page_shows_the_money_of_each_dag_and_the_total(
    visit: Visit, stored: Metadata, record: Callable[..., None]
) -> None:
    for dag_id in ("shop", "news"):
        stored.dag(dag_id)
    stored.session.commit()
    record(entry(1, "shop", 26_700.0), entry(2, "shop", None), entry(3, "news", 1_300.0, model="veo", days_ago=1))

    by_dag = visit("viewer").get(f"/spend?{DAYS}").text
    by_model = visit("viewer").get(f"/spend?by=model&{DAYS}").text

    for text in (by_dag, by_model):
        assert '<td>total</td><td class="number">$0.028</td>' in text
        assert "has not reported the cost of 1 request," in text
        assert "From the spend record." in text
        assert "The first figure here is from 2026-11-25." in text
    assert "<title>2026-11-26: shop, $0.0267</title>" in by_dag
    assert "<title>2026-11-25: veo, $0.0013</title>" in by_model
    assert "95.4%" in by_dag


def test_a_user_sees_the_money_of_readable_dags_only_in_the_total_too(
    visit: Visit, stored: Metadata, record: Callable[..., None], only_dag: Callable[..., None]
) -> None:
    for dag_id in ("shop", "secret"):
        stored.dag(dag_id)
    stored.session.commit()
    record(entry(1, "shop", 26_700.0), entry(2, "secret", 1e6, model="covert", days_ago=1))
    assert "$1.0267" in visit().get(f"/spend?{DAYS}").text
    only_dag("shop")

    for by in ("dag", "model"):
        text = visit().get(f"/spend?by={by}&{DAYS}").text
        assert '<td>total</td><td class="number">$0.0267</td>' in text
        assert "The first figure here is from 2026-11-26." in text
        for hidden in ("secret", "covert", "$1"):
            assert hidden not in text


def test_who_may_read_all_dags_sees_what_no_dag_and_deleted_dags_spent(
    visit: Visit, stored: Metadata, record: Callable[..., None]
) -> None:
    stored.dag("shop")
    stored.session.commit()
    record(entry(1, "shop", 1000.0), entry(2, "", 200.0), entry(3, "deleted", 30.0), entry(4, "", 4.0, model=""))

    by_dag = visit("viewer").get(f"/spend?{DAYS}").text
    by_model = visit("viewer").get(f"/spend?by=model&{DAYS}").text

    for text in (by_dag, by_model):
        assert '<td>total</td><td class="number">$0.001234</td><td></td>\n<td class="number">4</td>' in text
        assert "including those of deleted DAGs and of no DAG" in text
    assert '/dags/shop" target="_top">shop</a>' in by_dag
    assert 'no DAG</td>\n<td class="number">$0.000204</td>' in by_dag
    assert 'deleted</td>\n<td class="number">$0.00003</td>' in by_dag
    assert "/dags/no" not in by_dag
    assert "/dags/deleted" not in by_dag


@pytest.mark.parametrize("hidden", [entry(2, "", 5e6), entry(2, "deleted", 5e6), entry(2, "secret", 5e6)], ids=str)
def test_who_may_not_read_all_dags_is_told_that_there_is_more_and_not_how_much(
    visit: Visit,
    stored: Metadata,
    record: Callable[..., None],
    only_dag: Callable[..., None],
    hidden: SpendEntry,
) -> None:
    for dag_id in ("shop", "secret"):
        stored.dag(dag_id)
    stored.session.commit()
    record(entry(1, "shop", 26_700.0), hidden)
    only_dag("shop")

    for by in ("dag", "model"):
        text = visit().get(f"/spend?by={by}&{DAYS}").text
        assert '<td>total</td><td class="number">$0.0267</td>' in text
        assert "there are others, or requests of no DAG" in text
        for secret in ("$5", "no DAG</td>", "deleted", "secret"):
            assert secret not in text


@pytest.mark.parametrize("dags", [1, 7])
def test_the_readable_dags_are_asked_for_once_a_page(
    visit: Visit, stored: Metadata, record: Callable[..., None], monkeypatch: pytest.MonkeyPatch, dags: int
) -> None:
    from airflow_provider_segmind.monitoring.page.access import Viewer

    for number in range(dags):
        stored.dag(f"dag_{number}")
    stored.session.commit()
    record(entry(1, "dag_0", 1000.0), entry(2, "", 200.0))
    asked: list[str] = []
    dag_ids = Viewer.dag_ids
    monkeypatch.setattr(Viewer, "dag_ids", lambda viewer: [asked.append("asked"), dag_ids(viewer)][1])

    assert "$0.0012" in visit("viewer").get(f"/spend?{DAYS}").text
    assert asked == ["asked"]


def test_who_may_read_every_dag_that_exists_but_not_any_does_not_see_deleted_ones(
    visit: Visit, stored: Metadata, record: Callable[..., None], only_dag: Callable[..., None]
) -> None:
    stored.dag("shop")
    stored.session.commit()
    record(entry(1, "shop", 26_700.0), entry(2, "deleted", 5e6))
    only_dag("shop")

    assert '<td>total</td><td class="number">$0.0267</td>' in visit().get(f"/spend?{DAYS}").text


def test_without_a_record_the_page_says_what_it_cannot_know(
    visit: Visit, stored: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_segmind.monitoring.page import app

    monkeypatch.setattr(app, "SPENT", app.SpendCache())
    stored.dag("shop")
    own = stored.task("describe", "SegmindEnrichFileOperator", run_id="monday")
    stored.xcom(own, "return_value", manifest_of(100).to_json())
    stored.session.commit()

    text = visit("viewer").get(f"/spend?{DAYS}").text

    assert "No spend record is configured" in text
    assert "$0.035" in text


def test_a_record_that_cannot_be_read_is_a_sentence(
    visit: Visit, stored: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_segmind.monitoring.page import app

    monkeypatch.setattr(app, "SPENT", app.SpendCache())
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_PATH", "nowhere://bucket/spend")

    answer = visit("viewer").get("/spend")

    assert answer.status_code == 200
    assert "The spend data cannot be read." in answer.text


def test_a_record_whose_connection_only_workers_have_is_a_sentence(
    visit: Visit, stored: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_segmind.monitoring.page import app

    monkeypatch.setattr(app, "SPENT", app.SpendCache())
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_CONN_ID", "only_on_workers")

    shown = visit("viewer").get("/spend").text

    assert "The spend data cannot be read." in shown
    assert "The API server has no such Connection" in shown
    assert "AirflowNotFoundException" not in shown


def test_a_record_is_added_up_once_a_minute(
    visit: Visit, stored: Metadata, record: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_segmind.monitoring.page import spend

    stored.dag("shop")
    stored.session.commit()
    record(entry(1, "shop", 26_700.0))
    first = visit().get(f"/spend?{DAYS}").text
    record(entry(2, "shop", 26_700.0))

    assert visit().get(f"/spend?{DAYS}&by=dag").text == first
    monkeypatch.setattr(spend, "CACHE_LIFETIME", -1.0)
    assert "$0.0534" in visit().get(f"/spend?{DAYS}").text


def test_names_in_the_chart_stay_text() -> None:
    view = visible(view_of(SpendGroup(key=("2026-11-26", "shop", HOSTILE), cost_micros=5)), {"shop"}, "model")

    chart = draw_days(view, spend_lines(view), Period(TODAY, TODAY))

    assert "<script>" not in chart.svg
    assert "&lt;script&gt;" in chart.svg


def test_the_chart_adds_up_to_the_total_whatever_the_number_of_dags() -> None:
    groups = [SpendGroup(key=("2026-11-26", f"dag_{n}", "m"), cost_micros=1000 * n, requests=1) for n in range(1, 31)]
    view = visible(view_of(*groups), {f"dag_{n}" for n in range(1, 31)}, "dag")

    lines = spend_lines(view)
    chart = draw_days(view, lines, Period(TODAY, TODAY))

    assert sum(line.group.cost_micros for line in lines) == view.total.cost_micros == 465_000
    assert round(sum(line.share for line in lines), 6) == 1
    assert chart.svg.count("<title>2026-11-26:") == 8
    assert "2026-11-26: others, $0.276" in chart.svg


def test_nothing_billed_is_a_sentence_instead_of_a_chart() -> None:
    chart = draw_days(view_of(), [], Period(TODAY, TODAY))

    assert (chart.svg, chart.described) == ("", "Nothing was billed on these days.")


@pytest.mark.parametrize(
    ("since", "until", "first", "last"),
    [
        ("", "", date(2026, 10, 28), TODAY),
        ("2026-11-01", "", date(2026, 11, 1), TODAY),
        ("2026-11-01", "2026-11-03", date(2026, 11, 1), date(2026, 11, 3)),
        ("2026-11-05", "2026-11-03", date(2026, 11, 3), date(2026, 11, 3)),
        ("2021-01-01", "2026-11-26", date(2025, 11, 26), TODAY),
        ("<script>", "yesterday", date(2026, 10, 28), TODAY),
        ("0001-01-01", "9999-12-31", date(2026, 10, 28), TODAY),
    ],
)
def test_any_period_asked_for_is_days_of_at_most_a_year(since: str, until: str, first: date, last: date) -> None:
    period = Period.of(since, until, TODAY)

    assert (period.first, period.last) == (first, last)
    assert len(period.days) <= 366


def test_a_period_is_whole_days_in_utc() -> None:
    assert Period(date(2026, 11, 26), date(2026, 11, 26)).seconds == (NOON - 43200, NOON + 43200)


def test_dates_at_the_edge_of_the_calendar_are_no_error(visit: Visit, stored: Metadata) -> None:
    for query in ("since=0001-01-01&until=0001-01-02", "since=9999-12-31&until=9999-12-31"):
        assert visit("viewer").get(f"/spend?{query}").status_code == 200


def test_fractions_of_a_micro_dollar_add_up_to_the_same_total_however_they_are_grouped() -> None:
    spent = [Spending.of(entry(n, f"dag_{n % 7}", 48.25, model=f"m{n % 5}", days_ago=n % 3)) for n in range(100)]

    def total(*by: Dimension) -> float:
        view = grouped(spent, by, source="spend record", note="")
        parts = sum(group.cost_micros for group in view.groups)
        assert not by or parts == view.total.cost_micros
        return view.total.cost_micros

    page = visible(
        grouped(spent, ("day", "dag", "model"), source="spend record", note=""), {f"dag_{n}" for n in range(7)}, "model"
    )
    assert {total(), total("day"), total("dag"), total("day", "dag", "model"), page.total.cost_micros} == {4825.0}
    assert sum(line.group.cost_micros for line in spend_lines(page)) == 4825.0
