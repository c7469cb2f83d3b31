"""What a DAG author writes, for the type checker: see test_typing.py, which says what it must answer."""

from __future__ import annotations

from typing import Any

from airflow.sdk import dag, task

from airflow_provider_segmind.decorators.chat import segmind_task


@dag(schedule=None)
def typed() -> None:
    @task.segmind(model="gemini-3.1-flash-lite", output_type=int)
    def by_attribute(text: str) -> str:
        return text

    @segmind_task(model="gemini-3.1-flash-lite", max_repairs=2, deferrable=True)
    def by_name(text: str, number: int = 1) -> dict[str, Any]:
        return {"prompt": text}

    @segmind_task
    def bare() -> str:
        return "hello"

    by_attribute.expand(text=["a"])
    by_name("a", number=2)
    by_name.partial(number=3).expand(text=["a"])
    by_name.override(task_id="other", retries=3)("a")
    bare()

    by_name(7)
    by_name("a", colour="red")
    segmind_task(max_repairs="two")
    segmind_task(on_unknown="perhaps")
