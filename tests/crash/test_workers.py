"""
Workers are killed with SIGKILL at every stage of a request; the emulator's bill shows what was paid.

All cases run at once, so that the minute in which Airflow notices a missing heartbeat passes only once.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.crash_runs import CaseResult, CrashCase

if TYPE_CHECKING:
    from tests.support.crash_runs import CrashRunner

MODES = ("sync", "deferrable")
KINDS = {"start": "gemini", "accepted": "gemini", "polling": "gemini", "downloading": "image", "end": "gemini"}
STEPS = {"submit": "accepted", "wait": "polling", "result": "end"}
CALM = ("calm-gemini", "calm-image", "steps-calm")
# A POST that never arrived, and one that did while the history is two hours behind: both have the same record.
UNKNOWN = {"lost": ("intent", "segmind_default"), "late": ("accepted", "segmind_late_history")}


def _cases(mode: str) -> list[CrashCase]:
    def dag(policy: str) -> str:
        return f"crash_{mode}_{policy}"

    kills: list[CrashCase] = [
        CrashCase(f"{mode}-start", dag("safe"), "start"),
        CrashCase(f"{mode}-accepted", dag("safe"), "accepted"),
        CrashCase(f"{mode}-polling", dag("patient"), "polling"),
        CrashCase(f"{mode}-downloading", dag("patient"), "downloading", kind="image"),
        # The deferrable task is killed on the worker on which it resumes.
        CrashCase(f"{mode}-end", dag("safe"), "end", latency=10.0),
        CrashCase(f"{mode}-steps-submit", dag("steps"), "accepted", task_id="submit"),
        CrashCase(f"{mode}-steps-wait", dag("patient_steps"), "polling", task_id="wait"),
        CrashCase(f"{mode}-steps-result", dag("steps"), "end", task_id="result"),
    ]
    calm = [CrashCase(f"{mode}-calm-{kind}", dag("safe"), kind=kind) for kind in ("gemini", "image")]
    calm.append(CrashCase(f"{mode}-steps-calm", dag("steps"), task_id="result"))
    unknown = [
        CrashCase(f"{mode}-{name}-{policy}", dag(policy), point, connection=connection)
        for name, (point, connection) in UNKNOWN.items()
        for policy in ("safe", "unknown_resubmit")
    ]
    return [*calm, *kills, *unknown]


@pytest.fixture(scope="module")
def outcomes(crash_runner: CrashRunner) -> dict[str, CaseResult]:
    """Run all cases at once."""
    return crash_runner.run_all([case for mode in MODES for case in _cases(mode)], timeout=420)


@pytest.fixture(scope="module")
def cleared(crash_runner: CrashRunner, outcomes: dict[str, CaseResult]) -> dict[str, CaseResult]:
    """Clear the undisturbed runs, and let them run again."""
    again = {}
    for name in [f"{mode}-{calm}" for mode in MODES for calm in CALM]:
        before = outcomes[name]
        crash_runner.stack.rest.clear(before.case.dag_id, before.run_id, list(before.tries))
        again[name] = dataclasses.replace(before, tries={}, xcom={}, log="")
    crash_runner.finish(again.values(), timeout=240)
    return again


def _check_killed_once(outcome: CaseResult, task_id: str = "ask") -> None:
    assert outcome.problem == ""
    assert outcome.killed
    assert outcome.tries[task_id] == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("point", KINDS)
def test_a_killed_worker_costs_and_changes_nothing(outcomes: dict[str, CaseResult], mode: str, point: str) -> None:
    outcome = outcomes[f"{mode}-{point}"]

    _check_killed_once(outcome)
    assert outcome.state == "success", outcome.log
    assert (outcome.posts, len(outcome.accepted), outcome.billed) == (1, 1, 1), outcome.log
    assert outcome.plain() == outcomes[f"{mode}-calm-{KINDS[point]}"].plain()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("task_id", STEPS)
def test_a_killed_step_costs_and_changes_nothing(outcomes: dict[str, CaseResult], mode: str, task_id: str) -> None:
    outcome = outcomes[f"{mode}-steps-{task_id}"]

    _check_killed_once(outcome, task_id)
    assert outcome.state == "success", outcome.log
    assert (outcome.posts, len(outcome.accepted), outcome.billed) == (1, 1, 1), outcome.log
    assert outcome.plain() == outcomes[f"{mode}-steps-calm"].plain()


@pytest.mark.parametrize("mode", MODES)
def test_a_request_whose_response_was_lost_is_found_in_the_history(outcomes: dict[str, CaseResult], mode: str) -> None:
    outcome = outcomes[f"{mode}-accepted"]

    assert f"Found request {outcome.accepted[0]} in the request history" in outcome.log


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "accepted"), [("lost", 0), ("late", 1)])
def test_a_post_missing_from_the_history_fails_the_task_with_what_is_known(
    outcomes: dict[str, CaseResult], mode: str, name: str, accepted: int
) -> None:
    outcome = outcomes[f"{mode}-{name}-safe"]

    _check_killed_once(outcome)
    assert outcome.state == "failed"
    assert (outcome.posts, len(outcome.accepted)) == (1, accepted)
    match = re.search(r"about to be sent at (\S+) \(fingerprint ([0-9a-f]{16})\)", outcome.log)
    assert match is not None, outcome.log
    assert match[1].startswith("20")
    assert "Nothing was sent again" in outcome.log


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "accepted"), [("lost", 1), ("late", 2)])
def test_an_unknown_post_is_sent_again_with_on_unknown_resubmit_and_a_warning(
    outcomes: dict[str, CaseResult], mode: str, name: str, accepted: int
) -> None:
    outcome = outcomes[f"{mode}-{name}-unknown_resubmit"]

    _check_killed_once(outcome)
    assert outcome.state == "success", outcome.log
    assert (outcome.posts, len(outcome.accepted), outcome.billed) == (2, accepted, accepted)
    assert "if the lost POST did arrive, it is billed as well." in outcome.log


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("calm", CALM)
def test_a_cleared_task_returns_the_same_result_and_pays_nothing(
    outcomes: dict[str, CaseResult], cleared: dict[str, CaseResult], mode: str, calm: str
) -> None:
    before, after = outcomes[f"{mode}-{calm}"], cleared[f"{mode}-{calm}"]

    assert set(after.tries.values()) == {2}, after.problem
    assert (after.state, after.posts, after.billed) == ("success", 1, 1)
    assert after.plain() == before.plain()
