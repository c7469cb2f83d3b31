"""Finished rows are written while others are asked; trouble with the table loses no answer, and ends the asking."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.output import OutputRow
from airflow_provider_segmind.enrichment.row_reader import SourceRow
from airflow_provider_segmind.enrichment.sql import batch_loader
from airflow_provider_segmind.enrichment.sql.answer_table import TableWriter, Target
from airflow_provider_segmind.enrichment.sql.batch_loader import LONGEST_UNWRITTEN, TARGET_PATIENCE, BatchLoader
from airflow_provider_segmind.enrichment.sql.column_types import Kind
from airflow_provider_segmind.enrichment.sql.dialects import TableName, dialect_of
from airflow_provider_segmind.enrichment.work_queue import FinishedRows
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from tests.support.databases import OWN, Sqlite
from tests.support.ledger_events import mark


class Loading:
    """A loader of a SQLite table, with rows that have their outcome and a clock that the test moves."""

    def __init__(self, folder: Path) -> None:
        self.database = Sqlite(folder)
        self.now = 1000.0
        self.appended = self.durable = 0
        self.rows: dict[bytes, list[int]] = {}
        self.there: set[int] = set()
        self.fails: list[Exception] = []
        self.finished = FinishedRows(
            appended=lambda: self.appended, durable=lambda: self.durable, monotonic=lambda: self.now
        )
        self.loader = self.made()

    def made(self) -> BatchLoader:
        target = Target(
            self.connect, dialect=dialect_of("sqlite"), name=TableName(("answers",)), place="shop", key=["id"],
            answers={"answer": Kind.TEXT}, batch_rows=3,
        )  # fmt: skip
        engine: Any = SimpleNamespace(finished_rows=self.finished)
        output: Any = SimpleNamespace(finished_rows=self.equal_rows)
        return BatchLoader(
            target, engine, output, batch_rows=3, columns=self.columns, has_answer=self.has_answer,
            clock=lambda: self.now,
        )  # fmt: skip

    def connect(self) -> Any:
        if self.fails:
            raise self.fails.pop(0)
        return self.database.connect()

    def equal_rows(self, fingerprint: bytes, *, after: int, most: int) -> list[OutputRow]:
        numbers = [number for number in self.rows[fingerprint] if number > after][:most]
        sources = [SourceRow(number, {"id": number}, fingerprint) for number in numbers]
        return [OutputRow(source, Outcome.SUCCESS, "", None) for source in sources]

    def columns(self, row: OutputRow) -> Mapping[str, Any]:
        return {"id": row.source.number, "answer": "blue", "_segmind_status": "success"}

    def has_answer(self, key: Mapping[str, Any], fingerprint: bytes) -> bool:
        return key["id"] in self.there

    def finish(self, *numbers: int, equal_to: int | None = None) -> None:
        """Let rows have their outcome, which is durable."""
        for number in numbers:
            fingerprint = mark(number if equal_to is None else equal_to)
            self.rows.setdefault(fingerprint, []).append(number)
            self.finished.add(fingerprint)

    def load(self) -> SegmindEnrichmentError | None:
        """Begin what is due, and wait for it."""
        trouble = self.loader.load_if_due()
        with contextlib.suppress(SegmindEnrichmentError):
            self.loader._wait()
        return trouble

    @property
    def written(self) -> list[int]:
        return [number for (number,) in self.database.rows("SELECT id FROM answers ORDER BY id")]


@pytest.fixture
def loading(tmp_path: Path) -> Iterator[Loading]:
    made = Loading(tmp_path)
    made.database.run(f"CREATE TABLE answers (id INTEGER PRIMARY KEY, answer TEXT, {OWN})")
    yield made
    made.loader.close()


def test_only_full_batches_are_written_until_a_row_has_waited_long_enough(loading: Loading) -> None:
    loading.finish(0, 1)
    assert loading.load() is None
    nothing = loading.written
    loading.finish(2, 3)
    loading.load()
    batch = loading.written
    loading.now += LONGEST_UNWRITTEN
    loading.load()

    assert (nothing, batch, loading.written) == ([], [0, 1, 2], [0, 1, 2, 3])
    assert len(loading.finished) == 0


def test_the_table_is_never_ahead_of_the_ledger(loading: Loading) -> None:
    loading.finish(0, 1)
    loading.appended = 5
    loading.finish(2)

    loading.load()
    assert loading.written == []
    loading.durable = 5
    loading.load()

    assert loading.written == [0, 1, 2]


def test_rows_that_share_an_answer_are_written_once_each_whenever_they_are_read(loading: Loading) -> None:
    loading.finish(0, 1, 2, 3, 4, equal_to=0)
    loading.loader.flush()
    loading.finish(5, 6, equal_to=0)
    transactions: list[int] = []
    transact = TableWriter._transact_once

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TableWriter, "_transact_once", lambda self, rows: (transactions.append(len(rows)), transact(self, rows))
        )
        loading.loader.flush()

    assert loading.written == [0, 1, 2, 3, 4, 5, 6]
    assert transactions == [2]


def test_rows_that_are_in_the_table_are_not_written_again(loading: Loading) -> None:
    loading.there = {0, 1, 2, 3}
    loading.finish(0, 1, 2, 3, 4, 5)

    loading.load()
    assert (loading.written, len(loading.finished)) == ([], 2)
    loading.loader.flush()

    assert loading.written == [4, 5]


def test_a_database_that_is_away_is_tried_again_later_and_loses_no_row(loading: Loading) -> None:
    loading.fails = [sqlite3.OperationalError("away")] * 2
    loading.finish(0, 1, 2)

    loading.load()
    assert loading.load() is None
    assert len(loading.fails) == 1
    loading.now += 1.0
    loading.load()
    loading.now += 1.0
    loading.load()
    assert (loading.fails, loading.written) == ([], [])
    loading.now += 1.0
    loading.load()

    assert loading.written == [0, 1, 2]
    loading.now += 2 * TARGET_PATIENCE
    assert loading.load() is None


def test_a_database_that_stays_away_ends_the_asking(loading: Loading) -> None:
    loading.fails = [sqlite3.OperationalError("away")] * 99
    loading.finish(0, 1, 2)
    began = loading.now

    trouble = None
    for _ in range(100):
        if trouble := loading.load():
            break
        loading.now += 10.0

    assert trouble is not None
    assert loading.now - began == TARGET_PATIENCE
    assert trouble.retryable
    assert "'answers' of 'shop' has accepted no rows for 15 minutes: Opening the table" in str(trouble)
    assert "Nothing more is sent. The answers are in the ledger" in str(trouble)


def test_a_transaction_that_does_not_end_holds_nobody_up_and_ends_the_asking(
    loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(TableWriter, "_transact_once", lambda self, rows: let_go.wait(60) and None)
    monkeypatch.setattr(batch_loader, "LAST_TRANSACTION", 0.05)
    loading.finish(0, 1, 2)

    try:
        assert loading.loader.load_if_due() is None
        loading.now += TARGET_PATIENCE
        trouble = loading.loader.load_if_due()
        with pytest.raises(SegmindEnrichmentError, match=r"has not finished.*in the ledger"):
            loading.loader.close()
    finally:
        let_go.set()

    assert "a transaction has not finished" in str(trouble)


def test_a_table_that_refuses_everything_ends_the_asking(
    loading: Loading, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batch_loader, "MOST_IN_VAIN", 4)
    loading.database.run(
        "DROP TABLE answers", f"CREATE TABLE answers (id INTEGER PRIMARY KEY CHECK (id > 2), answer TEXT, {OWN})"
    )
    loading.finish(0, 1, 2)
    assert (loading.load(), loading.load()) == (None, None)
    loading.finish(3, 4, 5)
    assert (loading.load(), loading.load()) == (None, None)
    loading.database.run(
        "DROP TABLE answers", f"CREATE TABLE answers (id INTEGER PRIMARY KEY CHECK (id < 0), answer TEXT, {OWN})"
    )
    loading.finish(6, 7, 8, 9, 10, 11)
    loading.load()
    trouble = loading.load()

    assert trouble is not None
    assert not trouble.retryable
    assert "has refused 6 consecutive rows. Nothing more is sent" in str(trouble)
    assert "refused 3 rows: IntegrityError" in caplog.text
    loading.finish(12, 13, 14)
    loading.load()
    assert len(loading.finished) == 3
