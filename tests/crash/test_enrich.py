"""Enrichments killed at random moments, with 60 seeds; tests/enrichment runs a few of them as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.killed_runs import SHAPES, KilledRun, history_delay, service, undisturbed


@pytest.mark.parametrize("seed", range(50))
def test_a_killed_run_pays_once_and_ends_like_an_undisturbed_one(seed: int, tmp_path: Path) -> None:
    with service(history_delay=history_delay(seed)) as emulator:
        run = KilledRun(seed, tmp_path, emulator)
        run.run_to_end()
        run.check()


@pytest.mark.parametrize("seed", range(10))
def test_a_killed_run_exceeds_its_budget_at_most_by_what_is_in_flight(seed: int, tmp_path: Path) -> None:
    whole = undisturbed(*SHAPES[seed % len(SHAPES)]).counts["cost"]
    with service(history_delay=history_delay(seed)) as emulator:
        run = KilledRun(seed, tmp_path, emulator, max_cost=0.4 * whole)
        run.run_to_end()
        assert run.manifest()["stopped"]
        run.check()
