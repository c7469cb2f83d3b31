"""Everything that a run leaves behind is searched for the key, which has no known prefix, and for the prompt."""

from __future__ import annotations

import base64
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.e2e.conftest import CANARY_KEY

if TYPE_CHECKING:
    from airflow_provider_segmind.emulator.control import EmulatorControl
    from demo.stack import AirflowStack

CANARY_PROMPT = "Which canary sings Zx81-prompt-canary?"
RUNS = {"secret-good": "e2e_sync", "secret-bad": "e2e_sync", "secret-waiting": "e2e_deferrable"}
FORMS = (CANARY_KEY, base64.b64encode(CANARY_KEY.encode()).decode().rstrip("="), quote(CANARY_KEY, safe=""))


def _dump(stack: AirflowStack) -> str:
    with closing(sqlite3.connect(f"file:{stack.home}/airflow.db?mode=ro", uri=True, timeout=30)) as database:
        return "\n".join(database.iterdump())


@pytest.fixture(scope="module")
def runs(airflow_stack: AirflowStack, emulator: EmulatorControl) -> dict[str, str]:
    """One run succeeds, one fails, and the last one stays deferred."""
    rest = airflow_stack.rest
    emulator.settings(models={**emulator.settings()["models"], **dict.fromkeys(RUNS, "gemini")})
    emulator.script(model="secret-bad", fail="the model said no")
    emulator.script(model="secret-waiting", latency=900)
    for dag_id in RUNS.values():
        rest.wait_for_dag(dag_id)
    found = {
        model: rest.trigger(dag_id, conf={"model": model, "prompt": CANARY_PROMPT}) for model, dag_id in RUNS.items()
    }
    assert rest.wait_for_run("e2e_sync", found["secret-good"], timeout=90) == "success"
    assert rest.wait_for_run("e2e_sync", found["secret-bad"], timeout=90) == "failed"
    rest.wait_for_task("e2e_deferrable", found["secret-waiting"], "ask", states={"deferred"}, timeout=90)
    return found


def test_the_key_is_stored_nowhere_during_or_after_a_request(
    airflow_stack: AirflowStack, emulator: EmulatorControl, runs: dict[str, str]
) -> None:
    waiting = _dump(airflow_stack)
    emulator.advance(900)
    assert airflow_stack.rest.wait_for_run("e2e_deferrable", runs["secret-waiting"], timeout=120) == "success"
    dump = _dump(airflow_stack)

    # The search does find what is stored: the trigger's arguments, rendered fields, a result.
    assert "SegmindRequestTrigger" in waiting
    assert "secret-good" in dump
    assert CANARY_PROMPT in dump
    for form in FORMS:
        assert form not in waiting
        assert form not in dump
        assert airflow_stack.files_with(form) == []
    assert emulator.leaks == []


def test_no_log_contains_a_prompt(airflow_stack: AirflowStack, runs: dict[str, str]) -> None:
    logs = [path for path in airflow_stack.files_with(CANARY_PROMPT) if path.suffix == ".log"]
    ids = [path for path in airflow_stack.files_with("secret-good") if path.suffix == ".log"]

    assert logs == []
    assert ids != []
