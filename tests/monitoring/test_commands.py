"""The commands over a real metadata database, a real ledger and the emulator: what they print, and their exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_segmind.client.models import RecordPage, RequestRecord
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.spend import reconcile
from tests.support.monitoring_commands import (
    Command,
    account,
    add_connection,
    command,
    ledger_of,
    manifest_file,
    stored,
    table,
    wait_for,
)
from tests.support.table_tasks import Table

if TYPE_CHECKING:
    from tests.support.metadata import Metadata

__all__ = ["account", "command", "stored", "table"]
pytestmark = pytest.mark.airflow


def test_check_calls_every_account_of_the_database(account: SegmindEmulator, command: Command) -> None:
    code, printed = command("check")

    assert code == 0
    assert "segmind_default" in printed
    assert "yes" in printed
    assert "$100.00" in printed
    assert "records of requests  Airflow's task state store" in printed
    assert account.api_key not in printed
    assert account.posts() == []


def test_check_as_json_has_exact_figures(
    account: SegmindEmulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__SEGMIND__ANSWERS_PATH", "s3://bucket/answers")
    code, printed = command("check", "--output", "json")

    found = json.loads(printed)
    assert code == 0
    assert found["connections"][0]["works"] is True
    assert found["connections"][0]["balance_micros"] == 100_000_000
    assert found["paused"] is None
    assert found["stores"]["answer_cache"] == "s3://bucket/answers ([segmind] answers_path)"
    assert found["stores"]["spend_record"].startswith("none")
    assert account.api_key not in printed


def test_check_fails_with_a_wrong_key_and_does_not_show_it(
    stored: Metadata, account: SegmindEmulator, command: Command
) -> None:
    wrong = {**json.loads(account.connection_json), "password": "SG_wrong_key_0123456789"}
    add_connection(stored, "segmind_default", json.dumps(wrong))

    code, printed = command("check")

    assert code == 1
    assert "NO" in printed
    assert "401" in printed
    assert "SG_wrong" not in printed


def test_check_fails_where_the_connection_is_missing_or_the_spend_record_is_configured_twice(
    account: SegmindEmulator, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = command("check", "--conn-id", "nowhere")
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_PATH", str(tmp_path))
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_CONN_ID", "warehouse")
    twice = command("check")
    monkeypatch.delenv("AIRFLOW__SEGMIND__SPEND_PATH")
    nowhere = command("check")

    assert missing[0] == twice[0] == nowhere[0] == 1
    assert "`warehouse` isn't defined" in nowhere[1]
    assert "$100.00" in nowhere[1]
    assert "`nowhere` isn't defined" in missing[1]
    assert "spend_path and spend_conn_id are both set" in twice[1]


@pytest.mark.parametrize(
    ("extra", "budgets", "redis", "code"),
    [
        ({}, "", "", 0),
        ({"daily_budget": 1}, "", "", 1),
        ({"max_paid_in_flight": 3}, "", "", 1),
        ({}, '{"team": {"daily": 1}}', "", 1),
        ({"daily_budget": 1}, '{"team": {"daily": 1}}', "redis://127.0.0.1:6379/0", 0),
    ],
)
def test_check_minds_a_database_that_keeps_no_budgets_only_where_there_are_some(
    stored: Metadata,
    account: SegmindEmulator,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    extra: dict[str, Any],
    budgets: str,
    redis: str,
    code: int,
) -> None:
    given = json.loads(account.connection_json)
    add_connection(stored, "segmind_default", json.dumps({**given, "extra": {**given["extra"], **extra}}))
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "duckdb", "host": ":memory:"}))
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_CONN_ID", "warehouse")
    monkeypatch.setenv("AIRFLOW__SEGMIND__BUDGETS", budgets)
    monkeypatch.setenv("AIRFLOW__SEGMIND__BUDGET_REDIS_URL", redis)

    found, printed = command("check")

    assert found == code
    assert ("cannot be kept in connection 'warehouse'" in printed) == (not redis)
    assert ("none is set, and none could be kept" in printed) == (code == 0 and not redis)
    assert ("Redis at 127.0.0.1:6379" in printed) == bool(redis)


def test_requests_lists_what_tasks_wait_for(stored: Metadata, account: SegmindEmulator, command: Command) -> None:
    request_id = wait_for(stored, account)

    code, printed = command("requests")
    as_json = json.loads(command("requests", "--output", "json")[1])

    assert code == 0
    assert request_id in printed
    assert re.search(r" 5 min \d+ s +5[45] min \d+ s", printed)
    assert "1 request in flight." in printed
    assert as_json[0]["task"]["task_id"] == "ask"
    assert as_json[0]["submitted_at"].endswith("+00:00")


def test_requests_can_be_selected_and_polled(stored: Metadata, account: SegmindEmulator, command: Command) -> None:
    request_id = wait_for(stored, account, dag_id="shop")

    assert "No task is known to wait" in command("requests", "--dag", "other")[1]
    assert "No task is known to wait" in command("requests", "--model", "other")[1]
    assert "No task is known to wait" in command("requests", "--state", "FAILED")[1]
    polled = json.loads(command("requests", "--dag", "shop", "--poll", "-o", "json")[1])
    assert [one["request_id"] for one in polled] == [request_id]
    assert polled[0]["state"] in ("QUEUED", "PROCESSING", "COMPLETED")


def test_the_history_shows_what_no_task_has_submitted(
    stored: Metadata, account: SegmindEmulator, command: Command
) -> None:
    ours, other = wait_for(stored, account), wait_for(stored, account, "lost")
    from airflow_provider_segmind.compat import TaskInstance

    stored.session.query(TaskInstance).filter(TaskInstance.task_id == "lost").delete()
    stored.session.commit()

    code, printed = command("requests", "--at-segmind", "-o", "json")

    assert code == 0
    assert {one["request_id"]: one["known"] for one in json.loads(printed)} == {ours: True, other: False}
    assert "1 of them unknown" in command("requests", "--at-segmind")[1]


def test_the_history_of_one_model_is_listed_without_those_of_longer_names(
    stored: Metadata, account: SegmindEmulator, command: Command
) -> None:
    from airflow_provider_segmind.monitoring.reader import CoreHook

    hook = CoreHook()
    wanted = [hook.submit(name, {"prompt": "a"}).request_id for name in ("gemini-2.5-flash", "gemini-2.5-flash-lite")]
    hook.close()

    listed = json.loads(command("requests", "--at-segmind", "--model", "gemini-2.5-flash", "-o", "json")[1])

    assert [one["request_id"] for one in listed] == wanted[:1]


@pytest.mark.parametrize(("limit", "pages"), [(3, 2), (4, 2), (5, 3), (100, 4)])
def test_the_history_is_read_until_as_many_rows_as_wanted_were_found(
    account: SegmindEmulator, command: Command, monkeypatch: pytest.MonkeyPatch, limit: int, pages: int
) -> None:
    asked = []

    def page(self: Any, **filters: Any) -> RecordPage:
        asked.append(filters["page"])
        start = 2 * (filters["page"] - 1)
        return RecordPage(RequestRecord(request_id=f"r{number}") for number in range(6)[start : start + 2])

    monkeypatch.setattr("airflow_provider_segmind.monitoring.reader.CoreHook.list_request_records", page)

    listed = json.loads(command("requests", "--at-segmind", "--limit", str(limit), "-o", "json")[1])

    assert len(listed) == min(limit, 6)
    assert asked == list(range(1, pages + 1))


def test_a_history_that_is_not_read_to_its_end_says_so(
    account: SegmindEmulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def page(self: Any, **filters: Any) -> RecordPage:
        return RecordPage([RequestRecord(request_id="r")])

    monkeypatch.setattr("airflow_provider_segmind.monitoring.reader.CoreHook.list_request_records", page)

    assert "could not be read to its end" in command("requests", "--at-segmind")[1]


def test_the_history_is_not_listed_by_dag(account: SegmindEmulator, command: Command) -> None:
    code, printed = command("requests", "--at-segmind", "--dag", "shop")

    assert code == 2
    assert "--dag selects tasks" in printed


@pytest.mark.parametrize("limit", ["0", "-3", "many"])
@pytest.mark.parametrize("arguments", [("requests", "--at-segmind"), ("dead-letters", "a.manifest.json")])
def test_a_limit_is_at_least_1(command: Command, arguments: tuple[str, ...], limit: str) -> None:
    code, printed = command(*arguments, f"--limit={limit}")

    assert code == 2
    assert f"argument --limit: '{limit}' is not a whole number of 1 or more" in printed


def test_spend_completes_the_record_from_the_history(
    stored: Metadata, account: SegmindEmulator, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = command("spend", "--reconcile")
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_PATH", f"file://{tmp_path}/spend")
    wait_for(stored, account)
    # The last hour is left to the tasks.
    monkeypatch.setattr(reconcile, "RESULT_LIFETIME", -60.0)

    first = json.loads(command("spend", "--reconcile", "-o", "json")[1])
    code, again = command("spend", "--reconcile", "--since", "2d")

    (charge,) = account.bill
    assert without[0] == 1
    assert "no spend record to complete" in without[1]
    assert first["reconciled"] == [
        {"connection": "segmind_default", "added": 1, "priced": 0, "cost_micros": round(charge.cost * 1e6, 6)}
    ]
    assert first["total"]["cost_micros"] == round(charge.cost * 1e6, 6)
    assert code == 0
    assert "0 requests added" in again


@pytest.mark.parametrize("arguments", [("spend",), ("spend", "--reconcile"), ("requests", "--at-segmind")])
def test_a_spend_record_that_cannot_be_read_is_one_message(
    stored: Metadata,
    account: SegmindEmulator,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
) -> None:
    wait_for(stored, account)
    (tmp_path / "spend.sqlite").write_bytes(b"no database" * 100)
    warehouse = {"conn_type": "sqlite", "host": str(tmp_path / "spend.sqlite")}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(warehouse))
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_CONN_ID", "warehouse")

    code, printed = command(*arguments)

    assert code == 1
    assert "The spend record (the table segmind_spend of connection 'warehouse') cannot be used" in printed


def test_the_record_is_completed_for_named_accounts_and_one_that_fails_does_not_stop_the_others(
    stored: Metadata, account: SegmindEmulator, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_PATH", f"file://{tmp_path}/spend")
    monkeypatch.setattr(reconcile, "RESULT_LIFETIME", -60.0)
    wait_for(stored, account)
    given = json.loads(account.connection_json)
    add_connection(stored, "a_wrong_key", json.dumps({**given, "password": "SG_wrong"}))
    monkeypatch.setenv("AIRFLOW_CONN_OF_THE_ENVIRONMENT", account.connection_json)
    named = ("--conn-id", "a_wrong_key", "--conn-id", "nowhere", "--conn-id", "of_the_environment")

    code, printed = command("spend", "--reconcile", *named, "-o", "json")
    found = json.loads(printed)
    spoken = command("spend", "--reconcile", *named)
    fine = command("spend", "--reconcile", "--conn-id", "of_the_environment")
    all_of_the_database = command("spend", "--reconcile")
    alone = command("spend", "--conn-id", "of_the_environment")

    wrong, missing, good = found["reconciled"]
    assert code == spoken[0] == all_of_the_database[0] == 1
    assert alone[0] == 2
    assert "SG_wrong" not in printed
    assert "401" in wrong["error"]
    assert "nowhere" in missing["error"]
    assert (good["connection"], good["added"]) == ("of_the_environment", 1)
    assert found["total"]["requests"] == 1
    assert "a_wrong_key: its history could not be read" in spoken[1]
    assert fine[0] == 0
    assert "of_the_environment" not in all_of_the_database[1]
    assert "--reconcile" in alone[1]


@pytest.mark.parametrize("arguments", [("--by", "hour"), ("--since", "yesterday-ish")])
def test_spend_names_an_argument_it_cannot_read(command: Command, arguments: tuple[str, str]) -> None:
    code, printed = command("spend", *arguments)

    assert code == 2
    assert arguments[0] in printed
    assert len(printed.splitlines()) == 1
    if arguments[0] == "--since":
        assert "today, or a span such as 12h, 7d or 4w" in printed


def test_dead_letters_are_json_lines_that_can_be_filtered(table: Table, command: Command) -> None:
    code, printed = command("dead-letters", manifest_file(table))

    (letter,) = map(json.loads, printed.splitlines())
    assert code == 0
    assert (letter["key"], letter["outcome"], letter["attempts"]) == ({"id": 1}, "failed", 1)
    assert "too red" in letter["reason"]
    assert command("dead-letters", manifest_file(table), "--outcome", "truncated") == (0, "")
    assert command("dead-letters", manifest_file(table), "--reason", "blue") == (0, "")
    assert command("dead-letters", str(ledger_of(table)))[0] == 1


@pytest.mark.parametrize("variable", [True, False])
def test_resume_says_what_still_pauses(
    account: SegmindEmulator, command: Command, monkeypatch: pytest.MonkeyPatch, variable: bool
) -> None:
    if variable:
        command("pause", "--reason", "over budget")
    monkeypatch.setenv("AIRFLOW_VAR_SEGMIND_PAUSED", "the platform team")

    code, printed = command("resume")
    monkeypatch.delenv("AIRFLOW_VAR_SEGMIND_PAUSED")

    assert code == 1
    assert "still paused: the platform team" in printed
    assert "AIRFLOW_VAR_SEGMIND_PAUSED" in printed
    assert "allowed again" not in printed
    assert "spending             allowed" in command("check")[1]


def test_pause_and_resume_set_and_delete_the_variable(
    stored: Metadata, account: SegmindEmulator, command: Command
) -> None:
    paused = command("pause", "--reason", "over budget")
    checked = command("check")
    resumed, again = command("resume"), command("resume")

    assert paused[0] == checked[0] == resumed[0] == 0
    assert "over budget" in paused[1]
    assert "PAUSED: over budget" in checked[1]
    assert "it was paused: over budget" in resumed[1]
    assert "was not paused" in again[1]
