"""Runs over tables, killed at random moments in 60 nights; some of them are in tests/enrichment as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.killed_runs import SHAPES, Night, history_delay, service, undisturbed


@pytest.mark.parametrize("seed", range(50))
def test_a_run_that_is_killed_pays_once_and_ends_like_an_undisturbed_one(seed: int, tmp_path: Path) -> None:
    with service(history_delay=history_delay(seed)) as emulator:
        night = Night(seed, tmp_path, emulator)
        night.go()
        night.check()


@pytest.mark.parametrize("seed", range(10))
def test_a_run_that_is_killed_spends_its_budget_but_for_what_is_in_flight(seed: int, tmp_path: Path) -> None:
    whole = undisturbed(*SHAPES[seed % len(SHAPES)]).counts["cost"]
    with service(history_delay=history_delay(seed)) as emulator:
        night = Night(seed, tmp_path, emulator, max_cost=0.4 * whole)
        night.go()
        assert night.manifest()["stopped"]
        night.check()
