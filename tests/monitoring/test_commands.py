"""The commands over a real metadata database, a real ledger and the emulator: what they print, and their exit codes."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_segmind.budget.limits import CONNECTION_BUDGET, BudgetRule, windows
from airflow_provider_segmind.budget.store import Granted, Reservation
from airflow_provider_segmind.client.models import RecordPage, RequestRecord
from airflow_provider_segmind.client.submission import Fingerprint, SubmissionRecord
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.enrichment.progress_file import write_progress
from airflow_provider_segmind.hooks.budgets import budget_store
from airflow_provider_segmind.monitoring.cli import main
from airflow_provider_segmind.spend import reconcile
from tests.support.manifests import manifest_of
from tests.support.table_tasks import Table, things

if TYPE_CHECKING:
    from tests.support.metadata import Metadata

pytestmark = pytest.mark.airflow
MODEL = "gemini-3.1-flash-lite"
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def stored(airflow_database: Path) -> Iterator[Metadata]:
    from tests.support.metadata import stored_metadata

    with stored_metadata() as opened:
        yield opened


@pytest.fixture
def account(stored: Metadata, segmind_emulator: SegmindEmulator, monkeypatch: pytest.MonkeyPatch) -> SegmindEmulator:
    """The emulator behind ``segmind_default``, a Connection of the metadata database alone."""
    monkeypatch.delenv("AIRFLOW_CONN_SEGMIND_DEFAULT", raising=False)
    add_connection(stored, "segmind_default", segmind_emulator.connection_json)
    return segmind_emulator


@pytest.fixture
def command(stored: Metadata, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command; return its exit code and what it printed."""
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(arguments)
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out + printed.err

    return run


@pytest.fixture
def table(tmp_path: Path, account: SegmindEmulator, monkeypatch: pytest.MonkeyPatch) -> Table:
    """Five rows, of which one failed and two are equal."""
    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", account.connection_json)
    made = Table(tmp_path, account)
    account.script(match="rose", fail="too red \x1b[31m[bold]indeed[/bold]")
    made.ask(source=things("sky", "rose", "snow", "coal", "sky"), max_failed_rows=None)
    return made


def add_connection(stored: Metadata, conn_id: str, text: str) -> None:
    from sqlalchemy import delete

    from airflow_provider_segmind.compat import CoreConnection

    stored.session.execute(delete(CoreConnection))
    stored.session.add(CoreConnection.from_json(text, conn_id=conn_id))
    stored.session.commit()


def manifest_file(table: Table) -> str:
    return str(table.output.with_name("colours.manifest.json"))


def ledger_of(table: Table) -> Path:
    return table.output.parent / "_segmind_ledger"


def wait_for(stored: Metadata, account: SegmindEmulator, task_id: str = "ask", **task: Any) -> str:
    """Submit a request, and add the unfinished task that has its record; return its id."""
    from airflow_provider_segmind.monitoring.reader import CoreHook

    hook = CoreHook()
    submitted = hook.submit(MODEL, {"messages": [{"role": "user", "content": task_id}]})
    hook.close()
    fingerprint = Fingerprint.of(model=MODEL, inputs={}, connection="segmind_default at http://localhost")
    record = SubmissionRecord(fingerprint, time.time() - 300, submitted.request_id, time.time() - 300)
    stored.state(stored.task(task_id, "SegmindChatOperator", "running", **task), "segmind_request", record.to_json())
    stored.session.commit()
    return submitted.request_id


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

    assert missing[0] == twice[0] == 1
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


