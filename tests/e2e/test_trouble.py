"""
Failed requests, refused submits, timeouts and kills: the state of the task, what was sent, and what was logged.

Everything runs at once, because most of the time is spent waiting: for retries, and for a missing heartbeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from airflow_provider_segmind.emulator.control import EmulatorControl
from demo.emulator import EmulatorProcess
from tests.e2e.conftest import CANARY_KEY
from tests.support.crash_runs import CrashCase

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from demo.stack import AirflowStack
    from tests.support.crash_runs import CaseResult, CrashRunner

REFUSED_WORDS = "content policy: no lighthouses"
DAGS = {
    "failed-sync": "e2e_sync",
    "failed-deferrable": "e2e_deferrable",
    "limited": "e2e_sync",
    "refused": "e2e_sync",
    "picture-sync": "e2e_sync",
    "picture-deferrable": "e2e_deferrable",
    # These four are stopped before their requests are complete, and cleared afterwards.
    "overdue-sync": "e2e_limited",
    "overdue-deferrable": "e2e_limited_deferrable",
    "killed-sync": "e2e_sync",
    "killed-deferrable": "e2e_deferrable",
}
STOPPED = [name for name in DAGS if name.startswith(("overdue", "killed"))]
PICTURES = [name for name in DAGS if name.startswith("picture")]
# `make crash` has many more.
CASES = (
    CrashCase("kill-sync-accepted", "crash_sync_safe", "accepted", connection="segmind_steady"),
    CrashCase("kill-sync-downloading", "crash_sync_safe", "downloading", kind="image", connection="segmind_steady"),
    CrashCase("kill-deferrable-end", "crash_deferrable_safe", "end", latency=5.0, connection="segmind_steady"),
)


@dataclass
class Runs:
    """The run of each name, and the results of the cases whose workers were killed."""

    stack: AirflowStack
    ids: dict[str, str]
    folder: Path
    later: EmulatorControl
    outcomes: dict[str, CaseResult]

    def end(self, name: str) -> str:
        """Wait for the end of a run."""
        return self.stack.rest.wait_for_run(DAGS[name], self.ids[name], timeout=150)

    def tries(self, name: str) -> int:
        """The number of tries of its task."""
        return int(self.stack.rest.task_instance(DAGS[name], self.ids[name], "ask")["try_number"])

    def log(self, name: str, try_number: int = 1) -> str:
        """The log of one try."""
        return self.stack.rest.log(DAGS[name], self.ids[name], "ask", try_number=try_number)


@pytest.fixture(scope="module")
def runs(crash_runner: CrashRunner, emulator: EmulatorControl, later_port: int) -> Iterator[Runs]:
    """Start everything at once, kill some workers, and start the emulator of ``segmind_later`` late."""
    rest, folder = crash_runner.stack.rest, crash_runner.folder
    models = {name: "image" if name in PICTURES else "gemini" for name in DAGS}
    emulator.settings(models={**emulator.settings()["models"], **models})
    emulator.script(model="failed-*", fail=REFUSED_WORDS, latency=4.0)
    emulator.script(model="picture-*", latency=4.0)
    for name in STOPPED:
        emulator.script(model=name, latency=900)
    emulator.fault("submit", model="limited", status=429, times=6)
    for dag_id in set(DAGS.values()):
        rest.wait_for_dag(dag_id)
    ids = {}
    for name, dag_id in DAGS.items():
        conf = {
            "model": name,
            "prompt": "a lighthouse",
            "output": f"file://{folder}/{name}" if name in PICTURES else "",
        }
        conf |= {"connection": "segmind_later"} if name == "refused" else {}
        ids[name] = rest.trigger(dag_id, conf=conf)
    outcomes = crash_runner.run_all(CASES, timeout=150)
    rest.wait_for("the retry of 'refused'", lambda: _tried_once(crash_runner.stack, ids["refused"]), timeout=120)
    options = ["--port", str(later_port), "--latency", "1", "--set", 'models={"refused": "gemini"}']
    with EmulatorProcess(log_path=folder / "later.log", api_key=CANARY_KEY, options=options) as process:
        yield Runs(crash_runner.stack, ids, folder, EmulatorControl(process.url), outcomes)


def _tried_once(stack: AirflowStack, run_id: str) -> bool:
    instance = stack.rest.task_instance("e2e_sync", run_id, "ask")
    return instance["state"] == "up_for_retry" or instance["try_number"] > 1


@pytest.fixture(scope="module")
def stopped(runs: Runs, emulator: EmulatorControl) -> Runs:
    """Mark two as failed, let two time out, let the requests complete, and clear all four."""
    rest = runs.stack.rest
    rest.wait_for_task(DAGS["killed-deferrable"], runs.ids["killed-deferrable"], "ask", states={"deferred"}, timeout=60)
    rest.wait_for("polls of 'killed-sync'", lambda: _polls(emulator, "killed-sync"), timeout=60)
    for name in ("killed-sync", "killed-deferrable"):
        rest.mark(DAGS[name], runs.ids[name], "ask", "failed")
    for name in STOPPED:
        assert runs.end(name) == "failed"
        rest.wait_for(f"the last log line of {name!r}", lambda name=name: "may be billed" in runs.log(name), timeout=30)
    emulator.advance(900)
    for name in STOPPED:
        rest.clear(DAGS[name], runs.ids[name], ["ask"])
    return runs


def _polls(emulator: EmulatorControl, model: str) -> int:
    return sum(job.polls for job in emulator.jobs if job.model == model) or sum(
        any(job.request_id in call.path for job in emulator.jobs if job.model == model) for call in emulator.requests
    )


def _id(emulator: EmulatorControl, model: str) -> str:
    (job,) = [job for job in emulator.jobs if job.model == model]
    return job.request_id


@pytest.mark.parametrize("name", ["failed-sync", "failed-deferrable"])
def test_a_failed_request_fails_the_task_at_once_with_segminds_error(
    runs: Runs, emulator: EmulatorControl, name: str
) -> None:
    assert runs.end(name) == "failed"
    assert runs.tries(name) == 1
    assert REFUSED_WORDS in runs.log(name)
    assert len(emulator.posts(name)) == 1
    assert [entry for entry in emulator.bill if entry.model == name] == []


def test_a_rate_limited_submit_is_retried_and_accepted_once(runs: Runs, emulator: EmulatorControl) -> None:
    assert runs.end("limited") == "success"
    assert runs.tries("limited") == 2
    assert [post.status for post in emulator.posts("limited")] == [429] * 6 + [200]
    assert "429" in runs.log("limited")


def test_a_submit_to_an_unreachable_host_is_retried_and_accepted_once(runs: Runs) -> None:
    assert runs.end("refused") == "success"
    assert runs.tries("refused") in (2, 3)
    assert len(runs.later.posts("refused")) == 1
    assert len(runs.later.bill) == 1


@pytest.mark.parametrize("name", PICTURES)
def test_an_image_is_stored_in_object_storage_and_xcom_has_its_uri(
    runs: Runs, emulator: EmulatorControl, name: str
) -> None:
    assert runs.end(name) == "success"
    manifest = runs.stack.rest.xcom(DAGS[name], runs.ids[name], "ask")
    request_id = _id(emulator, name)
    stored = runs.folder / name / f"{request_id}.png"
    (served,) = [each for each in emulator.requests if each.route == "files" and request_id in each.path]

    assert manifest["uri"] == f"file://{stored}"
    assert (manifest["status"], manifest["metrics"]["cost"]) == ("COMPLETED", 0.05)
    assert stored.read_bytes().startswith(b"\x89PNG")
    assert "x-api-key" not in served.headers
    assert "authorization" not in served.headers


@pytest.mark.parametrize("name", STOPPED)
def test_a_stopped_task_continues_with_its_request_when_cleared(
    stopped: Runs, emulator: EmulatorControl, name: str
) -> None:
    request_id = _id(emulator, name)
    words = [line for line in stopped.log(name).splitlines() if "may be billed" in line]

    assert words != []
    assert any(request_id in line for line in words)
    assert stopped.end(name) == "success"
    assert stopped.tries(name) == 2
    assert "nothing is submitted or paid for again" in stopped.log(name, 2)
    assert stopped.stack.rest.xcom(DAGS[name], stopped.ids[name], "ask")["request_id"] == request_id
    assert len(emulator.posts(name)) == 1
    assert [entry.model for entry in emulator.bill].count(name) == 1


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_after_a_killed_worker_the_retry_pays_nothing(runs: Runs, name: str) -> None:
    outcome = runs.outcomes[name]

    assert (outcome.problem, outcome.state) == ("", "success"), outcome.log
    assert outcome.tries == {"ask": 2}
    assert (outcome.posts, len(outcome.accepted), outcome.billed) == (1, 1, 1)
