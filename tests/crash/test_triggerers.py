"""Triggerers are killed, are down for a while, and are frozen until another one takes their triggers."""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.crash_runs import CaseResult, CrashCase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from demo.stack import AirflowStack
    from tests.support.crash_runs import CrashRunner

AWAY = 15.0
TTL = 20.0
HURRIED = 60.0
"""Seconds that crash_deferrable_hurried waits, as its DAG says."""

WAITING = (
    CrashCase("away-calm", "crash_deferrable_safe", latency=50.0),
    CrashCase("away-run", "crash_deferrable_safe", latency=50.0),
    CrashCase("away-image", "crash_deferrable_safe", kind="image", latency=50.0),
    CrashCase("away-steps", "crash_deferrable_steps", task_id="wait", latency=50.0),
    CrashCase("away-hurried", "crash_deferrable_hurried", latency=1000.0),
)
EXPIRING = tuple(
    CrashCase(
        f"gone-{policy}-{kind}",
        f"crash_deferrable_{policy}",
        kind=kind,
        latency=10.0,
        connection="segmind_short_lived",
    )
    for policy, kind in (
        ("safe", "image"),
        ("safe", "gemini"),
        ("expired_fail", "gemini"),
        ("expired_resubmit", "gemini"),
    )
)
MOVED = tuple(CrashCase(f"moved-{number}", "crash_deferrable_safe", latency=45.0) for number in range(4))


@pytest.fixture(scope="module")
def outcomes(crash_runner: CrashRunner) -> dict[str, CaseResult]:
    """Kill the triggerer while triggers run, and restart it when some results have expired."""
    waiting = [crash_runner.start(case) for case in WAITING]
    crash_runner.deferred(waiting, timeout=45)
    _wait_until_running(crash_runner.stack, waiting)
    crash_runner.stack.kill("triggerer", signal.SIGKILL, scope="tree")
    killed_at = time.monotonic()
    expiring = [crash_runner.start(case) for case in EXPIRING]
    crash_runner.deferred(expiring, timeout=60)
    emulator = crash_runner.emulators["segmind_short_lived"]
    left = max(job.submitted for job in emulator.jobs) + TTL + 1 - emulator.now()
    time.sleep(max(0.0, left, killed_at + AWAY - time.monotonic()))
    crash_runner.stack.start("triggerer")
    outcomes = [*waiting, *expiring]
    crash_runner.finish(outcomes, timeout=240)
    return {outcome.case.name: outcome for outcome in outcomes}


@pytest.fixture(scope="module")
def moved(crash_runner: CrashRunner, outcomes: dict[str, CaseResult]) -> Iterator[dict[str, CaseResult]]:
    """Freeze one of two triggerers until the other has its triggers, and resume it when the requests are complete."""
    stack, emulator = crash_runner.stack, crash_runner.emulators["segmind_default"]
    first = _triggerers(stack)
    assert len(first) == 1
    stack.start("triggerer:2")
    try:
        stack.rest.wait_for("two triggerers", lambda: len(_triggerers(stack)) == 2, timeout=60)
        started = [crash_runner.start(case) for case in MOVED]
        crash_runner.deferred(started, timeout=60)
        before = _wait_until_running(stack, started)
        frozen_id = next(iter(before.values()))
        frozen = "triggerer" if frozen_id in first else "triggerer:2"
        stack.kill(frozen, signal.SIGSTOP, scope="tree")
        try:
            stack.rest.wait_for(
                "the triggers to move", lambda: frozen_id not in _homes(stack, started).values(), timeout=60
            )
            names = {case.name for case in MOVED}
            stack.rest.wait_for(
                "the requests to complete",
                lambda: {"COMPLETED"} == {job.status for job in emulator.jobs if job.model in names},
                timeout=90,
            )
        finally:
            stack.kill(frozen, signal.SIGCONT, scope="tree")
        crash_runner.finish(started, timeout=120)
        yield {outcome.case.name: outcome for outcome in started}
    finally:
        stack.stop("triggerer:2")
        del stack.processes["triggerer:2"]


def _triggerers(stack: AirflowStack) -> set[int]:
    alive = stack.rest.call("GET", "/jobs", params={"job_type": "TriggererJob", "is_alive": True})
    return {job["id"] for job in alive["jobs"]}


