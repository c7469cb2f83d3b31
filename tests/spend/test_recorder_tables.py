"""What a table adds to the spend record, and what a retry adds to it."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.enrichment.outcomes import FinishedRequest, Outcome
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator
from airflow_provider_segmind.spend.files import FileStore
from airflow_provider_segmind.spend.recorder import SpendBuffer, recorder_for
from airflow_provider_segmind.spend.store import SpendStore
from tests.support.airflow_fakes import Run
from tests.support.chat_tasks import NUMBER
from tests.support.spend import NOON

MODEL = "gemini-3.1-flash-lite"
THINGS = ("sky", "rose", "cut", "wrong", "broken", "sky")


@pytest.fixture
def emulator(segmind_emulator: SegmindEmulator) -> SegmindEmulator:
    """An offline Segmind that cuts one answer off, mistakes another one and fails at a third."""
    segmind_emulator.script(json={"x": 1})
    segmind_emulator.script(match="broken", fail="no capacity")
    segmind_emulator.script(match="cut", text='{"x": ', finish_reason="length", times=1)
    segmind_emulator.script(match="wrong", text="no data", times=1)
    return segmind_emulator


class Table:
    """A table, and task instances that ask about it."""

    def __init__(self, folder: Path) -> None:
        self.source, self.output = folder / "things.jsonl", folder / "out.jsonl"
        rows = [{"id": number, "thing": name} for number, name in enumerate(THINGS)]
        self.source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def ask(self, run: Run, **fields: Any) -> dict[str, Any]:
        task = SegmindEnrichFileOperator(
            task_id="a_task",
            model=MODEL,
            key="id",
            prompt="A number for {thing}",
            source=str(self.source),
            output_path=str(self.output),
            output_type=NUMBER,
            max_failed_rows=None,
            **fields,
        )
        manifest: dict[str, Any] = task.execute(run.context())
        return manifest


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path)


def costs(record: SpendStore) -> dict[str, float | None]:
    return {entry.request_id: entry.cost_micros for entry in record.read()}


def billed(emulator: SegmindEmulator) -> dict[str, float]:
    failed = {job.request_id: 0.0 for job in emulator.jobs if job.error}
    return {**failed, **{entry.request_id: round(entry.cost * 1e6, 6) for entry in emulator.bill}}


def test_each_request_of_a_table_is_recorded_follow_ups_included(
    emulator: SegmindEmulator, record: SpendStore, table: Table
) -> None:
    manifest = table.ask(Run())
    assert costs(record) == billed(emulator)
    assert sum(costs(record).values()) == pytest.approx(1e6 * manifest["cost"], abs=1e-6)  # type: ignore[arg-type]
    found = sorted(entry.outcome for entry in record.read())
    assert found == ["failed", "invalid", "success", "success", "success", "success", "truncated"]
    assert {(entry.dag_id, entry.task_id, entry.run_id, entry.map_index) for entry in record.read()} == {
        ("a_dag", "a_task", "manual__1", -1)
    }


def test_a_store_of_spend_that_hangs_does_not_keep_the_answers_back(
    emulator: SegmindEmulator, record: SpendStore, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, there = FileStore.write, list[bool]()

    def writing(store: FileStore, entries: Any) -> None:
        there.append(table.output.exists())
        write(store, entries)

    monkeypatch.setattr("airflow_provider_segmind.spend.recorder.FLUSH_INTERVAL", math.inf)
    monkeypatch.setattr(FileStore, "write", writing)
    table.ask(Run())
    assert there == [True]
    assert costs(record) == billed(emulator)


def test_answers_of_an_earlier_run_add_nothing(emulator: SegmindEmulator, record: SpendStore, table: Table) -> None:
    table.ask(Run(), rerun="nothing")
    before = costs(record)
    table.ask(Run(run_id="manual__2"), rerun="nothing")
    assert costs(record) == before == billed(emulator)


def test_a_retry_adds_each_request_that_a_killed_try_had_not_recorded(
    emulator: SegmindEmulator, record: SpendStore, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(FileStore, "write", lambda *_: (_ for _ in ()).throw(OSError("the worker died")))
        table.ask(Run(), rerun="nothing")
    assert costs(record) == {}
    table.ask(Run(), rerun="nothing")
    assert costs(record) == billed(emulator)
    assert "truncated" in {entry.outcome for entry in record.read()}


def test_a_retry_writes_nothing_that_is_recorded(
    emulator: SegmindEmulator, record: SpendStore, table: Table, tmp_path: Path
) -> None:
    table.ask(Run(), rerun="nothing")
    before = sorted((tmp_path / "spend").rglob("*.jsonl"))
    table.ask(Run(), rerun="nothing")
    assert sorted((tmp_path / "spend").rglob("*.jsonl")) == before


def a_request(request_id: str) -> FinishedRequest:
    return FinishedRequest(request_id, MODEL, NOON, Outcome.TRUNCATED, 0.00004825, 120, "a_dag/monday/a_task/-1")


@pytest.mark.parametrize("since", [NOON, math.inf])
def test_requests_of_rows_that_have_not_finished_are_compared_with_the_record_too(
    since: float, record: SpendStore, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = recorder_for(Run(run_id="monday").context(), "segmind_default", log=logging.getLogger("a_task"))
    assert recorder is not None
    recorder.write([recorder.entry(a_request("r1"))])
    buffer = SpendBuffer(recorder)
    buffer.ended_before(iter([a_request("r1"), a_request("r2")]), since=since)
    assert [request.request_id for request in buffer._waiting] == ["r2"]
    buffer.ended_before(iter([]), since=since)
    assert buffer.flush()
    assert sorted(costs(record)) == ["r1", "r2"]
    assert caplog.records == []


def test_a_request_of_another_run_is_recorded_for_that_run(record: SpendStore) -> None:
    recorder = recorder_for(Run().context(), "segmind_default", log=logging.getLogger("a_task"))
    assert recorder is not None
    buffer = SpendBuffer(recorder)
    buffer.ended(a_request("r1"))
    assert buffer.flush()
    [entry] = record.read()
    assert (entry.dag_id, entry.run_id, entry.task_id, entry.try_number) == ("a_dag", "monday", "a_task", 0)


def test_what_a_store_refused_is_written_with_the_next_requests(
    record: SpendStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = recorder_for(Run().context(), "segmind_default", log=logging.getLogger("a_task"))
    assert recorder is not None
    buffer = SpendBuffer(recorder)
    with monkeypatch.context() as patched:
        patched.setattr(FileStore, "write", lambda *_: (_ for _ in ()).throw(OSError("full")))
        for number in range(3):
            buffer.ended(a_request(f"r{number}"))
            assert not buffer.flush()
    assert len(caplog.records) == 1
    assert buffer.flush()
    assert sorted(costs(record)) == ["r0", "r1", "r2"]
