"""Invalid arguments fail when the DAG is parsed, and are named."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

GOOD = {"source": "a.jsonl", "key": "id", "output_path": "b.jsonl", "prompt": "Name {it}."}


def make(**fields: Any) -> SegmindEnrichFileOperator:
    return SegmindEnrichFileOperator(task_id="a_task", **{**GOOD, **fields})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"source": None}, "'source'"),
        ({"source": {"id": 1}}, "'source'"),
        ({"source": "b.jsonl"}, "'output_path' is the source"),
        ({"key": []}, "'key'"),
        ({"key": ["id", 3]}, "'key'"),
        ({"output_path": "b.xlsx"}, "b.xlsx"),
        ({"output_path": None}, "'output_path'"),
        ({"prompt": None}, "'prompt'"),
        ({"prompt": "Name it."}, "'prompt' has no {column}"),
        ({"prompt": None, "inputs": {"prompt": "it"}}, "'inputs' has no {column}"),
        ({"inputs": {"prompt": "{it}"}}, "'prompt' cannot be combined with 'inputs'"),
        ({"options": {"messages": []}}, "options.messages"),
        ({"model": "nobody-knows", "api_format": "morse"}, "morse"),
        ({"output_type": {"tipe": "object"}}, "output_type"),
        ({"key": "answer"}, "'answer'"),
        ({"max_repairs": -1}, "'max_repairs'"),
        ({"max_cost": -1}, "'max_cost'"),
        ({"max_rows": 0}, "'max_rows'"),
        ({"max_failed_rows": 1.5}, "'max_failed_rows'"),
        ({"sample": True}, "'sample'"),
        ({"shard_index": 2, "shard_count": 2}, "'shard_index'"),
        ({"concurrency": 0}, "'concurrency'"),
        ({"timeout": 0}, "'timeout'"),
        ({"poll_interval": 0}, "'poll_interval'"),
        ({"on_partial": "shrug"}, "'on_partial'"),
        ({"on_unknown": "leave"}, "'on_unknown' is 'leave'; for rows it must be 'fail' or 'resubmit'"),
        ({"on_unknown": "wait"}, "'on_unknown' is 'wait'; for rows it must be 'fail' or 'resubmit'"),
        ({"rerun": "all"}, "'rerun'"),
        ({"dry_run": "yes"}, "'dry_run'"),
    ],
)
def test_an_invalid_argument_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(SegmindConfigError) as caught:
        make(**fields)

    assert named in str(caught.value)


def test_a_templated_argument_is_checked_when_the_task_runs() -> None:
    assert make(prompt="{{ params.prompt }}", output_path="{{ ds }}", key="{{ params.key }}").key == "{{ params.key }}"


def test_rows_are_hidden_from_airflow_and_paths_are_not() -> None:
    assert "secret" not in repr(make(source=[{"it": "secret"}]).source)
    assert make(source=["{{ ds }}.jsonl", "b2.jsonl"]).source == ["{{ ds }}.jsonl", "b2.jsonl"]
