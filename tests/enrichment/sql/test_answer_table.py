"""A table of answers is made, checked before anything is paid, and written so that nothing good is lost."""

from __future__ import annotations

import contextlib
import json
import random
import re
import sqlite3
import string
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from airflow_provider_segmind.enrichment.rows import Undecoded
from airflow_provider_segmind.enrichment.sql import answer_table
from airflow_provider_segmind.enrichment.sql.answer_table import AnsweredRows, Target
from airflow_provider_segmind.enrichment.sql.column_types import Kind
from airflow_provider_segmind.enrichment.sql.dialects import TableName, dialect_of
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindEnrichmentError
from tests.support.databases import OWN, OneDatabase, opened

ANSWERS = {"team": Kind.TEXT}
MARK = "ab" * 32


def target(database: OneDatabase, name: str = "answers", **fields: Any) -> Target:
    given: dict[str, Any] = {"key": ["id"], "answers": ANSWERS, "batch_rows": 3, **fields}
    return Target(
        database.connect,
        dialect=dialect_of(database.conn_type),
        name=TableName.parse(name, "target_table"),
        place="db",
        **given,
    )


def row(key: Any, team: Any = "shop", status: str = "success", mark: str = MARK, **fields: Any) -> dict[str, Any]:
    return {
        "id": key,
        "team": team if status == "success" else None,
        "_segmind_fingerprint": mark,
        "_segmind_status": status,
        "_segmind_request_id": f"r-{team}",
        "_segmind_cost": 0.5,
        **fields,
    }


def load(made: Target, *rows: Mapping[str, Any], first: Any = ({"id": 1},)) -> dict[Any, str]:
    assert made.prepare(lambda: first)
    return write_all(made, *rows)


def write_all(made: Target, *rows: Mapping[str, Any]) -> dict[Any, str]:
    """Write rows, and return the keys of those that were refused, each with the reason."""
    with made.writing() as writer:
        told = [settled for one in rows for settled in writer.put(one, one.get("id"))]
        told += writer.flush()
    assert [tag for tag, _ in told] == [one.get("id") for one in rows]
    return {tag: refusal for tag, refusal in told if refusal}


def test_an_absent_table_is_made_and_what_was_written_is_held(database: OneDatabase) -> None:
    made = target(database)

    load(made, *(row(number) for number in range(8)), row(8, status="failed"))

    assert len(database.rows("SELECT * FROM answers")) == 9
    answered = AnsweredRows(made.answered_rows(), made.mark)
    assert answered.has_answer({"id": 7}, bytes.fromhex(MARK))
    assert not answered.has_answer({"id": 8}, bytes.fromhex(MARK))
    assert not answered.has_answer({"id": 7}, bytes.fromhex("cd" * 32))
    assert answered.has_fingerprint(bytes.fromhex(MARK))


def test_types_survive(database: OneDatabase) -> None:
    answers = {
        "t": Kind.TEXT, "i": Kind.INTEGER, "n": Kind.NUMBER, "b": Kind.BOOLEAN, "d": Kind.DATE, "m": Kind.MOMENT,
        "l": Kind.TEXT,
    }  # fmt: skip
    values = {
        "t": "ünï 😀 \"'\\ %s ? {x}", "i": 2**63 - 1, "n": 0.1, "b": True, "d": "2026-02-28",
        "m": "2026-02-28T12:00:00Z", "l": ["a", {"b": None}],
    }  # fmt: skip

    load(target(database, answers=answers), row(1, **values), row(2))

    (one, empty) = database.dicts("answers", "id")
    assert (one["t"], one["i"], one["n"]) == (values["t"], 2**63 - 1, 0.1)
    assert one["b"] == 1
    assert json.loads(one["l"]) == values["l"]
    if database.conn_type != "sqlite":
        assert one["b"] is True
        assert one["d"] == date(2026, 2, 28)
        assert one["m"] == datetime(2026, 2, 28, 12, tzinfo=UTC)
    else:
        assert (one["d"], one["m"]) == ("2026-02-28", "2026-02-28 12:00:00+00:00")
    assert [empty[name] for name in answers] == [None] * len(answers)


