"""Links lead somewhere, or are not there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_segmind import links
from airflow_provider_segmind.get_provider_info import get_provider_info
from airflow_provider_segmind.links import SegmindModelLink, SegmindOutputLink, result_address, task_address
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.enrich import (
    SegmindEnrichFileOperator,
    SegmindEnrichSqlOperator,
    SegmindMergeOperator,
)
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
        ({"uri": "s3://bucket/r.json", "output": "https://x.example/y"}, "https://x.example/y"),
        ({"uri": "https://store.example/r.json", "output": "https://x.example/y"}, "https://store.example/r.json"),
        ({"uri": "s3://bucket/r.json"}, None),
        ({"uri": "/data/r.json"}, None),
        ({"uri": "file:///data/r.json"}, None),
        ({"output": "https://images.example/cat.png"}, "https://images.example/cat.png"),
        ({"output": '{"candidates": []}'}, None),
        ({"output": "see https://x.example"}, None),
        ({"output": "javascript:alert(1)"}, None),
        ("a text", None),
        (None, None),
    ],
)
def test_a_result_has_a_link_if_a_browser_can_open_it(value: Any, address: str | None) -> None:
    assert result_address(value) == address


def test_the_output_link_is_empty_until_there_is_a_result() -> None:
    assert link_of(SegmindOutputLink(), result_uri=None) == ""
    assert link_of(SegmindOutputLink(), result_uri="https://store.example/r.txt") == "https://store.example/r.txt"
    assert link_of(SegmindOutputLink(), result_uri="s3://b/r.txt") == ""


@pytest.mark.parametrize("operator", [SegmindEnrichFileOperator, SegmindEnrichSqlOperator, SegmindMergeOperator])
def test_a_table_leads_to_its_run_on_the_page_where_there_is_one(
    operator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = SimpleNamespace(has_page=operator.has_page, result_uri="s3://b/r.jsonl")
    key: Any = SimpleNamespace(dag_id="d", run_id="manual__2026-11-26T12:00:00+00:00", task_id="g.t", map_index=3)

    monkeypatch.setattr(links, "airflow_version", lambda: (3, 1, 0))
    with_page = SegmindOutputLink().get_link(task, ti_key=key)  # type: ignore[arg-type]
    monkeypatch.setattr(links, "airflow_version", lambda: (3, 0, 6))
    without = SegmindOutputLink().get_link(task, ti_key=key)  # type: ignore[arg-type]

    assert with_page == "segmind/tables/d/manual__2026-11-26T12%3A00%3A00%2B00%3A00/g.t/3"
    assert without == ""


def test_every_link_is_registered_and_on_every_operator() -> None:
    registered = set(get_provider_info()["extra-links"])

    def names(operator: type[SegmindSubmitOperator]) -> set[str]:
        return {f"{type(link).__module__}.{type(link).__name__}" for link in operator.operator_extra_links}

    for operator in (SegmindSubmitOperator, SegmindRunOperator, SegmindChatOperator):
        assert {
            f"{type(link).__module__}.{type(link).__name__}" for link in operator.operator_extra_links
        } == registered


@pytest.mark.parametrize(
    ("base_url", "log_url", "address"),
    [
        ("https://airflow.example.com", "https://airflow.example.com/dags/d", "https://airflow.example.com/dags/d"),
        ("", "http://localhost:8080/dags/d", None),
        ("https://airflow.example.com", "javascript:alert(1)", None),
        ("https://airflow.example.com", None, None),
    ],
)
def test_a_task_has_an_address_where_the_configuration_names_that_of_the_ui(
    base_url: str, log_url: str | None, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "airflow_provider_segmind.compat.conf",
        SimpleNamespace(get=lambda section, key, fallback: base_url if section in ("api", "webserver") else fallback),
    )

    assert task_address(SimpleNamespace(log_url=log_url)) == address
