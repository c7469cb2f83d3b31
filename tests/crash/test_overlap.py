"""Runs that overlap on one ledger, killed and frozen; ``make crash-overlap SEEDS=50`` has many of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from airflow_provider_segmind.emulator.server import SegmindEmulator
from tests.crash.overlap import DISTINCT, LATENCY, ROWS, billed_twice, play
from tests.support.killed_worker import SCALE

SEEDS = int(os.environ.get("SEGMIND_OVERLAP_SEEDS", "8"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_runs_that_overlap_pay_each_row_once_whatever_happens_to_them(seed: int, tmp_path: Path) -> None:
    with SegmindEmulator(scale=SCALE, reset_clock="emulator", latency=LATENCY) as emulator:
        runners = play(seed, tmp_path, emulator)
        twice, billed = billed_twice(emulator), len(emulator.bill)
        happened = {runner.name: dict(runner.happened) for runner in runners}
        print(f"FIGURES {json.dumps({'seed': seed, 'billed': billed, 'distinct': DISTINCT, 'runs': happened})}")
        assert twice == []
        assert billed == DISTINCT
        for runner in runners:
            manifest = runner.manifest()
            assert manifest["outcomes"]["success"] == manifest["rows_read"] == ROWS
