"""The same DAGs on every supported Airflow: ``dag.test()`` against the emulator."""

from __future__ import annotations

import json
import re
import runpy
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from airflow_provider_segmind.compat import airflow_version
from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.chat_tasks import PIXEL
from tests.support.dag_runs import run_dags

pytestmark = [pytest.mark.matrix, pytest.mark.airflow]

AIRFLOW = Version(version("apache-airflow")).release
ROOT = Path(__file__).resolve().parents[2]
WAITING = "example_segmind_approval"
"""It waits for a person, and tests/e2e runs it; before Airflow 3.1 its file contains no DAG."""
EXAMPLES = sorted(path.stem for path in (ROOT / "dags_examples").glob("example_segmind_*.py") if path.stem != WAITING)
OURS = ("matrix_three_steps", "matrix_deferred", "matrix_tried_again")
MODEL = "gemini-3.1-flash-lite"
DEFERRED = "Request {} is in progress; waiting for it in the triggerer"
LONGEST_LOG = 20_000
README = "triage"
URGENCY = {"urgency": "high", "topic": "An invoice."}
TRIAGE = {"team": "billing", "urgent": True, "summary": "Charged twice."}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    (folder / "cat.png").write_bytes(PIXEL)
    (folder / "report.pdf").write_bytes(b"%PDF-1.7 quarterly figures")
    return folder


@pytest.fixture(scope="module")
def environment(airflow_database: Path, store: Path) -> dict[str, str]:
    return {
        "SEGMIND_EXAMPLE_IMAGE": f"file://{store}/cat.png",
        "SEGMIND_EXAMPLE_DOCUMENT": f"file://{store}/report.pdf",
        "SEGMIND_EXAMPLE_OUTPUT": f"file://{store}/out",
        "SEGMIND_EXAMPLE_DUCKDB": f"{store}/catalogue.duckdb",
        "SEGMIND_EXAMPLE_ROWS": "20",
        "SEGMIND_TESTS_STATE": f"file://{store}/state",
        # Airflow 2.11's settings for its own unit tests have an executor that does not work with SQLite.
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "0",
    }


@pytest.fixture(scope="module")
def examples(environment: dict[str, str]) -> Any:
    with SegmindEmulator() as emulator:
        emulator.script(match="Classify this ticket", json=TRIAGE)
        # Longer than a task waits inline before it defers.
        emulator.script(match="How urgent", json=URGENCY, latency=12)
        # Last, because the process learns the latency of the model from it.
        dags = [*((f"dags_examples/{name}.py", name) for name in EXAMPLES), ("tests/dags/readme.py", README)]
        return run_dags(*dags, connection=emulator.connection_json, hold=0.5, **environment), emulator


@pytest.fixture(scope="module")
def ours(environment: dict[str, str]) -> Any:
    # Every request takes two polls, so that a task which polls once defers, however slow the machine.
    with SegmindEmulator(polls=[1, 1]) as emulator:
        dags = [("tests/dags/matrix_data.py", name) for name in OURS]
        return run_dags(*dags, connection=emulator.connection_json, hold=0.5, **environment), emulator


def text(value: Any) -> str:
    """Return the text of the reply in the body of a result."""
    found: str = json.loads(value["output"])["candidates"][0]["content"]["parts"][0]["text"]
    return found


def logged_ids(log: str, pattern: str) -> set[str]:
    """Return the requests that a log line names; some versions write every line twice."""
    return set(re.findall(pattern.replace("{}", r"(\w+)"), log))


def posts(emulator: SegmindEmulator, *prompts: str) -> dict[str, int]:
    """Count the paid POSTs for each prompt."""
    bodies = [post.json["messages"]["contents"][0]["parts"][0]["text"] for post in emulator.posts()]
    return {each: bodies.count(each) for each in prompts}


@pytest.mark.parametrize("dag_id", [README, *EXAMPLES])
def test_an_example_succeeds(dag_id: str, examples: Any) -> None:
    if dag_id == "example_segmind_assets" and airflow_version()[:2] == (3, 0):
        pytest.skip("dag.test() of Airflow 3.0 refuses an asset that no scheduler has activated")
    ended = examples[0][dag_id]

    assert ended["state"] == "success", ended["log"][-LONGEST_LOG:]


def test_the_example_of_an_approval_has_a_dag_where_airflow_has_approvals() -> None:
    defined = runpy.run_path(str(ROOT / "dags_examples" / f"{WAITING}.py"))

    assert ("approve" in defined) is (airflow_version()[:2] >= (3, 1))


def test_the_dag_of_the_readme_defers_and_returns_the_reply(examples: Any) -> None:
    ended, emulator = examples

    assert ended[README]["values"] == {"triage": URGENCY}
    assert "waiting for it in the triggerer" in ended[README]["log"]
    assert len([post for post in emulator.posts() if "The invoice is wrong again." in str(post.json)]) == 1


