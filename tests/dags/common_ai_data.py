"""Tasks of Airflow's common-ai provider with Segmind as their model; without that provider there is nothing here."""

from __future__ import annotations

import asyncio
from inspect import signature
from typing import Any, Literal
from unittest.mock import patch

from pydantic import BaseModel

from airflow_provider_segmind.compat import DAG, task

try:
    from airflow.providers.common.ai.operators.llm import LLMOperator
except ImportError:
    LLMOperator = None


class Ticket(BaseModel):
    """What a ticket is about."""

    urgency: Literal["low", "high"]
    topic: str


def fail_the_first_try(context: Any, result: Any) -> None:
    """Fail after everything is paid for."""
    if context["ti"].try_number == 1:
        raise RuntimeError("the first try fails after its model has answered")


def add(one: int, other: int) -> int:
    """Add two numbers."""
    return one + other


if LLMOperator is not None:
    # Common-ai 0.3 always returns plain data.
    PLAIN = {"serialize_output": True} if "serialize_output" in signature(LLMOperator.__init__).parameters else {}

    with DAG("common_ai", schedule=None):
        # A first answer that is not a ticket is asked for again by the agent, so the task takes two paid requests.
        @task.llm(
            llm_conn_id="segmind_default",
            model_id="segmind:gemini-3.1-flash-lite",
            system_prompt="Classify the ticket.",
            output_type=Ticket,
            retries=1,
            post_execute=fail_the_first_try,
            **PLAIN,
        )
        def tried_again() -> str:
            return "The invoice is wrong."

        @task.llm(
            llm_conn_id="segmind_default", system_prompt="Be brief.", agent_params={"model_settings": {"seed": 7}}
        )
        def of_the_default_model() -> str:
            return "Say hello."

        @task(retries=1, retry_delay=0)
        def several_steps(**context: Any) -> list[str]:
            from pydantic_ai import BinaryContent

            from airflow_provider_segmind.hooks.segmind import SegmindHook
            from tests.support.chat_tasks import PIXEL

            agent = SegmindHook(model_id="gpt-5").create_agent(instructions="Answer.")
            # The same question twice in one try is two questions.
            first, *others = [agent.run_sync(question) for question in ("first", "again", "again")]
            fail_the_first_try(context, None)
            picture = BinaryContent(PIXEL, media_type="image/png")
            last = agent.run_sync(["last", picture], message_history=first.all_messages())
            return [each.output for each in (first, *others, last)]

        @task
        def looks() -> list[bool]:
            from airflow_provider_segmind.hooks.segmind import SegmindHook
            from airflow_provider_segmind.task_state import CombinedTaskState

            read, in_a_loop = CombinedTaskState.read, []

            def look(state: CombinedTaskState) -> Any:
                in_a_loop.append(asyncio._get_running_loop() is not None)
                return read(state)

            with patch.object(CombinedTaskState, "read", look):
                SegmindHook(model_id="gpt-5").create_agent(instructions="Look.").run_sync("Where is it?")
            return in_a_loop

        tried_again() >> of_the_default_model() >> several_steps() >> looks()

    with DAG("common_ai_tools", schedule=None):

        @task.llm(
            llm_conn_id="segmind_default",
            model_id="gemini-3.1-flash-lite",
            system_prompt="Add.",
            agent_params={"tools": [add]},
            retries=1,
        )
        def with_tools() -> str:
            return "How much is 1 and 2?"

        with_tools()
