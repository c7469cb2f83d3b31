"""What 100 runs cost: the same in the record, command, page, manifests, lineage, metrics and on the emulator's bill."""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.money import usd
from airflow_provider_segmind.monitoring.cli import main
from airflow_provider_segmind.spend.store import SpendStore
from tests.monitoring.page.conftest import api_app, stored, visit
from tests.spend.conftest import record
from tests.support.airflow_fakes import Clock
from tests.support.spend_runs import SpendRuns
from tests.support.statsd import StatsdListener
from tests.support.table_tries import TableTries, Try
from tests.support.tasks import clock, emulator

if TYPE_CHECKING:
    from tests.support.metadata import Metadata

__all__ = ["api_app", "clock", "emulator", "record", "stored", "visit"]

CHATS, KILLED_TABLES, CALM_TABLES = 86, 10, 4
TRIES = 8
CALM_AFTER = 3
"""Tries after which neither Segmind nor the worker has faults, so that a table ends."""
TABLE, CHAT = "table_dag", "a_dag"


@dataclass
class Tables:
    """Runs of a table task, each of rows of its own, over the account of the emulator."""

    emulator: SegmindEmulator
    tries: TableTries
    folder: Path
    rng: random.Random = field(default_factory=lambda: random.Random(12))
    died: int = 0
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self, number: int, *, kills: bool, **environment: str) -> None:
        """Try one task until all of its rows have an outcome."""
        folder = self.folder / f"run_{number}"
        folder.mkdir()
        rows = [1000 * (number + 1) + row for row in range(self.rng.randint(12, 30))]
        for attempt in range(TRIES):
            calm = not kills or attempt >= CALM_AFTER
            self.emulator.unfault()
            if not calm:
                self._add_faults()
            task = {"dag_id": TABLE, "task_id": "ask", "run_id": f"run {number}", "try_number": attempt + 1}
            death = (
                {} if calm else self.rng.choice(({"die_after": self.rng.uniform(0.1, 1.5)}, {"die_at": attempt + 1}))
            )
            ended = self.tries.run(Try(task=task, folder=str(folder), rows=rows, environment=environment, **death))
            if ended is None:
                self.died += 1
            elif calm:
                assert ended["error"] is None
                self.ended[task["run_id"]] = ended
                if not ended["value"]["outcomes"]["unknown"]:
                    return
                # If every row was claimed before a kill, only a later request shows that the history is complete.
                rows.append(1000 * (number + 1) + 100 + attempt)
        raise AssertionError(f"the outcome of rows of run {number} stays unknown")

    def _add_faults(self) -> None:
        for fault in (
            {"route": "submit", "status": 503, "probability": 0.05},
            {"route": "submit", "reset": True, "when": "after", "probability": 0.03},
            {"route": "result|status", "status": 500, "probability": 0.05},
        ):
            self.emulator.fault(**fault, times=None, seed=self.rng.randrange(1 << 30))


@pytest.fixture
def tables(emulator: SegmindEmulator, record: SpendStore, tmp_path: Path) -> Iterator[Tables]:
    with TableTries() as tries:
        yield Tables(emulator, tries, tmp_path)


def micros_of(emulator: SegmindEmulator) -> dict[str, float]:
    """Return what each request has cost; one that failed is free."""
    emulator.bill  # noqa: B018 - completes the requests that are due
    return {job.request_id: 0.0 for job in emulator.jobs} | {one.request_id: one.cost * 1e6 for one in emulator.bill}


def printed_by(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """Return what the command prints as JSON."""
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    printed = capsys.readouterr().out
    return json.loads(printed[printed.index("{\n") :])


@pytest.mark.airflow
def test_every_place_shows_what_a_hundred_runs_have_cost(
    emulator: SegmindEmulator,
    clock: Clock,
    record: SpendStore,
    tables: Tables,
    stored: Metadata,
    visit: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chats = SpendRuns(emulator, clock, record, seed=7)
    with StatsdListener() as statsd:
        for number in range(CALM_TABLES):
            tables.run(number, kills=False, **statsd.settings)
        calm = sum(micros_of(emulator).values())
    for number in range(CALM_TABLES, CALM_TABLES + KILLED_TABLES):
        tables.run(number, kills=True)
    for number in range(CHATS):
        chats.run(number)
    chats.reconcile()

    # The record and the bill, request by request.
    billed = micros_of(emulator)
    entries = {entry.request_id: entry for entry in record.read()}
    assert {name: entry.cost_micros or 0.0 for name, entry in entries.items()} == pytest.approx(billed, abs=1e-6)
    runs: dict[tuple[str, str], float] = defaultdict(float)
    for name, entry in entries.items():
        runs[entry.dag_id, entry.run_id] += billed[name]
    bill = sum(billed.values())
    assert min(tables.died, chats.killed, chats.abandoned) >= 5
    assert (len(tables.ended), calm > 0) == (CALM_TABLES + KILLED_TABLES, True)

    # Each counter is sent with four decimals, a table at a time.
    assert statsd.counters["airflow.segmind.cost_micros"] == pytest.approx(calm, abs=CALM_TABLES * 1e-3)

    # Manifests and facets, table by table.
    for run_id, ended in tables.ended.items():
        assert ended["value"]["cost"] * 1e6 == pytest.approx(runs[TABLE, run_id], abs=1e-3)
        assert ended["facet"]["costMicros"] == round(runs[TABLE, run_id])

    # The command, run by run; the requests of abandoned chats are of no run that is known.
    command = printed_by(capsys, "spend", "--by", "dag,run", "--output", "json")
    assert (command["total"]["cost_micros"], command["total"]["requests"]) == (pytest.approx(bill), len(billed))
    assert {(one["dag"], one["run"]): one["cost_micros"] for one in command["groups"]} == pytest.approx(runs)

    # The page, until today.
    for dag_id in {dag_id for dag_id, _ in runs if dag_id}:
        stored.dag(dag_id)
    for run_id, ended in tables.ended.items():
        own = stored.task("ask", "SegmindEnrichFileOperator", dag_id=TABLE, run_id=run_id)
        stored.xcom(own, "return_value", ended["value"])
    stored.session.commit()
    shown = pages(visit("viewer"), clock, monkeypatch)
    total = re.search(
        r'<td>total</td><td class="number">([^<]*)</td>\s*<td></td>\s*<td class="number">([^<]*)<', shown.spend
    )
    assert total is not None
    assert total.groups() == (usd(bill), f"{len(billed):,}")
    for dag_id in {dag_id for dag_id, _ in runs}:
        assert (
            f'<td class="number">{usd(sum(cost for (name, _), cost in runs.items() if name == dag_id))}</td>'
            in shown.spend
        )
    for run_id in tables.ended:
        assert usd(runs[TABLE, run_id]) in shown.tables


@dataclass
class Pages:
    spend: str
    tables: str


def pages(visitor: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Pages:
    """Open the page on the day of the emulator's clock."""
    from airflow_provider_segmind.monitoring.page import app

    class Day(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.fromtimestamp(clock(), tz)

    monkeypatch.setattr(app, "datetime", Day)
    monkeypatch.setattr(app, "SPENT", app.SpendCache())
    return Pages(visitor.get("/spend?by=dag").text, visitor.get("/tables").text)