def test_budgets_shows_what_is_spent_reserved_and_left(
    stored: Metadata, account: SegmindEmulator, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = json.loads(account.connection_json)
    limited = {**given, "extra": {**given["extra"], "daily_budget": 2, "max_paid_in_flight": 7}}
    add_connection(stored, "segmind_default", json.dumps(limited))
    database = {"conn_type": "sqlite", "host": str(tmp_path / "budgets.sqlite")}
    monkeypatch.setenv("AIRFLOW_CONN_A_DATABASE", json.dumps(database))
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_CONN_ID", "a_database")
    monkeypatch.setenv("AIRFLOW__SEGMIND__BUDGETS", '{"team-a": {"monthly": 100}}')
    use_budget(spent=250_000, reserved=500_000)

    code, printed = command("budgets")
    found = json.loads(command("budgets", "-o", "json")[1])

    assert code == 0
    assert re.search(r"connection segmind_default +\S+ +\$2\.00 +\$0\.25 +\$0\.50 +\$1\.25", printed)
    assert re.search(r"team-a +\d{4}-\d\d +\$100\.00 +\$0\.00 +\$0\.00 +\$100\.00", printed)
    assert "segmind_default: 1 of 7 paid requests in flight." in printed
    assert [one["left_micros"] for one in found["windows"]] == [1_250_000, 100_000_000]
    assert [one["budget"] for one in found["windows"]] == ["connection:segmind_default", "team-a"]
    assert found["in_flight"] == [{"connection": "segmind_default", "in_flight": 1, "max_paid_in_flight": 7}]
    assert "a_database" in command("check")[1]


def test_budgets_without_a_store_are_an_error_and_no_budgets_are_none(
    account: SegmindEmulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = command("budgets")
    monkeypatch.setenv("AIRFLOW__SEGMIND__BUDGETS", '{"team-a": {"daily": 1}}')
    homeless = command("budgets")

    assert none[0] == 0
    assert "No budget is set" in none[1]
    assert homeless[0] == 1
    assert "Budget 'team-a' needs a store that all tasks share" in homeless[1]


def use_budget(*, spent: int, reserved: int) -> None:
    """Let one request of ``segmind_default`` be billed, and one be in flight; micro-dollars."""
    store = budget_store()
    assert store is not None
    now = time.time()
    own = windows([BudgetRule(f"{CONNECTION_BUDGET}segmind_default", 2_000_000, None)], now)
    for name, amount in (("billed", spent), ("open", reserved)):
        request = Reservation(
            id=name,
            owner="shop/monday/ask/-1",
            kind="request",
            amount=amount,
            windows=tuple(window.key for window in own),
            slots=1,
            connection="segmind_default",
            model="a-model",
            reserved_at=now,
            renewed_at=now,
        )
        assert isinstance(store.reserve(request, own, max_in_flight=None), Granted)
    assert store.settle("billed", spent)


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


def test_the_history_is_not_listed_by_dag(account: SegmindEmulator, command: Command) -> None:
    code, printed = command("requests", "--at-segmind", "--dag", "shop")

    assert code == 1
    assert "--dag selects tasks" in printed


def test_requests_of_a_table_are_known_to_its_ledger(
    stored: Metadata, account: SegmindEmulator, table: Table, command: Command
) -> None:
    assert "4 of them unknown" in command("requests", "--at-segmind")[1]
    own = stored.task("table", "SegmindEnrichFileOperator", "failed")
    stored.xcom(own, "segmind_table", {"ledger": str(ledger_of(table)), "manifest": None})
    stored.session.commit()

    assert "0 of them unknown" in command("requests", "--at-segmind")[1]


def test_a_table_that_is_wider_than_the_terminal_is_printed_row_by_row(
    stored: Metadata, account: SegmindEmulator, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = wait_for(stored, account, "a_long_name_" * 9)
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True)

    _, printed = command("requests")

    lines = re.sub(r"\x1b\[\d*m", "", printed).splitlines()
    assert max(map(len, lines)) <= 72
    assert f"request     {request_id}" in [line.rstrip() for line in lines]
    assert "a_long_name_" * 9 in "".join(line.removeprefix("task").strip() for line in lines)


def test_spend_shows_what_xcoms_and_manifests_have(stored: Metadata, command: Command) -> None:
    chat = stored.task("ask", "SegmindChatOperator")
    for key, value in (("cost", 0.0000123), ("request_id", "r-1"), ("usage", {"total_tokens": 30})):
        stored.xcom(chat, key, value)
    for task, operator in (("wait", "SegmindRequestSensor"), ("result", "SegmindResultOperator")):
        body = {"request_id": "r-2", "model": "a-model", "metrics": {"cost": 0.5}}
        stored.xcom(stored.task(task, operator), "return_value", body)
    manifest = manifest_of(10, failed=2, cost=0.25, unpriced=1, requests=10)
    stored.xcom(stored.task("table", "SegmindEnrichFileOperator"), "return_value", manifest.to_json())
    stored.xcom(stored.task("other", "PythonOperator"), "cost", 99.0)
    stored.session.commit()

    code, printed = command("spend", "--by", "task", "-o", "json")
    found = json.loads(printed)

    assert code == 0
    assert found["source"] == "XComs and manifests"
    assert found["total"] == {"requests": 12, "cost_micros": 750_012, "unpriced": 1, "tokens": 30 + manifest.tokens}
    by_task = {one["task"]: one["cost_micros"] for one in found["groups"]}
    assert by_task == {"result": 500_000, "table": 250_000, "ask": 12} or "wait" in by_task
    shown = command("spend", "--by", "day,model")[1]
    assert "$0.75" in shown
    assert "2026-11-26" in shown
    assert "No spend record is configured" in shown


def test_spend_comes_from_the_record_where_there_is_one(
    stored: Metadata, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_segmind.spend.entries import SpendEntry
    from airflow_provider_segmind.spend.store import configured_store

    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_PATH", f"file://{tmp_path}/spend")
    store = configured_store()
    assert store is not None
    about = {"connection": "segmind_default", "model": MODEL, "outcome": "success", "task_id": "t", "run_id": "r"}
    day = 86_400.0
    store.write(
        [
            SpendEntry(at=time.time() - 9 * day, dag_id="a", request_id="r-1", cost_micros=10.4, **about),
            SpendEntry(at=time.time(), dag_id="a", request_id="r-2", cost_micros=20.4, **about),
            SpendEntry(at=time.time(), dag_id="b", request_id="r-3", cost_micros=None, **about),
            SpendEntry(at=time.time(), dag_id="b", request_id="r-4", cost_micros=0.0, reused=True, **about),
        ]
    )

    everything = json.loads(command("spend", "-o", "json")[1])
    recent = json.loads(command("spend", "--since", "7d", "--dag", "a", "-o", "json")[1])

    assert everything["source"] == "spend record"
    assert everything["total"] == {"requests": 3, "cost_micros": 31, "unpriced": 1, "tokens": 0}
    assert [(one["dag"], one["cost_micros"]) for one in everything["groups"]] == [("a", 31), ("b", 0)]
    assert recent["total"]["cost_micros"] == 20


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
        {"connection": "segmind_default", "added": 1, "priced": 0, "cost_micros": round(charge.cost * 1e6)}
    ]
    assert first["total"]["cost_micros"] == round(charge.cost * 1e6)
    assert code == 0
    assert "0 requests added" in again


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
    assert code == spoken[0] == all_of_the_database[0] == alone[0] == 1
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

    assert code == 1
    assert arguments[0] in printed
    assert len(printed.splitlines()) == 1


def test_dead_letters_are_json_lines_that_can_be_filtered(table: Table, command: Command) -> None:
    code, printed = command("dead-letters", manifest_file(table))

    (letter,) = map(json.loads, printed.splitlines())
    assert code == 0
    assert (letter["key"], letter["outcome"], letter["attempts"]) == ({"id": 1}, "failed", 1)
    assert "too red" in letter["reason"]
    assert command("dead-letters", manifest_file(table), "--outcome", "truncated") == (0, "")
    assert command("dead-letters", manifest_file(table), "--reason", "blue") == (0, "")
    assert command("dead-letters", str(ledger_of(table)))[0] == 1


def test_a_table_is_shown_from_its_manifest(table: Table, command: Command) -> None:
    code, printed = command("table", manifest_file(table))
    found = json.loads(command("table", manifest_file(table), "-o", "json")[1])

    assert code == 0
    assert "success: 4" in printed
    assert "failed: 1" in printed
    assert str(table.output) in printed
    assert (found["rows_read"], found["distinct_rows"], found["outcomes"]) == (5, 4, {"success": 4, "failed": 1})
    assert found["ledger"] == str(ledger_of(table))
    assert found["cost_micros"] == round(sum(row["_segmind_cost"] for row in table.rows) * 1e6)


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


def test_characters_that_steer_a_terminal_are_not_printed_and_markup_is_text(table: Table, command: Command) -> None:
    _, printed = command("table", manifest_file(table), "--row", "1")

    assert "\x1b" not in printed
    assert "[bold]indeed[/bold]" in printed


def test_a_row_that_is_not_there_says_where_to_look(table: Table, command: Command) -> None:
    in_manifest = command("table", manifest_file(table), "--row", "77")
    in_ledger = command("table", str(ledger_of(table)), "--row", "1")
    nothing = command("table", str(table.output.parent / "nothing"))

    assert in_manifest[0] == in_ledger[0] == nothing[0] == 1
    assert "no dead letter has the key '77'" in in_manifest[1]
    assert "A ledger does not know keys" in in_ledger[1]
    assert "neither the folder of a ledger nor a manifest" in nothing[1]


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
