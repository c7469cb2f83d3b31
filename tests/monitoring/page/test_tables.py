"""A run of a table on the page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.page_runs import RUN, RUN_PATH, Visit, add_table, letters

if TYPE_CHECKING:
    from tests.support.metadata import Metadata

__all__ = ["letters"]
pytestmark = pytest.mark.airflow


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
        assert "42% · 400 success, 20 failed" in text
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
