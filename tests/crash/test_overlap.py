"""Overlapping runs on one ledger, killed and frozen; ``make crash-overlap SEEDS=50`` runs many of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from airflow_provider_segmind.emulator.server import SegmindEmulator
from tests.crash.overlap import DISTINCT, LATENCY, ROWS, billed_twice, run_overlapping
from tests.support.enrichment_process import SCALE

SEEDS = int(os.environ.get("SEGMIND_OVERLAP_SEEDS", "8"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_overlapping_runs_pay_each_row_once_despite_kills_and_freezes(seed: int, tmp_path: Path) -> None:
    with SegmindEmulator(scale=SCALE, reset_clock="emulator", latency=LATENCY) as emulator:
        runs = run_overlapping(seed, tmp_path, emulator)
        twice, billed = billed_twice(emulator), len(emulator.bill)
        happened = {run.name: dict(run.happened) for run in runs}
        print(f"FIGURES {json.dumps({'seed': seed, 'billed': billed, 'distinct': DISTINCT, 'runs': happened})}")
        assert twice == []
        assert billed == DISTINCT
        for run in runs:
            manifest = run.manifest()
            assert manifest["outcomes"]["success"] == manifest["rows_read"] == ROWS
