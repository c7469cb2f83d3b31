"""An enrichment from a query into a table pays once for each distinct row, and running it twice changes nothing."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sqlite3
import threading
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import AfterValidator, BaseModel

from airflow_provider_segmind.client.poll_schedule import PollSchedule, shared_history
from airflow_provider_segmind.compat import AirflowFailException, TaskDeferred
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.enrichment import engine
from airflow_provider_segmind.enrichment.manifest import Manifest, merge
from airflow_provider_segmind.enrichment.sql import batch_loader
from airflow_provider_segmind.enrichment.sql.answer_table import TableWriter, Target
from airflow_provider_segmind.enrichment.sql.batch_loader import BatchLoader
from airflow_provider_segmind.enrichment.sql.query import FETCH_ROWS, Query
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from airflow_provider_segmind.execution import enrichment
from airflow_provider_segmind.execution.sql_table import SqlTableIO
from airflow_provider_segmind.operators.enrich import SegmindEnrichSqlOperator
from tests.support.airflow_fakes import Run
from tests.support.databases import OWN, OneDatabase, database, opened, postgres, postgres_server

__all__ = ["database", "postgres", "postgres_server"]

MODEL = "gemini-3.1-flash-lite"


class Colour(BaseModel):
    colour: str
    warm: bool
    shades: list[str] = []


class Guess(BaseModel):
    colour: str | None


class Cleaned(BaseModel):
    colour: Annotated[str, AfterValidator(lambda text: None if text == "n/a" else text)]


class Shop:
    """A table of things, and task instances that ask about it."""

    def __init__(self, folder: Path, emulator: SegmindEmulator, source: OneDatabase) -> None:
        self.folder, self.emulator, self.source = folder, emulator, source
        self.run = Run()

    def stock(self, *names: str) -> None:
        self.source.run("DROP TABLE IF EXISTS things")
        rows = list(enumerate(names, 1))
        self.source.fill("things", "id INTEGER, thing VARCHAR(100)", rows)

    def task(self, **fields: Any) -> SegmindEnrichSqlOperator:
        given = {
            "sql_conn_id": "shop",
            "sql": "SELECT id, thing FROM things ORDER BY id",
            "key": "id",
            "target_table": "answers",
            "model": MODEL,
            "prompt": "The colour of {thing}?",
            "ledger_path": str(self.folder / "ledger"),
            **fields,
        }
        task = SegmindEnrichSqlOperator(task_id="a_task", **given)
        # Airflow 3 logs through structlog, 2.11 through a logger under the other name.
        hand: Any = task
        hand._cached_logger = hand._log = logging.getLogger("a_task")
        return task

    def ask(self, **fields: Any) -> Any:
        return self.task(**fields).execute(self.run.context())

    def ask_the_next_day(self, **fields: Any) -> Any:
        self.run = Run(run_id=f"{self.run.ti.run_id}+")
        return self.ask(**fields)

    def ask_and_kill(self) -> None:
        """Run the task, and kill it when one request has its answer and another has none."""
        task = self.task()

        def kill() -> None:
            pause = threading.Event()
            while len(self.emulator.jobs) < 2 or len(self.emulator.bill) < 1:
                pause.wait(0.01)
            # Give the answer time to arrive.
            pause.wait(1.5)
            task.on_kill()

        threading.Thread(target=kill, daemon=True).start()
        with pytest.raises(SegmindEnrichmentError, match="the task was killed"):
            task.execute(self.run.context())

    def check_money(self, manifest: dict[str, Any]) -> None:
        """Check that the manifest of several tries, and the table, account for everything that was billed."""
        assert manifest["cost"] == pytest.approx(self.billed)
        assert manifest["requests"] == len(self.emulator.bill)
        assert sum(row["_segmind_cost"] for row in self.answers) == pytest.approx(self.billed)

    @property
    def answers(self) -> list[dict[str, Any]]:
        return self.source.dicts("answers", "id")

    @property
    def reports(self) -> Path:
        return self.folder / "ledger" / "reports" / "shop"

    @property
    def dead_letters(self) -> list[dict[str, Any]]:
        path = self.reports / "answers.dead_letters.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    @property
    def posts(self) -> int:
        return len(self.emulator.posts())

    @property
    def billed(self) -> float:
        return sum(entry.cost for entry in self.emulator.bill)


@pytest.fixture
def shop(
    database: OneDatabase, tmp_path: Path, segmind_emulator: SegmindEmulator, monkeypatch: pytest.MonkeyPatch
) -> Shop:
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(database.airflow))
    return Shop(tmp_path, segmind_emulator, database)


@pytest.fixture
def small(tmp_path: Path, segmind_emulator: SegmindEmulator, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Return a shop in SQLite, for what does not depend on the database."""
    with opened("sqlite", tmp_path) as made:
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(made.airflow))
        return Shop(tmp_path, segmind_emulator, made)


def test_every_row_has_its_answer_and_equal_rows_are_paid_once(shop: Shop) -> None:
    shop.stock("sky", "rose", "sky")

    manifest = shop.ask()

    assert [row["answer"] for row in shop.answers] == [
        "echo: The colour of sky?",
        "echo: The colour of rose?",
        "echo: The colour of sky?",
    ]
    assert shop.posts == 2
    assert manifest["outcomes"]["success"] == manifest["rows_read"] == 3
    assert manifest["outputs"] == ["shop:answers"]
    assert sum(row["_segmind_cost"] for row in shop.answers) == pytest.approx(shop.billed)
    assert {row["_segmind_status"] for row in shop.answers} == {"success"}
    assert json.loads((shop.reports / "answers.manifest.json").read_text()) == manifest


