"""A few of the crash suite's cases on the stack that is running anyway; `make crash` has them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crash.scene import Case

if TYPE_CHECKING:
    from tests.crash.scene import Outcome, Scene

CASES = (
    Case("kill-sync-accepted", "crash_sync_safe", "accepted"),
    Case("kill-sync-landing", "crash_sync_safe", "landing", kind="image"),
    Case("kill-deferrable-end", "crash_deferrable_safe", "end", latency=5.0),
)


@pytest.fixture(scope="module")
def outcomes(scene: Scene) -> dict[str, Outcome]:
    """Kill one worker of each."""
    return scene.play(CASES, timeout=150)


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_a_killed_worker_is_followed_by_one_that_pays_nothing(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]

    assert (outcome.trouble, outcome.state) == ("", "success"), outcome.log
    assert outcome.tries == {"ask": 2}
    assert (outcome.posts, len(outcome.accepted), outcome.billed) == (1, 1, 1)
