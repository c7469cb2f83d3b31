"""Values from XCom are data, even if they look like a template or a path."""

from __future__ import annotations

from airflow.sdk import DAG, task

from airflow_provider_segmind.operators.chat import SegmindChatOperator
from tests.decorators.stray import STRAY

with DAG("chat_data", schedule=None):

    @task
    def letters() -> list[str]:
        return STRAY

    @task
    def first() -> list[str]:
        return STRAY[:1]

    @task
    def letter() -> str:
        return STRAY[0]

    @task.segmind(model="gemini-3.1-flash-lite", system="Answer {{ dag.dag_id }}.", retries=0)
    def answer(text: str):
        return text

    @task.segmind(model="gpt-5")
    def answer_in_a_dict(text: str, number: int, run_id=None):
        return {"prompt": f"{number} {text}", "system": "{{ never rendered }} " + run_id}

    one, many = letter(), letters()
    SegmindChatOperator(task_id="asked", model="gemini-3.1-flash-lite", prompt=one, system=one)
    SegmindChatOperator.partial(task_id="mapped", model="gemini-3.1-flash-lite").expand(prompt=many)
    answer.expand(text=many)
    answer_in_a_dict.partial(number=1).expand(text=first())
    answer.override(task_id="overridden", model="claude-4.5-sonnet", deferrable=True, sync_wait=0)("hello")
