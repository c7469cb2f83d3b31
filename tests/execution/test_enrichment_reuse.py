"""A table takes answers that chat tasks and other tables have paid for, and gives them its own."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.answer_cache import AnswerCache
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.exceptions import SegmindStateError
from airflow_provider_segmind.execution.enrichment import EnrichmentRun
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.spend.store import configured_store
from tests.support.airflow_fakes import Run
from tests.support.table_tasks import MODEL, Colour, Table, things


class Tables:
    """Tables with a ledger each, which share an answer cache with chat tasks."""

    def __init__(self, folder: Path, emulator: SegmindEmulator) -> None:
        self.folder, self.emulator = folder, emulator
        self.reuse = {"reuse_answers": "always", "answers_path": str(folder / "answers")}
        self.count = 0

    def ask(self, *names: str, run: str = "monday", **fields: Any) -> tuple[Table, Any]:
        """Run a table with a ledger of its own."""
        self.count += 1
        folder = self.folder / f"table{self.count}"
        folder.mkdir()
        table = Table(folder, self.emulator)
        table.run = Run(run_id=run)
        return table, table.ask(source=things(*names), **{**self.reuse, **fields})

    def chat(self, prompt: str, **fields: Any) -> Any:
        run = Run(run_id="a chat")
        task = SegmindChatOperator(
            task_id="a_chat", model=MODEL, prompt=prompt, deferrable=False, **{**self.reuse, **fields}
        )
        try:
            return task.execute(run.context()), run.ti.pushed
        finally:
            task.hook.close()

    @property
    def posts(self) -> int:
        return len(self.emulator.posts())


@pytest.fixture
def tables(tmp_path: Path, segmind_emulator: SegmindEmulator) -> Tables:
    return Tables(tmp_path, segmind_emulator)


def test_a_chat_and_a_table_that_ask_the_same_pay_once_whichever_is_first(tables: Tables) -> None:
    answer, _ = tables.chat("The colour of sky?")
    table, manifest = tables.ask("sky", "rose", "sky")
    assert tables.posts == len(tables.emulator.bill) == 2
    paid = tables.emulator.bill

    _, xcoms = tables.chat("The colour of rose?")

    assert tables.posts == 2
    assert xcoms["reused"] is True
    assert xcoms["request_id"] == paid[1].request_id
    assert [row["answer"] for row in table.rows] == [answer, "echo: The colour of rose?", answer]
    assert table.rows[0]["_segmind_request_id"] == paid[0].request_id
    assert table.rows[0]["_segmind_cost"] == 0
    assert manifest["outcomes"]["success"] == 3
    assert manifest["cache_hits"] == manifest["reused"] == 1
    assert manifest["requests"] == manifest["posts"] == 1
    assert manifest["cost"] == pytest.approx(paid[1].cost)


def test_typed_answers_are_shared_by_their_schema(tables: Tables) -> None:
    tables.emulator.script(json={"colour": "blue", "warm": False}, times=None)
    tables.ask("sky", output_type=Colour)

    assert tables.chat("The colour of sky?", output_type=Colour)[0] == {"colour": "blue", "warm": False}
    assert tables.posts == 1
    tables.chat("The colour of sky?")
    assert tables.posts == 2


def test_a_second_table_with_another_ledger_pays_nothing_and_a_retry_keeps_its_counts(
    tables: Tables, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[dict[str, int]] = []
    totals = EnrichmentRun._totals
    monkeypatch.setattr(EnrichmentRun, "_totals", lambda run: counted.append(totals(run)) or counted[-1])
    names = [f"thing {number}" for number in range(20)]
    tables.ask(*names)
    assert counted[-1]["rows.reused"] == 0
    with caplog.at_level(logging.INFO):
        table, manifest = tables.ask(*names, run="tuesday", max_rows=1, max_cost=0.0001)
    again = table.ask(source=things(*names), **tables.reuse)

    assert tables.posts == len(tables.emulator.bill) == 20
    assert manifest["reused"] == again["reused"] == 20
    assert manifest["cost"] == manifest["posts"] == manifest["requests"] == 0
    assert "20 distinct rows from the answer cache" in caplog.text
    assert max(one.get("rows.reused", 0) for one in counted) == 20


def test_the_final_answer_of_a_row_is_kept_under_its_first_question(tables: Tables) -> None:
    tables.emulator.script(text="no data")
    tables.emulator.script(match="The validator says", json={"colour": "blue", "warm": False}, times=None)
    _, manifest = tables.ask("sky", output_type=Colour)
    assert manifest["posts"] == 2

    assert tables.chat("The colour of sky?", output_type=Colour)[0]["colour"] == "blue"
    assert tables.posts == 2
    (kept,) = (tables.folder / "answers").glob("*/*.json")
    about = json.loads(kept.read_text().splitlines()[0])
    assert about["requests"] == 2
    assert about["cost"] == pytest.approx(sum(entry.cost for entry in tables.emulator.bill))


def test_rows_without_an_answer_are_not_kept(tables: Tables) -> None:
    tables.emulator.script(match="blood", block="SAFETY", times=None)
    tables.emulator.script(match="rose", fail="too red", times=None)
    tables.ask("blood", "rose", max_failed_rows=None)
    assert not (tables.folder / "answers").exists()


def test_a_memory_out_of_reach_stops_the_table_before_it_pays(tables: Tables) -> None:
    tables.ask("sky")
    (kept,) = (tables.folder / "answers").glob("*/*.json")
    kept.unlink()
    kept.mkdir()

    with pytest.raises(SegmindStateError, match="answer cache"):
        tables.ask("sky")
    assert tables.posts == 1


def test_answers_that_cannot_be_kept_are_in_the_output_all_the_same(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def keep(*_: Any) -> None:
        raise OSError("read-only")

    monkeypatch.setattr(AnswerCache, "keep", keep)
    _, manifest = tables.ask("sky", "rose")

    assert manifest["outcomes"]["success"] == 2
    assert caplog.text.count("could not be stored in the answer cache") == 1


def test_the_ledger_stays_the_tables_own_and_the_default_is_to_use_no_memory(tables: Tables) -> None:
    table, _ = tables.ask("sky")
    (kept,) = (tables.folder / "answers").glob("*/*.json")
    kept.unlink()
    table.run = Run(run_id="tuesday")

    table.ask(source=things("sky"), **tables.reuse)
    assert tables.posts == 1
    tables.ask("sky", reuse_answers="never")
    assert tables.posts == 2
    assert not list((tables.folder / "answers").glob("*/*.json"))


def test_reused_rows_are_entries_of_the_record_of_spend_without_cost(
    tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_PATH", str(tables.folder / "spend"))
    tables.ask("sky", "rose")
    tables.ask("sky", "rose", "lime", run="tuesday")
    store = configured_store()
    assert store is not None
    entries = list(store.read())

    assert sorted((entry.run_id, entry.reused) for entry in entries) == [
        ("monday", False),
        ("monday", False),
        ("tuesday", False),
        ("tuesday", True),
        ("tuesday", True),
    ]
    billed = sum(entry.cost for entry in tables.emulator.bill)
    assert sum(entry.cost_micros or 0 for entry in entries) == pytest.approx(billed * 1e6)
