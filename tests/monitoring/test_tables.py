"""A table, and one of its rows, from a manifest and a ledger."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.enrichment.progress_file import write_progress
from airflow_provider_segmind.monitoring.tables import is_key
from tests.support.monitoring_commands import MODEL, Command, account, command, ledger_of, manifest_file, stored, table
from tests.support.table_tasks import Table

if TYPE_CHECKING:
    from tests.support.metadata import Metadata

__all__ = ["account", "command", "stored", "table"]
pytestmark = pytest.mark.airflow


def test_requests_of_a_table_are_known_to_its_ledger(
    stored: Metadata, account: SegmindEmulator, table: Table, command: Command
) -> None:
    assert "4 of them unknown" in command("requests", "--at-segmind")[1]
    own = stored.task("table", "SegmindEnrichFileOperator", "failed")
    stored.xcom(own, "segmind_table", {"ledger": str(ledger_of(table)), "manifest": None})
    stored.session.commit()

    assert "0 of them unknown" in command("requests", "--at-segmind")[1]


def test_a_table_is_shown_from_its_manifest(table: Table, command: Command) -> None:
    code, printed = command("table", manifest_file(table))
    found = json.loads(command("table", manifest_file(table), "-o", "json")[1])

    assert code == 0
    assert "success: 4" in printed
    assert "failed: 1" in printed
    assert str(table.output) in printed
    assert (found["rows_read"], found["distinct_rows"], found["outcomes"]) == (5, 4, {"success": 4, "failed": 1})
    assert found["ledger"] == str(ledger_of(table))
    assert found["cost_micros"] == round(sum(row["_segmind_cost"] for row in table.rows) * 1e6, 6)


def test_a_table_is_shown_from_its_ledger_with_the_progress_of_running_tasks(table: Table, command: Command) -> None:
    ledger = ledger_of(table)
    write_progress(ledger, "shop/monday/t/-1", {"rows_done": 7, "rows_total": 9, "cost": 0.5, "at": time.time()})

    code, printed = command("table", str(ledger))
    found = json.loads(command("table", str(ledger), "-o", "json")[1])

    assert code == 0
    assert "rows_done: 7" in printed
    assert "cost: $0.50" in printed
    assert (found["outcomes"], found["distinct_rows"]) == ({"success": 3, "failed": 1}, 4)
    (run,) = found["runs"]
    assert (run["run"], run["distinct_rows"]) == ("a_dag/manual__1/a_task/-1", 4)
    assert found["cost_micros"] == run["cost_micros"] > 0


@pytest.mark.parametrize(
    ("wanted", "value", "same"),
    [
        ("1.1", Decimal("1.100"), True),
        ('{"id": 1}', 1.0, True),
        ('{"id": 1.1}', "1.10", True),
        ('{"id": "1.1"}', "1.10", False),
        ("007", 7, False),
        ("1", True, False),
        ('{"id": true}', 1, False),
        ('{"id": null}', "", False),
        ('{"id": null}', "None", False),
        ("2024-01-01T02:00:00+02:00", datetime(2024, 1, 1, tzinfo=UTC), True),
        ("2024-01-01T00:00:00", datetime(2024, 1, 1, tzinfo=UTC), False),
    ],
)
def test_a_key_is_the_same_in_every_form_that_a_file_gives_it(wanted: str, value: Any, same: bool) -> None:
    assert is_key(wanted, {"id": value}) is same


@pytest.mark.parametrize("wanted", ["2", '{"id": 2}'])
def test_a_row_is_found_by_its_key(table: Table, command: Command, wanted: str) -> None:
    code, printed = command("table", manifest_file(table), "--row", wanted, "-o", "json")

    row = json.loads(printed)
    assert code == 0
    assert row["columns"] == {"id": 2, "answer": "echo: The colour of snow?"}
    assert (row["outcome"], row["model"], row["run"]) == ("success", MODEL, "a_dag/manual__1/a_task/-1")
    assert row["prompt"]["template"]["prompt"] == "The colour of {thing}?"
    assert row["cost_micros"] > 0
    assert row["asked_at"] <= row["finished_at"]


def test_a_row_without_an_answer_is_found_by_key_request_id_and_fingerprint(table: Table, command: Command) -> None:
    by_key = json.loads(command("table", manifest_file(table), "--row", "1", "-o", "json")[1])
    by_id = json.loads(command("table", str(ledger_of(table)), "--row", by_key["request_ids"][0], "-o", "json")[1])
    by_mark = json.loads(command("table", str(ledger_of(table)), "--row", by_key["fingerprint"], "-o", "json")[1])

    assert by_key["outcome"] == by_id["outcome"] == "failed"
    assert by_id == by_mark
    assert "too red" in by_key["reason"]


def test_a_row_that_is_not_there_says_where_to_look(table: Table, command: Command) -> None:
    in_manifest = command("table", manifest_file(table), "--row", "77")
    in_ledger = command("table", str(ledger_of(table)), "--row", "1")
    nothing = command("table", str(table.output.parent / "nothing"))

    assert in_manifest[0] == in_ledger[0] == nothing[0] == 1
    assert "no dead letter has the key '77'" in in_manifest[1]
    assert "A ledger does not know keys" in in_ledger[1]
    assert "neither the folder of a ledger nor a manifest" in nothing[1]
