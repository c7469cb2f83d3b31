"""An enrichment with a slow model defers while it can only wait, and resumes where it was."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.client.poll_schedule import PollSchedule, shared_history
from airflow_provider_segmind.compat import AirflowFailException, TaskDeferred
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator
from airflow_provider_segmind.triggers.request import SegmindRequestsTrigger
from tests.support.airflow_fakes import KEY, Clock, Run

MODEL = "gemini-3.1-flash-lite"
NAMES = ["sky", "rose", "leaf", "sand", "sea", "sky"]


@pytest.fixture
def emulator(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An emulator whose model takes ten minutes, as earlier requests did, with a clock that the test moves."""
    with SegmindEmulator(clock=clock, api_keys=[KEY], latency=600) as running:
        shared_history.observe(MODEL, 600)
        monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", running.connection_json)
        # Minutes of the emulator's clock are moments of the poller's.
        monkeypatch.setattr(PollSchedule, "after", lambda _, age, jitter=1.0: age + 0.1)
        yield running


class Rows:
    """A task with six rows, five of them distinct, and two requests at a time."""

    def __init__(self, folder: Path) -> None:
        self.run = Run()
        self.output = folder / "out.jsonl"
        self.source = folder / "rows.jsonl"
        self.source.write_text(
            "".join(json.dumps({"id": number, "thing": name}) + "\n" for number, name in enumerate(NAMES))
        )

    def task(self, **fields: Any) -> SegmindEnrichFileOperator:
        given = {"concurrency": 2, "deferrable": True, **fields}
        task = SegmindEnrichFileOperator(
            task_id="a_task",
            model=MODEL,
            key="id",
            prompt="The colour of {thing}?",
            source=str(self.source),
            output_path=str(self.output),
            **given,
        )
        hand: Any = task
        hand._cached_logger = hand._log = logging.getLogger("a_task")
        return task

    def defer(self) -> SegmindRequestsTrigger:
        """Run the task until it defers for the first time."""
        with pytest.raises(TaskDeferred) as deferred:
            self.task().execute(self.run.context())
        assert deferred.value.method_name == "execute_complete"
        path, arguments = deferred.value.trigger.serialize()
        assert path == "airflow_provider_segmind.triggers.request.SegmindRequestsTrigger"
        # As Airflow restores it from the database.
        return SegmindRequestsTrigger(**{**json.loads(json.dumps(arguments)), "not_before": 0.0, "a_new_one": 1})

    @property
    def answers(self) -> list[Any]:
        return [json.loads(line)["answer"] for line in self.output.read_text().splitlines()]


def fired(trigger: SegmindRequestsTrigger) -> dict[str, Any]:
    async def run() -> Any:
        return [event.payload async for event in trigger.run()]

    [payload] = asyncio.run(asyncio.wait_for(run(), 30))
    found: dict[str, Any] = json.loads(json.dumps(payload))
    return found


def test_a_slow_table_that_defers_is_paid_once_and_completes(
    emulator: SegmindEmulator, clock: Clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Rows(tmp_path)
    with caplog.at_level(logging.INFO):
        trigger = rows.defer()
    serialized = str(trigger.serialize())
    assert KEY not in serialized
    assert "sky" not in serialized
    assert not rows.output.exists()
    clock.ahead += 601
    emulator.settings(latency=0)

    manifest = rows.task().execute_complete(rows.run.context(), fired(trigger))

    assert rows.answers == [f"echo: The colour of {name}?" for name in NAMES]
    assert len(emulator.posts()) == len(emulator.bill) == 5
    assert manifest["posts"] == 5
    assert manifest["resumed"] == 2
    assert sum(manifest["timeline"]["posts"]) == 5
    assert "deferring until" in caplog.text


def test_a_task_that_is_not_deferrable_keeps_the_worker(
    emulator: SegmindEmulator, clock: Clock, tmp_path: Path
) -> None:
    rows = Rows(tmp_path)
    emulator.settings(latency=0)

    manifest = rows.task(deferrable=False).execute(rows.run.context())

    assert manifest["outcomes"]["success"] == 6


def test_a_task_with_a_fast_model_does_not_defer(emulator: SegmindEmulator, clock: Clock, tmp_path: Path) -> None:
    emulator.settings(latency=0)

    assert Rows(tmp_path).task().execute(Run().context())["outcomes"]["success"] == 6


def test_a_deferral_that_timed_out_resumes_and_keeps_the_worker(
    emulator: SegmindEmulator, clock: Clock, tmp_path: Path
) -> None:
    rows = Rows(tmp_path)
    rows.defer()
    clock.ahead += 601
    emulator.settings(latency=0)
    task = rows.task()

    manifest = task.resume_execution("__fail__", {"error": "Trigger timeout"}, rows.run.context())

    assert manifest["outcomes"]["success"] == 6
    assert task.deferrable is False
    assert len(emulator.bill) == 5


@pytest.mark.parametrize("event", [None, {}, {"resume_state": {"posts": 0}}])
def test_a_resumed_task_never_says_that_nothing_was_sent(
    emulator: SegmindEmulator, clock: Clock, tmp_path: Path, event: dict[str, Any] | None
) -> None:
    rows = Rows(tmp_path)
    rows.defer()
    rows.output.mkdir()

    with pytest.raises(AirflowFailException, match="Nothing more was sent; requests may have been sent before"):
        rows.task().execute_complete(rows.run.context(), event)


def test_the_trigger_ends_at_its_deadline_and_reports_how_many_requests_ended(
    emulator: SegmindEmulator, clock: Clock, tmp_path: Path
) -> None:
    trigger = Rows(tmp_path).defer()
    trigger.until = time.time() + 0.3

    event = fired(trigger)

    assert event["ended"] == 0
    assert event["error"] is None
    assert event["resume_state"]["posts"] == 2


def test_a_failed_request_counts_as_ended(emulator: SegmindEmulator, clock: Clock, tmp_path: Path) -> None:
    emulator.script(match="sky", fail="no")
    trigger = Rows(tmp_path).defer()
    clock.ahead += 601
    trigger.enough = 2

    assert fired(trigger)["ended"] == 2


def test_an_error_in_the_trigger_resumes_the_task(
    emulator: SegmindEmulator, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger = Rows(tmp_path).defer()
    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", '{"conn_type": "segmind", "host": "ftp://nowhere"}')

    assert fired(trigger)["error"] == "SegmindConfigError"


def test_a_trigger_without_requests_waits_for_its_deadline() -> None:
    began = time.time()
    trigger = SegmindRequestsTrigger(requests=[], enough=0, until=began + 0.2)

    assert fired(trigger)["ended"] == 0
    assert time.time() >= began + 0.2