def _homes(stack: AirflowStack, outcomes: list[CaseResult]) -> dict[str, int | None]:
    homes = {}
    for outcome in outcomes:
        case = outcome.case
        instance = stack.rest.task_instance(case.dag_id, outcome.run_id, case.task_id)
        if instance["trigger"] is not None:
            homes[case.name] = instance["trigger"]["triggerer_id"]
    return homes


def _wait_until_running(stack: AirflowStack, outcomes: list[CaseResult]) -> dict[str, int | None]:
    def check() -> dict[str, int | None] | None:
        homes = _homes(stack, outcomes)
        return homes if len(homes) == len(outcomes) and None not in homes.values() else None

    return dict(stack.rest.wait_for("a triggerer for every trigger", check, timeout=30))


@pytest.mark.parametrize("name", ["away-run", "away-image", "away-steps"])
def test_after_a_killed_triggerer_the_wait_continues_and_pays_nothing(
    outcomes: dict[str, CaseResult], name: str
) -> None:
    outcome = outcomes[name]

    assert (outcome.problem, outcome.state) == ("", "success"), outcome.log
    assert set(outcome.tries.values()) == {1}
    assert (outcome.posts, outcome.billed) == (1, 1)


def test_a_triggerer_outage_does_not_extend_the_timeout(outcomes: dict[str, CaseResult]) -> None:
    outcome = outcomes["away-hurried"]

    assert (outcome.problem, outcome.state, outcome.posts) == ("", "failed", 1)
    waited = outcome.log.partition("it was PROCESSING, ")[2].partition(" s after submission")[0]
    assert HURRIED <= float(waited) <= HURRIED + 5, outcome.log
    assert "the request continues and may be billed" in outcome.log


def test_an_expired_result_fails_a_task_with_on_expired_fail(outcomes: dict[str, CaseResult]) -> None:
    outcome = outcomes["gone-expired_fail-gemini"]

    assert (outcome.problem, outcome.state) == ("", "failed")
    assert (outcome.posts, outcome.billed) == (1, 1)
    assert f"The result of request '{outcome.accepted[0]}'" in outcome.log


def test_an_expired_result_is_recovered_from_the_request_record(
    outcomes: dict[str, CaseResult], crash_runner: CrashRunner
) -> None:
    outcome = outcomes["gone-safe-image"]

    assert (outcome.problem, outcome.state) == ("", "success"), outcome.log
    assert (outcome.posts, outcome.billed) == (1, 1)
    assert outcome.xcom["ask"]["metrics"]["cost"] == 0.05
    stored = crash_runner.folder / outcome.case.name / f"{outcome.accepted[0]}.png"
    assert stored.stat().st_size == outcome.xcom["ask"]["bytes"]


def test_an_expired_text_fails_the_task_with_its_cost(outcomes: dict[str, CaseResult]) -> None:
    outcome = outcomes["gone-safe-gemini"]

    assert (outcome.problem, outcome.state) == ("", "failed")
    assert (outcome.posts, outcome.billed) == (1, 1)
    assert re.search(r"\$[\d.]+ billed, and no output file, so the result is lost", outcome.log)


def test_an_expired_result_is_paid_again_with_on_expired_resubmit(outcomes: dict[str, CaseResult]) -> None:
    outcome = outcomes["gone-expired_resubmit-gemini"]

    assert (outcome.problem, outcome.state) == ("", "success"), outcome.log
    assert (outcome.posts, outcome.billed) == (2, 2)
    assert "This pays a second time: the first request may have been billed." in outcome.log


@pytest.mark.parametrize("name", [case.name for case in MOVED])
def test_two_triggerers_with_the_same_trigger_resume_the_task_once(
    outcomes: dict[str, CaseResult], moved: dict[str, CaseResult], name: str
) -> None:
    outcome = moved[name]

    assert (outcome.problem, outcome.state) == ("", "success"), outcome.log
    assert outcome.tries == {"ask": 1}
    assert (outcome.posts, outcome.billed) == (1, 1)
    assert outcome.plain() == outcomes["away-calm"].plain()
