"""Airflow's common-ai provider with Segmind as its model: real ``dag.test()`` runs against the emulator."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.dag_runs import run_dags

# pydantic-ai imports httpx2, which this process may not; the DAGs run in another.
pytestmark = [
    pytest.mark.matrix,
    pytest.mark.airflow,
    pytest.mark.skipif(find_spec("pydantic_ai") is None, reason="the extra [common-ai] needs Airflow 3.2"),
]

DAGS = "tests/dags/common_ai_data.py"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "common-ai.md"
SETTINGS = {
    # pydantic-ai alone takes seconds to import.
    "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "240",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
}
TICKET = {"urgency": "high", "topic": "An invoice."}


@pytest.fixture(scope="module")
def spend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spend")


@pytest.fixture(scope="module")
def ended(airflow_database: Path, spend: Path) -> Any:
    with SegmindEmulator() as emulator:
        emulator.script(match="The invoice is wrong", json=TICKET)
        emulator.script(match="The invoice is wrong", json={"urgency": "who knows", "topic": "An invoice."}, times=1)
        found = run_dags(
            *((DAGS, dag_id) for dag_id in ("common_ai", "common_ai_tools")),
            connection=connection_of(emulator),
            AIRFLOW__SEGMIND__SPEND_PATH=f"file://{spend}",
            AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY="0",
            **SETTINGS,
        )
        return found, emulator


def connection_of(emulator: SegmindEmulator) -> str:
    connection = json.loads(emulator.connection_json)
    connection["extra"] = {**connection.get("extra", {}), "model": "gemini-3.1-flash-lite"}
    return json.dumps(connection)


def prompts(emulator: SegmindEmulator) -> list[str]:
    return [post.body.decode() for post in emulator.posts()]


def test_a_task_of_common_ai_returns_what_segmind_answered(ended: Any) -> None:
    found, _ = ended

    assert found["common_ai"]["state"] == "success", found["common_ai"]["log"]
    assert found["common_ai"]["values"]["tried_again"] == TICKET
    assert "Say hello" in found["common_ai"]["values"]["of_the_default_model"]


def test_a_retry_pays_for_nothing_that_was_answered(ended: Any) -> None:
    found, emulator = ended
    sent = prompts(emulator)

    # The first answer was not a ticket, so the agent asked again; the second try found both.
    assert sum("The invoice is wrong" in each for each in sent) == 2
    # Three steps, and the fourth, which only the second try reached.
    assert len(found["common_ai"]["values"]["several_steps"]) == 4
    assert [sum(f'"{step}"' in each for each in sent) for step in ("again", "last")] == [2, 1]
    assert len(emulator.bill) == len(sent) == 8


def test_a_conversation_is_sent_whole_with_its_image(ended: Any) -> None:
    _, emulator = ended
    (body,) = [json.loads(each) for each in prompts(emulator) if '"last"' in each]
    system, first, reply, last = body["messages"]

    assert (system["role"], system["content"]) == ("system", "Answer.")
    assert "first" in str(first)
    assert reply["role"] == "assistant"
    assert "data:image/png;base64," in str(last["content"])


def test_settings_of_the_agent_are_sent(ended: Any) -> None:
    _, emulator = ended
    (body,) = [json.loads(each) for each in prompts(emulator) if "Say hello" in each]

    assert body["seed"] == 7


def test_every_request_is_in_the_record_of_spend_once(ended: Any, spend: Path) -> None:
    _, emulator = ended
    lines = [json.loads(line) for path in spend.rglob("*.jsonl") for line in path.read_text().splitlines()]
    cost = {line["request_id"]: line["cost_micros"] for line in lines}

    assert cost.keys() == {entry.request_id for entry in emulator.bill}
    assert sum(cost.values()) == pytest.approx(sum(entry.cost for entry in emulator.bill) * 1e6)


def test_an_agent_with_tools_is_refused_before_anything_is_paid(ended: Any) -> None:
    found, emulator = ended

    assert found["common_ai_tools"]["state"] == "failed"
    assert "The agent has tools (add), which Segmind does not forward to models" in found["common_ai_tools"]["log"]
    assert not [each for each in prompts(emulator) if "How much is" in each]


def test_stores_are_opened_before_the_event_loop_of_an_agent(ended: Any) -> None:
    found, _ = ended
    first, *others = found["common_ai"]["values"]["looks"]

    assert not first
    assert all(others)
    assert others


def test_the_dag_of_the_page_runs(airflow_database: Path, tmp_path: Path) -> None:
    (text,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "page.py").write_text(text)
    bundle = {
        "name": "dags-folder",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(tmp_path)},
    }
    with SegmindEmulator() as emulator:
        emulator.script(match="Ticket: I was charged twice!", json={"team": "billing", "urgent": True})
        (run,) = run_dags(
            (str(tmp_path / "page.py"), "behind_common_ai"),
            connection=emulator.connection_json,
            AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST=json.dumps([bundle]),
            **SETTINGS,
        ).values()

    assert run["state"] == "success", run["log"]
    assert len(emulator.bill) == 1
