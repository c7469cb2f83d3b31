"""What the log says about a table, and that log, state and manifest give the same figures."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest

from airflow_provider_segmind.compat import AirflowFailException
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.execution.enrichment import PROGRESS_KEY
from airflow_provider_segmind.execution.table_log import log_end, summarize
from airflow_provider_segmind.money import format_usd
from tests.support.manifests import manifest_of
from tests.support.table_tasks import Table, things


def lines_of(caplog: pytest.LogCaptureFixture, *, level: int | None = None) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.name == "a_task" and level in (None, record.levelno)
    ]


def test_a_table_says_at_its_start_what_it_reads_asks_and_writes_and_its_limits(
    table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    source = table.write(things("sky", "rose"))
    manifest = table.ask(
        source=source,
        max_cost=5,
        max_rows=100,
        shard_index=1,
        shard_count=2,
        sample=20,
        rerun=["failed"],
    )

    lines = lines_of(caplog)[:3]
    folder = table.output.parent
    assert lines == [
        f"Source: {source}; target: {folder}/colours.1-of-2.sample.jsonl; ledger: {folder}/_segmind_ledger",
        f"Model: gemini-3.1-flash-lite; prompt: {manifest['prompt_hash'][:12]}; answer columns: answer",
        (
            "Limits: max_cost $5.00; max_rows 100; max_failed_rows 10%; no declared rate limit; "
            "64 concurrent requests; shard 1 of 2; only the first 20 rows; rerun: failed"
        ),
    ]
    assert manifest["source"] == source


def test_outputs_that_share_a_manifest_are_warned_of_before_anything_is_sent(
    table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    table.ask(source=things("sky"))
    table.ask(source=things("sky"))
    assert lines_of(caplog, level=logging.WARNING) == []

    with pytest.raises(AirflowFailException, match="no column 'thing'"):
        table.ask(source=[{"id": 1}], output_path=str(table.output.with_suffix(".csv")))

    (line,) = (line for line in lines_of(caplog, level=logging.WARNING) if "share" in line)
    folder = table.output.parent
    assert line == (
        f"{folder}/colours.jsonl and {folder}/colours.csv share the names of their dead letters, manifest and report: "
        "those of the former are replaced. Give each output a name or folder of its own"
    )


def test_the_declared_rate_limit_is_named_and_given_rows_are_counted(
    table: Table, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    connection = json.loads(table.emulator.connection_json)
    connection["extra"] = {**connection.get("extra", {}), "requests_per_minute": 6000}
    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", json.dumps(connection))

    table.ask(source=things("sky", "rose"), shard_index=0, shard_count=2, rerun="nothing", max_failed_rows=3)

    lines = lines_of(caplog)
    assert lines[0].startswith("Source: rows given to the task (2 rows); target: ")
    assert "max_failed_rows 3; 3000 calls a minute; " in lines[2]
    assert lines[2].endswith("rerun: nothing")


def test_a_table_ends_with_one_block_that_warns_of_rows_without_an_answer(
    table: Table, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    table.ask(source=things("leaf"))
    table.emulator.script(match="rose", fail="the model is overloaded")
    table.run = type(table.run)(run_id="another")
    caplog.clear()

    manifest = table.ask(source=things("sky", "rose", "rose", "leaf"), max_failed_rows=None)

    warned = lines_of(caplog, level=logging.WARNING)
    assert warned == [
        "2 of 4 rows answered, 2 without an answer (3 distinct rows)",
        "2 failed: the model is overloaded",
        f"Billed in this run: {format_usd(manifest['cost'])} for 2 requests",
        f"Calls in this try: {manifest['calls']}, including 2 paid submissions",
        "Answered at no cost: 1 distinct row of other runs in the ledger",
        f"Answers: {table.output}",
        f"Dead letters: {table.output.with_name('colours.dead_letters.jsonl')}",
        f"Manifest: {table.output.with_name('colours.manifest.json')}",
        f"Report: {table.output.with_name('colours.report.html')}",
    ]
    assert lines_of(caplog)[-len(warned) :] == warned


def test_a_table_with_all_answers_ends_without_a_warning(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    table.ask(source=things("sky", "sky"))

    assert lines_of(caplog, level=logging.WARNING) == []
    assert "All 2 rows answered (1 distinct row)" in lines_of(caplog)
    assert "Answered at no cost: 1 row equal to an earlier one" in lines_of(caplog)


def test_only_the_most_frequent_reasons_are_in_the_log_and_the_others_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counts = {f"reason {'abcdefg'[number]}": 10 - number for number in range(7)}
    manifest = manifest_of(100, failed=49, reasons={"failed": counts}, stopped="max_rows=100 is reached")
    with caplog.at_level(logging.INFO):
        log_end(logging.getLogger("a_task"), manifest, None)

    lines = lines_of(caplog)
    assert lines[1] == "Stopped early: max_rows=100 is reached"
    assert lines[2:8] == [
        *(f"{10 - number} failed: reason {'abcdefg'[number]}" for number in range(5)),
        "9 for other reasons",
    ]


def test_log_state_and_manifest_give_the_same_figures(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    table.emulator.script(match="7", block="SAFETY")
    manifest = table.ask(source=things(*(f"thing {number}" for number in range(40))), max_failed_rows=None)

    state = table.run.store.values[PROGRESS_KEY]
    in_log = [line for line in lines_of(caplog) if line.startswith("Billed")]
    assert manifest["cost"] > 0
    assert state["cost"] == manifest["cost"] == pytest.approx(sum(entry.cost for entry in table.emulator.bill))
    assert in_log == [f"Billed in this run: {format_usd(state['cost'])} for {manifest['requests']} requests"]
    assert state["outcomes"] == {name: count for name, count in manifest["outcomes"].items() if count}
    assert not re.search(r"\d(?:\.\d+)?e-\d", caplog.text)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"rows": 0}, "There are no rows to answer, $0.00 billed in this run"),
        ({"rows": 1}, "The only row answered, $0.00035 billed in this run"),
        ({"rows": 1, "failed": 1}, "0 of 1 row answered, 1 without an answer (1 failed), $0.00 billed in this run"),
        (
            {"rows": 5000, "failed": 1200},
            "3,800 of 5,000 rows answered, 1,200 without an answer (1,200 failed), $1.33 billed in this run",
        ),
    ],
)
def test_a_run_is_summarized_in_one_line(fields: dict[str, Any], line: str) -> None:
    manifest = manifest_of(fields.pop("rows"), **fields)

    assert summarize(manifest) == line
    assert manifest.unanswered_rows == manifest.outcomes[Outcome.FAILED]