def test_an_output_type_becomes_typed_columns(shop: Shop) -> None:
    shop.stock("sky")
    shop.emulator.script(json={"colour": "blue", "warm": False, "shades": ["grey", "ü"]})

    shop.ask(output_type=Colour)

    (row,) = shop.answers
    assert (row["colour"], row["warm"], json.loads(row["shades"])) == ("blue", False, ["grey", "ü"])


class TestTheNextDay:
    def test_unchanged_rows_cause_no_request_and_no_write(self, shop: Shop) -> None:
        shop.stock("sky", "rose", "sky")
        shop.ask()
        before = shop.answers

        again = shop.ask_the_next_day()
        whole = shop.ask_the_next_day(incremental=False)

        assert shop.answers == before
        assert shop.posts == 2
        assert (again["rows_unchanged"], again["rows_read"], again["outcomes"]["success"]) == (3, 3, 3)
        assert (whole["rows_unchanged"], whole["cache_hits"]) == (0, 2)

    def test_a_row_deleted_from_the_target_is_written_again_from_the_ledger(self, shop: Shop) -> None:
        shop.stock("sky", "rose")
        shop.ask()
        before = shop.answers
        shop.source.run("DELETE FROM answers WHERE id = 2")

        again = shop.ask_the_next_day()

        assert shop.answers[0] == before[0]
        assert shop.answers[1]["answer"] == before[1]["answer"]
        assert (again["rows_unchanged"], again["cache_hits"], shop.posts) == (1, 1, 2)

    @pytest.mark.parametrize("again", [{}, {"incremental": False}])
    def test_an_answer_that_the_target_has_lost_is_written_again_from_the_ledger(
        self, shop: Shop, again: dict[str, Any]
    ) -> None:
        shop.stock("sky", "rose", "leaf")
        shop.ask()
        before = shop.answers
        shop.source.run(
            "UPDATE answers SET answer = NULL WHERE id = 1", "UPDATE answers SET answer = 'corrected' WHERE id = 2"
        )

        shop.ask_the_next_day(**again)

        assert [row["answer"] for row in shop.answers] == [before[0]["answer"], "corrected", before[2]["answer"]]
        assert shop.posts == 3

    @pytest.mark.parametrize(
        ("output_type", "answer"),
        [
            (Guess, {"colour": None}),
            (Cleaned, {"colour": "n/a"}),
            ({"type": "object", "properties": {"colour": {"type": ["string", "null"]}}}, {"colour": None}),
            ({"type": "object", "properties": {"colour": {"type": "string"}}}, {}),
        ],
    )
    def test_an_answer_without_a_value_is_in_the_target(self, small: Shop, output_type: Any, answer: Any) -> None:
        small.emulator.script(json=answer)
        small.stock("sky", "rose")
        small.ask(output_type=output_type)

        again = small.ask_the_next_day(output_type=output_type, ledger_path=str(small.folder / "another"))

        assert again["rows_unchanged"] == small.posts == 2

    def test_a_property_that_the_target_has_lost_is_written_again_from_the_ledger(self, small: Shop) -> None:
        properties = {"colour": {"type": "string"}, "shade": {"type": ["string", "null"]}}
        schema = {"type": "object", "properties": properties, "required": ["colour", "shade"]}
        small.emulator.script(json={"colour": "blue", "shade": None})
        small.stock("sky", "rose")
        small.ask(output_type=schema)
        before = small.answers
        small.source.run("UPDATE answers SET colour = NULL WHERE id = 1")

        small.ask_the_next_day(output_type=schema)

        assert small.answers == before
        assert small.posts == 2

    def test_answers_lost_between_two_tries_are_written_by_the_second(self, shop: Shop) -> None:
        shop.stock("sky", "rose")
        shop.ask()
        before = shop.answers
        shop.source.run("UPDATE answers SET answer = NULL")

        shop.ask()

        assert shop.answers == before
        assert shop.posts == 2

    def test_only_changed_and_new_rows_are_asked_about(self, shop: Shop) -> None:
        shop.stock("sky", "rose")
        shop.ask()
        shop.stock("sky", "leaf", "sky", "sea")

        manifest = shop.ask_the_next_day()

        assert [row["answer"][-7:] for row in shop.answers] == ["of sky?", "f leaf?", "of sky?", "of sea?"]
        assert shop.posts == 4
        assert (manifest["rows_unchanged"], manifest["rows_read"]) == (1, 4)
        # The rose was billed, and is no longer in the table.
        gone = shop.emulator.bill[0].cost
        assert sum(row["_segmind_cost"] for row in shop.answers) == pytest.approx(shop.billed - gone, rel=0.2)

    def test_a_lost_ledger_costs_nothing_for_answers_in_the_table(self, small: Shop) -> None:
        small.stock("sky", "rose")
        small.ask()

        small.ask_the_next_day(ledger_path=str(small.folder / "another"))

        assert small.posts == 2

    def test_another_schema_asks_about_all_rows_and_names_the_column_it_needs(self, small: Shop) -> None:
        small.stock("sky", "rose")
        small.emulator.script(json={"colour": "blue", "warm": False, "shades": []})
        small.ask(output_type={"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]})

        with pytest.raises(AirflowFailException, match=r"no column 'warm', 'shades'.*Nothing was sent"):
            small.ask_the_next_day(output_type=Colour)
        assert small.posts == 2
        small.source.run("ALTER TABLE answers ADD COLUMN warm BOOLEAN", "ALTER TABLE answers ADD COLUMN shades TEXT")
        small.ask_the_next_day(output_type=Colour)

        assert small.posts == 4
        assert [row["warm"] for row in small.answers] == [0, 0]

    def test_a_failure_never_overwrites_an_answer_to_the_same_question(self, small: Shop) -> None:
        small.stock("sky", "rose")
        small.ask()
        small.emulator.script(finish_reason="safety")
        small.stock("sky", "leaf")

        fields: dict[str, Any] = {
            "incremental": False,
            "ledger_path": str(small.folder / "new"),
            "max_failed_rows": None,
        }
        manifest = small.ask_the_next_day(**fields)

        assert manifest["outcomes"]["blocked"] == 2
        kept, failed = small.answers
        assert (kept["answer"], kept["_segmind_status"]) == ("echo: The colour of sky?", "success")
        assert (failed["answer"], failed["_segmind_status"]) == (None, "blocked")
        assert failed["_segmind_error"]


class TestKeys:
    def test_a_row_without_a_key_and_a_repeated_key_are_named_and_counted(self, shop: Shop) -> None:
        shop.source.fill(
            "things", "id INTEGER, thing VARCHAR(10)", [(1, "sky"), (None, "sea"), (1, "rose"), (2, "leaf")]
        )

        with pytest.raises(AirflowFailException, match="2 skipped"):
            shop.ask(sql="SELECT id, thing FROM things")

        assert len(shop.answers) == 2
        assert shop.posts == 2
        reasons = sorted(letter["reason"] for letter in shop.dead_letters)
        assert reasons[0].startswith("an earlier row of the source has the same key")
        assert reasons[1].startswith("its key column 'id' is NULL")

    def test_a_key_of_two_columns_and_a_table_as_the_source(self, shop: Shop) -> None:
        shop.source.fill(
            "things", "shop VARCHAR(5), id INTEGER, thing VARCHAR(10)", [("a", 1, "sky"), ("b", 1, "rose")]
        )

        shop.ask(sql="things", key=["shop", "id"])
        manifest = shop.ask_the_next_day(sql="things", key=["shop", "id"])

        assert sorted((row["shop"], row["answer"][-6:]) for row in shop.answers) == [("a", "f sky?"), ("b", " rose?")]
        assert manifest["rows_unchanged"] == 2

    def test_decimal_keys_are_distinguished_by_all_their_digits(self, shop: Shop) -> None:
        if shop.source.conn_type == "sqlite":
            return  # It has no decimals.
        keys = [Decimal(12345678901234567890123456789001 + number) for number in range(3)]
        shop.source.fill("things", "id NUMERIC(38, 0), thing VARCHAR(10)", [(key, f"t{str(key)[-1]}") for key in keys])

        first = shop.ask()
        again = shop.ask_the_next_day()

        assert first["outcomes"]["success"] == again["rows_unchanged"] == shop.posts == 3
        assert [Decimal(row["id"]) for row in shop.answers] == keys
        assert sum(row["_segmind_cost"] for row in shop.answers) == pytest.approx(shop.billed)

    @pytest.mark.parametrize("scale", [0, 2, 9])
    def test_decimal_keys_reach_another_database_unchanged(
        self, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: int
    ) -> None:
        if shop.source.conn_type == "sqlite":
            return
        keys = [Decimal(text).quantize(Decimal(1).scaleb(-scale)) for text in ("-1.5", "0", "150", "1234567.25")]
        shop.source.fill(
            "things",
            f"id NUMERIC(20, {scale}), thing VARCHAR(10)",
            [(key, f"t{number}") for number, key in enumerate(keys)],
        )

        with opened("sqlite", tmp_path) as other:
            monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(other.airflow))
            shop.ask(target_conn_id="other")
            again = shop.ask_the_next_day(target_conn_id="other")

            assert again["rows_unchanged"] == shop.posts == len(keys)
            assert {text for (text,) in other.rows("SELECT id FROM answers")} == {f"{key:f}" for key in keys}

    @pytest.mark.parametrize(
        ("kinds", "column", "keys"),
        [
            ("sqlite duckdb", "VARCHAR COLLATE NOCASE", ["Ab", "aB", "c"]),
            ("sqlite", "TEXT COLLATE RTRIM", ["a", "a ", "c"]),
            ("postgres", "CHAR(5)", ["a", "a ", "c"]),
            ("postgres", "citext", ["Éa", "éA", "c"]),
            ("sqlite duckdb postgres", "INTEGER", ["1", "01", "2"]),
            ("sqlite duckdb postgres", "NUMERIC(10, 2)", ["1.5", "1.50", "2"]),
            ("duckdb postgres", "UUID", [str(UUID(int=10)), str(UUID(int=10)).upper(), str(UUID(int=2))]),
        ],
    )
    def test_keys_that_are_equal_in_the_target_are_one(
        self, shop: Shop, kinds: str, column: str, keys: list[str]
    ) -> None:
        if shop.source.conn_type not in kinds:
            return
        if column == "citext":
            shop.source.run("CREATE EXTENSION citext")
        shop.source.run(f"CREATE TABLE answers (id {column} PRIMARY KEY, answer TEXT, {OWN})")
        shop.source.fill(
            "things",
            "id VARCHAR(50), nr INTEGER, thing VARCHAR(10)",
            [(key, number, f"t{number}") for number, key in enumerate(keys)],
        )
        fields = {"sql": "SELECT id, thing FROM things ORDER BY nr", "on_partial": "succeed"}

        first = shop.ask(**fields)
        costs = sorted(row["_segmind_cost"] for row in shop.answers)
        nights = [shop.ask_the_next_day(**fields) for _ in range(2)]

        assert (first["outcomes"]["success"], first["outcomes"]["skipped"], shop.posts) == (2, 1, 2)
        assert [night["rows_unchanged"] for night in nights] == [2, 2]
        assert sorted(row["_segmind_cost"] for row in shop.answers) == costs
        assert sum(costs) == pytest.approx(shop.billed)
        (letter,) = shop.dead_letters
        assert letter["key"] == {"id": keys[1]}
        assert "row 0" in letter["reason"]
        assert {row["answer"][-6:] for row in shop.answers} == {"of t0?", "of t2?"}

    @pytest.mark.postgres
    def test_a_target_with_an_unknown_comparison_is_refused(
        self, small: Shop, postgres: OneDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(postgres.airflow))
        postgres.run("CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false)")
        postgres.run(f"CREATE TABLE answers (id TEXT COLLATE loose PRIMARY KEY, answer TEXT, {OWN})")
        small.stock("sky")

        with pytest.raises(AirflowFailException, match=r"'id' of .* compares by the collation loose.*Nothing was sent"):
            small.ask(target_conn_id="warehouse")

        assert small.posts == 0

    def test_a_key_that_the_target_would_round_is_named_and_not_paid_for(self, shop: Shop) -> None:
        if shop.source.conn_type == "sqlite":
            return
        shop.source.run(f"CREATE TABLE answers (id NUMERIC(10, 2) PRIMARY KEY, answer TEXT, {OWN})")
        shop.source.fill("things", "id NUMERIC(10, 4), thing VARCHAR(10)", [(Decimal("1.005"), "a"), (1, "b")])

        shop.ask(on_partial="succeed")

        assert shop.posts == 1
        (letter,) = shop.dead_letters
        assert letter["reason"].startswith("its key 'id' does not fit the column of the table: it has digits")

    def test_shards_agree_on_a_repeated_key_and_their_manifests_add_up(self, small: Shop) -> None:
        small.source.fill("things", "id INTEGER, thing TEXT", [(number % 30, f"t{number}") for number in range(40)])

        first, second = (merge([self.shard(small, index, night) for index in range(3)]) for night in ("1", "2"))

        assert (first.rows_read, first.outcomes["skipped"], small.posts) == (40, 10, 30)
        assert (second.rows_read, second.outcomes["skipped"], second.rows_unchanged) == (40, 10, 30)
        assert first.outputs == second.outputs == ["shop:answers"]
        assert len(small.answers) == 30

    def shard(self, shop: Shop, index: int, night: str) -> Manifest:
        shop.run = Run(map_index=index, run_id=night)
        fields: dict[str, Any] = {"sql": "SELECT * FROM things", "on_partial": "succeed"}
        return Manifest.from_json(shop.ask(shard_index=index, shard_count=3, **fields))


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the task's main thread do its regular work all the time."""
    monkeypatch.setattr(enrichment, "REFRESH_INTERVAL", 0.05)


@pytest.mark.usefixtures("often")
class TestWhileTheTableRuns:
    def test_answers_are_in_the_table_before_the_run_has_ended(self, shop: Shop) -> None:
        shop.emulator.script(latency=600.0, match="rose")
        shop.stock("sky", "leaf", "rose", "sky", "sand", "sea", "rose", "moss")
        early: list[dict[str, Any]] = []

        def read() -> None:
            pause = threading.Event()
            for _ in range(600):
                pause.wait(0.05)
                with contextlib.suppress(Exception):
                    early[:] = shop.answers
                if len(early) >= 6:
                    break
            shop.emulator.advance(600.0)

        threading.Thread(target=read, daemon=True).start()
        manifest = shop.ask(batch_rows=2)

        assert [row["id"] for row in early] == [1, 2, 4, 5, 6, 8]
        assert [row for row in shop.answers if row["id"] not in {3, 7}] == early
        assert len(shop.answers) == manifest["outcomes"]["success"] == 8
        assert shop.posts == len(shop.emulator.bill) == 6
        shop.check_money(manifest)

    def test_a_warehouse_that_bills_each_merge_gets_the_answers_once_at_the_end(
        self, small: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Target, "merges", True)
        written: list[int] = []
        flush = TableWriter.flush

        def counted(self: Any) -> Any:
            done = flush(self)
            written.append(len(done))
            return done

        monkeypatch.setattr(TableWriter, "flush", counted)
        monkeypatch.setattr(BatchLoader, "load_if_due", lambda _: pytest.fail("written early"))
        small.stock("sky", "leaf", "rose")

        manifest = small.ask(batch_rows=2)

        assert len(small.answers) == manifest["outcomes"]["success"] == 3
        assert sum(written) <= 3

    def test_a_run_that_defers_writes_its_answers_first(self, small: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        for _ in range(5):
            shared_history.observe(MODEL, 600)
        monkeypatch.setattr(PollSchedule, "after", lambda _, age, jitter=1.0: age + 0.1)
        small.emulator.script(latency=600.0, match="rose")
        small.stock("sky", "leaf", "rose")
        task = small.task(deferrable=True)

        with pytest.raises(TaskDeferred):
            task.execute(small.run.context())

        assert [row["id"] for row in small.answers] == [1, 2]

    def test_the_rows_of_an_earlier_try_are_not_written_again_before_the_end(
        self, small: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small.stock("sky", "leaf")
        small.ask()
        small.stock("sky", "leaf", "sea", "sand")
        small.emulator.script(latency=600.0, match="sand")
        transact, writes = TableWriter._transact_once, []

        def watched(self: TableWriter[Any], rows: Any) -> None:
            transact(self, rows)
            writes.append([row["id"] for row in rows])
            small.emulator.advance(600.0)

        monkeypatch.setattr(TableWriter, "_transact_once", watched)
        small.ask(batch_rows=1)

        assert writes[0] == [3]
        assert [numbers for numbers in writes if numbers in ([1], [2])] == [[1], [2]]

    def test_a_table_that_refuses_everything_ends_the_asking(
        self, small: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batch_loader, "MOST_IN_VAIN", 2)
        small.emulator.settings(latency=0.2)
        small.source.run(f"CREATE TABLE answers (id INT PRIMARY KEY CHECK (id < 0), answer TEXT, {OWN})")
        small.stock(*map(str, range(60)))

        with pytest.raises(AirflowFailException, match=r"refused \d+ rows.*in the ledger"):
            small.ask(batch_rows=1, concurrency=1)

        assert len(small.emulator.bill) == small.posts < 60
        small.source.run("DROP TABLE answers")
        assert small.ask(concurrency=8)["outcomes"]["success"] == small.posts == 60


class TestErrors:
    def test_a_kill_stores_what_finished_and_the_retry_pays_once(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "GRACE", 0.2)
        shop.emulator.script(latency=600.0, match="rose")
        shop.stock("sky", "rose")

        shop.ask_and_kill()

        assert [row["_segmind_status"] for row in shop.answers] == ["success", "unknown"]
        shop.emulator.advance(600.0)
        manifest = shop.ask()
        assert manifest["outcomes"]["success"] == 2
        assert [row["_segmind_status"] for row in shop.answers] == ["success", "success"]
        assert shop.posts == 2
        shop.check_money(manifest)

    def test_a_kill_while_the_source_is_only_half_read_stores_what_finished(
        self, small: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "GRACE", 0.2)
        small.emulator.script(latency=600.0, match="rose")
        small.stock("sky", *(f"rose {number}" for number in range(2 * FETCH_ROWS)))

        small.ask_and_kill()

        assert small.answers[0]["_segmind_status"] == "success"

    def test_a_database_error_between_batches_loses_no_paid_answer(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shop.stock(*map(str, range(9)))
        transact, calls = TableWriter._transact_once, []

        def breaks(self: TableWriter[Any], rows: Any) -> Any:
            calls.append(len(rows))
            if len(calls) > 2:
                self._connection.close()
            return transact(self, rows)

        with monkeypatch.context() as patched:
            patched.setattr(TableWriter, "_transact_once", breaks)
            with pytest.raises(
                SegmindEnrichmentError, match=r"Writing to the table 'answers' of 'shop' failed.*in the ledger"
            ):
                shop.ask(batch_rows=3)

        assert len(shop.answers) == 6
        manifest = shop.ask()
        assert len(shop.answers) == 9
        assert shop.posts == 9
        shop.check_money(manifest)

    def test_a_database_unavailable_when_answers_are_written_is_retryable(
        self, small: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        small.stock("sky", "rose")
        store = SqlTableIO.store

        def away(self: SqlTableIO, *given: Any) -> Any:
            def refuse() -> Any:
                raise sqlite3.OperationalError("unable to open database file")

            self._target._connect = refuse
            return store(self, *given)

        with monkeypatch.context() as patched:
            patched.setattr(SqlTableIO, "store", away)
            with pytest.raises(
                SegmindEnrichmentError, match=r"Opening the table 'answers' .*are in the ledger"
            ) as caught:
                small.ask()

        assert "Nothing was sent" not in str(caught.value)
        assert caught.value.retryable
        small.ask()
        assert len(small.answers) == small.posts == 2

    def test_a_row_that_the_target_refuses_is_named_and_a_retry_pays_nothing(self, shop: Shop) -> None:
        kind = shop.source.conn_type
        shop.source.run(f"CREATE TABLE answers (id INT PRIMARY KEY CHECK (id <> 2), answer TEXT, {OWN})")
        shop.source.fill("things", "id VARCHAR(9), thing VARCHAR(10)", [("1", "sky"), ("2", "rose"), ("3", "leaf")])

        for _ in range(2):
            with pytest.raises(
                AirflowFailException, match=r"refused 1 row .*dead letters list the refused rows.*nothing is paid"
            ):
                shop.ask()
            (letter,) = shop.dead_letters
            assert (letter["key"], letter["outcome"], letter["row"]) == ({"id": "2"}, "invalid", 1)
            assert re.match(
                r"the answer is in the ledger, but .* refused the row: \w*(Constr|Check|Integ)", letter["reason"]
            )
            assert [row["id"] for row in shop.answers] == [1, 3]
            manifest = Manifest.from_json(json.loads((shop.reports / "answers.manifest.json").read_text()))
            assert (manifest.outcomes["success"], manifest.outcomes["invalid"]) == (2, 1)
            assert manifest.report is not None
            assert "refused the row" in Path(manifest.report).read_text()
            assert shop.posts == 3
            shop.run = Run(run_id="another night")

        shop.source.run("DROP TABLE answers", f"CREATE TABLE answers (id INT PRIMARY KEY, answer TEXT, {OWN})")
        shop.ask()
        assert (len(shop.answers), shop.posts) == (3, 3), kind

    @pytest.mark.postgres
    def test_a_key_that_cannot_be_cast_is_named(
        self, small: Shop, postgres: OneDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(postgres.airflow))
        small.source = postgres
        postgres.run(f"CREATE TABLE answers (id INT PRIMARY KEY, answer TEXT, {OWN})")
        postgres.fill("things", "id TEXT, thing TEXT", [("1", "sky"), ("x", "rose"), ("3", "leaf")])

        with pytest.raises(AirflowFailException, match=r"refused 1 row "):
            small.ask(on_partial="succeed")

        (letter,) = small.dead_letters
        assert letter["key"] == {"id": "x"}
        assert "InvalidTextRepresentation (22P02)" in letter["reason"]
        assert len(small.answers) == 2
        postgres.run("ALTER TABLE answers ALTER id TYPE TEXT")
        assert small.ask()["outcomes"]["success"] == small.posts == 3

    @pytest.mark.postgres
    def test_a_session_lost_while_rows_are_read_keeps_the_rows_read(
        self, small: Shop, postgres: OneDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(postgres.airflow))
        small.source = postgres
        rows = FETCH_ROWS + 5
        small.stock(*(f"t{number % 7}" for number in range(rows)))
        fetch = Query._fetch

        def breaks(self: Query) -> Any:
            if self._rows_read:
                postgres.rows(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            return fetch(self)

        with monkeypatch.context() as patched:
            patched.setattr(Query, "_fetch", breaks)
            with pytest.raises(SegmindEnrichmentError, match=rf"failed after {FETCH_ROWS:,} rows.*57P01") as caught:
                small.ask()

        assert caught.value.retryable
        assert len(small.answers) == FETCH_ROWS
        assert small.posts == 7
        assert small.ask()["outcomes"]["success"] == rows
        assert (len(small.answers), small.posts) == (rows, 7)

    def test_an_answer_that_does_not_fit_its_column_is_invalid_and_kept_in_the_ledger(self, small: Shop) -> None:
        small.stock("sky", "rose")
        small.emulator.script(json={"many": 2**70}, match="rose")
        small.emulator.script(json={"many": 7}, match="sky")
        schema = {"type": "object", "properties": {"many": {"type": "integer"}}, "required": ["many"]}

        manifest = small.ask(output_type=schema, max_failed_rows=1)

        assert manifest["outcomes"] == {**dict.fromkeys(manifest["outcomes"], 0), "success": 1, "invalid": 1}
        assert [row["many"] for row in small.answers] == [7, None]
        assert "'many' does not fit" in small.dead_letters[0]["reason"]

    def test_a_missing_column_is_named_before_anything_is_sent(self, shop: Shop) -> None:
        shop.stock("sky")

        with pytest.raises(AirflowFailException, match=r"no column 'colour'.*Nothing was sent"):
            shop.ask(prompt="{colour}?")

        assert shop.posts == 0

    def test_an_invalid_query_sends_nothing(self, shop: Shop) -> None:
        with pytest.raises((SegmindEnrichmentError, AirflowFailException), match="nothings"):
            shop.ask(sql="SELECT * FROM nothings")

        assert shop.posts == 0

    @pytest.mark.parametrize(
        ("connection", "said"),
        [
            ({"conn_type": "segmind"}, "'target_conn_id' names 'other'.*not a database"),
            ({"conn_type": "morse"}, "'target_conn_id' names 'other'.*no installed provider"),
        ],
    )
    def test_a_target_that_is_not_a_database(
        self, small: Shop, connection: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(connection))

        with pytest.raises(AirflowFailException, match=said):
            small.ask(target_conn_id="other")


def test_tables_of_one_name_in_two_databases_have_their_own_manifests(
    small: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.stock("sky")
    folder = tmp_path / "other"
    folder.mkdir()
    with opened("sqlite", folder) as other:
        monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(other.airflow))
        small.ask()
        small.ask(target_conn_id="other")

    found = sorted(path.relative_to(small.reports.parent) for path in small.reports.parent.rglob("*.manifest.json"))
    assert [str(path) for path in found] == ["other/answers.manifest.json", "shop/answers.manifest.json"]


def test_a_dry_run_changes_nothing_and_excludes_answers_in_the_table(shop: Shop) -> None:
    shop.stock("sky", "rose")
    before = shop.ask(dry_run=True)
    with contextlib.suppress(Exception):
        assert not shop.answers
    shop.ask(sql="SELECT * FROM things WHERE id = 1")

    after = shop.ask(dry_run=True, ledger_path=str(shop.folder / "another"))

    assert (before["rows"], before["answered_rows"]) == (2, 0)
    assert (after["rows"], after["distinct_rows"], after["answered_rows"]) == (2, 2, 1)
    assert shop.posts == 1


def test_a_sample_goes_into_a_separate_table(shop: Shop) -> None:
    shop.stock(*map(str, range(20)))

    shop.ask(sample=4)
    manifest = shop.ask_the_next_day()

    estimate = shop.run.ti.pushed.get("estimate")
    assert estimate is None
    assert len(shop.source.rows("SELECT * FROM answers_sample")) == 4
    assert (shop.posts, manifest["cache_hits"], len(shop.answers)) == (20, 4, 20)


def test_a_sample_counts_all_rows(shop: Shop) -> None:
    shop.stock(*map(str, range(20)))

    shop.ask(sample=4, sql="SELECT id, thing FROM things ORDER BY id -- all of them")

    assert shop.run.ti.pushed["estimate"]["rows"] == 20
    assert shop.run.ti.pushed["estimate"]["cost"] == pytest.approx(5 * shop.billed)


@pytest.mark.parametrize(
    "tail", [";", "; -- all", " ;; /* of ; them */ ; ", " LIMIT 20; --;", " -- ; all\n; -- of them"]
)
def test_a_tail_of_comments_or_semicolons_is_not_part_of_the_query(shop: Shop, tail: str) -> None:
    shop.stock(*map(str, range(5)))

    shop.ask(
        sample=1, sql=f"WITH t AS (SELECT id, ';' || thing AS thing FROM things) SELECT * FROM t ORDER BY id{tail}"
    )

    assert shop.run.ti.pushed["estimate"]["rows"] == 5
    assert shop.posts == 1


def test_a_query_that_cannot_be_a_subquery_is_counted_by_reading_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.stock(*map(str, range(5)))
    open_query = Query._open

    def refuses(self: Query) -> None:
        # As SQL Server does, which rejects ORDER BY in a subquery.
        self.sql = self.sql.replace("counted", "counted ORDER BY nothing")
        open_query(self)

    monkeypatch.setattr(Query, "_open", refuses)
    shop.ask(sample=1)

    assert shop.run.ti.pushed["estimate"]["rows"] == 5


def test_a_table_that_cannot_be_counted_now_is_not_read_to_count_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.stock(*map(str, range(5)))
    open_query = Query._open

    def loses_its_connection(self: Query) -> None:
        if "COUNT" in self.sql:
            raise sqlite3.OperationalError("the connection was lost")
        open_query(self)

    monkeypatch.setattr(Query, "_open", loses_its_connection)
    with pytest.raises(SegmindEnrichmentError, match="the connection was lost"):
        shop.ask(sql="things")

    assert shop.posts == 0


def test_a_failing_row_count_is_reported_before_the_sample_is_paid(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.stock(*map(str, range(5)))

    def fails(self: SqlTableIO) -> int:
        raise SegmindEnrichmentError("no count")

    monkeypatch.setattr(SqlTableIO, "_count_rows", fails)
    with pytest.raises((SegmindEnrichmentError, AirflowFailException), match="no count"):
        shop.ask(sample=1)

    assert shop.posts == 0


def test_several_statements_are_refused_before_anything_is_sent(shop: Shop) -> None:
    shop.stock("sky")

    with pytest.raises(AirflowFailException, match=r"'sql' contains 2 statements.*Nothing was sent"):
        shop.ask(sql="SELECT id, thing FROM things; DELETE FROM things")

    assert (shop.posts, len(shop.source.rows("SELECT * FROM things"))) == (0, 1)


def test_a_text_of_sqlite_that_is_not_utf8_skips_its_row_where_it_is_needed(small: Shop) -> None:
    small.stock("sky", "rose", "sea")
    small.source.run("ALTER TABLE things ADD notes", "UPDATE things SET notes = CAST(x'ff' AS TEXT)")
    small.source.run("UPDATE things SET thing = CAST(x'ff' AS TEXT) WHERE id = 2")

    manifest = small.ask(sql="things", on_partial="succeed")

    assert (manifest["outcomes"]["success"], small.posts) == (2, 2)
    (letter,) = small.dead_letters
    assert letter["key"] == {"id": 2}
    assert "contains a text that is not UTF-8. Nothing was sent for this row" in letter["reason"]


def test_a_source_that_deletes_its_rows_is_refused_before_it_runs(shop: Shop) -> None:
    shop.stock("sky")

    with pytest.raises(AirflowFailException, match=r"'sql' is a statement that changes the database \(DELETE\)"):
        shop.ask(sql="DELETE FROM things RETURNING id, thing")

    assert (shop.posts, len(shop.source.rows("SELECT * FROM things"))) == (0, 1)


@pytest.mark.postgres
@pytest.mark.parametrize("three", [False, True], ids=["psycopg2", "psycopg3"])
@pytest.mark.parametrize("extra", [{}, {"cursor": "dictcursor"}], ids=["tuples", "dicts"])
def test_every_driver_for_postgresql(
    small: Shop, postgres: OneDatabase, three: bool, extra: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.providers.postgres.hooks import postgres as module

    # The provider chooses among the installed drivers; here both are installed.
    monkeypatch.setattr(module, "USE_PSYCOPG3", three)
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({**postgres.airflow, "extra": json.dumps(extra)}))
    small.source = postgres
    postgres.run("CREATE TABLE things (id UUID, thing TEXT, price NUMERIC(8, 2), at TIMESTAMPTZ, tags TEXT[])")
    postgres.run("INSERT INTO things VALUES (gen_random_uuid(), 'sky', 1.50, now(), '{a,b}')")
    key = ["id", "price", "at"]

    small.ask(sql="SELECT * FROM things", key=key, prompt="{thing} {price} {at} {tags}")
    again = small.ask_the_next_day(sql="SELECT * FROM things", key=key, prompt="{thing} {price} {at} {tags}")

    assert again["rows_unchanged"] == 1
    assert postgres.rows(
        "SELECT count(*) FROM answers JOIN things USING (price, at) WHERE answers.id::uuid = things.id"
    ) == [(1,)]
    assert small.emulator.posts()[0].json["messages"]["contents"][0]["parts"][0]["text"].startswith("sky 1.50 20")


@pytest.mark.postgres
def test_another_database_may_be_the_target(
    small: Shop, postgres: OneDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(postgres.airflow))
    postgres.run("CREATE SCHEMA shop")
    small.source.fill("things", "id INTEGER, thing TEXT, day DATE", [(1, "sky", "2026-01-01")])

    for _ in range(2):
        manifest = small.ask_the_next_day(
            sql="SELECT * FROM things", key=["id", "day"], target_conn_id="warehouse", target_table="shop.answers"
        )

    assert postgres.rows("SELECT id, day, answer FROM shop.answers") == [(1, "2026-01-01", "echo: The colour of sky?")]
    assert manifest["rows_unchanged"] == 1


def test_no_row_is_in_the_log_or_in_a_rendered_field(small: Shop, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    small.stock("canary-thing")
    task = small.task(sql="SELECT * FROM things WHERE '{{ ds }}' <> ''")

    task.render_template_fields({"ds": "2026-11-25"})
    task.execute(small.run.context())

    assert task.sql == "SELECT * FROM things WHERE '2026-11-25' <> ''"
    assert "The only row answered" in caplog.text
    assert "canary" not in caplog.text
    assert "canary" not in str([getattr(task, field) for field in task.template_fields])


class TestErrorsBeforeAnythingIsPaid:
    def test_a_name_that_the_database_would_cut_off_or_fold(self, shop: Shop) -> None:
        shop.stock("sky")
        name = {"postgres": "a" * 70}.get(shop.source.conn_type, "ID")
        schema = {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}

        for fields in ({}, {"dry_run": True}):
            with pytest.raises(AirflowFailException, match=rf"{name}.*Nothing was sent"):
                shop.ask(output_type=schema, **fields)

        assert shop.posts == 0
        with pytest.raises(Exception, match=r"(?i)answers"):
            shop.source.rows("SELECT * FROM answers")

    @pytest.mark.postgres
    def test_the_table_of_a_sample_is_never_the_table_itself(
        self, small: Shop, postgres: OneDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(postgres.airflow))
        small.stock("sky")

        with pytest.raises(AirflowFailException, match=r"name 't+_sample' of .* has 70 bytes.*keeps only 63"):
            small.ask(target_conn_id="warehouse", target_table="t" * 63, sample=1)

        assert small.posts == 0

    def test_a_folder_in_an_unknown_store(self, small: Shop) -> None:
        small.stock("sky")

        with pytest.raises(
            AirflowFailException,
            match=r"'ledger_path' is 'nowhere://b/x',.* that this Airflow does not support.*Nothing was sent",
        ):
            small.ask(ledger_path="nowhere://b/x")

    def test_a_ledger_that_is_a_file(self, small: Shop) -> None:
        small.stock("sky")
        small.folder.joinpath("ledger").write_text("not a folder")

        with pytest.raises(AirflowFailException, match=r"'ledger_path'.*Nothing was sent"):
            small.ask()

    def test_a_required_column_of_the_target_without_a_value(self, shop: Shop) -> None:
        shop.stock("sky")
        shop.source.run(f"CREATE TABLE answers (id INT PRIMARY KEY, answer TEXT, note TEXT NOT NULL, {OWN})")

        with pytest.raises(AirflowFailException, match=r"'note' is NOT NULL without a default.*Nothing was sent"):
            shop.ask()

        assert shop.posts == 0

    def test_a_column_of_another_type(self, shop: Shop) -> None:
        shop.stock("sky")
        shop.source.run(f"CREATE TABLE answers (id INT PRIMARY KEY, answer DATE, {OWN})")
        if shop.source.conn_type == "sqlite":
            return  # It writes whatever it is given.

        with pytest.raises(AirflowFailException, match=r"'answer' is of type date.*Nothing was sent"):
            shop.ask()

        assert shop.posts == 0
