"""Arguments that Airflow resolves before a task runs: data from XCom, values given later, native objects."""

from __future__ import annotations

import json
import os
from typing import Any

from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator
from airflow_provider_segmind.operators.request import SegmindResultOperator, SegmindRunOperator, SegmindSubmitOperator
from airflow_provider_segmind.sensors.request import SegmindRequestSensor

try:
    from airflow.sdk import DAG, task, task_group
    from airflow.sdk.definitions.template import literal
except ImportError:  # Airflow 2.11
    from airflow import DAG
    from airflow.decorators import task, task_group
    from airflow.utils.template import literal

MODEL = "gemini-3.1-flash-lite"
OUTPUT = os.environ.get("SEGMIND_TESTS_STATE", "file:///tmp/segmind-state")
STRAY = "ticket {{ 7*7 }} {{ conn.segmind_default.password }} {% if x %} {# gone #} notes.sql"
QUICK: dict[str, Any] = {"deferrable": False, "poll_interval": 0.2, "retries": 0}


def say(text: str) -> dict[str, Any]:
    return {"messages": {"contents": [{"role": "user", "parts": [{"text": text}]}]}}


with DAG("rendered_expand_kwargs", schedule=None):

    @task
    def chats() -> list[dict[str, Any]]:
        turns = [{"role": "user", "content": "messages " + STRAY}]
        return [
            {"prompt": "prompt " + STRAY, "system": "system " + STRAY},
            {"messages": turns, "options": {"stop": [STRAY]}},
        ]

    @task
    def bodies() -> list[dict[str, Any]]:
        return [{"inputs": say("inputs " + STRAY)}]

    @task
    def questions() -> list[dict[str, Any]]:
        return [{"text": "function " + STRAY, "more": {"nested": [STRAY]}}]

    @task
    def tables() -> list[dict[str, Any]]:
        return [{"prompt": "table " + STRAY + " {text}"}]

    given = chats()
    SegmindChatOperator.partial(task_id="chat", model="{{ 'gemini' }}-3.1-flash-lite", **QUICK).expand_kwargs(given)
    SegmindChatOperator.partial(task_id="changed", model=MODEL, **QUICK).expand_kwargs(
        given.map(lambda each: {"prompt": "changed " + str(each.get("prompt"))})
    )
    SegmindChatOperator.partial(task_id="written", model=MODEL, system="{{ 6*7 }}", **QUICK).expand_kwargs(
        [{"prompt": "written {{ 6*7 }}"}, {"prompt": literal("literal {{ 6*7 }}")}]
    )
    SegmindRunOperator.partial(task_id="run", model=MODEL, **QUICK).expand_kwargs(bodies())
    submitted = SegmindSubmitOperator.partial(task_id="submit", model=MODEL, retries=0).expand_kwargs(bodies())
    looked = SegmindRequestSensor.partial(task_id="wait", poll_interval=0.2).expand_kwargs(
        submitted.output.map(lambda each: {"request_id": each})
    )
    SegmindResultOperator.partial(task_id="result").expand_kwargs(looked.output.map(lambda each: {"request_id": each}))
    SegmindEnrichFileOperator.partial(
        task_id="table",
        model=MODEL,
        source=[{"id": 1, "text": "row {{ 7*7 }}"}],
        key="id",
        output_path=OUTPUT + "/{{ dag.dag_id }}.jsonl",
    ).expand_kwargs(tables())

    @task.segmind(model=MODEL, system="{{ 6*7 }}", **QUICK)
    def ask(text: str, more: dict[str, Any], fixed: str) -> str:
        return json.dumps([text, more, fixed])

    ask.partial(fixed="fixed {{ 6*7 }}").expand_kwargs(questions())

with DAG("rendered_later", schedule=None, params={"seconds": 60, "repairs": 0, "who": "{{ 7*7 }}"}) as later:

    @task
    def texts() -> list[str]:
        return ["xcom " + STRAY]

    @task
    def one() -> str:
        return "pulled " + STRAY

    @task_group
    def group(text: str, seconds: int) -> None:
        SegmindChatOperator(task_id="in_group", model=MODEL, prompt=text, timeout=seconds, **QUICK)
        SegmindChatOperator(task_id="turns", model=MODEL, messages=[{"role": "user", "content": text}], **QUICK)

    group.partial(seconds=later.param("seconds", 60)).expand(text=["group a", "group b"])
    group.override(group_id="of_xcom").partial(seconds=60).expand(text=texts())
    SegmindChatOperator(
        task_id="params",
        model=MODEL,
        prompt=later.param("who", "{{ 7*7 }}"),
        timeout="{{ params.seconds }}",
        max_repairs="{{ params.repairs }}",
        dry_run="{{ params.seconds == 0 }}",
        **QUICK,
    )
    SegmindChatOperator(task_id="literal", model=MODEL, prompt=literal("literal {{ 6*7 }}"), **QUICK)

    @task.segmind(model=MODEL, system="masked system", mask_prompts=True, **QUICK)
    def masked(first: str, second: str) -> str:
        return f"masked {first} {second}"

    masked("one", second="two")
    masked.override(task_id="masked_and_mapped").partial(second="{{ 6*7 }}").expand(first=texts())

    pulled = one()
    pulled >> SegmindChatOperator(task_id="pulled", model=MODEL, prompt="{{ ti.xcom_pull(task_ids='one') }}", **QUICK)

with DAG(
    "rendered_native",
    schedule=None,
    render_template_as_native_obj=True,
    params={"zeros": "007", "digits": "12345", "list": "[1, 2]", "none": "None", "number": 5},
):
    for name in ("zeros", "digits", "list", "none", "number"):
        SegmindChatOperator(
            task_id=name, model=MODEL, prompt=f"{{{{ params.{name} }}}}", system=f"{{{{ params.{name} }}}}", **QUICK
        )
    SegmindChatOperator(task_id="constant", model=MODEL, prompt="0123", **QUICK)
    SegmindChatOperator(
        task_id="turns",
        model=MODEL,
        messages=[{"role": "user", "content": "{{ params.zeros }}"}],
        options={"temperature": "{{ params.number / 10 }}"},
        **QUICK,
    )
    SegmindRunOperator(
        task_id="body",
        model=MODEL,
        inputs="{{ {'messages': {'contents': [{'role': 'user', 'parts': [{'text': 'a body'}]}]}} }}",
        **QUICK,
    )