def test_every_example_pays_once_per_request(examples: Any) -> None:
    ended, emulator = examples

    requests = {"caption": 1, "families": 3, "image": 1, "request": 1, "run": 1, "summarize_pdf": 1, "triage": 3}
    requests |= {"captions": 3, "sharded": 30, "catalogue": 18}
    assert {f"example_segmind_{name}" for name in requests} <= set(ended)
    assert len(emulator.posts()) == len(emulator.bill) >= 1 + sum(requests.values())
    assert emulator.api_key not in str([one["values"] for one in ended.values()])


def test_the_examples_return_the_replies_of_the_models(examples: Any, store: Path) -> None:
    ended = {name.removeprefix("example_segmind_"): examples[0][name]["values"] for name in EXAMPLES}

    assert text(ended["request"]["result"]) == "echo: What's in this image?"
    assert text(ended["run"]["ask"]) == "echo: Why is the sky blue?"
    assert ended["triage"]["triage"] == [TRIAGE] * 3
    assert ended["triage"]["count"] == {"billing": 3}
    assert ended["families"]["ask"] == ["echo: Write a haiku about a data pipeline."] * 3
    assert ended["caption"]["describe"].startswith("echo: Describe this image")
    assert ended["image"]["draw"]["uri"].startswith(f"file://{store}/out/")
    assert Path(ended["image"]["draw"]["uri"].removeprefix("file://")).stat().st_size > 0


@pytest.mark.parametrize("dag_id", OURS)
def test_a_dag_of_every_kind_of_task_succeeds(dag_id: str, ours: Any) -> None:
    ended = ours[0][dag_id]

    assert ended["state"] == "success", ended["log"][-LONGEST_LOG:]


def test_three_steps_make_one_request_and_wait_in_the_trigger(ours: Any) -> None:
    ended, emulator = ours
    values, log = ended["matrix_three_steps"]["values"], ended["matrix_three_steps"]["log"]

    assert posts(emulator, "three steps") == {"three steps": 1}
    assert logged_ids(log, DEFERRED) == {values["submit"]["request_id"]}
    assert {values[task]["request_id"] for task in ("submit", "wait", "result", "rescheduled")} == {
        values["submit"]["request_id"]
    }
    assert values["wait"]["status"] == values["rescheduled"]["status"] == "COMPLETED"
    assert text(values["result"]) == "echo: three steps"


def test_deferred_tasks_return_what_the_trigger_fetched(ours: Any) -> None:
    ended, emulator = ours
    values, log = ended["matrix_deferred"]["values"], ended["matrix_deferred"]["log"]

    assert len(logged_ids(log, DEFERRED)) == 5
    assert text(values["run"]) == "echo: run"
    assert [text(value) for value in values["mapped"]] == ["echo: first", "echo: second"]
    assert (values["chat"], values["decorated"]) == ("echo: chat", "echo: decorated")
    assert set(posts(emulator, "run", "first", "second", "chat", "decorated").values()) == {1}


def test_a_second_try_continues_with_the_request_of_the_first(ours: Any) -> None:
    ended, emulator = ours
    values, log = ended["matrix_tried_again"]["values"], ended["matrix_tried_again"]["log"]

    prompts = ("submitted", "inline", "deferred", "first again", "second again")
    assert posts(emulator, *prompts) == dict.fromkeys(prompts, 1)
    attached = logged_ids(log, "An earlier try submitted request {}")
    assert values["submitted"]["request_id"] in attached
    # Under dag.test() Airflow 3.0 starts the second try of a deferred task where the first was resumed.
    assert len(attached) == len(prompts) - (AIRFLOW < (3, 1) and AIRFLOW >= (3,))
    assert text(values["inline"]) == "echo: inline"
    assert text(values["deferred"]) == "echo: deferred"
    assert [text(value) for value in values["mapped"]] == ["echo: first again", "echo: second again"]


def test_the_submission_record_is_in_the_backend_of_this_airflow(ours: Any, store: Path) -> None:
    log = ours[0]["matrix_tried_again"]["log"]
    places = ("Airflow's task state store", "object storage (", "the Airflow Variable ")
    recorded = [place for place in places if f"Recorded the intent to submit to model {MODEL} in {place}" in log]
    files = sorted(path.name for path in (store / "state").rglob("*.json"))

    # Some tasks of that DAG have a state_path, which takes precedence over the version's own backend.
    assert recorded == ([places[0], places[1]] if AIRFLOW >= (3, 3) else list(places[1:]))
    assert files == ["task_id=deferred.json", "task_id=submitted.json"]
