"""What is wrong for every run fails when the DAG is parsed; what comes later does not."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_segmind.arguments import as_inputs, validate_inputs
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.operators.request import SegmindResultOperator, SegmindRunOperator, SegmindSubmitOperator
from airflow_provider_segmind.sensors.request import SegmindRequestSensor
from tests.support.airflow_fakes import CANARY


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": ""},
        {"model": "  "},
        {"model": 7},
        {"inputs": ["a"]},
        {"inputs": "plain text"},
        {"inputs": None},
        {"inputs_schema": {"type": "no-such-type"}},
        {"inputs_schema": 5},
        {"poll_interval": 0},
        {"poll_interval": -1},
        {"sync_wait": -0.1},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"timeout": float("nan")},
        {"timeout": True},
        {"timeout": 10**400},
        {"inputs_schema": {"$schema": 7}},
        {"max_xcom_bytes": -1},
        {"on_stale": "ask"},
        {"on_unknown": "recover"},
        {"on_failed": "retry"},
        {"on_expired": None},
        {"of_no_use": 1},
    ],
    ids=str,
)
def test_an_argument_wrong_for_every_run_is_named_when_the_dag_is_parsed(wrong: dict[str, Any]) -> None:
    (field,) = wrong
    with pytest.raises((SegmindConfigError, TypeError), match=field):
        SegmindRunOperator(**{"task_id": "t", "model": "m", "inputs": {}, **wrong})


def test_what_is_given_later_is_not_checked_when_the_dag_is_parsed() -> None:
    with DAG("a_dag", schedule=None):
        submit = SegmindSubmitOperator(task_id="s", model="{{ params.m }}", inputs="{% if 1 %}{{ x }}{% endif %}")
        SegmindSubmitOperator(task_id="again", model=submit.output["model"], inputs=submit.output)
        SegmindRequestSensor(task_id="wait", request_id=submit.output)
        SegmindResultOperator(task_id="get", request_id=submit.output["request_id"])
        SegmindRunOperator.partial(task_id="many", model="m").expand(inputs=[{"prompt": "a"}, {"prompt": "b"}])


def test_a_schema_is_checked_before_anything_is_paid_and_its_errors_contain_no_value() -> None:
    with pytest.raises(SegmindConfigError, match="prompt") as caught:
        validate_inputs({"prompt": CANARY}, {"properties": {"prompt": {"type": "integer"}}})
    assert CANARY not in str(caught.value)
    with pytest.raises(SegmindConfigError, match="which it does not contain"):
        validate_inputs({"a": 1}, {"properties": {"a": {"$ref": "http://127.0.0.2:9/schema.json"}}})


@pytest.mark.parametrize("text", ["{'prompt': 'a'}", "[1]", '"text"', "", "[" * 100_000])
def test_a_template_that_renders_no_object_is_an_error_that_says_how_to_write_it(text: str) -> None:
    with pytest.raises(SegmindConfigError, match="'inputs'"):
        as_inputs(text)


@pytest.mark.parametrize("schema", [{"properties": {"a": {"pattern": "("}}}, {"$ref": "#"}, {"allOf": [{"$ref": "#"}]}])
def test_a_schema_that_nothing_can_be_checked_against_is_an_error_of_the_schema(schema: dict[str, Any]) -> None:
    with pytest.raises(SegmindConfigError, match=r"'inputs_schema'.*Nothing was sent") as caught:
        validate_inputs({"a": CANARY}, schema)
    assert CANARY not in str(caught.value)
