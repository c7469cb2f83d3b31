"""Chat tasks in a DAG run as Airflow makes it: ``dag.test()`` against the emulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.decorators.stray import STRAY
from tests.support.dag_runs import run_dags

pytestmark = pytest.mark.airflow


@pytest.fixture(scope="module")
def posted(airflow_database: Path) -> dict[str, list[Any]]:
    with SegmindEmulator() as emulator:
        ended = run_dags(("tests/dags/chat_data.py", "chat_data"), connection=emulator.connection_json)
        assert ended["chat_data"]["state"] == "success", ended["chat_data"]["log"]
        return {model: [post.json for post in emulator.posts(model)] for model in {job.model for job in emulator.jobs}}


def words(body: Any) -> tuple[str, str]:
    said = body["messages"]
    system = said.get("system_instruction", {}).get("parts", {}).get("text", "")
    return system, said["contents"][0]["parts"][0]["text"]


def test_the_output_of_a_task_arrives_byte_for_byte(posted: dict[str, list[Any]]) -> None:
    assert (STRAY[0], STRAY[0]) in [words(body) for body in posted["gemini-3.1-flash-lite"]]


def test_every_mapped_value_arrives_byte_for_byte(posted: dict[str, list[Any]]) -> None:
    asked = [text for system, text in map(words, posted["gemini-3.1-flash-lite"]) if system == ""]

    assert sorted(asked) == sorted(STRAY)


def test_what_a_decorated_function_returns_is_never_rendered_and_its_system_text_is(
    posted: dict[str, list[Any]],
) -> None:
    asked = [text for system, text in map(words, posted["gemini-3.1-flash-lite"]) if system == "Answer chat_data."]

    assert sorted(asked) == sorted(STRAY)


def test_a_dict_is_prompt_and_system_and_the_function_may_ask_for_the_context(posted: dict[str, list[Any]]) -> None:
    bodies = posted["gpt-5"]

    assert [body["messages"][1]["content"] for body in bodies] == [f"1 {STRAY[0]}"]
    assert all(body["messages"][0]["content"].startswith("{{ never rendered }} ") for body in bodies)


def test_an_overridden_and_deferred_task_uses_another_model(posted: dict[str, list[Any]]) -> None:
    assert [body["messages"][0]["content"] for body in posted["claude-4.5-sonnet"]] == ["hello"]
    assert json.dumps(posted["claude-4.5-sonnet"]).count("Answer chat_data.") == 1
