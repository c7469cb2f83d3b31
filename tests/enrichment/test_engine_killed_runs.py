"""The engine with the real client over real sockets, killed for real; ``make crash`` has many more such nights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.killed_runs import DELAYS, Night, history_delay, service
from tests.support.killed_worker import SETTLES_AFTER


@pytest.mark.parametrize("seed", range(2))
def test_a_run_that_is_killed_pays_once_and_ends_like_an_undisturbed_one(seed: int, tmp_path: Path) -> None:
    with service(history_delay=history_delay(seed)) as emulator:
        night = Night(seed, tmp_path, emulator)
        night.go()
        night.check()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_row_whose_post_was_lost_is_unknown_until_the_history_tells(when: str, tmp_path: Path) -> None:
    with service(history_delay=max(DELAYS)) as emulator:
        night = Night(0, tmp_path, emulator)
        emulator.unfault()
        emulator.fault("submit", reset=True, when=when, skip=30, times=4)
        night.whole_try()
        assert night.manifest()["outcomes"]["unknown"] >= 4
        assert len(emulator.posts()) == night.manifest()["posts"]

        emulator.advance(SETTLES_AFTER)
        night.whole_try()

        assert night.manifest()["outcomes"]["unknown"] == 0
        night.check()
