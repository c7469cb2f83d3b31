"""What Airflow renders, and what Segmind receives of it: ``dag.test()`` against the emulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.dag_runs import run_dags

pytestmark = [pytest.mark.matrix, pytest.mark.airflow]

FILE = "tests/dags/rendered_data.py"
DAGS = ("rendered_expand_kwargs", "rendered_later", "rendered_native")
STRAY = "ticket {{ 7*7 }} {{ conn.segmind_default.password }} {% if x %} {# gone #} notes.sql"


@pytest.fixture(scope="module")
def ended(airflow_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with SegmindEmulator() as emulator:
        one = run_dags(
            *((FILE, dag_id) for dag_id in DAGS),
            connection=emulator.connection_json,
            SEGMIND_TESTS_STATE=f"file://{tmp_path_factory.mktemp('out')}",
            AIRFLOW__CORE__UNIT_TEST_MODE="False",
        )
        return one, [words(post.json) for post in emulator.posts()], emulator


def words(body: Any) -> tuple[str, str]:
    said = body["messages"]
    system = said.get("system_instruction", {}).get("parts", {}).get("text", "")
    return system, said["contents"][0]["parts"][0]["text"]


@pytest.mark.parametrize("dag_id", DAGS)
def test_the_dag_parses_and_succeeds(dag_id: str, ended: Any) -> None:
    one = ended[0][dag_id]

    assert one["state"] == "success", one["log"][-20_000:]


@pytest.mark.parametrize("text", ["masked one two", "masked xcom " + STRAY + " 42"])
def test_a_masked_function_is_called_with_its_arguments(text: str, ended: Any) -> None:
    assert ("masked system", text) in ended[1]
    assert "masked one" not in ended[0]["rendered_later"]["log"].replace("echo: masked one", "")


@pytest.mark.parametrize(
    ("system", "text"),
    [
        ("system " + STRAY, "prompt " + STRAY),
        ("", "messages " + STRAY),
        ("", "changed prompt " + STRAY),
        ("", "inputs " + STRAY),
        ("", "table " + STRAY + " row {{ 7*7 }}"),
        ("42", json.dumps(["function " + STRAY, {"nested": [STRAY]}, "fixed 42"])),
    ],
)
def test_values_from_xcom_through_expand_kwargs_are_sent_byte_for_byte(system: str, text: str, ended: Any) -> None:
    assert (system, text) in ended[1]


def test_no_value_of_xcom_reads_the_key(ended: Any) -> None:
    _, posted, emulator = ended

    assert emulator.api_key not in str(posted)


def test_templates_in_the_dag_are_rendered(ended: Any) -> None:
    assert {("42", "written 42"), ("42", "literal {{ 6*7 }}")} <= set(ended[1])


def test_arguments_of_a_mapped_task_group_and_of_the_dag_are_used(ended: Any) -> None:
    texts = [text for _, text in ended[1]]

    assert sorted(text for text in texts if text.startswith("group")) == ["group a", "group a", "group b", "group b"]
    assert texts.count("xcom " + STRAY) == 2
    assert texts.count("{{ 7*7 }}") == 1
    assert texts.count("literal {{ 6*7 }}") == 2


def test_values_pulled_by_a_template_are_not_rendered_again(ended: Any) -> None:
    assert ("", "pulled " + STRAY) in ended[1]


@pytest.mark.parametrize("text", ["007", "12345", "[1, 2]", "None", "5"])
def test_native_rendering_keeps_a_string_a_string(text: str, ended: Any) -> None:
    assert (text, text) in ended[1]


def test_native_rendering_keeps_constants_and_messages_strings_and_makes_objects_elsewhere(ended: Any) -> None:
    assert {("", "0123"), ("", "007"), ("", "a body")} <= set(ended[1])