@pytest.mark.parametrize(
    "key",
    [
        *(2**63 - 1, "ключ '\"; --", date(2026, 1, 1), datetime(2026, 1, 1, 5, tzinfo=UTC)),
        *(Decimal("1.50"), UUID(int=7), b"\x00'"),
    ],
    ids=["big", "text", "date", "moment", "decimal", "uuid", "bytes"],
)
def test_a_key_of_any_type_is_found_again(database: OneDatabase, key: Any) -> None:
    made = target(database)

    for _ in range(2):
        load(made, row(key), first=[{"id": key}])

    assert len(database.rows("SELECT * FROM answers")) == 1
    assert AnsweredRows(made.answered_rows(), made.mark).has_answer({"id": key}, bytes.fromhex(MARK))


def test_a_key_of_several_columns(database: OneDatabase) -> None:
    made = target(database, key=["shop", "id"])

    for team in ("a", "b"):
        load(made, row(1, team, shop="x"), row(1, team, shop="y"), first=[{"shop": "x", "id": 1}])

    assert database.rows("SELECT shop, id, team FROM answers ORDER BY shop") == [("x", 1, "b"), ("y", 1, "b")]


class TestWhatReplacesWhat:
    OTHER = "cd" * 32

    def test_a_row_of_the_same_key(self, database: OneDatabase) -> None:
        cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
            (row(1, "old"), row(1, "new"), "new"),
            (row(2, "old"), row(2, "old", mark=self.OTHER), "new"),
            (row(3, "old"), row(3, "new", "blocked"), "old"),
            (row(4, "old"), row(4, "new", "failed", mark=self.OTHER), "new"),
            (row(5, "old"), row(5, "new", "unknown", mark=self.OTHER), "old"),
            (row(6, "old"), row(6, "new", "skipped", mark=self.OTHER), "old"),
            (row(7, "old", "failed"), row(7, "new"), "new"),
            (row(8, "old", "failed"), row(8, "new", "invalid"), "new"),
            (row(9, "old", "skipped"), row(9, "new", "unknown"), "new"),
            (row(10, "old", "failed"), row(10, "new", "skipped"), "old"),
        ]
        made = target(database)

        load(made, *(before for before, _, _ in cases))
        load(made, *(after for _, after, _ in cases))

        kept = {"old": 0, "new": 1}
        expected = [case[kept[case[2]]] for case in cases]
        names = ("id", "team", "_segmind_status", "_segmind_fingerprint", "_segmind_request_id")
        assert [[found[name] for name in names] for found in database.dicts("answers", "id")] == [
            [one[name] for name in names] for one in expected
        ]

    @pytest.mark.postgres
    def test_loading_twice_writes_nothing(self, postgres: OneDatabase) -> None:
        made = target(postgres)
        load(made, row(1), row(2, status="failed"), row(3, status="skipped"))
        # What is written anew gets the number of the transaction that wrote it.
        before = postgres.rows("SELECT id, xmin::text, team FROM answers ORDER BY id")
        load(made, row(1), row(2, status="failed"), row(3, status="skipped"))

        assert postgres.rows("SELECT id, xmin::text, team FROM answers ORDER BY id") == before


