"""The progress that an enrichment reports, and the report it writes; an error in either must not stop the run."""

from __future__ import annotations

import json
import logging
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.enrichment import progress_file
from airflow_provider_segmind.enrichment.progress_file import all_progress, read_progress
from airflow_provider_segmind.enrichment.stats import Progress
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from airflow_provider_segmind.execution import enrichment
from airflow_provider_segmind.execution.enrichment import PROGRESS_KEY, TABLE_KEY, ProgressReporter
from tests.support.table_tasks import Table, things


def report_of(table: Table) -> Path:
    return table.output.with_name("colours.report.html")


def test_the_report_is_beside_the_manifest_which_contains_its_path(table: Table) -> None:
    manifest = table.ask(source=table.write(things("sky", "rose")))

    assert manifest["report"] == str(report_of(table))
    assert json.loads(table.output.with_name("colours.manifest.json").read_text()) == manifest
    assert "<h1>All 2 rows answered</h1>" in report_of(table).read_text()
    assert "gemini-3.1-flash-lite" in report_of(table).read_text()
    assert "colour of" not in report_of(table).read_text()


def test_a_report_that_cannot_be_written_only_causes_a_warning(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    report_of(table).mkdir(parents=True)

    with caplog.at_level(logging.INFO):
        manifest = table.ask(source=things("sky"))

    assert (manifest["outcomes"]["success"], manifest["report"]) == (1, None)
    assert json.loads(table.output.with_name("colours.manifest.json").read_text()) == manifest
    assert "The report could not be written to" in caplog.text


def test_the_progress_is_in_the_task_state_store_while_the_task_runs(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrichment, "REFRESH_INTERVAL", 0.05)
    monkeypatch.setattr(enrichment, "STATE_INTERVAL", 0.0)
    table.emulator.settings(latency=[0.2, 0.9])
    kept: list[Any] = []
    monkeypatch.setattr(progress_file, "write_progress", lambda _, run, values, **about: kept.append(values | about))

    table.ask(source=things(*map(str, range(6))), concurrency=2)

    # Only the ledger has the requests by id, so that the state store stays small.
    listed = [[request_id for request_id, _ in values["requests"]] for values in kept]
    assert max(map(len, listed)) == 2
    assert {each for some in listed for each in some} <= {job.request_id for job in table.emulator.jobs}
    assert {values["connection"] for values in kept} == {"segmind_default"}

    states = [state for state in table.run.store.written if "rows_done" in state]
    assert len(states) >= 2
    assert [state["rows_done"] for state in states] == sorted(state["rows_done"] for state in states)
    last = table.run.store.values[PROGRESS_KEY]
    assert (last["rows_done"], last["rows_total"], last["share"], last["try_number"]) == (6, 6, 1.0, 1)
    assert last["outcomes"] == {"success": 6}
    assert len(json.dumps(last)) < 1000
    assert "requests" not in last


def test_an_unavailable_state_store_does_not_fail_the_task(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    def away(_: Any) -> None:
        raise RuntimeError("the API server is away")

    table.run.store.on_write = away

    with caplog.at_level(logging.INFO):
        manifest = table.ask(source=things("sky"))

    assert manifest["outcomes"]["success"] == 1
    assert caplog.text.count("no longer written to the task state store: RuntimeError") == 1


def test_a_task_logs_its_progress_every_half_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    reporter = ProgressReporter(None, try_number=1, log=logging.getLogger("a_task"), clock=lambda: now[0])
    running: Future[None] = Future()

    with caplog.at_level(logging.INFO):
        for second in range(100):
            now[0] = float(second)
            reporter.update(Progress(rows_read=second, rows_done=second))
            if second == 0:
                running.set_result(None)
                reporter.until_done(running, lambda: None)
            else:
                reporter._report()

    lines = [record.message for record in caplog.records if "rows done" in record.message]
    assert [line.split()[0] for line in lines] == ["30", "60", "90"]


def test_the_progress_is_in_the_ledger_until_the_answers_are_written(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, kept = table.output.parent / "_segmind_ledger", []
    with monkeypatch.context() as patch:
        patch.setattr(enrichment, "delete_progress", lambda *given: kept.append(read_progress(*given)))
        manifest = table.ask(source=things("sky", "rose"))

    assert (kept[0]["rows_done"], kept[0]["rows_total"], kept[0]["run"]) == (2, 2, manifest["run_id"])
    assert all_progress(ledger) == kept
    table.ask(source=things("sky", "rose"))
    assert all_progress(ledger) == []


def test_a_ledger_without_room_for_the_progress_does_not_fail_the_task(
    table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = table.output.parent / "_segmind_ledger"
    ledger.mkdir(parents=True)
    (ledger / "progress").write_text("a file where the folder would be")

    with caplog.at_level(logging.INFO):
        manifest = table.ask(source=things("sky"))

    assert manifest["outcomes"]["success"] == 1
    assert caplog.text.count("no longer written to the ledger: ") == 1


def test_the_xcom_says_where_the_ledger_is_and_what_a_failed_task_has_written(table: Table) -> None:
    table.emulator.script(match="rose", fail="too red")
    context = table.run.context()

    with pytest.raises(SegmindEnrichmentError):
        table.task(source=things("sky", "rose"), max_failed_rows=0).execute(context)

    pushed = context["ti"].pushed[TABLE_KEY]
    assert pushed["ledger"] == pushed["manifest"]["ledger"] == str(table.output.parent / "_segmind_ledger")
    assert pushed["manifest"] == json.loads(table.output.with_name("colours.manifest.json").read_text())
    assert (pushed["manifest"]["outcomes"]["success"], pushed["manifest"]["outcomes"]["failed"]) == (1, 1)
