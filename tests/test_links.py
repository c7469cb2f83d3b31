"""Links lead somewhere, or are not there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_segmind.get_provider_info import get_provider_info
from airflow_provider_segmind.links import SegmindModelLink, SegmindOutputLink, result_address
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.request import SegmindRunOperator, SegmindSubmitOperator

KEY: Any = SimpleNamespace(dag_id="d", task_id="t", run_id="r", try_number=1, map_index=-1)
PAGE = "https://www.segmind.com/models/gemini-3.1-flash-lite/api"


def link_of(link: Any, **fields: Any) -> str:
    return str(link.get_link(SimpleNamespace(**fields), ti_key=KEY))


def test_the_model_page_is_available_before_anything_is_submitted() -> None:
    assert link_of(SegmindModelLink(), model="gemini-3.1-flash-lite", model_used=None) == PAGE


def test_the_model_in_use_takes_precedence_over_a_template() -> None:
    for model in (None, "{{ params.model }}"):
        assert link_of(SegmindModelLink(), model=model, model_used="gemini-3.1-flash-lite") == PAGE
        assert link_of(SegmindModelLink(), model=model, model_used=None) == ""


@pytest.mark.parametrize("model", ["javascript:alert(1)", "a b", 'x"onclick="', "{{ x }}"])
def test_an_invalid_model_name_has_no_link(model: str) -> None:
    assert link_of(SegmindModelLink(), model=model) == ""


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ({"uri": "s3://bucket/r.json", "output": "https://x.example/y"}, "s3://bucket/r.json"),
        ({"uri": "/data/r.json"}, "/data/r.json"),
        ({"output": "https://images.example/cat.png"}, "https://images.example/cat.png"),
        ({"output": '{"candidates": []}'}, None),
        ({"output": "see https://x.example"}, None),
        ({"output": "javascript:alert(1)"}, None),
        ("a text", None),
        (None, None),
    ],
)
def test_a_result_has_a_link_if_it_is_a_file_or_url(value: Any, address: str | None) -> None:
    assert result_address(value) == address


def test_the_output_link_is_empty_until_there_is_a_result() -> None:
    assert link_of(SegmindOutputLink(), result_uri=None) == ""
    assert link_of(SegmindOutputLink(), result_uri="s3://b/r.txt") == "s3://b/r.txt"


def test_every_link_is_registered_and_on_every_operator() -> None:
    registered = set(get_provider_info()["extra-links"])

    def names(operator: type[SegmindSubmitOperator]) -> set[str]:
        return {f"{type(link).__module__}.{type(link).__name__}" for link in operator.operator_extra_links}

    for operator in (SegmindSubmitOperator, SegmindRunOperator, SegmindChatOperator):
        assert {
            f"{type(link).__module__}.{type(link).__name__}" for link in operator.operator_extra_links
        } == registered
