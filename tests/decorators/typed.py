"""What a DAG author writes, for type checkers: see test_chat_typing.py, which says what they must answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import ObjectStoragePath, dag
from airflow.sdk import task as task_of_airflow

from airflow_provider_segmind.decorators.chat import segmind_task, task
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator
from airflow_provider_segmind.operators.request import SegmindRunOperator, SegmindSubmitOperator
from airflow_provider_segmind.sensors.request import SegmindRequestSensor


@dag(schedule=None)
def right() -> None:
    @task.segmind(model="gemini-3.1-flash-lite", output_type=int, retries=2)
    def by_attribute(text: str) -> str:
        return text

    @segmind_task(model="gemini-3.1-flash-lite", output_type=dict, deferrable=True, multiple_outputs=True)
    def by_name(text: str, number: int = 1) -> dict[str, Any]:
        return {"prompt": text}

    @segmind_task
    def bare() -> str:
        return "hello"

    @task_of_airflow.segmind(model="gemini-3.1-flash-lite")
    def by_airflow() -> str:
        return "hello"

    @task
    def load() -> str:
        return "hello"

    by_attribute.expand(text=["a"])
    by_name("a", number=2)
    by_name.partial(number=3).expand(text=["a"])
    by_name.override(task_id="other", retries=3)("a")
    bare()
    by_airflow()

    submitted = SegmindSubmitOperator(task_id="submit", inputs={"prompt": load()}, retry_delay=timedelta(minutes=1))
    SegmindRequestSensor(task_id="wait", request_id=submitted.output, poke_interval=5, mode="reschedule")
    SegmindChatOperator(task_id="later", prompt=load(), files=[load()], max_repairs=load(), pool="paid")
    SegmindChatOperator.partial(task_id="mapped", model="gpt-5").expand(prompt=load())
    SegmindRunOperator(task_id="run", inputs=load(), timeout=timedelta(minutes=5), doc_md="", trigger_rule="all_done")
    SegmindChatOperator(task_id="stored", prompt="x", output_path=ObjectStoragePath("s3://bucket/folder"))


@dag(schedule=None)
def wrong() -> None:
    @task.segmind
    def by_attribute(text: str) -> str:
        return text

    @segmind_task
    def by_name(text: str) -> str:
        return text

    SegmindChatOperator(task_id="a", prompt="x", model=3)  # wrong
    SegmindChatOperator(task_id="b", prompt="x", modle="gpt-5")  # wrong
    SegmindChatOperator.partial(task_id="c", modle="gpt-5").expand(prompt=["x"])  # beyond Airflow's types
    SegmindChatOperator(task_id="d", prompt="x", on_stale="retry")  # wrong
    SegmindEnrichFileOperator(task_id="e", source="i", output_path="o", key="k", prompt="x", max_cost="5")  # wrong
    SegmindRunOperator(task_id="f", input={"prompt": "x"})  # wrong
    task.segmind(output_typ=int)  # wrong
    segmind_task(output_typ=int)  # wrong
    by_name(7)  # wrong

    SegmindChatOperator(prompt="x")  # wrong
    SegmindRequestSensor(task_id="g", request_id="r", poke_intervall=5)  # wrong
    SegmindSubmitOperator(task_id="h", inputs={}, retries="two")  # wrong
    segmind_task(max_repairs="two")  # wrong
    segmind_task(on_unknown="perhaps", retrys=2)  # wrong
    task.segmind(on_unknown="perhaps")  # wrong
    by_attribute(7)  # wrong
    by_name("a", colour="red")  # wrong
