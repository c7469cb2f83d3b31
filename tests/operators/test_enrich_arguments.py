"""Invalid arguments fail when the DAG is parsed, and are named."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_segmind.arguments import read_rerun
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
        ({"key": ["id", "_segmind_cost"]}, "'key' names '_segmind_cost'"),
        ({"output_type": {"properties": {"_segmind_error": {}}}}, "'output_type' names '_segmind_error'"),
        ({"max_repairs": -1}, "'max_repairs'"),
        ({"max_cost": -1}, "'max_cost'"),
        ({"max_rows": 0}, "'max_rows'"),
        ({"max_failed_rows": 1.5}, "'max_failed_rows'"),
        ({"sample": True}, "'sample'"),
        *(({"shard_index": wrong, "shard_count": 2}, "'shard_index'") for wrong in (2, -1, True, "0", None)),
        *(({"shard_count": wrong}, "'shard_count'") for wrong in (0, -1, True, "2", None)),
        ({"concurrency": 0}, "'concurrency'"),
        ({"on_unknown": "leave"}, "'on_unknown' is 'leave'; for rows it must be 'fail' or 'resubmit'"),
        ({"on_unknown": "wait"}, "'on_unknown' is 'wait'; for rows it must be 'fail' or 'resubmit'"),
        ({"on_partial": "shrug"}, "'on_partial'"),
        ({"rerun": "all"}, "'rerun' is 'all'; it must be 'unbilled', 'dead_letters', 'nothing', or a list of outcomes"),
        ({"rerun": ["failed", "success"]}, "'rerun' is ['failed', 'success']; it must be"),
        ({"rerun": ["nothing", "failed"]}, "'rerun' is ['nothing', 'failed']; it must be"),
        ({"rerun": ""}, "'rerun' is ''; it must be"),
        ({"rerun": "[failed, all]"}, "'rerun' is '[failed, all]'; it must be"),
        ({"rerun": [["failed"]]}, "'rerun' is [['failed']]; it must be"),
        ({"rerun": None}, "'rerun' is None; it must be"),
        ({"rerun": 3}, "'rerun' is 3; it must be"),
        ({"dry_run": "yes"}, "'dry_run'"),
        ({"notes": ["approved"]}, "'notes' is a list"),
        ({"notes": {"approved_by": "x" * 2000}}, "'notes' has 2,011 characters"),
    ],
)
def test_an_invalid_argument_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(SegmindConfigError) as caught:
        make(**fields)

    assert named in str(caught.value)


@pytest.mark.parametrize("rendered", [None, [], "_segmind_cost", ["id", 3]])
def test_a_rendered_key_is_checked_when_the_task_runs(rendered: Any) -> None:
    task = make(key="{{ params.key }}")
    task.key = rendered

    with pytest.raises(SegmindConfigError, match="'key'"):
        task.check_rendered()


def test_a_templated_argument_is_checked_when_the_task_runs() -> None:
    assert make(prompt="{{ params.prompt }}", output_path="{{ ds }}", key="{{ params.key }}").key == "{{ params.key }}"


@pytest.mark.parametrize(
    ("value", "outcomes"),
    [
        ("unbilled", {"unbilled"}),
        ("nothing", set()),
        ([], set()),
        ("[]", set()),
        ("dead_letters", {"failed", "blocked", "truncated", "invalid"}),
        ("truncated", {"truncated"}),
        ("truncated, failed", {"truncated", "failed"}),
        (["truncated", "failed"], {"truncated", "failed"}),
        (("unbilled", "blocked"), {"unbilled", "blocked"}),
        ('["truncated", "failed"]', {"truncated", "failed"}),
        ("['truncated', 'failed']", {"truncated", "failed"}),
        (["dead_letters", "unknown"], {"failed", "blocked", "truncated", "invalid", "unknown"}),
    ],
)
def test_the_rows_to_ask_again_are_named_in_any_form(value: Any, outcomes: set[str]) -> None:
    assert read_rerun(value) == outcomes
    assert make(rerun=value).rerun == value


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prompt": "About {{ text }}."}, "'prompt' contains '{{ text }}'.*a column of a table is written {text}"),
        ({"system": "About {{text}} of {{ ds }}."}, "'system' contains '{{ text }}'"),
        ({"files": ["s3://b/{{ file }}"]}, "'files' contains '{{ file }}'"),
        ({"prompt": None, "inputs": {"messages": [{"content": "{{ text }}"}]}}, "'inputs' contains '{{ text }}'"),
    ],
)
def test_a_column_in_double_braces_is_an_error(fields: dict[str, Any], said: str) -> None:
    with DAG("a_dag", schedule=None), pytest.raises(SegmindConfigError, match=said):
        make(**fields)


@pytest.mark.parametrize(
    "prompt",
    [
        "{{ ds }} {{ts_nodash}} {{- run_id -}} {{ params }} {{ dag_run }} {{ ti }} {{ logical_date }} {text}",
        "{{ ours }} {text}",
        "{{ text.upper() }} {{ var.value.x }} {{ 'text' }} {text}",
        "{% for text in params.texts %}{{ text }}{% endfor %} {text}",
        "{% raw %}{{ text }}{% endraw %} {text}",
    ],
)
def test_what_jinja_may_know_is_left_to_it(prompt: str) -> None:
    with DAG("a_dag", schedule=None, user_defined_macros={"ours": 1}):
        make(prompt=prompt)


def test_data_of_a_mapped_task_is_no_template() -> None:
    with DAG("a_dag", schedule=None) as dag:
        made = SegmindEnrichFileOperator(
            task_id="mapped", _airflow_from_mapped=True, dag=dag, **{**GOOD, "prompt": "{{ text }}"}
        )

    assert made.prompt == "{{ text }}"


def test_rows_are_hidden_from_airflow_and_paths_are_not() -> None:
    assert "secret" not in repr(make(source=[{"it": "secret"}]).source)
    assert make(source=["{{ ds }}.jsonl", "b2.jsonl"]).source == ["{{ ds }}.jsonl", "b2.jsonl"]
