"""The engine with the real client over real sockets, killed for real; ``make crash`` has many more such nights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.enrichment_process import SETTLES_AFTER
from tests.support.killed_runs import DELAYS, KilledRun, history_delay, service


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_run_pays_once_and_ends_like_an_undisturbed_one(seed: int, tmp_path: Path) -> None:
    with service(history_delay=history_delay(seed)) as emulator:
        run = KilledRun(seed, tmp_path, emulator)
        run.run_to_end()
        run.check()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_row_whose_post_was_lost_is_unknown_until_the_history_tells(when: str, tmp_path: Path) -> None:
    with service(history_delay=max(DELAYS)) as emulator:
        run = KilledRun(0, tmp_path, emulator)
        emulator.unfault()
        emulator.fault("submit", reset=True, when=when, skip=30, times=4)
        run.full_attempt()
        assert run.manifest()["outcomes"]["unknown"] >= 4
        assert len(emulator.posts()) == run.manifest()["posts"]

        emulator.advance(SETTLES_AFTER)
        run.full_attempt()

        assert run.manifest()["outcomes"]["unknown"] == 0
        run.check()
