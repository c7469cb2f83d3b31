"""What a dry run of a table says, without paying."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.airflow_fakes import Run
from tests.support.table_tasks import Table, things


def test_a_dry_run_skips_the_rows_that_a_run_skips(table: Table) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    rows = [*things("sky", "rose"), {"id": 2, "thing": deep}]

    estimate = table.ask(source=rows, dry_run=True)
    outcomes = table.ask(source=rows, on_partial="succeed")["outcomes"]

    assert (estimate["rows"], estimate["skipped_rows"]) == (outcomes["success"], outcomes["skipped"]) == (2, 1)


def test_dry_runs_of_shards_count_a_row_that_cannot_be_asked_once(table: Table) -> None:
    source = table.write([*things("sky", "rose"), {"id": 2}])

    estimates = [table.ask(source=source, dry_run=True, shard_index=index, shard_count=3) for index in range(3)]

    assert sum(estimate["rows"] for estimate in estimates) == 2
    assert sum(estimate["skipped_rows"] for estimate in estimates) == 1


def test_a_dry_run_submits_nothing_and_excludes_answered_rows(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    table.ask(source=table.write(things("sky")))

    estimate = table.ask(source=table.write(things("sky", "rose", "rose")), dry_run=True, options={"max_tokens": 10})
    again = table.ask(source=table.write(things("sky", "rose", "rose")), dry_run=True)

    assert table.posts == 1
    assert (estimate["rows"], estimate["distinct_rows"], estimate["answered_rows"]) == (3, 2, 0)
    assert again["answered_rows"] == 1
    assert 0 < again["low"] < again["high"]
    assert again["balance"] > 0
    assert re.search(
        r"input tokens, \$\S+ to \$\S+, which the balance of \$\S+ covers\. Nothing was submitted", caplog.text
    )


@pytest.mark.parametrize("rerun", ["nothing", "unbilled", ["blocked"], ["blocked", "failed"], "dead_letters"])
def test_a_dry_run_counts_only_rows_that_a_run_would_send(table: Table, rerun: Any) -> None:
    table.emulator.script(match="rose", fail="too red", times=None)
    table.emulator.script(match="blood", block="SAFETY", times=None)
    rows = {"source": table.write(things("sky", "rose", "blood", "blood")), "max_failed_rows": None}
    table.ask(**rows)

    estimate, before = table.ask(**rows, dry_run=True, rerun=rerun), table.posts
    table.run = Run(run_id="the_next")
    table.ask(**rows, rerun=rerun)

    sent = table.posts - before
    assert (estimate["answered_rows"], estimate["final_rows"]) == (1, 2 - sent)
    assert (estimate["high"] > 0) == (sent > 0)


def test_a_dry_run_says_what_is_left_of_the_budget(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {"source": table.write(things("sky")), "dry_run": True, "options": {"max_tokens": 1000}}
    unlimited = table.ask(**rows)
    connection = json.loads(os.environ["AIRFLOW_CONN_SEGMIND_DEFAULT"])
    connection["extra"] |= {"daily_budget": 0.0001, "monthly_budget": 5}
    database = {"conn_type": "sqlite", "host": str(tmp_path / "budgets.sqlite")}
    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", json.dumps(connection))
    monkeypatch.setenv("AIRFLOW_CONN_A_DATABASE", json.dumps(database))
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_CONN_ID", "a_database")

    limited = table.ask(**rows)

    assert (unlimited["budget_left"], limited["budget_left"]) == (None, 0.0001)
    assert "The budget has $0.0001 left, less than the table may cost" in caplog.text
