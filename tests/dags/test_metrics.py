"""The metrics that a StatsD server receives from examples on a real task runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.dag_runs import run_dags
from tests.support.statsd import StatsdListener

pytestmark = pytest.mark.airflow

NAME, RUN, REQUEST = "example_segmind_enrich_file", "example_segmind_run", "example_segmind_request"


class Ended(NamedTuple):
    manifest: dict[str, Any]
    statsd: StatsdListener
    bill: float
    key: str

    def sums(self, name: str, task_id: str) -> float:
        """Add up a counter over one task."""
        lines = [line for line in self.statsd.lines if line.startswith(f"airflow.segmind.{name},")]
        return sum(float(line.split(":")[1].split("|")[0]) for line in lines if f"task_id={task_id}," in f"{line},")


@pytest.fixture(scope="module")
def ended(airflow_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("metrics")
    with SegmindEmulator() as emulator, StatsdListener() as statsd:
        emulator.fault("submit", status=429, headers={"Retry-After": "1"}, times=1)
        # Longer than a sensor waits on its worker.
        emulator.script(match="image", latency=14)
        emulator.script(match="ticket", json={"team": "delivery", "urgent": False, "summary": "A question."})
        runs = run_dags(
            *[(f"dags_examples/{name}.py", name) for name in (NAME, RUN, REQUEST)],
            connection=emulator.connection_json,
            hold=0.5,
            SEGMIND_EXAMPLE_OUTPUT=folder.as_uri(),
            **statsd.settings,
        )
        assert {one["state"] for one in runs.values()} == {"success"}, str(runs)
        bill = sum(entry.cost for entry in emulator.bill)
        return Ended(runs[NAME]["values"]["triage"], statsd, bill, emulator.api_key)


def test_calls_requests_and_rows_of_a_table_are_counted(ended: Ended) -> None:
    manifest = ended.manifest

    assert ended.sums("submits", "triage") == manifest["posts"] == 4
    assert ended.sums("requests", "triage") == manifest["requests"] == 3
    assert ended.sums("submits", "triage") + ended.sums("polls", "triage") == manifest["calls"]
    assert ended.sums("rate_limited", "triage") == 1
    assert ended.sums("rows.success", "triage") == manifest["distinct_rows"] == 3
    assert ended.sums("waited_ms", "triage") > 0
    assert ended.sums("tokens", "triage") == manifest["tokens"]


@pytest.mark.parametrize(("submitting", "finishing"), [("ask", "ask"), ("submit", "result")])
def test_a_single_request_is_counted_where_it_is_submitted_and_where_it_ends(
    ended: Ended, submitting: str, finishing: str
) -> None:
    assert ended.sums("submits", submitting) == ended.sums("requests", submitting) == 1
    assert ended.sums("cost_micros", finishing) > 0
    assert ended.sums("tokens", finishing) > 0


def test_a_trigger_counts_its_polls(ended: Ended) -> None:
    assert [line for line in ended.statsd.lines if line.startswith("airflow.segmind.polls:")]
    assert ended.statsd.gauges["airflow.segmind.poller.lag_ms"]


def test_the_cost_of_all_tasks_is_the_bill(ended: Ended) -> None:
    tasks = ("triage", "ask", "result")

    assert sum(ended.sums("cost_micros", task) for task in tasks) == pytest.approx(ended.bill * 1e6, abs=1e-3)
    assert ended.statsd.counters["airflow.segmind.requests"] == 5


def test_nothing_is_in_flight_at_the_end(ended: Ended) -> None:
    assert ended.statsd.gauges["airflow.segmind.in_flight"][-1] == 0


def test_metrics_have_the_tags_of_the_task_and_nothing_secret(ended: Ended) -> None:
    ours = [line for line in ended.statsd.lines if line.startswith("airflow.segmind.")]

    tags = {pair.split("=")[0] for line in ours for pair in line.partition(":")[0].split(",")[1:]}
    assert tags == {"dag_id", "task_id", "model", "conn_id"}
    assert not [line for line in ours if ended.key in line or "parcel" in line]