class TestATableThatIsThere:
    def test_missing_columns_are_named_with_the_statement_that_adds_them(self, database: OneDatabase) -> None:
        database.run("CREATE TABLE answers (id BIGINT PRIMARY KEY, more TEXT)")

        with pytest.raises(
            SegmindConfigError, match=r"no column 'team', '_segmind_fingerprint'.*Nothing was sent"
        ) as caught:
            target(database).prepare(list)
        statements = str(caught.value).partition("Add what is missing: ")[2].split("; ")
        database.run(*statements)

        assert target(database).prepare(list)

    def test_without_a_key_to_write_by_nothing_is_sent(self, database: OneDatabase) -> None:
        database.run(f"CREATE TABLE answers (id BIGINT, team TEXT, {OWN})")

        with pytest.raises(SegmindConfigError, match=r"cannot be written by key.*unique constraint on id"):
            target(database).prepare(list)

    def test_other_columns_are_left_alone(self, database: OneDatabase) -> None:
        database.run(f"CREATE TABLE answers (note TEXT, id BIGINT PRIMARY KEY, team TEXT, {OWN})")
        made = target(database)
        load(made, row(1, "old"))
        database.run("UPDATE answers SET note = 'mine'")

        load(made, row(1, "new"))

        assert database.rows("SELECT note, team FROM answers") == [("mine", "new")]

    @pytest.mark.parametrize("refused", [{4}, {0}, {7}, {0, 1, 2}, {2, 3}, {0, 7}, set(range(8))], ids=str)
    @pytest.mark.parametrize("batch", [1, 3, 8, 50])
    def test_a_row_it_refuses_is_named_and_costs_no_other_row(
        self, database: OneDatabase, refused: set[int], batch: int
    ) -> None:
        database.run(f"CREATE TABLE answers (id BIGINT PRIMARY KEY, team TEXT CHECK (team <> 'canary'), {OWN})")
        made = target(database, batch_rows=batch)
        rows = [row(number, "canary" if number in refused else "shop") for number in range(8)]

        told = load(made, *rows)

        assert set(told) == refused
        assert "canary" not in str(told)
        assert {found for (found,) in database.rows("SELECT id FROM answers")} == set(range(8)) - refused

    @pytest.mark.parametrize(
        ("column", "values", "refused", "said"),
        [
            ("VARCHAR(4)", ["shop", "canary", "club"], {1}, "22001"),
            ("TEXT NOT NULL", ["shop", None, "club"], {1}, "(23502).*'team'|NOT NULL of answers.team"),
            (
                "TEXT UNIQUE",
                ["shop", "canary", "canary"],
                {2},
                "(23505).*'answers_team_key'|UNIQUE of answers.team|Const",
            ),
            ("TEXT CHECK (LENGTH(team) < 5)", ["shop", "canary", "canary"], {1, 2}, "23514|CHECK|Constraint"),
        ],
    )
    def test_the_reason_names_the_column_and_never_the_value(
        self, database: OneDatabase, column: str, values: list[Any], refused: set[int], said: str
    ) -> None:
        if column == "VARCHAR(4)" and database.conn_type != "postgres":
            return  # They take texts of any length.
        database.run(f"CREATE TABLE answers (id BIGINT PRIMARY KEY, team {column}, {OWN})")

        told = load(target(database), *(row(number, value) for number, value in enumerate(values)))

        assert set(told) == refused
        for reason in told.values():
            assert re.search(said, reason)
            assert "canary" not in reason

    @pytest.mark.postgres
    @pytest.mark.parametrize("key", ["INTEGER", "BIGINT", "DATE", "UUID", "NUMERIC(10, 2)", "BOOLEAN"])
    def test_a_key_that_cannot_be_cast_is_named(self, postgres: OneDatabase, key: str) -> None:
        good = {"DATE": "2026-01-01", "UUID": str(UUID(int=1)), "BOOLEAN": "true"}.get(key, "1")
        postgres.run(f"CREATE TABLE answers (id {key} PRIMARY KEY, team TEXT, {OWN})")

        told = load(target(postgres), row(good), row("x"))

        assert list(told) == ["x"]
        assert re.match(r"\w+ \(22\w{3}\)", told["x"])

    @pytest.mark.postgres
    @pytest.mark.parametrize(
        "statement",
        [
            "RAISE EXCEPTION 'not %', NEW.team", "RAISE EXCEPTION 'not this' USING ERRCODE = '45000'",
            "NEW.team := NULL; PERFORM 1 / (CASE WHEN NEW.id = 4 THEN 0 ELSE 1 END)",
        ],
    )  # fmt: skip
    def test_a_row_that_a_trigger_refuses_is_named(self, postgres: OneDatabase, statement: str) -> None:
        postgres.run(
            f"CREATE TABLE answers (id BIGINT PRIMARY KEY, team TEXT, {OWN})",
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN IF NEW.id = 4 THEN {statement}; END IF; RETURN NEW; END $$",
            "CREATE TRIGGER refuse BEFORE INSERT ON answers FOR EACH ROW EXECUTE FUNCTION refuse()",
        )

        told = load(target(postgres), *(row(number, "canary") for number in range(8)))

        assert list(told) == [4]
        assert "canary" not in str(told)
        assert len(postgres.rows("SELECT * FROM answers")) == 7

    @pytest.mark.postgres
    def test_a_key_too_long_for_an_index_is_named(self, postgres: OneDatabase) -> None:
        noise = "".join(random.Random(7).choices(string.ascii_letters, k=20_000))

        told = load(target(postgres), row("a"), row(noise), row("b"), first=[{"id": "a"}])

        assert list(told) == [noise]

    def test_a_table_that_refuses_all_is_not_tried_row_by_row_for_ever(
        self, database: OneDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(answer_table, "MOST_IN_VAIN", 10)
        database.run(f"CREATE TABLE answers (id BIGINT PRIMARY KEY, team TEXT CHECK (team <> 'canary'), {OWN})")
        made = target(database, batch_rows=50)

        told = load(made, *(row(number, "canary") for number in range(50)), *(row(50 + number) for number in range(50)))

        assert set(told) == set(range(50))
        assert "tried with" in told[49]
        assert "tried with" not in told[0]
        assert len(database.rows("SELECT * FROM answers")) == 50

    @pytest.mark.postgres
    def test_a_table_that_may_not_be_written_any_more_refuses_every_row(self, postgres: OneDatabase) -> None:
        made = target(postgres)
        assert made.prepare(lambda: [{"id": 1}])
        postgres.run("ALTER TABLE answers DROP COLUMN team")

        told = write_all(made, row(1), row(2))

        assert set(told) == {1, 2}
        assert "42703" in told[1]


@pytest.mark.postgres
class TestOtherTransactions:
    def test_a_deadlock_is_done_again(self, postgres: OneDatabase) -> None:
        """Two writers take the same rows in opposite order, which PostgreSQL ends by refusing one of them."""
        made = target(postgres, batch_rows=50)
        load(made, *(row(number, "old") for number in range(2)))
        with contextlib.closing(postgres.connect()) as other, ThreadPoolExecutor(1) as thread:
            cursor = other.cursor()
            cursor.execute("SET deadlock_timeout = '10s'")
            cursor.execute("UPDATE answers SET team = team WHERE id = 1")
            connection = postgres.connect()
            connection.cursor().execute("SET deadlock_timeout = '50ms'")
            connection.commit()
            made._connect = lambda: connection
            writing = thread.submit(write_all, made, row(0, "new"), row(1, "new"))
            while not postgres.rows(
                "SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid) "
                "WHERE NOT granted AND datname = current_database()"
            ):
                assert not writing.done()
            cursor.execute("UPDATE answers SET team = team WHERE id = 0")
            other.commit()

            assert writing.result(10) == {}

        assert postgres.rows("SELECT team FROM answers") == [("new",), ("new",)]

    def test_a_serialization_failure_is_done_again(self, postgres: OneDatabase) -> None:
        made = target(postgres, batch_rows=50)
        load(made, row(1, "old"))
        connection = postgres.connect()
        connection.set_session(isolation_level="SERIALIZABLE")
        made._connect = lambda: connection
        with contextlib.closing(postgres.connect()) as other, ThreadPoolExecutor(1) as thread:
            other.cursor().execute("UPDATE answers SET team = 'between' WHERE id = 1")
            writing = thread.submit(write_all, made, row(1, "new"))
            while not postgres.rows("SELECT 1 FROM pg_locks WHERE NOT granted"):
                assert not writing.done()
            other.commit()

            assert writing.result(10) == {}

        assert postgres.rows("SELECT team FROM answers") == [("new",)]


def test_a_table_that_is_locked_is_left_at_once(tmp_path: Path) -> None:
    with opened("sqlite", tmp_path) as database:
        made = target(database, batch_rows=50)
        made._connect = lambda: sqlite3.connect(tmp_path / "test.sqlite", timeout=0.05)
        assert made.prepare(lambda: [{"id": 1}])
        with contextlib.closing(database.connect()) as other:
            other.execute("BEGIN EXCLUSIVE")

            began = time.monotonic()
            with pytest.raises(SegmindEnrichmentError, match=r"Writing to .* failed: OperationalError.*in the ledger"):
                write_all(made, *(row(number) for number in range(50)))

        assert time.monotonic() - began < 2


def test_nothing_is_made_for_an_empty_source_or_a_dry_run(database: OneDatabase) -> None:
    assert not target(database).prepare(list)
    assert not target(database).prepare(None)

    assert target(database).prepare(lambda: [{"id": 1}])


@pytest.mark.postgres
def test_shards_that_begin_at_once_make_one_table(postgres: OneDatabase) -> None:
    with ThreadPoolExecutor(8) as threads:
        prepared = list(threads.map(lambda _: target(postgres).prepare(lambda: [{"id": 1}]), range(8)))

    assert prepared == [True] * 8


def test_odd_names_are_names(database: OneDatabase) -> None:
    key = 'id"; DROP TABLE other; --'
    team = "te'am %s ? $1 {x} größe"
    database.run("CREATE TABLE other (id INTEGER)")
    made = target(database, name='"an ""odd"" table; DROP TABLE other"', key=[key], answers={team: Kind.TEXT})

    for number in range(2):
        load(made, {**row(1), key: 1, team: f"a{number}"}, first=[{key: 1}])

    assert database.rows("SELECT * FROM other") == []
    (found,) = database.dicts('"an ""odd"" table; DROP TABLE other"', "1")
    assert (found[key], found[team]) == (1, "a0")


def test_an_answer_that_fits_no_column_is_told(database: OneDatabase) -> None:
    made = target(database, answers={"many": Kind.INTEGER})

    assert made.misfit({"many": 7}) is None
    assert "'many' does not fit: it is not a valid integer" in str(made.misfit({"many": 2**70}))


def test_what_was_written_before_a_failure_stays(database: OneDatabase) -> None:
    made = target(database)
    assert made.prepare(lambda: [{"id": 1}])

    with contextlib.suppress(KeyboardInterrupt), made.writing() as writer:
        for number in range(7):
            writer.put(row(number), number)
        raise KeyboardInterrupt

    assert len(database.rows("SELECT * FROM answers")) == 6


class TestKeysThatHaveNoPlace:
    def test_null_and_repeated_keys(self) -> None:
        answered = AnsweredRows()

        assert answered.trouble({"a": 1, "b": 2}, 7) is None
        assert answered.trouble({"a": 2, "b": 1}, 8) is None
        assert "'b' is NULL" in str(answered.trouble({"a": 1, "b": None}, 9))
        assert "an earlier row of the source has the same key (row 7" in str(answered.trouble({"a": 1, "b": 2}, 10))

    def test_what_is_no_fingerprint_is_not_held(self) -> None:
        stored: list[Any] = ["nonsense", "", None, b"ff", 5, Undecoded("text")]
        answered = AnsweredRows((bytes([number]) * 32, text) for number, text in enumerate(stored))

        assert not answered.has_fingerprint(b"")
