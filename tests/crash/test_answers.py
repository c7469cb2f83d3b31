"""A thousand mapped tasks over one answer cache: the emulator's bill is the witness."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from tests.support.airflow_fakes import Clock, Run, hook_by
from tests.support.tasks import clock, emulator

__all__ = ["clock", "emulator"]
COUNT = 1000


@pytest.fixture
def hook(emulator: SegmindEmulator, clock: Clock) -> SegmindHook:
    return hook_by(clock)


def test_a_thousand_mapped_tasks_with_a_hundred_equal_prompts_pay_for_nine_hundred(
    emulator: SegmindEmulator, hook: SegmindHook, tmp_path: Path
) -> None:
    runs = [Run(map_index=index) for index in range(COUNT + 1)]

    def ask(index: int, prompt: str) -> str:
        task = SegmindChatOperator(
            task_id="a_task",
            model="gemini-3.1-flash-lite",
            prompt=prompt,
            deferrable=False,
            reuse_answers="always",
            answers_path=str(tmp_path / "answers"),
        )
        task.hook = hook
        return str(task.execute(runs[index].context()))

    # A tenth of the prompts repeats an earlier one.
    prompts = [f"question {index - 5 if index % 10 == 9 else index}" for index in range(COUNT)]
    answers = [ask(index, prompt) for index, prompt in enumerate(prompts)]
    assert len(emulator.posts()) == len(emulator.bill) == 900

    # One more at the front, and all of them cleared: every task has another prompt than before.
    again = [ask(index, prompt) for index, prompt in enumerate(["a new one", *prompts])]
    assert again[1:] == answers
    assert len(emulator.posts()) == len(emulator.bill) == 901
