"""The command ``forget``: it says what it would remove, removes it with --yes, and proves it by a search."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.answer_cache import Answer, AnswerCache, question_fingerprint
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.enrichment.files.readers import open_source
from airflow_provider_segmind.monitoring.cli import main
from airflow_provider_segmind.monitoring.tables import find_row, open_table
from tests.execution.test_sql_table import Shop
from tests.support.databases import opened
from tests.support.table_tasks import Table, things

DAY = 86_400.0
Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command; return its exit code and what it printed."""
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(("forget", *arguments))
        printed = capsys.readouterr()
        return int(left.value.code or 0), printed.out + printed.err

    return run


@pytest.fixture
def table(tmp_path: Path, segmind_emulator: SegmindEmulator, monkeypatch: pytest.MonkeyPatch) -> Table:
    monkeypatch.setenv("AIRFLOW__SEGMIND__ANSWERS_PATH", str(tmp_path / "answers"))
    made = Table(tmp_path, segmind_emulator)
    segmind_emulator.script(match="rose", fail="too red", times=None)
    made.ask(source=things("sky", "rose", "snow"), max_failed_rows=None, reuse_answers="always")
    return made


def manifest(table: Table) -> str:
    return str(table.output.with_name("colours.manifest.json"))


def test_old_answers_are_listed_and_removed_with_yes(tmp_path: Path, command: Command) -> None:
    cache = AnswerCache(tmp_path / "answers")
    for age in (1, 89, 91, 200):
        question = question_fingerprint("m", {"age": age})
        at = time.time() - age * DAY
        cache.keep(Answer(fingerprint=question, model="m", at=at, request_id=f"r{age}", body=b"{}"))
    old = ("--older-than", "90d", "--answers-path", str(tmp_path / "answers"))

    code, printed = command(*old)
    assert code == 0
    assert "4 answers in the answer cache, 2 of them older than 90d" in printed
    assert "Nothing was changed" in printed
    assert len(list(cache.all())) == 4

    code, printed = command(*old, "--yes")
    assert code == 0
    assert "Removed. A search for it now finds 0." in printed
    assert len(list(cache.all())) == 2
    assert json.loads(command(*old, "-o", "json")[1])["found"] == []
    # With nothing left to remove it says so.
    code, printed = command(*old, "--yes")
    assert code == 0
    assert printed.rstrip().endswith("Nothing was changed.")
    assert json.loads(command(*old, "--yes", "-o", "json")[1])["removed"] is False


def test_a_row_is_listed_then_removed_and_nothing_remains(table: Table, command: Command) -> None:
    row = (manifest(table), "--row", "0")

    code, printed = command(*row)
    assert code == 0
    assert "Nothing was changed; --yes removes it." in printed
    for what in ("answer", "ledger", "output"):
        assert what in printed
    assert len(table.rows) == 3

    removed = json.loads(command(*row, "--yes", "-o", "json")[1])
    assert {one["what"] for one in removed["found"]} == {"answer", "ledger", "output"}
    assert removed["left"] == []
    assert [row["id"] for row in table.rows] == [1, 2]

    code, printed = command(*row)
    assert code == 1
    assert "No such row was found." in printed


@pytest.mark.parametrize("mark", ["request_id", "fingerprint"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_row_named_by_its_request_or_fingerprint_leaves_the_output_too(
    table: Table, command: Command, suffix: str, mark: str
) -> None:
    table.output = table.output.with_suffix(suffix)
    table.ask(source=things("ice", "tea"))
    request_id = next(row["_segmind_request_id"] for row in open_source(table.output) if str(row["id"]) == "0")
    row = find_row(request_id, open_table(manifest(table)))
    wanted = request_id if mark == "request_id" else row["fingerprint"]

    found = json.loads(command(manifest(table), "--row", wanted, "--yes", "-o", "json")[1])

    assert {one["what"] for one in found["found"]} == {"ledger", "output"}
    assert found["left"] == []
    assert [str(row["id"]) for row in open_source(table.output)] == ["1"]
    assert request_id.encode() not in table.output.read_bytes()


def test_a_row_without_an_answer_is_removed_from_dead_letters_and_the_report(table: Table, command: Command) -> None:
    code, printed = command(manifest(table), "--row", '{"id": 1}', "--yes")

    assert code == 0
    assert "Removed. A search for it now finds 0." in printed
    assert table.dead_letters == []
    assert not table.output.with_name("colours.report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Give either --older-than"),
        (("--row", "7"), "Give either --older-than"),
        (("a.manifest.json",), "Give either --older-than"),
        (("--row", "7", "--older-than", "9d"), "Give either --older-than"),
        (("a.manifest.json", "--row", "7", "--older-than", "9d"), "Give either --older-than"),
        (("--older-than", "9 days", "--answers-path", "answers"), "--older-than is '9 days'; it must be"),
        (("--older-than", "9d"), "There is no answer cache"),
    ],
)
def test_wrong_arguments_change_nothing(arguments: tuple[str, ...], message: str, command: Command) -> None:
    code, printed = command(*arguments)
    assert code == (1 if "no answer cache" in message else 2)
    assert message in printed


def test_an_object_without_columns_is_not_every_row(table: Table, command: Command) -> None:
    code, printed = command(manifest(table), "--row", "{}", "--yes")
    assert code == 1
    assert "name a column" in printed
    assert len(table.rows) == 3


@pytest.fixture
def shop(tmp_path: Path, segmind_emulator: SegmindEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """A table in SQLite with three answers."""
    with opened("sqlite", tmp_path) as database:
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(database.airflow))
        made = Shop(tmp_path, segmind_emulator, database)
        made.stock("sky", "rose", "snow")
        made.ask()
        yield made


