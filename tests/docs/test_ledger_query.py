"""The query of a ledger in the documentation gives the figures of the run's manifest."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import duckdb
import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.airflow_fakes import Run
from tests.support.table_tasks import Table, things

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "enrichment.md"
LEDGER = "s3://support/ledger"


def test_the_ledger_is_queried_with_duckdb(tmp_path: Path, segmind_emulator: SegmindEmulator) -> None:
    (query,) = re.findall(r"^```sql\n(.*?read_json.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert LEDGER in query
    table = Table(tmp_path, segmind_emulator)
    segmind_emulator.script(match="rose", fail="the model is overloaded", times=1)
    segmind_emulator.script(match="blood", block="SAFETY")
    names = ("sky", "rose", "blood", "sky", *(f"leaf {number}" for number in range(20)))
    first = table.ask(source=things(*names), max_failed_rows=None)
    table.run = Run(run_id="the next")
    second = table.ask(source=things(*names), max_failed_rows=None)

    ledger = table.output.parent / "_segmind_ledger"
    rows = duckdb.sql(query.replace(LEDGER, str(ledger))).fetchall()

    assert first["outcomes"]["failed"] == 1
    counts = Counter({outcome: count for _, outcome, _, count, _, _ in rows})
    assert counts == {"success": 22, "blocked": 1}
    assert counts.total() == second["distinct_rows"]
    assert sum(usd for *_, usd, _ in rows) == pytest.approx(
        sum(entry.cost for entry in segmind_emulator.bill), abs=2e-6
    )
    assert {model for model, *_ in rows} == {"gemini-3.1-flash-lite"}
    assert next(reason for _, outcome, reason, *_ in rows if outcome == "blocked") == "the provider blocked it (SAFETY)"