def test_a_row_of_a_database_table_is_deleted_by_its_key(shop: Shop, command: Command) -> None:
    row = (str(shop.reports / "answers.manifest.json"), "--row", "2")

    assert "shop:answers" in command(*row)[1]
    assert len(shop.answers) == 3
    code, printed = command(*row, "--yes")

    assert code == 0
    assert "Removed. A search for it now finds 0." in printed
    assert "No answer cache was searched" in printed
    assert [row["id"] for row in shop.answers] == [1, 3]
    shop.ask_the_next_day()
    assert shop.posts == 4


@pytest.mark.parametrize("column", ["_segmind_request_id", "_segmind_fingerprint"])
def test_a_row_of_a_database_table_is_deleted_by_its_request_or_fingerprint(
    shop: Shop, command: Command, column: str
) -> None:
    mark = next(row[column] for row in shop.answers if row["id"] == 2)

    code, printed = command(str(shop.reports / "answers.manifest.json"), "--row", mark, "--yes")

    assert code == 0
    assert "Removed. A search for it now finds 0." in printed
    assert [row["id"] for row in shop.answers] == [1, 3]


@pytest.mark.parametrize(("target", "report"), [('"All answers"', "All_answers"), ('main."a.b"', "main.a.b")])
def test_a_row_of_a_table_with_a_quoted_name_is_deleted_by_its_key(
    tmp_path: Path,
    segmind_emulator: SegmindEmulator,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    target: str,
    report: str,
) -> None:
    with opened("sqlite", tmp_path) as database:
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(database.airflow))
        shop = Shop(tmp_path, segmind_emulator, database)
        shop.stock("sky", "rose")
        assert shop.ask(target_table=target)["outputs"] == [f"shop:{target}"]

        command(str(tmp_path / "ledger" / "reports" / "shop" / f"{report}.manifest.json"), "--row", "2", "--yes")

        assert [row["id"] for row in database.dicts(target, "id")] == [1]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ([True, False], "true"),
        ([*map(datetime.fromisoformat, ("2024-01-01T05:00:00", "2024-01-01"))], "2024-01-01T05:00:00"),
        ([datetime(2024, 1, 1, 5, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)], "2024-01-01T05:00:00+00:00"),
        ([Decimal("1.10"), Decimal("2.555")], "1.10"),
        ([[1, 2], [3]], "[1,2]"),
        ([b"x", b"y"], "eA=="),
    ],
)
def test_a_row_is_found_by_its_key_in_every_format(
    table: Table, command: Command, suffix: str, keys: list[Any], wanted: str
) -> None:
    table.output = table.output.with_suffix(suffix)
    rows = [{"id": key, "thing": thing} for key, thing in zip(keys, ("ice", "tea"), strict=True)]
    table.ask(source=rows)

    code, printed = command(manifest(table), "--row", wanted, "--yes")

    assert (code, "Removed" in printed) == (0, True)
    assert [row["answer"] for row in open_source(table.output)] == ["echo: The colour of tea?"]


@pytest.mark.parametrize("keyed", ["2", '{"id": 2}'])
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres), "duckdb"])
def test_a_row_of_a_database_table_is_shown_by_its_key(
    tmp_path: Path,
    segmind_emulator: SegmindEmulator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    keyed: str,
) -> None:
    with opened(kind, tmp_path) as database:
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(database.airflow))
        shop = Shop(tmp_path, segmind_emulator, database)
        shop.stock("sky", "rose", "snow")
        shop.ask()
        manifest = str(tmp_path / "ledger" / "reports" / "shop" / "answers.manifest.json")

        def shown(*arguments: str) -> tuple[int, str]:
            capsys.readouterr()
            with pytest.raises(SystemExit) as left:
                main(["table", manifest, *arguments])
            printed = capsys.readouterr()
            return int(left.value.code or 0), printed.out + printed.err

        code, printed = shown("--row", keyed, "-o", "json")
        found = json.loads(printed)
        assert (code, found["outcome"], found["columns"]["id"]) == (0, "success", 2)
        assert found["cost_micros"] > 0
        assert "rose" in json.dumps(found["prompt"]) or found["prompt_hash"]
        for mark in (*found["request_ids"], found["fingerprint"]):
            by_mark = json.loads(shown("--row", mark, "-o", "json")[1])
            assert by_mark["request_ids"] == found["request_ids"]
        code, printed = shown("--row", "77")
        assert code == 1
        assert "has the key '77'" in printed


def test_old_rows_of_a_ledger_are_removed_and_newer_ones_are_kept(
    table: Table, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = str(tmp_path / "ledger")
    table.ask(source=things("moon"), max_failed_rows=None, ledger_path=ledger)
    between = time.time()
    table.ask(source=things("sun"), max_failed_rows=None, ledger_path=ledger)
    monkeypatch.setattr("airflow_provider_segmind.monitoring.commands._since", lambda *_: between)
    old = (ledger, "--older-than", "90d")

    code, printed = command(*old)
    assert code == 0
    assert "1 distinct row without an event since" in printed
    assert "it is paid for again" in printed
    code, printed = command(*old, "--yes")
    assert code == 0
    assert "Removed. A search for it now finds 0." in printed
    assert "0 distinct rows without an event" in command(*old)[1]

    posts = len(table.emulator.posts())
    table.ask(source=things("sun", "moon"), max_failed_rows=None, ledger_path=ledger)
    assert len(table.emulator.posts()) == posts + 1
